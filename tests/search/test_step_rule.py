r"""Tests for search/step_rule.py: steps lose no token and cut nothing that belongs together."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.search.segments import token_ends
from cotree.search.step_rule import STEP_RULES, StepRule, step_rule_named

PIECES = ["a", "12", ".", "5", "\n", "\n\n", " ", "$$", r"\[", r"\]", "```", "é", "x\n", "0. ", "b"]
"""Tokens of a text: some end a step, some hold a stop text and more."""


def decode(token_ids: list[int]) -> str:
    return "".join(PIECES[token] for token in token_ids)


def cuts(rule: StepRule, token_ids: list[int]) -> list[int]:
    return rule.cuts(decode(token_ids), token_ends(token_ids, decode))


@given(
    st.lists(st.integers(0, len(PIECES) - 1), max_size=40),
    st.sampled_from(["line", "paragraph", "sentence", "tokens:3"]),
)
def test_steps_together_are_all_tokens_of_the_completion(token_ids: list[int], name: str):
    found = cuts(step_rule_named(name), token_ids)
    assert found == sorted(set(found))
    assert all(0 < cut <= len(token_ids) for cut in found)
    bounds = [0, *found, len(token_ids)]
    assert [t for a, b in pairwise(bounds) for t in token_ids[a:b]] == token_ids


@given(
    st.lists(st.integers(0, len(PIECES) - 1), max_size=40),
    st.sampled_from(["line", "paragraph", "sentence"]),
)
def test_no_step_is_blank_or_ends_inside_a_fence_or_formula(token_ids: list[int], name: str):
    text_rule, text = STEP_RULES[name], decode(token_ids)
    start = 0
    while (end := text_rule.text_end(text, start)) is not None:
        step = text[start:end]
        stop = next(s for s in sorted(text_rule.stops, key=len)[::-1] if step.endswith(s))
        body = step.removesuffix(stop)
        assert body.strip() or stop.strip()
        assert body.count("```") % 2 == 0
        start = end


@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=30), st.data())
def test_a_step_is_cut_where_it_is_when_only_the_text_up_to_it_is_known(
    token_ids: list[int], data: st.DataObject
):
    # An engine that stops at a boundary must stop where a whole rollout is cut afterwards.
    rule = STEP_RULES["line"]
    whole = cuts(rule, token_ids)
    seen = data.draw(st.integers(0, len(token_ids)))
    assert cuts(rule, token_ids[:seen]) == [cut for cut in whole if cut <= seen]


def test_a_token_that_writes_beyond_the_boundary_belongs_to_the_step():
    token_ids = [0, 5, 14]  # a, two line ends in one token, b
    assert cuts(STEP_RULES["line"], token_ids) == [2]


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("\n\nab\ncd", 5),  # blank lines are part of the step that follows
        ("$$x\ny$$\n", 8),
        ("\\[x\ny\\]\n", 8),
        ("```\na\n```\n", 10),
        ("$$x$$ y\n", 8),
        ("ab", None),
    ],
)
def test_a_line_ends_after_what_it_opened(text: str, end: int | None):
    assert STEP_RULES["line"].text_end(text, 0) == end


def test_a_sentence_does_not_end_inside_a_number():
    assert STEP_RULES["sentence"].text_end("It is 3.14 m. Yes", 0) == len("It is 3.14 m. ")


def test_tokens_and_stops_end_a_step_whichever_comes_first():
    rule = StepRule("both", ("\n",), 3)
    # a \n | a a a | a
    assert cuts(rule, [0, 4, 0, 0, 0, 0]) == [2, 5]


@pytest.mark.parametrize("name", ["", "lines", "tokens", "tokens:0", "tokens:x", "line:2"])
def test_other_names_are_refused(name: str):
    with pytest.raises(ValueError, match="line, paragraph, sentence or tokens:N"):
        step_rule_named(name)


def test_a_rule_that_never_ends_a_step_is_refused():
    with pytest.raises(ValueError, match="ends no step"):
        StepRule("none", ())
    with pytest.raises(ValueError, match="must not be empty"):
        StepRule("empty", ("",))
