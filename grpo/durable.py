"""Folders that are whole on the disk or absent, after a crash or a power cut as well.

Fill a folder under a temporary name beside its own, `flush` it, then `publish` it.
"""

from __future__ import annotations

import os
from pathlib import Path


def flush(folder: Path) -> None:
    """Forces all files and folders in it to the disk, so that the rename cannot overtake them."""
    for entry in sorted(folder.rglob("*")):
        flush_entry(entry)
    flush_entry(folder)


def publish(partial: Path, folder: Path) -> None:
    """Renames a finished folder into place, for good.

    Raises:
        OSError: `folder` exists and is not empty.
    """
    partial.rename(folder)
    flush_entry(folder.parent)


def flush_entry(path: Path) -> None:
    """Forces one file to the disk, or the names in one folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
