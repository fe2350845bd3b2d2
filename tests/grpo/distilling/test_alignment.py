"""Tests for grpo/distilling/alignment.py, on tokenizers trained here on different texts."""

import math
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cotree.grpo.distilling.alignment import (
    Alignment,
    align,
    chunk_logprobs,
    shared_over_chunk,
)
from cotree.grpo.distilling.token_bytes import check_token_bytes, token_bytes
from cotree.grpo.models import character_tokenizer

SMOLLM2 = Path(__file__).resolve().parents[3] / "models" / "SmolLM2-135M-Instruct"
ALPHABET = [*map(chr, range(32, 127)), "\n", "é", "🤖"]


def byte_level_bpe(corpus: list[str]) -> PreTrainedTokenizerFast:
    """Without words cut out first, so that tokens end anywhere, within characters too."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


TOKENIZERS = {
    "words": byte_level_bpe(["the cat sat on the mat", "12 + 30 = 42", "é🤖 ü🤗 日本"]),
    "rhymes": byte_level_bpe(["at the hat", "that 2 + 304", "🤖é🤗ü 本日 t 🤖"]),
    "characters": character_tokenizer(ALPHABET, max_positions=64),
}
TABLES = {name: token_bytes(one, len(one)) for name, one in TOKENIZERS.items()}
PAIRS = [("words", "rhymes"), ("characters", "words"), ("rhymes", "characters")]
TEXTS = st.lists(st.sampled_from([*"the cast12+=\né🤖", "the ", "🤖é", "at "]), min_size=1).map(
    "".join
)


def pieces(name: str, text: str) -> list[bytes | None]:
    return [TABLES[name][i] for i in TOKENIZERS[name].encode(text, add_special_tokens=False)]


def ends(parts: list[bytes | None]) -> set[int]:
    """The bytes after which a token ends."""
    return set(accumulate(len(part or b"") for part in parts))


def check_chunks(
    alignment: Alignment, teacher: list[bytes | None], student: list[bytes | None]
) -> None:
    """The definition: chunks cover both, spell the same, and none can be cut in two."""
    t, s = 0, 0
    for chunk in alignment.chunks:
        assert (chunk.t0, chunk.s0) == (t, s)
        t, s = chunk.t1, chunk.s1
        ours, theirs = teacher[chunk.t0 : t], student[chunk.s0 : s]
        if None in ours or None in theirs:
            assert ours == theirs == [None]
        else:
            assert b"".join(ours) == b"".join(theirs) != b""
            assert len(ends(ours) & ends(theirs)) == 1
    assert (t, s) == (len(teacher), len(student))


@pytest.mark.parametrize("pair", PAIRS)
@given(text=TEXTS, is_ended=st.booleans())
def test_chunks_are_the_shortest_spans_that_cover_the_text(pair, text, is_ended):
    teacher, student = (pieces(name, text) + [None] * is_ended for name in pair)
    alignment = align(teacher, student)
    check_chunks(alignment, teacher, student)


@given(st.text(max_size=20))
def test_two_byte_level_tokenizers_align_every_text(text):
    teacher, student = pieces("words", text), pieces("rhymes", text)
    check_chunks(align(teacher, student), teacher, student)


@pytest.mark.parametrize("pair", PAIRS)
@given(text=TEXTS, seed=st.integers(0, 2**32))
def test_the_probability_of_the_text_is_conserved(pair, text, seed):
    teacher, student = (pieces(name, text) for name in pair)
    rng = np.random.default_rng(seed)
    p, q = (-rng.exponential(2.0, len(parts)) for parts in (teacher, student))
    alignment = align(teacher, student)
    shares = shared_over_chunk(alignment, teacher_logprobs=p, student_logprobs=q)
    assert shares.advantages.shape == (len(student),)
    assert shares.teacher.sum() == pytest.approx(p.sum(), abs=1e-9)
    assert shares.student.sum() == pytest.approx(q.sum(), abs=1e-9)
    assert shares.advantages.sum() == pytest.approx(p.sum() - q.sum(), abs=1e-9)
    chunks = chunk_logprobs(alignment, p)
    assert chunks.sum() == pytest.approx(p.sum(), abs=1e-9)
    for chunk, logprob in zip(alignment.chunks, chunks, strict=True):
        here = shares.advantages[chunk.s0 : chunk.s1]
        assert logprob == pytest.approx(p[chunk.t0 : chunk.t1].sum())
        assert here == pytest.approx(
            [(logprob - q[chunk.s0 : chunk.s1].sum()) / len(here)] * len(here)
        )


def test_a_worked_example_with_chunks_of_every_shape():
    # the|_ca|t|<end> and t|he|_|cat|<end>: "the", "_cat" and the end are the shared spans.
    alignment = align([b"the", b" ca", b"t", None], [b"t", b"he", b" ", b"cat", None])
    assert alignment.chunks == ((0, 1, 0, 2), (1, 3, 2, 4), (3, 4, 4, 5))
    shares = shared_over_chunk(
        alignment,
        teacher_logprobs=np.array([-1.0, -2.0, -4.0, -0.5], np.float32),
        student_logprobs=np.array([-1.0, -1.0, -3.0, -1.0, -1.5], np.float32),
    )
    # the: (-1 + 2) / 2; _cat: (-6 + 4) / 2; end: -0.5 + 1.5.
    assert shares.advantages.tolist() == [0.5, 0.5, -1.0, -1.0, 1.0]


def test_the_same_tokens_are_chunks_of_their_own_with_the_tokens_own_log_ratio():
    parts = [b"a", None, b"bc", None, None]
    alignment = align(parts, parts)
    assert alignment.chunks == tuple((i, i + 1, i, i + 1) for i in range(5))
    p, q = np.array([-1.0, -2, -3, -4, -5]), np.array([-5.0, -4, -3, -2, -1])
    shares = shared_over_chunk(alignment, teacher_logprobs=p, student_logprobs=q)
    assert shares.advantages.tolist() == (p - q).tolist()


def test_an_empty_text_has_no_chunks():
    alignment = align([], [])
    assert alignment.chunks == ()
    assert chunk_logprobs(alignment, np.zeros(0)).tolist() == []


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        ([b"ab", b"c"], [b"a", b"bd"], "differ from byte 2 on.*b'c' there, the student's b'd'"),
        ([b"ab", b"c"], [b"ab"], "differ from byte 2 on.*b'c' there, the student's b''"),
        ([b"The"], [b"the"], "differ from byte 0 on"),
        ([b"ab", None], [b"ab"], r"at bytes \[2\] of the teacher's text but \[\]"),
        ([b"a", None, b"b"], [b"ab", None], r"at bytes \[1\] .* but \[2\]"),
        ([b"a", b""], [b"a"], "piece 1 of the teacher is empty"),
    ],
)
def test_texts_that_are_not_the_same_are_refused(teacher, student, message):
    with pytest.raises(ValueError, match=message):
        align(teacher, student)


def test_one_log_probability_for_each_token_and_finite_ones_are_required():
    alignment = align([b"ab"], [b"a", b"b"])
    one, two = np.array([-1.0]), np.array([-1.0, -2.0])
    with pytest.raises(ValueError, match="for 1 tokens of the teacher"):
        shared_over_chunk(alignment, teacher_logprobs=two, student_logprobs=two)
    with pytest.raises(ValueError, match="for 2 tokens of the student"):
        shared_over_chunk(alignment, teacher_logprobs=one, student_logprobs=one)
    with pytest.raises(ValueError, match="-inf of a token of the student"):
        shared_over_chunk(
            alignment, teacher_logprobs=one, student_logprobs=np.array([-1.0, -math.inf])
        )


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason=f"needs the checkpoint at {SMOLLM2}")
def test_smollm2_learns_from_other_tokenizers_with_the_text_conserved():
    text = "the cat 12 + 30 = 42\n\ntherefore é🤖 and 🤖é; 1000 more."
    tokenizer = AutoTokenizer.from_pretrained(SMOLLM2)
    table = token_bytes(tokenizer, len(tokenizer))
    check_token_bytes(tokenizer, table, [text])
    ours = [table[i] for i in tokenizer.encode(text)]
    rng = np.random.default_rng(3)
    for teacher in TOKENIZERS:
        theirs = pieces(teacher, text)
        alignment = align(theirs, ours)
        check_chunks(alignment, theirs, ours)
        p, q = -rng.exponential(2.0, len(theirs)), -rng.exponential(2.0, len(ours))
        shares = shared_over_chunk(alignment, teacher_logprobs=p, student_logprobs=q)
        assert shares.advantages.sum() == pytest.approx(p.sum() - q.sum(), abs=1e-9)
