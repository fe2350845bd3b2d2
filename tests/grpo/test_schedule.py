"""Tests for grpo/schedule.py, with rates worked out by hand."""

import pytest

from cotree.grpo.config_algorithm import Optimizer
from cotree.grpo.schedule import learning_rate


def _rates(total: int, **fields: object) -> list[float]:
    optimizer = Optimizer(learning_rate=1.0, **fields)
    return [learning_rate(optimizer, update=u, total_updates=total) for u in range(total)]


def test_warm_up_rises_linearly_and_its_last_update_has_the_full_rate():
    assert _rates(6, warmup_steps=4) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_linear_decay_starts_full_and_would_reach_the_final_share_after_the_last_update():
    # p = 0, 1/4, 2/4, 3/4; rate = 1 - (1 - 0.2) p; p = 1 gives 0.2
    assert _rates(4, schedule="linear", final_frac=0.2) == pytest.approx([1.0, 0.8, 0.6, 0.4])


def test_cosine_is_half_way_down_in_the_middle():
    # After 2 warm-up updates p = 0, 1/4, 2/4, 3/4: (1 + cos(pi p)) / 2 = 1, 0.853553, 0.5, 0.146447
    rates = _rates(6, schedule="cosine", warmup_steps=2)
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.8535534, 0.5, 0.1464466])


def test_a_run_longer_than_planned_stays_at_the_final_rate():
    optimizer = Optimizer(learning_rate=2.0, schedule="cosine", final_frac=0.1)
    assert learning_rate(optimizer, update=50, total_updates=10) == pytest.approx(0.2)
