"""Tests for grpo/distilling/view.py, on pairs of tokenizers that are the same or are not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from readers import ASCII, BPE, CHARACTERS, byte_level_bpe, encoded, ended, random_scores, reader
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from cotree.grpo.distilling.token_bytes import token_bytes
from cotree.grpo.distilling.view import Reader, TeacherView, Text
from cotree.grpo.models import character_tokenizer
from cotree.grpo.token_scores import TokenScores

ACCENTED = byte_level_bpe(["é", "éé", "1+2"], vocab_size=262)
TEXTS = st.text(st.sampled_from("0123456789+-*()=\n"), max_size=24)


def view_of(student: Reader, teacher: Reader, *, max_tokens: int = 400) -> TeacherView:
    return TeacherView(student, teacher, max_tokens=max_tokens, probes=["12*3+4\n"])


READ_BPE = view_of(reader(BPE), reader(CHARACTERS))
READ_CHARACTERS = view_of(reader(CHARACTERS), reader(BPE))
PAIRS = [(READ_BPE, BPE, CHARACTERS), (READ_CHARACTERS, CHARACTERS, BPE)]


# --- the same tokenizer -----------------------------------------------------------------------


def test_with_one_tokenizer_a_text_is_asked_about_as_it_is():
    view = view_of(reader(BPE), reader(BPE))
    text = Text("1+2\n", ended(BPE, "3\n"))
    assert view.is_same
    assert view.order is None
    request = view.request(text)
    assert request == (encoded(BPE, "1+2\n"), text.token_ids)
    # Half a character, which no other tokenizer could be asked about, is one token like any.
    half = (token_bytes(BPE, len(BPE)).index(b"\xc3"),)
    assert view.request(Text("1\n", half)) == (encoded(BPE, "1\n"), half)
    assert not view.refused


def test_with_one_tokenizer_an_opinion_names_the_teachers_own_tokens():
    view = view_of(reader(BPE), reader(BPE))
    text = Text("1+2\n", ended(BPE, "3\n"))
    request = view.request(text)
    assert request is not None
    scores = random_scores(request, vocab_size=len(BPE), seed=0)
    opinion = view.opinion(text, request, scores)
    np.testing.assert_array_equal(opinion.outcomes.first, scores.top_ids)
    np.testing.assert_array_equal(opinion.outcomes.end, scores.top_ids + 1)
    np.testing.assert_allclose(opinion.outcomes.logprobs[:, :-1], scores.top_logprobs, atol=1e-5)
    assert opinion.num_inside == 0
    given_ = np.linspace(-3.0, -0.5, len(text.token_ids), dtype=np.float32)
    ratios = view.log_ratios(text, request, scores, given_.tolist())
    np.testing.assert_array_equal(ratios, scores.logprobs - given_)


def test_rows_that_only_the_teachers_table_has_count_among_all_others():
    # A vocabulary padded further for the teacher: its row 400 is no token of the student.
    view = view_of(reader(BPE), reader(BPE, vocab_size=len(BPE) + 200))
    assert view.is_same
    scores = TokenScores(
        np.array([-1.0], np.float32),
        np.array([[400, 5]], np.int32),
        np.log(np.array([[0.75, 0.125]], np.float32)),
    )
    text = Text("1\n", (5,))
    request = view.request(text)
    assert request is not None
    outcomes = view.opinion(text, request, scores).outcomes
    assert (outcomes.first.tolist(), outcomes.end.tolist()) == ([[0, 5]], [[0, 6]])
    np.testing.assert_allclose(np.exp(outcomes.logprobs), [[0.0, 0.125, 0.875]], rtol=1e-6)


def test_another_end_of_sequence_makes_another_tokenizer():
    other = PreTrainedTokenizerFast(tokenizer_object=BPE.backend_tokenizer, eos_token="1")
    assert not TeacherView(reader(BPE), reader(other), max_tokens=9).is_same


@pytest.mark.parametrize("pair", [(BPE, BPE), (BPE, CHARACTERS)], ids=["same", "other"])
def test_the_teacher_gets_a_prompt_of_its_own(pair: tuple[PreTrainedTokenizerFast, ...]):
    student, teacher = pair
    view = view_of(reader(student), reader(teacher, mark="Q: "))
    request = view.request(Text("1+2\n", ended(student, "3")))
    assert request is not None
    assert request.prompt_ids == encoded(teacher, "Q: 1+2\n")


# --- other tokenizers -------------------------------------------------------------------------


@pytest.mark.parametrize(("view", "student", "teacher"), PAIRS, ids=["bpe", "characters"])
@given(text=TEXTS)
def test_a_finished_text_is_read_in_the_teachers_own_tokens(view, student, teacher, text):
    request = view.request(Text("1\n", ended(student, text)))
    assert request == (encoded(teacher, "1\n"), ended(teacher, text))


@pytest.mark.parametrize(("view", "student", "teacher"), PAIRS, ids=["bpe", "characters"])
@given(text=TEXTS, is_ended=st.booleans(), seed=st.integers(0, 2**32))
def test_the_log_ratios_of_a_text_add_up_to_that_of_the_whole(
    view, student, teacher, text, is_ended, seed
):
    tokens = ended(student, text) if is_ended else encoded(student, text + "1")
    asked = Text("1\n", tokens)
    request = view.request(asked)
    scores = random_scores(request, vocab_size=len(teacher), seed=seed)
    logprobs = -np.random.default_rng(seed).exponential(2.0, len(tokens))
    ratios = view.log_ratios(asked, request, scores, logprobs.tolist())
    assert ratios.shape == (len(tokens),)
    # log p(text) - log q(text); float32 sums of some 30 numbers below 40.
    expected = scores.logprobs.astype(np.float64).sum() - logprobs.sum()
    assert ratios.astype(np.float64).sum() == pytest.approx(expected, abs=1e-3)


@given(text=TEXTS, seed=st.integers(0, 2**32))
def test_outcomes_are_ranges_of_the_views_order(text, seed):
    # Events are disjoint sets of the student's tokens.
    asked = Text("1\n", ended(BPE, text))
    request = READ_BPE.request(asked)
    assert request is not None
    assert READ_BPE.order is not None
    assert sorted(READ_BPE.order) == list(range(len(BPE)))
    scores = random_scores(request, vocab_size=len(CHARACTERS), seed=seed)
    opinion = READ_BPE.opinion(asked, request, scores)
    assert opinion.num_inside == 0
    outcomes = opinion.outcomes
    assert len(outcomes.first) == len(asked.token_ids)
    for first, end in zip(outcomes.first, outcomes.end, strict=True):
        named = [READ_BPE.order[start:stop] for start, stop in zip(first, end, strict=True)]
        ids = [token for event in named for token in event]
        assert len(set(ids)) == len(ids) > 0
    # At the last token, the end, the teacher's likeliest is an event with its probability; pad and
    # the like mean nothing to the student.
    at = int(np.argmax(outcomes.logprobs[-1, :-1]))
    ours, theirs = (token_bytes(one, len(one)) for one in (BPE, CHARACTERS))
    likeliest, logprob = next(
        (token, logprob)
        for token, logprob in zip(scores.top_ids[-1], scores.top_logprobs[-1], strict=True)
        if theirs[token] is not None or token == CHARACTERS.eos_token_id
    )
    wanted = {BPE.eos_token_id}
    if (start := theirs[likeliest]) is not None:
        wanted = {i for i, piece in enumerate(ours) if piece and piece.startswith(start)}
    assert set(READ_BPE.order[outcomes.first[-1, at] : outcomes.end[-1, at]]) == wanted
    assert outcomes.logprobs[-1, at] == pytest.approx(logprob, abs=1e-4)


def test_tokens_inside_one_of_the_teachers_are_counted_and_have_an_opinion():
    # The teacher's tokens begin in fewer places than the student's.
    asked = Text("1\n", ended(CHARACTERS, "12+12*2="))
    request = READ_CHARACTERS.request(asked)
    assert request is not None
    opinion = READ_CHARACTERS.opinion(
        asked, request, random_scores(request, vocab_size=len(BPE), seed=0)
    )
    assert not np.isneginf(opinion.outcomes.logprobs).all(-1).any()
    assert opinion.num_inside == len(asked.token_ids) - len(request.token_ids) > 0


# --- refusals ---------------------------------------------------------------------------------

LOWER = character_tokenizer(ASCII, max_positions=64)
LOWER.backend_tokenizer.normalizer = normalizers.Lowercase()


@pytest.mark.parametrize(
    ("teacher", "tokens", "reason"),
    [
        (CHARACTERS, (BPE.convert_tokens_to_ids("Ã"),), "ends inside a character"),
        (CHARACTERS, ended(BPE, "é"), "a character that the teacher does not know"),
        (CHARACTERS, (BPE.eos_token_id, *ended(BPE, "1")), "a special token inside"),
        (LOWER, ended(BPE, "A"), "the teacher's tokenizer changes it"),
        (byte_level_bpe(["1+2"], end=None), ended(BPE, "1"), "the teacher has no end of sequence"),
        (CHARACTERS, ended(BPE, "1" * 31), "too long for the teacher"),
        (CHARACTERS, (), "empty"),
    ],
)
def test_what_the_teacher_cannot_read_is_counted_once(teacher, tokens, reason):
    view = view_of(reader(BPE), reader(teacher), max_tokens=33)
    assert view.request(Text("1\n", ended(BPE, "1" * 30))) is not None or "no end" in reason
    before = view.refused.copy()
    assert view.request(Text("1\n", tokens)) is None
    assert view.refused - before == {reason: 1}


def test_the_longest_text_has_the_length_limit_itself():
    # A prompt of 2 tokens, 30 characters and the end: 33.
    text = Text("1\n", ended(BPE, "1" * 30))
    assert view_of(reader(BPE), reader(CHARACTERS), max_tokens=33).request(text) is not None
    assert view_of(reader(BPE), reader(CHARACTERS), max_tokens=32).request(text) is None
    same = Text("1\n", ended(CHARACTERS, "1" * 30))
    assert view_of(reader(CHARACTERS), reader(CHARACTERS), max_tokens=32).request(same) is None


def test_a_character_cut_in_two_tokens_is_read_whole():
    view = view_of(reader(ACCENTED), reader(BPE))
    text = Text("1\n", ended(ACCENTED, "éé"))
    request = view.request(text)
    assert request is not None
    assert BPE.decode(request.token_ids[:-1]) == "éé"


def test_a_tokenizer_that_changes_what_it_reads_is_refused_at_once():
    with pytest.raises(ValueError, match="does not keep the text 'A'"):
        TeacherView(reader(BPE), reader(LOWER), max_tokens=9, probes=["A"])
