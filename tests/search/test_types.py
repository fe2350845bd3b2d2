"""Tests for search/types.py: nothing that a strategy or a judge is given can hold a reference."""

from dataclasses import fields
from typing import get_type_hints

import pytest

from cotree.search.strategy import Question
from cotree.search.types import Continuation, Job, Judgement, Reply, Request, State, Step

SEEN_BY_STRATEGIES = (Job, Reply, Step, Question)
SEEN_BY_JUDGES = (State, Question)
SEEN_BY_ENGINES = (Request, Continuation)


@pytest.mark.parametrize("kind", {*SEEN_BY_STRATEGIES, *SEEN_BY_JUDGES, *SEEN_BY_ENGINES})
def test_no_field_is_a_reference_or_a_problem(kind: type):
    for field in fields(kind):
        assert "reference" not in field.name
        assert "correct" not in field.name
    assert "Problem" not in str(get_type_hints(kind).values())


def test_a_judgement_is_of_the_text_alone():
    assert {field.name for field in fields(Judgement)} == {"steps", "answer", "score"}


def test_a_reply_counts_all_its_steps():
    step = Step((1, 2), (-1.0, -1.0), "ab", "boundary")
    assert Reply(0, (step, step), None, 1.0).num_tokens == 4
