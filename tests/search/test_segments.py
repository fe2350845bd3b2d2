"""Tests for search/segments.py: token positions in text, also where characters span tokens."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.search.segments import token_ends


def bytes_decoder(vocabulary: list[bytes]) -> Callable[[list[int]], str]:
    """What a byte-level BPE tokenizer does: join the tokens' bytes, then decode UTF-8."""
    return lambda ids: b"".join(vocabulary[i] for i in ids).decode("utf-8", errors="replace")


def spaces_decoder(words: list[str]) -> Callable[[list[int]], str]:
    """What a SentencePiece tokenizer does: the first token of a text loses its leading space."""
    return lambda ids: "".join(words[i] for i in ids).removeprefix(" ")


def by_definition(ids: list[int], decode: Callable[[list[int]], str]) -> tuple[int, ...]:
    text, ends, most = decode(ids), [], 0
    for index in range(len(ids)):
        prefix = decode(ids[: index + 1])
        equal = next(
            (i for i, (a, b) in enumerate(zip(prefix, text, strict=False)) if a != b),
            min(len(prefix), len(text)),
        )
        most = max(most, equal)
        ends.append(most)
    return tuple(ends)


def test_a_character_split_over_tokens_ends_at_its_last_token():
    euro = "€".encode()  # three bytes, one character
    decode = bytes_decoder([b"a", euro[:1], euro[1:2], euro[2:], b"b"])
    assert token_ends([0, 1, 2, 3, 4], decode) == (1, 1, 1, 2, 3)


def test_a_skipped_special_token_adds_none():
    assert token_ends([0, 1, 0], spaces_decoder(["ab", ""])) == (2, 2, 4)


def test_a_space_belongs_to_the_word_it_stands_before():
    assert token_ends([0, 1, 1], spaces_decoder([" go", " on"])) == (2, 5, 8)  # "go on on"


def test_no_tokens_end_nowhere():
    assert token_ends([], spaces_decoder(["a"])) == ()


PIECES = [bytes([value]) for value in "aé€😀".encode()] + [b"x\xc3", b"\xa9y", b"", b"\xff", b" z"]


@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=24))
def test_any_bytes_give_what_the_definition_gives(ids: list[int]):
    decode = bytes_decoder(PIECES)
    ends = token_ends(ids, decode)
    assert ends == by_definition(ids, decode)
    assert list(ends) == sorted(ends)
    assert not ids or ends[-1] == len(decode(ids))


@given(st.lists(st.integers(0, 4), max_size=24))
def test_dropped_leading_spaces_give_what_the_definition_gives(ids: list[int]):
    decode = spaces_decoder([" a", "b", " ", "", " cde"])
    assert token_ends(ids, decode) == by_definition(ids, decode)


@pytest.mark.parametrize("vocabulary", [[b"a", b"bc"], [b"\xc3", b"\xa9"]])
def test_work_grows_linearly_with_the_length(vocabulary: list[bytes]):
    decoded = 0
    decode = bytes_decoder(vocabulary)

    def counting(ids: list[int]) -> str:
        nonlocal decoded
        decoded += len(ids)
        return decode(ids)

    token_ends([0, 1] * 2000, counting)
    assert decoded < 10 * 4000  # tokens decoded; the definition itself takes 4000^2 / 2
