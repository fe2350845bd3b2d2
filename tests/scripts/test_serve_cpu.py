"""scripts/serve_cpu.sh refuses what cannot be served, before anything starts."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "serve_cpu.sh MODEL"),
        (["--help"], "serve_cpu.sh MODEL"),
        (["some/model", "0"], "the port must be a number from 1 to 65535, not 0."),
        (["some/model", "65536"], "not 65536."),
        (["some/model", "8000x"], "not 8000x."),
        (["./absent"], "./absent is not a folder."),
        (["runs/absent/model"], "runs/absent/model is not a folder."),
        (["."], "holds no config.json"),
        (["some/model"], "has no vLLM"),
    ],
)
def test_it_refuses(arguments: list[str], said: str, tmp_path: Path):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 1\n")  # answers the question for vLLM
    python.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts/serve_cpu.sh", *arguments],
        cwd=tmp_path,
        env=os.environ | {"COTREE_VENV": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert said in done.stderr
