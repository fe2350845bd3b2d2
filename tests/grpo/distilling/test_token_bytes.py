"""Tests for grpo/distilling/token_bytes.py, on tokenizers of every alphabet it reads."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import write_character_tokenizer
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cotree.grpo.distilling.token_bytes import check_token_bytes, token_bytes
from cotree.grpo.models import character_tokenizer

SMOLLM2 = Path(__file__).resolve().parents[3] / "models" / "SmolLM2-135M-Instruct"
CORPUS = ["the cat sat on the mat", "  two spaces\n\tand a tab", "naïve café 🤖🤖 ünï ünï"]
ALPHABET = (*"0123456789+=é ", "<think>")


def byte_level_bpe(*, add_prefix_space: bool = False) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS * 2, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")


BYTE_LEVEL = byte_level_bpe()
BYTE_LEVEL_TABLE = token_bytes(BYTE_LEVEL, len(BYTE_LEVEL))


def sentencepiece_bpe(
    normalizer: normalizers.Normalizer | None, pre_tokenizer: pre_tokenizers.Metaspace | None
) -> PreTrainedTokenizerFast:
    """A BPE of few letters that spells all else in bytes, as Gemma's and Llama 2's do."""
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁theca"]
    words += ["".join(merge) for merge in merges]
    backend = Tokenizer(
        models.BPE(
            vocab={word: index for index, word in enumerate(words)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    if normalizer is not None:
        backend.normalizer = normalizer
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


SPACES_TO_MARKS = normalizers.Replace(" ", "▁")
SENTENCEPIECE = {
    "gemma": sentencepiece_bpe(SPACES_TO_MARKS, None),
    "metaspace": sentencepiece_bpe(None, pre_tokenizers.Metaspace(prepend_scheme="never")),
}
BEGINS_WITH_SPACE = {
    "llama": sentencepiece_bpe(
        normalizers.Sequence([normalizers.Prepend("▁"), SPACES_TO_MARKS]), None
    ),
    "metaspace": sentencepiece_bpe(None, pre_tokenizers.Metaspace(prepend_scheme="first")),
    "byte-level": byte_level_bpe(add_prefix_space=True),
}


@given(st.text(max_size=30))
def test_byte_level_tokens_spell_every_text(text: str):
    check_token_bytes(BYTE_LEVEL, BYTE_LEVEL_TABLE, [text, *CORPUS])


def test_byte_level_tokens_cut_characters_and_the_table_has_the_parts():
    robot = "\N{ROBOT FACE}".encode()
    parts = {piece for piece in BYTE_LEVEL_TABLE if piece and piece in robot and piece != robot}
    assert {bytes([byte]) for byte in robot} <= parts
    assert set(BYTE_LEVEL_TABLE) >= {bytes([byte]) for byte in range(256)}


def test_special_tokens_and_rows_without_a_token_have_no_bytes():
    table = token_bytes(BYTE_LEVEL, len(BYTE_LEVEL) + 3)
    silent = [index for index, piece in enumerate(table) if piece is None]
    assert silent == [BYTE_LEVEL.eos_token_id, *range(len(BYTE_LEVEL), len(BYTE_LEVEL) + 3)]


def test_an_added_token_that_is_not_special_writes_its_name():
    tokenizer = byte_level_bpe()
    tokenizer.add_tokens(["<é>"])
    table = token_bytes(tokenizer, len(tokenizer))
    # Read through the map of bytes, é would be the one byte 0xE9.
    assert table[tokenizer.convert_tokens_to_ids("<é>")] == b"<\xc3\xa9>"
    check_token_bytes(tokenizer, table, ["the<é>cat"])


def test_an_added_token_that_swallows_spaces_has_no_bytes_and_texts_with_it_are_refused():
    tokenizer = byte_level_bpe()
    tokenizer.add_tokens([AddedToken("<tag>", lstrip=True)])
    table = token_bytes(tokenizer, len(tokenizer))
    check_token_bytes(tokenizer, table, ["the cat"])
    with pytest.raises(ValueError, match="'<tag>' there writes no text"):
        check_token_bytes(tokenizer, table, ["the <tag>cat"])


@pytest.mark.parametrize("kind", SENTENCEPIECE)
@given(text=st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"]), max_size=20))
def test_sentencepiece_tokens_spell_every_text_in_words_and_bytes(kind: str, text: str):
    tokenizer = SENTENCEPIECE[kind]
    table = token_bytes(tokenizer, len(tokenizer))
    check_token_bytes(tokenizer, table, [text, "the the cat\nat é"])
    assert table[tokenizer.convert_tokens_to_ids("▁the")] == b" the"
    assert table[tokenizer.convert_tokens_to_ids("<0x0A>")] == b"\n"
    assert table[0] is None  # <unk>


@pytest.mark.parametrize("kind", BEGINS_WITH_SPACE)
def test_a_tokenizer_that_begins_texts_with_a_space_of_its_own_is_refused(kind: str):
    tokenizer = BEGINS_WITH_SPACE[kind]
    table = token_bytes(tokenizer, len(tokenizer))
    with pytest.raises(ValueError, match=r"'the cat'.*add_prefix_space = False"):
        check_token_bytes(tokenizer, table, ["the cat"])


def test_a_literal_mark_of_a_space_is_refused_where_the_tokenizer_loses_it():
    tokenizer = SENTENCEPIECE["gemma"]
    with pytest.raises(ValueError, match="its tokens spell 't t'"):
        check_token_bytes(tokenizer, token_bytes(tokenizer, len(tokenizer)), ["t▁t"])


def test_unigram_tokens_spell_their_words_and_unknown_ones_are_refused():
    words = [("<unk>", 0.0), ("▁", -2.0), ("a", -1.0), ("▁a", -1.5), ("b", -1.0)]
    backend = Tokenizer(models.Unigram(words, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, name_or_path="small/unigram")
    table = token_bytes(tokenizer, 5)
    assert table == (None, b" ", b"a", b" a", b"b")
    check_token_bytes(tokenizer, table, ["ab a  b", ""])
    with pytest.raises(ValueError, match="'small/unigram' does not keep the text 'abz'"):
        check_token_bytes(tokenizer, table, ["ab", "abz"])


@given(st.lists(st.sampled_from(ALPHABET), max_size=20).map("".join))
def test_characters_spell_every_text_of_their_alphabet(text: str):
    tokenizer = character_tokenizer(ALPHABET, max_positions=32)
    table = token_bytes(tokenizer, len(tokenizer))
    check_token_bytes(tokenizer, table, [text])


def test_unused_words_of_a_character_tokenizer_have_no_bytes():
    tokenizer = character_tokenizer(ALPHABET, max_positions=32)
    # <pad> and <eos>, the alphabet in order, 15 <unused_…> up to 32 and the model's extra row.
    expected = [None, None, *(word.encode() for word in ALPHABET), *[None] * 16]
    assert list(token_bytes(tokenizer, 33)) == expected
    with pytest.raises(ValueError, match="no token for '<'"):
        check_token_bytes(tokenizer, expected, ["1<unused_0>"])


def test_an_unknown_token_has_no_bytes_and_a_text_with_it_is_refused(tmp_path: Path):
    size = write_character_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    table = token_bytes(tokenizer, size)
    assert table[:5] == (None, None, None, b"\n", b" ")
    check_token_bytes(tokenizer, table, ["2 + 2 = 4\n"])
    with pytest.raises(ValueError, match="'<unk>' there writes no text"):
        check_token_bytes(tokenizer, table, ["café"])


@pytest.mark.parametrize(
    ("normalizer", "text", "spelled"),
    [
        (normalizers.Lowercase(), "The cat", "the cat"),
        (normalizers.NFKC(), "\ufb01t", "fit"),
        (normalizers.NFC(), "e\u0301", "\u00e9"),
        (normalizers.Strip(), "cat ", "cat"),
        (normalizers.Replace("  ", " "), "a  b", "a b"),
    ],
)
def test_a_tokenizer_that_changes_texts_is_refused(
    normalizer: normalizers.Normalizer, text: str, spelled: str
):
    tokenizer = byte_level_bpe()
    tokenizer.backend_tokenizer.normalizer = normalizer
    table = token_bytes(tokenizer, len(tokenizer))
    with pytest.raises(ValueError, match=f"does not keep the text.*spell '{spelled}'"):
        check_token_bytes(tokenizer, table, ["the cat", text])


def test_whitespace_that_is_dropped_between_words_is_refused():
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1}))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(ValueError, match="its tokens spell 'ab'"):
        check_token_bytes(tokenizer, token_bytes(tokenizer, 2), ["a b"])


@pytest.mark.parametrize(
    "model",
    [
        models.WordPiece({"a": 0, "##b": 1}, unk_token="a"),
        models.BPE(vocab={"a": 0, "a</w>": 1}, merges=[], end_of_word_suffix="</w>"),
    ],
)
def test_tokens_that_mark_words_instead_of_spaces_are_refused(model: models.Model):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
    with pytest.raises(ValueError, match="marks the insides or ends of words"):
        token_bytes(tokenizer, 2)


def test_a_token_without_a_row_in_the_model_is_refused():
    size = len(BYTE_LEVEL)
    with pytest.raises(ValueError, match=f"has {size - 1} rows, none for token {size - 1} b"):
        token_bytes(BYTE_LEVEL, size - 1)


def test_ids_may_have_gaps():
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 3}))
    backend.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert token_bytes(tokenizer, 4) == (b"a", None, None, b"b")


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason=f"needs the checkpoint at {SMOLLM2}")
def test_the_tokens_of_smollm2_spell_texts_of_many_scripts():
    tokenizer = AutoTokenizer.from_pretrained(SMOLLM2)
    table = token_bytes(tokenizer, 49152)
    assert [index for index, piece in enumerate(table) if piece is None] == list(range(17))
    texts = [" Hello  World\r\n\t", "naïve \ufb01t e\u0301 🤖", "1234 = 12·10² + 34", "日本語 ▁"]
    check_token_bytes(tokenizer, table, texts)
