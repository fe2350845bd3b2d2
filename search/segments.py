"""Where tokens and reasoning steps begin and end in a completion's text."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate

_REPLACEMENT = "\ufffd"


def token_ends(token_ids: Sequence[int], decode: Callable[[list[int]], str]) -> tuple[int, ...]:
    """Characters of the completion's text that are complete after each token.

        ends[i] = max over j <= i of len(common_prefix(decode(ids[: j + 1]), decode(ids)))

    A token that completes no character (a piece of a multi-byte one, a special token that
    `decode` skips) adds none. Takes about two short `decode` calls per token.

    Args:
        token_ids: the completion's tokens.
        decode: token ids -> text. The same ids must always give the same text.

    Returns:
        One count per token: monotone, the last equals `len(decode(token_ids))`.
    """
    ids = list(token_ids)
    text = decode(ids)
    for attempt in (_ends_of_separate_tokens, _ends_in_windows):
        ends = attempt(ids, text, decode)
        if ends is not None:
            return ends
    return _ends_by_definition(ids, text, decode)


def _ends_of_separate_tokens(
    ids: list[int], text: str, decode: Callable[[list[int]], str]
) -> tuple[int, ...] | None:
    """The common case: each token decodes to the same characters alone as in context."""
    pieces = [decode([token]) for token in ids]
    if _REPLACEMENT in text or "".join(pieces) != text:
        return None
    return tuple(accumulate(len(piece) for piece in pieces))


def _ends_in_windows(
    ids: list[int], text: str, decode: Callable[[list[int]], str]
) -> tuple[int, ...] | None:
    """Decodes each token after the last few before it, so that joined bytes and spaces show.

    Returns None when the pieces do not add up to the text.
    """
    ends: list[int] = []
    context = read = 0  # the window starts at token `context`; those before `read` are settled
    before = ""  # the settled part of the window
    settled = done = 0  # characters of `text` that settled tokens, and all tokens, complete
    for index in range(len(ids)):
        window = decode(ids[context : index + 1])
        if not window.startswith(before):
            return None
        matched = _common_prefix(window, len(before), text, settled)
        done = max(done, settled + matched)
        ends.append(done)
        if window.endswith(_REPLACEMENT):
            continue  # maybe the first bytes of a character that later tokens complete
        if len(before) + matched < len(window):
            return None
        settled += matched
        context, read = read, index + 1
        before = decode(ids[context:read])
    return tuple(ends) if done == len(text) else None


def _ends_by_definition(
    ids: list[int], text: str, decode: Callable[[list[int]], str]
) -> tuple[int, ...]:
    prefixes = (decode(ids[: index + 1]) for index in range(len(ids)))
    return tuple(accumulate((_common_prefix(prefix, 0, text, 0) for prefix in prefixes), max))


def _common_prefix(left: str, left_start: int, right: str, right_start: int) -> int:
    """Equal characters of `left[left_start:]` and `right[right_start:]` from their start."""
    most = min(len(left) - left_start, len(right) - right_start)
    for index in range(most):
        if left[left_start + index] != right[right_start + index]:
            return index
    return most


def token_span(span: tuple[int, int], ends: Sequence[int]) -> tuple[int, int]:
    """The tokens [first, stop) that write the characters [start, end): all of them, and no others.

    A character whose bytes are split over tokens is written by all of those, and a token that
    reaches over the span's border is part of it; but a token that completes the character before
    the span is not, even if it holds the first bytes of the next one (`ends` cannot tell). Tokens
    without text after it are taken for pieces of the span's first character.

    Args:
        span: characters of the completion's text, start < end.
        ends: as `token_ends` returns it.

    Raises:
        ValueError: the span is empty or outside the text.
    """
    start, end = span
    length = ends[-1] if ends else 0
    if not 0 <= start < end <= length:
        raise ValueError(f"span {span} must be a nonempty part of a text of {length} characters.")
    first = bisect_left(ends, start) if start else 0
    if start and ends[first] == start:
        first += 1
    return first, bisect_left(ends, end) + 1
