"""Tests for grpo/distilling/vocabulary.py, against events made by comparing strings."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.grpo.distilling.vocabulary import Outcomes, SharedVocabulary, identity_outcomes

# \xff is the byte that no other follows in the order.
STRINGS = st.text("ab\xff", min_size=1, max_size=3).map(lambda text: text.encode("latin-1"))
TABLES = st.lists(st.one_of(STRINGS, STRINGS, st.none()), min_size=1, max_size=14).map(tuple)
EXAMPLES = settings(derandomize=True, deadline=None, max_examples=300)


def log(masses: list[list[float]]) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(masses, np.float64)).astype(np.float32)


def events(
    vocabulary: SharedVocabulary, outcomes: Outcomes, row: int
) -> dict[frozenset[int], float]:
    """Each set of student ids, and its probability."""
    found = {}
    for first, end, logprob in zip(
        outcomes.first[row], outcomes.end[row], outcomes.logprobs[row, :-1], strict=True
    ):
        if first < end:
            found[frozenset(vocabulary.order[first:end].tolist())] = math.exp(logprob)
        else:
            assert (first, end, logprob) == (0, 0, -math.inf)
    return found


def expected_events(
    teacher: tuple[bytes | None, ...],
    student: tuple[bytes | None, ...],
    specials: dict[int, int],
    masses: dict[int, float],
) -> dict[frozenset[int], float]:
    """The definition, word by word, for the teacher's tokens `masses`."""
    words = [piece for piece in student if piece]
    prefixes: dict[bytes, float] = {}
    found: dict[frozenset[int], float] = {}
    for token, mass in masses.items():
        piece = teacher[token]
        if token in specials:
            event = frozenset({specials[token]})
            found[event] = found.get(event, 0.0) + mass
        elif piece is not None:
            if not any(word.startswith(piece) for word in words):
                piece = max((w for w in words if piece.startswith(w)), key=len, default=None)
            if piece is not None:
                prefixes[piece] = prefixes.get(piece, 0.0) + mass
    for prefix, mass in prefixes.items():
        widest = min((other for other in prefixes if prefix.startswith(other)), key=len)
        event = frozenset(
            i for i, word in enumerate(student) if word is not None and word.startswith(widest)
        )
        found[event] = found.get(event, 0.0) + mass
    return found


@EXAMPLES
@given(TABLES, TABLES, st.randoms(use_true_random=False))
def test_events_are_those_of_the_definition_and_disjoint_and_sum_to_one(teacher, student, rng):
    silent = [i for i, piece in enumerate(student) if piece is None]
    specials = {
        i: rng.choice(silent)
        for i, piece in enumerate(teacher)
        if piece is None and silent and rng.random() < 0.5
    }
    vocabulary = SharedVocabulary(teacher, student, specials)
    if vocabulary.is_identity:
        return
    assert sorted(vocabulary.order) == list(range(len(student)))
    rows = []
    for _ in range(3):
        named = rng.sample(range(len(teacher)), rng.randint(0, len(teacher)))
        weights = [rng.random() + 0.01 for _ in named]
        total = sum(weights) + rng.choice([0.0, 0.2])
        rows.append({i: w / total for i, w in zip(named, weights, strict=True)})
    width = max(map(len, rows))
    top_ids = np.array([[*row, *[-1] * (width - len(row))] for row in rows]).reshape(3, width)
    masses = [[*row.values(), *[0.0] * (width - len(row))] for row in rows]
    outcomes = vocabulary.outcomes(top_ids, log(masses).reshape(3, width))
    assert np.logaddexp.reduce(outcomes.logprobs, axis=-1) == pytest.approx(0.0, abs=1e-6)
    for row, named in enumerate(rows):
        found = events(vocabulary, outcomes, row)
        expected = expected_events(teacher, student, specials, named)
        assert found == pytest.approx(expected, abs=1e-6)
        assert sum(map(len, found)) == len(frozenset().union(*found))
        lost = sum(named.values()) - sum(expected.values())
        assert outcomes.unmapped_mass[row] == pytest.approx(lost, abs=1e-6)
        tail = 1 - sum(expected.values())
        assert math.exp(outcomes.logprobs[row, -1]) == pytest.approx(tail, abs=1e-6)


def test_a_prefix_is_a_range_and_a_longer_token_goes_to_the_longest_one_it_starts_with():
    student = (b"b", None, b"ab", b"a", b"abc", b"ac")
    vocabulary = SharedVocabulary((b"ab", b"acc", b"c", b"a"), student, {})
    # a ab abc ac b, then the one without bytes.
    assert vocabulary.order.tolist() == [3, 2, 4, 5, 0, 1]
    found = vocabulary.outcomes(np.array([[0, 1, 2]]), log([[0.5, 0.25, 0.125]]))
    # "starts with ab" is {ab, abc}; acc starts with ac; nothing of the student's begins c.
    assert events(vocabulary, found, 0) == pytest.approx(
        {frozenset({2, 4}): 0.5, frozenset({5}): 0.25}
    )
    assert found.unmapped_mass.tolist() == [0.125]
    merged = vocabulary.outcomes(np.array([[0, 1, 3]]), log([[0.5, 0.25, 0.125]]))
    assert events(vocabulary, merged, 0) == pytest.approx({frozenset({2, 3, 4, 5}): 0.875})
    # Two events that begin at the same place, the narrower one named first.
    wider = SharedVocabulary((b"ab", b"a"), (b"ac", b"ab"), {})
    found = wider.outcomes(np.array([[0, 1]]), log([[0.5, 0.25]]))
    assert events(wider, found, 0) == pytest.approx({frozenset({0, 1}): 0.75})


@EXAMPLES
@given(st.randoms(use_true_random=False))
def test_a_teacher_of_characters_and_a_student_that_agree_on_the_next_one_agree_on_all(rng):
    # Exactness: the student's own chance of the next character, told by enumeration, comes back
    # as the teacher's and the student's probability of every event.
    student = (b"a", b"b", b"ab", b"ba", b"aab", None, b"bb")
    weights = [rng.random() + 0.01 for _ in student]
    q = [weight / sum(weights) for weight in weights]
    teacher = (b"a", None, b"b")
    next_is = [
        sum(chance for chance, piece in zip(q, student, strict=True) if piece and piece[0] == byte)
        for byte in b"ab"
    ]
    vocabulary = SharedVocabulary(teacher, student, {1: 5})
    outcomes = vocabulary.outcomes(np.array([[0, 1, 2]]), log([[next_is[0], q[5], next_is[1]]]))
    found = events(vocabulary, outcomes, 0)
    assert len(found) == 3
    for event, mass in found.items():
        assert mass == pytest.approx(sum(q[i] for i in event), abs=1e-6)
    assert [vocabulary.ambiguous_tokens(token) for token in range(3)] == [(), (), ()]


@EXAMPLES
@given(TABLES, TABLES)
def test_ambiguous_tokens_are_the_shorter_beginnings_outside_the_event(teacher, student):
    vocabulary = SharedVocabulary(teacher, student, {})
    if vocabulary.is_identity:
        return
    for token, piece in enumerate(teacher):
        event = set().union(*expected_events(teacher, student, {}, {token: 1.0}))
        shorter = {
            i
            for i, other in enumerate(student)
            if piece and other and piece != other and piece.startswith(other)
        }
        found = vocabulary.ambiguous_tokens(token)
        assert len(set(found)) == len(found)
        assert set(found) == shorter - event


def test_special_tokens_with_a_partner_are_that_token_and_others_are_in_the_tail():
    teacher, student = (None, b"x", None, None), (b"x", None, None)
    vocabulary = SharedVocabulary(teacher, student, {0: 2, 2: 2})
    found = vocabulary.outcomes(np.array([[0, 1, 2, 3]]), log([[0.1, 0.2, 0.3, 0.4]]))
    # Two ways to end are one event: 0.1 + 0.3. Token 3 means nothing to the student.
    assert events(vocabulary, found, 0) == pytest.approx({frozenset({2}): 0.4, frozenset({0}): 0.2})
    assert found.unmapped_mass == pytest.approx([0.4])
    assert math.exp(found.logprobs[0, -1]) == pytest.approx(0.4)


def test_a_character_of_two_bytes_goes_to_the_byte_that_the_student_begins_it_with():
    e, o = "é".encode(), "ö".encode()  # both begin with 0xC3
    vocabulary = SharedVocabulary((e, o), (e[:1], e[1:], b"x"), {})
    found = vocabulary.outcomes(np.array([[0, 1]]), log([[0.5, 0.25]]))
    assert events(vocabulary, found, 0) == pytest.approx({frozenset({0}): 0.75})


def test_a_tail_far_smaller_than_float32_can_tell_from_one_is_kept():
    vocabulary = SharedVocabulary((b"a",), (b"a", b"b"), {})
    # 1 - exp(-1e-10) = 1e-10; in float32 exp(-1e-10) is 1.
    found = vocabulary.outcomes(np.array([[0]]), np.array([[-1e-10]], np.float32))
    assert found.logprobs[0, -1] == pytest.approx(math.log(1e-10), abs=1e-5)


def test_rounding_above_one_leaves_no_tail_and_more_is_refused():
    vocabulary = SharedVocabulary((b"a", b"b"), (b"b", b"a"), {})
    above = vocabulary.outcomes(np.array([[0, 1]]), log([[0.50001, 0.50001]]))
    assert np.exp(above.logprobs) == pytest.approx(np.array([[0.5, 0.5, 0.0]]), abs=1e-6)
    for masses in ([[0.6, 0.6]], [[math.nan, 0.1]]):
        with pytest.raises(ValueError, match="probabilities sum to"):
            vocabulary.outcomes(np.array([[0, 1]]), log(masses))


def test_a_shared_tokenizer_has_an_event_for_each_token_and_the_order_of_its_ids():
    teacher = (None, b"a", b"ab", None, None)
    vocabulary = SharedVocabulary(teacher, teacher[:3], {0: 0})
    assert vocabulary.is_identity
    assert vocabulary.order.tolist() == [0, 1, 2]
    ids, logprobs = np.array([[2, 1, -1], [4, 0, 1]]), log([[0.5, 0.25, 0.0], [0.1, 0.2, 0.3]])
    found = vocabulary.outcomes(ids, logprobs)
    assert found.first.tolist() == [[2, 1, 0], [0, 0, 1]]
    assert found.end.tolist() == [[3, 2, 0], [0, 1, 2]]
    # Row 4 is none of the student's: its 0.1 joins the 0.4 that no token is named for.
    expected = np.array([[0.5, 0.25, 0.0, 0.25], [0.0, 0.2, 0.3, 0.5]])
    assert np.exp(found.logprobs) == pytest.approx(expected)
    assert found.unmapped_mass == pytest.approx([0.0, 0.1])
    alone = identity_outcomes(ids, logprobs, vocab_size=3)
    assert np.array_equal(alone.first, found.first)
    assert np.array_equal(alone.logprobs, found.logprobs)


@pytest.mark.parametrize(
    ("student", "specials"),
    [((None, b"b"), {0: 0}), ((None, b"a", b"b"), {0: 0}), ((None, b"a", None), {0: 2})],
)
def test_other_bytes_or_other_special_tokens_are_another_tokenizer(student, specials):
    assert not SharedVocabulary((None, b"a"), student, specials).is_identity


def test_positions_without_a_named_token_are_all_tail():
    vocabulary = SharedVocabulary((b"a",), (b"a", b"b"), {})
    nothing = vocabulary.outcomes(np.full((2, 1), -1), np.full((2, 1), -np.inf, np.float32))
    assert nothing.logprobs.tolist() == [[-math.inf, 0.0]] * 2
    assert nothing.first.dtype == nothing.end.dtype == np.int32
    for shape in ((0, 3), (2, 0)):
        empty = vocabulary.outcomes(np.zeros(shape, int), np.zeros(shape, np.float32))
        assert (empty.first.shape, empty.logprobs.shape) == (shape, (shape[0], shape[1] + 1))


@pytest.mark.parametrize(
    ("ids", "logprobs", "message"),
    [
        ([[0, 0]], [[-1.0, -1.0]], "named twice"),
        ([[0, 2]], [[-1.0, -1.0]], "token 2 is beyond the teacher's 2"),
        ([[0]], [[-1.0, -1.0]], r"both be \[T, K\]"),
    ],
)
def test_what_is_no_list_of_the_teachers_tokens_is_refused(ids, logprobs, message):
    vocabulary = SharedVocabulary((b"a", b"b"), (b"b", b"a"), {})
    with pytest.raises(ValueError, match=message):
        vocabulary.outcomes(np.array(ids), np.array(logprobs, np.float32))


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
