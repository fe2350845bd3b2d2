"""Tests for grpo/count_progress.py: lines in a log, a bar on a terminal, and the time to go."""

import errno
import os
import pty
import re
from contextlib import redirect_stderr

import pytest

from cotree.grpo.count_progress import LINE_SECONDS, CountProgress, duration


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_no_more_often_than_every_so_many_seconds(
    capsys: pytest.CaptureFixture[str],
):
    clock = Clock()
    with CountProgress("logits", total=100, done=0, clock=clock) as progress:
        for _ in range(9):
            clock.now += LINE_SECONDS / 2
            progress.add(1, "fine")
    lines = capsys.readouterr().err.splitlines()
    # Ten seconds a piece. The first line after two of them, with 98 to go: 980 s.
    assert lines[0] == "logits 2/100  fine  16 min 20 s to go"
    assert [line.split()[1] for line in lines] == ["2/100", "4/100", "6/100", "8/100"]


def test_the_end_always_gets_its_line(capsys: pytest.CaptureFixture[str]):
    with CountProgress("logits", total=3, done=0, clock=Clock()) as progress:
        progress.add(2, "on the way")
        progress.add(1, "there")
    assert capsys.readouterr().err == "logits 3/3  there  0 s to go\n"


def test_what_an_earlier_start_finished_does_not_count_in_the_speed(
    capsys: pytest.CaptureFixture[str],
):
    clock = Clock()
    with CountProgress("teacher", total=100, done=80, clock=clock) as progress:
        clock.now += 40.0
        progress.add(4, "")
        # 4 in 40 s, 16 to go.
        assert progress.seconds_left() == pytest.approx(160.0)
        assert progress.seconds() == pytest.approx(40.0)
    assert "teacher 84/100" in capsys.readouterr().err


def test_the_time_is_never_zero_and_nothing_done_is_no_division_by_zero():
    progress = CountProgress("teacher", total=5, done=0, clock=Clock())
    assert progress.seconds() > 0
    assert progress.seconds_left() == 0.0


def all_that_was_written(leader: int) -> str:
    """Up to the end of the terminal: one read gives what has arrived, and the rest comes later."""
    pieces = []
    try:
        while piece := os.read(leader, 1 << 16):
            pieces.append(piece)
    except OSError as error:
        # Linux says "end" of a terminal that nobody holds any longer by this error.
        if error.errno != errno.EIO:
            raise
    os.close(leader)
    return b"".join(pieces).decode()


def test_a_terminal_gets_a_bar_with_the_number_and_the_last_remark():
    leader, follower = pty.openpty()
    with (
        open(follower, "w") as terminal,  # noqa: PTH123 - a descriptor, not a path
        redirect_stderr(terminal),
        CountProgress("[logits]", total=4, done=1) as progress,
    ):
        progress.add(2, "[7 tokens/s]")
    written = all_that_was_written(leader)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    # Square brackets are text, not markup.
    assert "[logits] 3/4" in plain
    assert "[7 tokens/s]" in plain
    assert "to go" not in plain


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.4, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (90_061, "25 h 01 min"),
    ],
)
def test_a_duration_is_rounded_before_it_is_put_into_words(seconds: float, text: str):
    assert duration(seconds) == text
