"""Tests for grpo/durable.py, on a real disk; opens and renames as Python audits them."""

import subprocess
import sys
from pathlib import Path

import pytest

from cotree.grpo.durable import flush, publish

# os.open and os.rename are audited; the one open after the rename is that of the flush.
EVENTS = """
import os, sys
from pathlib import Path
from cotree.grpo.durable import publish

def tell(event, arguments):
    if event in ("open", "os.rename"):
        print(event, os.fspath(arguments[0]), flush=True)

folder = Path(sys.argv[1])
sys.addaudithook(tell)
publish(folder / "partial", folder / "whole")
"""


def test_a_published_folder_has_its_name_and_its_files(tmp_path: Path):
    (tmp_path / "partial" / "inner").mkdir(parents=True)
    (tmp_path / "partial" / "inner" / "file").write_text("x")
    flush(tmp_path / "partial")
    publish(tmp_path / "partial", tmp_path / "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
    assert (tmp_path / "whole" / "inner" / "file").read_text() == "x"


def test_a_rename_is_followed_by_a_flush_of_the_folder_that_holds_the_name(tmp_path: Path):
    (tmp_path / "partial").mkdir()
    told = subprocess.run(
        [sys.executable, "-c", EVENTS, tmp_path], capture_output=True, text=True, check=True
    )
    assert told.stdout.splitlines() == [f"os.rename {tmp_path / 'partial'}", f"open {tmp_path}"]


def test_what_is_there_is_not_overwritten(tmp_path: Path):
    for name in ("partial", "whole"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with pytest.raises(OSError, match="not empty"):
        publish(tmp_path / "partial", tmp_path / "whole")
    assert (tmp_path / "whole" / "file").read_text() == "whole"


@pytest.mark.parametrize("inside", [".", "inner"])
def test_every_entry_is_forced_to_the_disk(tmp_path: Path, inside: str):
    # A device that holds nothing cannot be flushed: the failure tells that it was tried.
    (tmp_path / inside).mkdir(exist_ok=True)
    (tmp_path / inside / "device").symlink_to("/dev/null")
    with pytest.raises(OSError, match="Invalid argument"):
        flush(tmp_path)
