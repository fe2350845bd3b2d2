"""Tests for grpo/searching/replay.py: where the log ends, nothing is made up."""

import pytest

from cotree.grpo.engine_exchange import TokenRequest
from cotree.grpo.searching.replay import NoEngines
from cotree.search.event_log import EventLogError


def test_a_session_without_engines_answers_nothing():
    session = NoEngines()
    assert session.exchange([]) == []
    assert session.stats() == {}
    session.close()


def test_what_the_log_lacks_is_named():
    asked = [TokenRequest((3, 1, 0), (5,), 7, 8, ()), TokenRequest((4, 0, 0), (5,), 7, 8, ())]
    with pytest.raises(EventLogError, match=r"lacks 2 answers.*\(3, 1, 0\)"):
        NoEngines().exchange(asked)
