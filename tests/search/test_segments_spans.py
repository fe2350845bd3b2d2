"""Tests for search/segments.py: characters of steps to tokens, for any tokenizer of bytes."""

from bisect import bisect_left
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.steps.arithmetic import arithmetic_steps
from cotree.rewards.steps.traces import generated_trace
from cotree.rewards.types import Problem
from cotree.search.segments import token_ends, token_span

PROBLEM = Problem("p", "", "", "test")
PIECES = st.sampled_from(
    ["2 + 3 = 5", "2 + 3 = 6", "\n", "🙂", "我们算", "é", " so ", "👩‍🚀", "7/2=3.5 "]
)


def byte_tokens(text: str, cuts: list[int]) -> list[bytes]:
    """The text's UTF-8 bytes cut anywhere, inside characters too."""
    raw = text.encode()
    edges = [0, *sorted({cut % len(raw) for cut in cuts} - {0}), len(raw)]
    return [raw[a:b] for a, b in pairwise(edges)]


def ends_of(pieces: list[bytes]) -> tuple[int, ...]:
    return token_ends(
        range(len(pieces)), lambda ids: b"".join(pieces[i] for i in ids).decode(errors="replace")
    )


@given(
    st.lists(PIECES, min_size=1, max_size=14).map("".join),
    st.lists(st.integers(0, 10_000), max_size=60),
)
@settings(max_examples=300)
def test_the_tokens_of_a_step_write_it_and_nothing_less_does(text: str, cuts: list[int]):
    pieces = byte_tokens(text, cuts)
    ends = ends_of(pieces)
    steps = arithmetic_steps(text, PROBLEM).steps
    previous = 0
    for step in steps:
        first, stop = token_span(step.span, ends)
        assert previous <= first + 1 <= stop  # in order; neighbors may share a token
        before = len(b"".join(pieces[:first]))
        start = len(text[: step.span[0]].encode())
        end = len(text[: step.span[1]].encode())
        covered = (before, len(b"".join(pieces[:stop])))
        # A token that completes the character before may hold the first bytes of this one.
        shared = first > 0 and ends[first - 1] == step.span[0]
        width = len(text[step.span[0]].encode())
        assert covered[0] <= start or (shared and covered[0] < start + width)
        assert start < end <= covered[1]
        assert before + len(pieces[first]) > start  # without its first token, a byte is lost
        assert covered[1] - len(pieces[stop - 1]) < end  # and without its last
        # The learner credits steps by their last token; it must be the same one.
        assert stop - 1 == bisect_left(ends, step.span[1])
        previous = stop


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_no_step_of_a_trace_is_lost_or_out_of_order(size: int):
    for seed in range(20):
        text = "🙂" + generated_trace(seed, num_lines=5, wrong=True).text.replace("So", "所以")
        raw = text.encode()
        ends = ends_of([raw[at : at + size] for at in range(0, len(raw), size)])
        steps = arithmetic_steps(text, PROBLEM).steps
        spans = [token_span(step.span, ends) for step in steps]
        assert len(steps) >= 5
        assert spans == sorted(spans)
        assert all(first < stop for first, stop in spans)


@pytest.mark.parametrize("span", [(2, 2), (3, 2), (0, 9), (-1, 2)])
def test_spans_that_hold_no_text_are_errors(span: tuple[int, int]):
    with pytest.raises(ValueError, match="nonempty part"):
        token_span(span, (1, 2, 3))
