"""Graders to set side by side, ours and other projects'; the benchmarks of graders share this."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cotree.rewards.registry import Term


@dataclass(frozen=True)
class Grader:
    """One row of a table."""

    label: str
    package: str
    term: Term
    folder: Path | None = None
    """First on the import path of this grader's process."""


@contextmanager
def first_on_path(folder: Path | None) -> Iterator[None]:
    """Children take over this process's import path."""
    if folder is None:
        yield
        return
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(folder.resolve()))


def installed(package: str) -> str | None:
    """Name and version of a package as the import path has it now; None where it is not there."""
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        return None
    return f"{package} {version(package)}"
