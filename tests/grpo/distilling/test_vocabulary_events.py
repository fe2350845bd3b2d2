"""Tests for grpo/distilling/vocabulary.py, against places found by comparing strings."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.grpo.distilling.vocabulary import (
    SharedVocabulary,
    checked_names,
    identity_outcomes,
    merged_outcomes,
)

# \xff is the byte that no other follows in the order.
STRINGS = st.text("ab\xff", min_size=1, max_size=3).map(lambda text: text.encode("latin-1"))
TABLES = st.lists(st.one_of(STRINGS, STRINGS, st.none()), min_size=1, max_size=14).map(tuple)
EXAMPLES = settings(max_examples=300)


def log(masses: list[list[float]]) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(masses, np.float64)).astype(np.float32)


def tokens(vocabulary: SharedVocabulary, place: tuple[int, int] | None) -> set[int]:
    return set() if place is None else set(vocabulary.order[slice(*place)].tolist())


# --- places -----------------------------------------------------------------------------------


@EXAMPLES
@given(TABLES, TABLES, STRINGS, st.randoms(use_true_random=False))
def test_places_hold_exactly_the_tokens_of_the_definition(teacher, student, text, rng):
    silent = [i for i, piece in enumerate(student) if piece is None]
    specials = {
        i: rng.choice(silent)
        for i, piece in enumerate(teacher)
        if piece is None and silent and rng.random() < 0.5
    }
    vocabulary = SharedVocabulary(teacher, student, specials)
    assert sorted(vocabulary.order) == list(range(len(student)))

    def start(prefix: bytes) -> set[int]:
        return {i for i, piece in enumerate(student) if piece and piece.startswith(prefix)}

    def longest(piece: bytes) -> bytes | None:
        shorter = [word for word in student if word and word != piece and piece.startswith(word)]
        return max(shorter, key=len, default=None)

    same = {i for i, piece in enumerate(student) if piece == text}
    assert tokens(vocabulary, vocabulary.starting_with(text)) == start(text)
    assert tokens(vocabulary, vocabulary.exactly(text)) == same
    assert vocabulary.longest_prefix(text) == longest(text)
    for i, piece in enumerate(student):
        assert vocabulary.student_piece(i) == piece
        twins = {i} if piece is None else {j for j, other in enumerate(student) if other == piece}
        assert tokens(vocabulary, vocabulary.place_of(i)) == twins
    for i, piece in enumerate(teacher):
        assert vocabulary.teacher_piece(i) == piece
        expected: set[int] = set()
        if piece is None:
            expected = {specials[i]} if i in specials else set()
        elif start(piece):
            expected = start(piece)
        elif begun := longest(piece):
            expected = start(begun)
        assert tokens(vocabulary, vocabulary.range_of(i)) == expected
        assert expected or vocabulary.range_of(i) == (0, 0)


def test_a_prefix_is_a_range_and_a_longer_token_goes_to_the_longest_one_it_starts_with():
    student = (b"b", None, b"ab", b"a", b"abc", b"ac")
    vocabulary = SharedVocabulary((b"ab", b"acc", b"c", b"a"), student, {})
    # a ab abc ac b, then the one without bytes.
    assert vocabulary.order.tolist() == [3, 2, 4, 5, 0, 1]
    # "starts with ab" is {ab, abc}; acc starts with ac; nothing of the student's begins c.
    assert [vocabulary.range_of(i) for i in range(4)] == [(1, 3), (3, 4), (0, 0), (0, 4)]


@pytest.mark.parametrize(
    ("teacher", "specials", "message"),
    [
        ((b"a", b""), {}, "token 1 of the teacher is empty"),
        ((b"a", None), {0: 1}, "token 0 of the teacher, which writes b'a'"),
        ((None,), {0: 0}, "token 0 of the student, which writes b'a'"),
        ((None,), {0: 5}, "token 5 of the student, which has 2"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(teacher, specials, message):
    with pytest.raises(ValueError, match=message):
        SharedVocabulary(teacher, (b"a", None), specials)


# --- ranges with probabilities ----------------------------------------------------------------


@EXAMPLES
@given(st.randoms(use_true_random=False))
def test_nested_ranges_become_the_widest_with_the_sum_of_their_probabilities(rng):
    # Prefixes of words in their order hold one another or are disjoint.
    words = sorted({bytes(rng.choices(b"ab", k=rng.randint(1, 4))) for _ in range(9)})
    vocabulary = SharedVocabulary((b"a",), tuple(words), {})
    chosen = [words[rng.randrange(len(words))] for _ in range(4)]
    ranges = [vocabulary.starting_with(word) for word in chosen]
    ranges[0] = (0, 0)
    weights = [0.0, *(rng.random() for _ in range(3))]
    mass = [weight / (sum(weights) + 0.5) for weight in weights]
    found = merged_outcomes(
        np.array([[first for first, _ in ranges]], np.int32),
        np.array([[end for _, end in ranges]], np.int32),
        np.array([mass]),
        np.array([0.25]),
        len(words),
    )
    expected: dict[tuple[int, int], float] = {}
    for (first, end), share in zip(ranges, mass, strict=True):
        holders = [(a, b) for a, b in ranges if a <= first and end <= b and end > first]
        if holders:
            widest = max(holders, key=lambda one: one[1] - one[0])
            expected[widest] = expected.get(widest, 0.0) + share
    places = list(zip(found.first[0].tolist(), found.end[0].tolist(), strict=True))
    shares = np.exp(found.logprobs[0]).tolist()
    kept = {place: share for place, share in zip(places, shares[:-1], strict=True) if any(place)}
    assert kept == pytest.approx(expected, abs=1e-6)
    assert places[: len(kept)] == sorted(expected)
    assert places[len(kept) :] == [(0, 0)] * (4 - len(kept))
    assert shares[-1] == pytest.approx(1 - sum(expected.values()), abs=1e-6)
    assert found.unmapped_mass.tolist() == [0.25]


def test_a_tail_that_float32_cannot_tell_from_one_is_kept():
    # 1 - exp(-1e-10) = 1e-10; in float32 exp(-1e-10) is 1.
    found = identity_outcomes(np.array([[0]]), np.array([[-1e-10]], np.float32), vocab_size=2)
    assert found.logprobs[0, -1] == pytest.approx(math.log(1e-10), abs=1e-5)


def test_positions_without_a_named_token_are_all_tail():
    nothing = identity_outcomes(
        np.full((2, 1), -1), np.full((2, 1), -np.inf, np.float32), vocab_size=2
    )
    assert nothing.logprobs.tolist() == [[-math.inf, 0.0]] * 2
    assert nothing.first.dtype == nothing.end.dtype == np.int32
    for shape in ((0, 3), (2, 0)):
        empty = np.zeros(shape, np.int32)
        for found in (
            identity_outcomes(empty, np.zeros(shape, np.float32), vocab_size=2),
            merged_outcomes(empty, empty, np.zeros(shape), np.zeros(shape[0]), 2),
        ):
            assert (found.first.shape, found.logprobs.shape) == (shape, (shape[0], shape[1] + 1))


# --- one tokenizer ----------------------------------------------------------------------------


def test_a_shared_tokenizer_has_an_event_for_each_token_and_the_order_of_its_ids():
    ids, logprobs = np.array([[2, 1, -1], [4, 0, 1]]), log([[0.5, 0.25, 0.0], [0.1, 0.2, 0.3]])
    found = identity_outcomes(ids, logprobs, vocab_size=3)
    assert found.first.tolist() == [[2, 1, 0], [0, 0, 1]]
    assert found.end.tolist() == [[3, 2, 0], [0, 1, 2]]
    # Row 4 is none of the student's: its 0.1 joins the 0.4 that no token is named for.
    expected = np.array([[0.5, 0.25, 0.0, 0.25], [0.0, 0.2, 0.3, 0.5]])
    assert np.exp(found.logprobs) == pytest.approx(expected)
    assert found.unmapped_mass == pytest.approx([0.0, 0.1])


def test_rounding_above_one_leaves_no_tail_and_more_is_refused():
    ids = np.array([[0, 1]])
    above = identity_outcomes(ids, log([[0.50001, 0.50001]]), vocab_size=2)
    assert np.exp(above.logprobs) == pytest.approx(np.array([[0.5, 0.5, 0.0]]), abs=1e-6)
    for masses in ([[0.6, 0.6]], [[math.nan, 0.1]]):
        with pytest.raises(ValueError, match="probabilities sum to"):
            identity_outcomes(ids, log(masses), vocab_size=2)


@pytest.mark.parametrize(
    ("ids", "logprobs", "message"),
    [
        ([[0, 0]], [[-1.0, -1.0]], "named twice"),
        ([[0]], [[-1.0, -1.0]], r"both be \[T, K\]"),
        ([0], [-1.0], r"both be \[T, K\]"),
    ],
)
def test_what_is_no_list_of_names_is_refused(ids, logprobs, message):
    with pytest.raises(ValueError, match=message):
        checked_names(np.array(ids), np.array(logprobs, np.float32))
