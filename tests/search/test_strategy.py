"""Tests for search/strategy.py: what a strategy can see at all."""

from dataclasses import fields

from cotree.search.strategy import Candidate, Question, Selection


def test_nothing_that_a_strategy_sees_has_a_reference():
    assert [field.name for field in fields(Question)] == ["id", "text"]
    told = {field.name for field in fields(Candidate)}
    assert told == {"text", "answer", "num_tokens", "is_finished", "is_refuted", "score"}


def test_a_selection_counts_more_tokens_than_its_candidate_has():
    chosen = Candidate("4", "4", 10, is_finished=True, is_refuted=False)
    assert chosen.score == 1.0  # nothing speaks against it
    assert Selection(chosen, num_tokens=35).candidate.num_tokens == 10
