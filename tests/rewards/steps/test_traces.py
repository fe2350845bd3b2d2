"""Tests for rewards/steps/traces.py: the labels are true, or the measurements mean nothing."""

import pytest

from cotree.rewards.steps.traces import generated_trace


@pytest.mark.parametrize("seed", range(20))
def test_a_mistake_is_the_only_difference_from_the_trace_without_one(seed: int):
    wrong = generated_trace(seed, num_lines=5, wrong=True)
    assert sum(line.wrong for line in wrong.lines) == 1
    assert not any(line.wrong for line in generated_trace(seed, num_lines=5, wrong=False).lines)
    assert wrong == generated_trace(seed, num_lines=5, wrong=True)


def test_lines_are_the_text_in_order():
    for seed in range(50):
        trace = generated_trace(seed, num_lines=4, wrong=False)
        assert "".join(trace.text[slice(*line.span)] + "\n" for line in trace.lines) == trace.text
        assert sum(line.kind != "prose" for line in trace.lines) == 4
