"""Tests for grpo/searching/backend.py: a long search says how far it is."""

import pytest
from toy_world import ToyBackend, ToyWorld

from cotree.grpo.searching.backend import ToldBackend
from cotree.search.types import Request


def test_a_line_comes_every_twenty_seconds_at_most(capsys: pytest.CaptureFixture[str]):
    world, now = ToyWorld(), [0.0]
    engines = ToyBackend(world, [world.question(0)], [1])
    told = ToldBackend(engines, most_tokens=1_000, clock=lambda: now[0])
    for part, at in enumerate((5.0, 19.0, 20.0, 30.0, 45.0)):
        now[0] = at
        told.exchange([Request(0, 0, part, (), (part,), 26, ())])
    lines = capsys.readouterr().err.splitlines()
    # 26 tokens a completion: three by 20 s (78, 3.9 a second), five by 45 s.
    assert lines == [
        "78 of at most 1,000 tokens generated, 4 tokens/s",
        "130 of at most 1,000 tokens generated, 3 tokens/s",
    ]
