"""Files of one JSON object a line that are appended to, and may lose their writer at any time."""

from __future__ import annotations

import os
from pathlib import Path


def drop_torn_line(path: Path) -> None:
    """Cuts the file after its last newline: a kill may have left part of a line."""
    with path.open("r+b") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            file.truncate(end)
            file.flush()
            os.fsync(file.fileno())
