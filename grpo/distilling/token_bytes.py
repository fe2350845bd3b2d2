"""The bytes that each token of a vocabulary writes: what models with other tokenizers share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ByteTable = tuple[bytes | None, ...]
"""By token id; None for a token that writes no text."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_STAGES = ("normalizer", "pre_tokenizer", "decoder")


def token_bytes(tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> ByteTable:
    """The bytes that each token id adds to a text.

    Three alphabets are read: byte-level (GPT-2's map of bytes to characters), SentencePiece's (the
    mark of a space, and `<0x0A>` for bytes), and plain characters. The table says what the tokens
    spell, not that the tokenizer keeps a text as it is: see `check_token_bytes`.

    Args:
        tokenizer: of the model.
        vocab_size: rows of the model's embedding; more than the tokenizer has tokens is usual.

    Returns:
        [vocab_size] None for special and unknown tokens, for rows without a token, and for words
        of a word-level vocabulary that no text encodes to.

    Raises:
        ValueError: the tokenizer marks the insides or ends of words, so that its tokens do not
            spell the text, or has a token with bytes that the model has no row for.

    Source: Radford et al. 2019 (GPT-2), `bytes_to_unicode`; Kudo & Richardson 2018,
        arXiv:1808.06226.
    """
    parts = _parts(tokenizer)
    _refuse_word_marks(tokenizer, parts["model"])
    spell = _spelling(parts)
    silent = _silent_ids(tokenizer, parts["model"])
    added = tokenizer.added_tokens_decoder
    vocabulary = tokenizer.get_vocab()
    # Ids may have gaps, so their number says less than the last one.
    table: list[bytes | None] = [None] * max(vocab_size, 1 + max(vocabulary.values(), default=0))
    for word, index in vocabulary.items():
        if index in silent:
            continue
        # Added tokens are found in the text before anything maps its bytes to characters.
        spelled = word.encode("utf-8") if index in added else spell(word)
        table[index] = spelled or None
    beyond = [index for index in range(vocab_size, len(table)) if table[index] is not None]
    if beyond:
        raise ValueError(
            f"the model has {vocab_size} rows, none for token {beyond[0]} {table[beyond[0]]!r} of "
            f"the tokenizer {_name(tokenizer)}. Use the one that the model was trained with."
        )
    return tuple(table[:vocab_size])


def check_token_bytes(
    tokenizer: PreTrainedTokenizerFast,
    table: Sequence[bytes | None],
    texts: Sequence[str],
) -> None:
    """Raises unless the tokens of each text spell exactly its UTF-8 bytes.

    Args:
        tokenizer: of the model; special tokens are not added.
        table: its `token_bytes`.
        texts: what is going to be aligned; only what they contain is checked.

    Raises:
        ValueError: the tokenizer changes a text (lower case, Unicode normal forms, dropped or
            added spaces), or has no token for a part of it; the message has both names.
    """
    parts = _parts(tokenizer)
    known = _known_words(tokenizer, parts["model"])
    for text in texts:
        words = _words(tokenizer, text) if known is not None else []
        missing = [word for word in words if known is not None and word not in known]
        if missing:
            raise ValueError(
                f"{_refused(tokenizer, text)} it has no token for {missing[0]!r}; use a "
                "model whose vocabulary covers the text, or leave the text out."
            )
        ids = tokenizer.encode(text, add_special_tokens=False)
        pieces = [table[index] if index < len(table) else None for index in ids]
        if None in pieces:
            word = tokenizer.convert_ids_to_tokens(ids[pieces.index(None)])
            raise ValueError(
                f"{_refused(tokenizer, text)} its token {word!r} there writes no text; use "
                "a model whose vocabulary covers the text, or leave the text out."
            )
        spelled = b"".join(cast("list[bytes]", pieces))
        if spelled != text.encode("utf-8"):
            raise ValueError(f"{_refused(tokenizer, text)} {_change(spelled, text)}")


def _change(spelled: bytes, text: str) -> str:
    if spelled == b" " + text.encode("utf-8"):
        return (
            "it begins a text with a space of its own; load it with add_prefix_space = False, or "
            "use one that does not."
        )
    shown = spelled.decode("utf-8", errors="backslashreplace")
    return (
        f"its tokens spell {shown[:80]!r}. Use a tokenizer that keeps texts as they are, or leave "
        "the text out."
    )


def _refused(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    return f"the tokenizer {_name(tokenizer)} does not keep the text {text[:80]!r}:"


def _name(tokenizer: PreTrainedTokenizerFast) -> str:
    return repr(tokenizer.name_or_path or type(tokenizer).__name__)


def _parts(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The tokenizer's pipeline as its JSON file has it."""
    return json.loads(tokenizer.backend_tokenizer.to_str())


def _refuse_word_marks(tokenizer: PreTrainedTokenizerFast, model: Mapping[str, Any]) -> None:
    marks = [model.get("continuing_subword_prefix"), model.get("end_of_word_suffix")]
    if model["type"] == "WordPiece" or any(marks):
        raise ValueError(
            f"the tokenizer {_name(tokenizer)} ({model['type']}) marks the insides or ends of "
            "words instead of keeping the spaces, so its tokens do not spell a text. Use a "
            "byte-level or SentencePiece tokenizer, or learn from the teacher's texts alone."
        )


def _spelling(parts: Mapping[str, Any]) -> Callable[[str], bytes | None]:
    """The function from a token of the vocabulary to its bytes, or None where it has none."""
    steps = [step for stage in _STAGES for step in _steps(parts[stage])]
    if any(step["type"] == "ByteLevel" for step in steps):
        byte_of = _byte_of_character()

        def byte_level(word: str) -> bytes | None:
            values = [byte_of.get(character) for character in word]
            return None if None in values else bytes(cast("list[int]", values))

        return byte_level
    spaces = [step["replacement"] for step in steps if step["type"] == "Metaspace"]
    replaced = dict.fromkeys(spaces, " ")
    for step in _steps(parts["decoder"]):
        if step["type"] == "Replace" and "String" in step["pattern"]:
            replaced[step["pattern"]["String"]] = step["content"]
    has_bytes = parts["model"].get("byte_fallback", False)

    def plain(word: str) -> bytes | None:
        match = _BYTE_TOKEN.fullmatch(word) if has_bytes else None
        if match:
            return bytes.fromhex(match[1])
        for mark, text in replaced.items():
            word = word.replace(mark, text)
        return word.encode("utf-8")

    return plain


def _steps(stage: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The steps of one stage of the pipeline, those within sequences included."""
    if stage is None:
        return
    yield stage
    for inner in ("normalizers", "pretokenizers", "decoders"):
        for step in stage.get(inner, ()):
            yield from _steps(step)


def _byte_of_character() -> dict[str, int]:
    """GPT-2's map: printable bytes stand for themselves, the others for characters from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + index): byte for index, byte in enumerate(others)
    }


def _silent_ids(tokenizer: PreTrainedTokenizerFast, model: Mapping[str, Any]) -> set[int]:
    """Ids of tokens that stand for no text of their own."""
    vocabulary = tokenizer.get_vocab()
    silent = set(tokenizer.all_special_ids)
    for index, token in tokenizer.added_tokens_decoder.items():
        # One that swallows the spaces beside it writes more than its name, and not always the same.
        if token.special or token.lstrip or token.rstrip:
            silent.add(index)
    if model.get("unk_token") in vocabulary:
        silent.add(vocabulary[model["unk_token"]])
    if model.get("unk_id") is not None:
        silent.add(model["unk_id"])
    if model["type"] == "WordLevel":
        added = set(tokenizer.added_tokens_decoder)
        silent |= {
            index
            for word, index in vocabulary.items()
            if index not in added and _words(tokenizer, word) != [word]
        }
    return silent


def _words(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """What the tokenizer looks up of a text, before its model."""
    backend = tokenizer.backend_tokenizer
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    if backend.pre_tokenizer is None:
        return [text] if text else []
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


def _known_words(
    tokenizer: PreTrainedTokenizerFast, model: Mapping[str, Any]
) -> Mapping[str, int] | None:
    """The words of a vocabulary that has none for unknown ones, for which encoding would fail."""
    if model["type"] == "WordLevel" and model.get("unk_token") not in model["vocab"]:
        return tokenizer.get_vocab()
    return None
