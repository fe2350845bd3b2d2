"""Tests for grpo/evaluation/progress.py: lines for logs that are no terminal."""

import pytest
from evaluated import RIGHT, WRONG, record

from cotree.grpo.count_progress import duration
from cotree.grpo.evaluation.progress import EvaluationProgress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_now_and_then_with_the_time_to_go(capsys: pytest.CaptureFixture[str]):
    clock = Clock()
    with EvaluationProgress("gsm8k", total=10, done=4, clock=clock) as progress:
        for index, sample in enumerate((RIGHT, WRONG, WRONG)):
            clock.now += 15.0
            progress.advance(record(index, sample))
    lines = capsys.readouterr().err.splitlines()
    # After 30 s: two problems in this start, one right; 17 tokens; four to go at 15 s each.
    assert lines == ["gsm8k 6/10  50.0% right  1 tokens/s  1 min 00 s to go"]


def test_the_last_problem_always_gets_its_line(capsys: pytest.CaptureFixture[str]):
    with EvaluationProgress("gsm8k", total=1, done=0, clock=Clock()) as progress:
        progress.advance(record(0, RIGHT))
    assert capsys.readouterr().err.startswith("gsm8k 1/1  100.0% right")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_durations_are_readable(seconds: float, text: str):
    assert duration(seconds) == text
