"""Tests for grpo/phases.py."""

import time

import pytest

from cotree.grpo.phases import Phases


def test_time_adds_up_by_name_until_it_is_taken():
    phases = Phases()
    for _ in range(2):
        with phases("learn"):
            time.sleep(0.01)
    taken = phases.take()
    assert taken.keys() == {"seconds/learn"}
    assert taken["seconds/learn"] >= 0.02
    assert phases.take() == {}


def test_a_phase_that_fails_still_counts():
    phases = Phases()
    with pytest.raises(RuntimeError, match="lost"), phases("sync"):
        raise RuntimeError("lost")
    assert "seconds/sync" in phases.take()
