"""Tests for grpo/distilling/path_outcomes.py, against sums over all ways to go on."""

import math
import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import BPE, CHARACTERS, byte_level_bpe, encoded, ended
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cotree.grpo.distilling.path_outcomes import PathScores, path_scores
from cotree.grpo.distilling.token_bytes import token_bytes
from cotree.grpo.distilling.vocabulary import SharedVocabulary
from cotree.grpo.models import character_tokenizer
from cotree.grpo.token_scores import TokenScores

SMOLLM2 = Path(__file__).resolve().parents[3] / "models" / "SmolLM2-135M-Instruct"
EXAMPLES = settings(max_examples=60)

Table = tuple[bytes | None, ...]


def scored(token_ids: Sequence[int], rows: Sequence[dict[int, float]]) -> TokenScores:
    """The scores of a teacher that names these tokens with these probabilities."""
    width = max(map(len, rows))
    ids = [[*row, *[-1] * (width - len(row))] for row in rows]
    masses = [[*row.values(), *[0.0] * (width - len(row))] for row in rows]
    own = [row[token] for token, row in zip(token_ids, rows, strict=True)]
    with np.errstate(divide="ignore"):
        return TokenScores(
            np.log(np.array(own)).astype(np.float32),
            np.array(ids, np.int32),
            np.log(np.array(masses)).astype(np.float32),
        )


def events(
    vocabulary: SharedVocabulary, found: PathScores, row: int
) -> dict[frozenset[int], float]:
    """Each set of student ids, and its probability; they are disjoint."""
    outcomes = found.outcomes
    named = {
        frozenset(vocabulary.order[first:end].tolist()): math.exp(logprob)
        for first, end, logprob in zip(
            outcomes.first[row], outcomes.end[row], outcomes.logprobs[row, :-1], strict=True
        )
        if first < end
    }
    assert sum(map(len, named)) == len(frozenset().union(*named))
    return named


class Told:
    """What a teacher with these tokens and probabilities says at each of the student's."""

    def __init__(
        self,
        teacher: Table,
        student: Table,
        steps: Sequence[tuple[int, dict[int, float]]],
        token_ids: Sequence[int],
        specials: dict[int, int] | None = None,
    ) -> None:
        vocabulary = SharedVocabulary(teacher, student, specials or {})
        ids = [token for token, _ in steps]
        self.found = path_scores(
            scored(ids, [row for _, row in steps]),
            vocabulary,
            teacher_ids=ids,
            student_ids=token_ids,
        )
        sums = np.logaddexp.reduce(self.found.outcomes.logprobs, axis=-1)
        assert sums == pytest.approx(0.0, abs=1e-6)
        self.events = [
            {
                tuple(sorted(event)): mass
                for event, mass in events(vocabulary, self.found, row).items()
            }
            for row in range(len(token_ids))
        ]


# --- exactness --------------------------------------------------------------------------------

LETTERS: Table = (b"a", b"b", b"c", None)
END = 3
# Each token's beginnings are tokens too, so that the longest match is found letter by letter.
WORDS: Table = (b"a", b"b", b"ab", None, b"aba", b"bb", b"c", b"ca")
WORDS_END = 3
LONGEST = 3


def next_word(text: tuple[int, ...]) -> int:
    """The student's longest token that a text of letters, perhaps with its end, begins with."""
    if text[0] == END:
        return WORDS_END
    spelled = b"".join(LETTERS[token] or b"" for token in text)
    fits = [i for i, word in enumerate(WORDS) if word and spelled.startswith(word)]
    return max(fits, key=lambda i: len(WORDS[i] or b""))


def in_words(text: Sequence[int]) -> list[tuple[int, int]]:
    """The student's tokens of a text that ends, and the letter at which each begins."""
    at, found = 0, list[tuple[int, int]]()
    while at < len(text):
        word = next_word(tuple(text[at:]))
        found.append((word, at))
        at += len(WORDS[word] or b"1")
    return found


@EXAMPLES
@given(st.lists(st.integers(0, 2), max_size=9), st.randoms(use_true_random=False))
def test_events_have_the_probability_of_all_ways_to_go_on_that_begin_with_them(letters, rng):
    # A teacher of letters, each likely as the one before says (3 is also the state before any).
    chances = []
    for _ in range(4):
        weights = [rng.random() + 0.01 for _ in range(4)]
        chances.append([weight / sum(weights) for weight in weights])
    text = [*letters, END]
    before = [END, *letters]
    words = in_words(text)
    told = Told(
        LETTERS,
        WORDS,
        [(token, dict(enumerate(chances[last]))) for token, last in zip(text, before, strict=True)],
        [word for word, _ in words],
        {END: WORDS_END},
    )
    assert told.found.num_inside == 0
    assert told.found.outcomes.unmapped_mass == pytest.approx(0.0)
    for (own, at), named in zip(words, told.events, strict=True):
        # All texts of the next three letters, or less with an end: these settle the next token.
        expected = dict.fromkeys(range(len(WORDS)), 0.0)
        for size in range(LONGEST + 1):
            for ahead in product(range(3), repeat=size):
                tail = ahead if size == LONGEST else (*ahead, END)
                chance, last = 1.0, before[at]
                for token in tail:
                    chance, last = chance * chances[last][token], token
                expected[next_word(tail)] += chance
        assert sum(expected.values()) == pytest.approx(1)
        # What follows a letter that is not the text's is not known: "begins with it" is a set of
        # tokens. The student's own token and those that are the text's beginnings are alone.
        for event, mass in named.items():
            assert mass == pytest.approx(sum(expected[word] for word in event), abs=1e-5)
        assert sum(named.values()) == pytest.approx(1, abs=1e-5)
        assert (own,) in named


TRAINED = {
    "sums": BPE,
    "words": byte_level_bpe(["the cat sat on the mat", "12+30=42", "1+1=2", "que == <= )) )"]),
    "characters": CHARACTERS,
}
TABLES = {name: token_bytes(one, len(one)) for name, one in TRAINED.items()}
PAIRS = [("sums", "words"), ("words", "sums"), ("characters", "sums"), ("words", "characters")]
VOCABULARIES = {
    (theirs, ours): SharedVocabulary(
        TABLES[theirs],
        TABLES[ours],
        {TRAINED[theirs].eos_token_id: TRAINED[ours].eos_token_id},
    )
    for theirs, ours in PAIRS
}


@pytest.mark.parametrize("pair", PAIRS)
@EXAMPLES
@given(
    text=st.lists(st.sampled_from([*"the cas12+=)", "12", "the ", "=="]), max_size=14).map("".join),
    seed=st.integers(0, 2**32),
)
def test_events_are_disjoint_and_with_the_rest_sum_to_one(pair, text, seed):
    theirs, ours = (ended(TRAINED[name], text) for name in pair)
    rng = random.Random(seed)
    rows = []
    for token in theirs:
        # The text's own and up to three others share all probability: the rest has none.
        names = {token, *rng.sample(range(len(TABLES[pair[0]])), 3)}
        weights = {name: rng.random() ** 3 + 1e-3 for name in sorted(names)}
        rows.append({name: one / sum(weights.values()) for name, one in weights.items()})
    vocabulary = VOCABULARIES[pair]
    found = path_scores(scored(theirs, rows), vocabulary, teacher_ids=theirs, student_ids=ours)
    outcomes = found.outcomes
    assert len(outcomes.first) == len(ours)
    assert np.logaddexp.reduce(outcomes.logprobs, axis=-1) == pytest.approx(0.0, abs=1e-6)
    # Nothing is lost on the way: what has no event is told.
    assert np.exp(outcomes.logprobs[:, -1]) == pytest.approx(outcomes.unmapped_mass, abs=1e-5)
    for row, token in enumerate(ours):
        named = events(vocabulary, found, row)
        assert any(token in event for event in named)


# --- the student's own token ------------------------------------------------------------------


def test_a_longer_token_that_begins_as_the_text_does_gets_none_of_its_probability():
    # The text is ")" and its end, in letters. The event "starts with )" would hold both of the
    # student's tokens, whatever the teacher thinks of the x.
    teacher: Table = (b")", b"x", None)
    student: Table = (b")", b")x", b"x", None)
    steps = [(0, {0: 0.8, 1: 0.2}), (2, {2: 0.75, 1: 0.25})]
    told = Told(teacher, student, steps, (0, 3), {2: 3})
    # ) and the end: 0.8 * 0.75; ) and x: 0.8 * 0.25; x at once: 0.2.
    assert told.events[0] == pytest.approx({(0,): 0.6, (1,): 0.2, (2,): 0.2})
    assert told.events[1] == pytest.approx({(3,): 0.75, (2,): 0.25})
    # A teacher that ends for sure: nothing at all for the longer one.
    sure = Told(teacher, student, [(0, {0: 1.0}), (2, {2: 1.0})], (0, 3), {2: 3})
    assert sure.events[0] == pytest.approx({(0,): 1.0})


def test_longer_tokens_are_found_where_no_token_is_half_way_to_them():
    # The text is a|b|a. "abb" begins as it does, and there is no "ab".
    student: Table = (b"a", b"b", b"abb")
    steps = [(0, {0: 1.0}), (1, {1: 0.75, 0: 0.25}), (0, {0: 0.5, 1: 0.5})]
    told = Told((b"a", b"b"), student, steps, (0, 1, 0))
    assert told.events[0] == pytest.approx({(0,): 0.625, (2,): 0.375})
    # A token of the teacher that goes on after ")x".
    wide = Told(
        (b")", b"xyz", b"q"),
        (b")", b")x", b"q", b"x"),
        [(0, {0: 1.0}), (2, {2: 0.2, 1: 0.8})],
        (0, 2),
    )
    assert wide.events[0] == pytest.approx({(0,): 0.2, (1,): 0.8})


def test_what_follows_a_text_that_was_cut_is_not_known():
    # As above, but nobody was asked after the bracket.
    told = Told((b")", b"x"), (b")", b")x", b"x"), [(0, {0: 0.8, 1: 0.2})], (0,))
    assert told.events == [pytest.approx({(0,): 0.8, (2,): 0.2})]


def test_a_way_that_leaves_inside_the_students_token_has_the_product_of_its_probabilities():
    teacher: Table = (b"1", b"2", b"3", b"4")
    student: Table = (b"123", b"12", b"1", b"124", b"2", b"3", b"4", b"13")
    steps = [
        (0, {0: 0.5, 3: 0.5}),
        (1, {1: 0.5, 2: 0.25, 3: 0.25}),
        (2, {2: 0.5, 3: 0.25, 0: 0.25}),
    ]
    told = Told(teacher, student, steps, (0,))
    # 4: 0.5. 13: 0.5 * 0.25. 14 is 1 and something: 0.125. 124: 0.25 * 0.25; 121 is 12 and
    # something: 0.0625; 123: 0.25 * 0.5.
    assert told.events[0] == pytest.approx(
        {(0,): 0.125, (1,): 0.0625, (2,): 0.125, (3,): 0.0625, (6,): 0.5, (7,): 0.125}
    )


def test_a_shorter_way_along_the_text_is_in_the_rest():
    # The teacher writes "12" as one token; its "1" would have become a text that is not known.
    told = Told((b"1", b"12", b"3"), (b"12", b"1", b"3"), [(1, {1: 0.5, 0: 0.3, 2: 0.2})], (0,))
    assert told.events[0] == pytest.approx({(0,): 0.5, (2,): 0.2})
    assert told.found.outcomes.unmapped_mass == pytest.approx([0.3])


def test_tokens_that_the_teacher_does_not_name_are_the_rest():
    told = Told((b"a", b"b", b"c"), (b"a", b"b", b"c"), [(0, {0: 0.5, 1: 0.2})], (0,))
    assert told.events[0] == pytest.approx({(0,): 0.5, (1,): 0.2})
    assert told.found.outcomes.unmapped_mass == pytest.approx([0.0])
    assert math.exp(told.found.outcomes.logprobs[0, -1]) == pytest.approx(0.3)


def test_tokens_of_the_same_bytes_share_an_event():
    student: Table = (b"a", b"b", b"a", None)
    for own in (0, 2):
        told = Told((b"a", b"b"), student, [(0, {0: 0.75, 1: 0.25})], (own,))
        assert told.events[0] == pytest.approx({(0, 2): 0.75, (1,): 0.25})


def test_a_character_of_two_bytes_goes_to_the_byte_that_the_student_begins_it_with():
    e, o = "é".encode(), "ö".encode()  # both begin with 0xC3
    told = Told((e, o), (e[:1], e[1:], o[1:]), [(0, {0: 0.5, 1: 0.25})], (0, 1))
    # The first byte is that of é and of ö. Then, among these and the unnamed, é has 0.5 of 1.
    assert sum(mass for event, mass in told.events[0].items() if 0 in event) == pytest.approx(0.75)
    assert told.events[1] == pytest.approx({(1,): 0.5, (2,): 0.25})
    assert told.found.num_inside == 1


# --- inside the teacher's tokens --------------------------------------------------------------


def test_inside_a_teachers_token_those_that_begin_as_it_does_are_compared():
    teacher: Table = (b"<think>", b"<thank>", b"x", b"<", b"<th")
    student: Table = (b"<", b"think", b">", b"thank", b"x", b"th")
    row = {0: 0.4, 1: 0.2, 2: 0.3, 3: 0.06, 4: 0.04}
    told = Told(teacher, student, [(0, row)], (0, 1, 2))
    assert told.found.num_inside == 2
    # After "<": <think>, <thank> and <th go on, 0.64 together; "<" alone does not. What <th would
    # have become is not known.
    assert told.events[1] == pytest.approx({(1,): 0.4 / 0.64, (3,): 0.2 / 0.64})
    assert told.found.outcomes.unmapped_mass[1] == pytest.approx(0.04 / 0.64)
    # After "<think" there is but one way.
    assert told.events[2] == pytest.approx({(2,): 1.0})


def test_inside_a_teachers_token_those_that_it_does_not_name_count_among_the_rest():
    told = Told((b"ab", b"ac", b"x"), (b"a", b"b", b"c"), [(0, {0: 0.6, 1: 0.1})], (0, 1))
    # The unnamed 0.3 may begin with "a": 0.6, 0.1 and 0.3 of 1.
    assert told.events[1] == pytest.approx({(1,): 0.6, (2,): 0.1})
    assert math.exp(told.found.outcomes.logprobs[1, -1]) == pytest.approx(0.3)


# --- special tokens ---------------------------------------------------------------------------


def test_a_teacher_that_stops_inside_the_students_token_ends_on_the_shorter_one():
    teacher: Table = (b"a", b"b", None)
    student: Table = (b"ab", b"a", None)
    steps = [(0, {0: 0.9, 2: 0.1}), (1, {1: 0.8, 2: 0.2}), (2, {2: 1.0})]
    told = Told(teacher, student, steps, (0, 2), {2: 2})
    # The end at once: 0.1. After a: 0.9 * 0.2, and the student's "a" is what it had written.
    assert told.events[0] == pytest.approx({(2,): 0.1, (1,): 0.18, (0,): 0.72})
    # Without such a token nothing of the student's says it.
    none = Told(teacher, (b"ab", b"b", None), steps, (0, 2), {2: 2})
    assert none.events[0] == pytest.approx({(2,): 0.1, (0,): 0.72})
    assert none.found.outcomes.unmapped_mass[0] == pytest.approx(0.18)


def test_special_tokens_without_a_partner_are_in_the_rest():
    teacher: Table = (b"x", None, None, None)
    student: Table = (b"x", None, None)
    row = {0: 0.2, 1: 0.1, 2: 0.3, 3: 0.4}
    told = Told(teacher, student, [(0, row), (1, row)], (0, 2), {1: 2, 2: 2})
    # Two ways to end are one event: 0.1 + 0.3. Token 3 means nothing to the student.
    for named in told.events:
        assert named == pytest.approx({(2,): 0.4, (0,): 0.2})
    assert told.found.outcomes.unmapped_mass == pytest.approx([0.4, 0.4])


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teacher_ids", "student_ids", "rows", "message"),
    [
        ((0, 1), (1,), [{0: 0.5}], "1 scores for 2 tokens of the teacher"),
        ((0,), (0,), [{0: 0.5}, {0: 0.5}], "2 scores for 1 tokens of the teacher"),
        ((0, 1), (0,), [{0: 0.5}, {1: 0.5}], "the texts differ from byte 1"),
        ((0,), (0,), [{0: 0.7, 1: 0.7}], "probabilities sum to 1.4"),
    ],
)
def test_scores_of_something_else_are_refused(teacher_ids, student_ids, rows, message):
    vocabulary = SharedVocabulary((b"a", b"b"), (b"a", b"ab"), {})
    scores = scored([next(iter(row)) for row in rows], rows)
    with pytest.raises(ValueError, match=message):
        path_scores(scores, vocabulary, teacher_ids=teacher_ids, student_ids=student_ids)


def test_a_token_that_is_named_twice_is_refused():
    half = np.log(np.array([[0.5, 0.5]], np.float32))
    scores = TokenScores(half[0, :1], np.array([[0, 0]], np.int32), half)
    vocabulary = SharedVocabulary((b"a", b"b"), (b"a", b"ab"), {})
    with pytest.raises(ValueError, match="named twice"):
        path_scores(scores, vocabulary, teacher_ids=(0,), student_ids=(0,))


# --- a real student ---------------------------------------------------------------------------


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason=f"needs the checkpoint at {SMOLLM2}")
def test_smollm2_is_told_its_own_token_by_a_teacher_of_characters_that_knows_the_text():
    text = "<think>\n(3 + 4) * 5 = 7 * 5 = 35\n12 - 7 = 5; 100 / 25 = 4\n</think>\n35 + 5 = 40"
    teacher = character_tokenizer([*map(chr, range(32, 127)), "\n"], max_positions=256)
    student: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(SMOLLM2)
    theirs, ours = (token_bytes(one, len(one)) for one in (teacher, student))
    ends = teacher.eos_token_id, student.eos_token_id
    assert isinstance(ends[0], int)
    assert isinstance(ends[1], int)
    asked, own = ended(teacher, text), (*encoded(student, text), ends[1])
    vocabulary = SharedVocabulary(theirs, ours, {ends[0]: ends[1]})
    # 0.99 for the true character, and the rest in equal parts for the others.
    spread = 0.01 / (len(teacher) - 1)
    rows = [{i: 0.99 if i == token else spread for i in range(len(teacher))} for token in asked]
    found = path_scores(scored(asked, rows), vocabulary, teacher_ids=asked, student_ids=own)
    assert np.isfinite(found.outcomes.logprobs[:, -1]).all()
    assert found.num_inside == 0
    for row, token in enumerate(own):
        named = events(vocabulary, found, row)
        likeliest = max(named, key=lambda event: named[event])
        assert likeliest == {token}
        # At most 0.01 leaves at each byte, and after the last one.
        assert named[likeliest] >= 0.99 ** (len(ours[token] or b"1") + 1) - 1e-5
