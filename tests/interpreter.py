"""Runs tests of Triton kernels on the CPU, in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

INTERPRETED = Path(__file__).parent / "interpreted"
"""The folder of those tests. Their files' names have no `test_`, so only this module runs them."""


def run_interpreted(name: str) -> None:
    """Runs `tests/interpreted/{name}` and fails, with its output, unless all its tests pass.

    In a process of its own: Triton decides whether to interpret when a kernel is decorated.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", INTERPRETED / name],
        capture_output=True,
        text=True,
        check=False,
        cwd=INTERPRETED.parents[1],
        env={**os.environ, "TRITON_INTERPRET": "1", "COTREE_KERNELS": "triton"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
