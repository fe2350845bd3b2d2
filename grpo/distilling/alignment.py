"""One text in two models' tokens: where both begin a token, and whose log-probability goes where.

T_t tokens of the teacher and T_s of the student spell the text; C chunks lie between the places
where both begin a token.

A text's probability here is that of one tokenization, the one its tokenizer gives (or the policy
sampled): a lower bound of the text's own, which is the sum over all that spell it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.floating]


class Chunk(NamedTuple):
    """Tokens of both models that spell the same bytes: teacher[t0:t1] and student[s0:s1]."""

    t0: int
    t1: int
    s0: int
    s1: int


@dataclass(frozen=True, slots=True)
class Alignment:
    """The shortest spans of a text that both models begin and end with a token."""

    teacher: NDArray[np.int64]
    """[C + 1] the teacher's token that begins each chunk, and T_t."""
    student: NDArray[np.int64]
    """[C + 1] the student's token that begins each chunk, and T_s."""

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """The spans, in order; they cover all tokens of both."""
        spans = zip(pairwise(self.teacher.tolist()), pairwise(self.student.tolist()), strict=True)
        return tuple(Chunk(*teacher, *student) for teacher, student in spans)


def align(
    teacher_pieces: Sequence[bytes | None], student_pieces: Sequence[bytes | None]
) -> Alignment:
    """The chunks of a text that two tokenizers cut in different places.

    Args:
        teacher_pieces: [T_t] the bytes of its tokens. None is a special token, such as
            end-of-sequence: it pairs with a None of the other side in the same place, and the two
            are a chunk. Whether they mean the same is the caller's to know.
        student_pieces: [T_s] those of the student's.

    Raises:
        ValueError: the two do not spell the same bytes (the message has the first place where they
            differ), a special token has no partner, or a piece is empty.
    """
    for who, pieces in (("teacher", teacher_pieces), ("student", student_pieces)):
        if b"" in pieces:
            raise ValueError(
                f"piece {list(pieces).index(b'')} of the {who} is empty; give None for a special "
                "token."
            )
    _check_same_text(teacher_pieces, student_pieces)
    _, teacher, student = np.intersect1d(
        token_bounds(teacher_pieces),
        token_bounds(student_pieces),
        assume_unique=True,
        return_indices=True,
    )
    return Alignment(teacher.astype(np.int64), student.astype(np.int64))


def token_bounds(pieces: Sequence[bytes | None]) -> NDArray[np.int64]:
    """[T + 1] the byte where each token begins, and the end; a special token takes one place."""
    lengths = [1 if piece is None else len(piece) for piece in pieces]
    return np.cumsum([0, *lengths], dtype=np.int64)


def _check_same_text(teacher: Sequence[bytes | None], student: Sequence[bytes | None]) -> None:
    texts = [b"".join(piece or b"" for piece in pieces) for pieces in (teacher, student)]
    if texts[0] != texts[1]:
        shorter = min(map(len, texts))
        pairs = enumerate(zip(texts[0][:shorter], texts[1][:shorter], strict=True))
        at = next((place for place, (ours, theirs) in pairs if ours != theirs), shorter)
        raise ValueError(
            f"the texts differ from byte {at} on: the teacher's tokens spell "
            f"{texts[0][at : at + 20]!r} there, the student's {texts[1][at : at + 20]!r}. A "
            "tokenizer changed the text; leave it out."
        )
    marks = [_special_places(pieces) for pieces in (teacher, student)]
    if marks[0] != marks[1]:
        raise ValueError(
            f"special tokens stand at bytes {marks[0]} of the teacher's text but {marks[1]} of the "
            "student's; each needs a partner. Leave out those that one model lacks."
        )


def _special_places(pieces: Sequence[bytes | None]) -> list[int]:
    """The byte before which each special token stands."""
    offset, places = 0, list[int]()
    for piece in pieces:
        if piece is None:
            places.append(offset)
        else:
            offset += len(piece)
    return places


def chunk_logprobs(alignment: Alignment, teacher_logprobs: Reals) -> NDArray[np.float64]:
    """[C] log-probability of each chunk: the sum of its tokens'. Its sum is the text's.

    Args:
        alignment: of the text.
        teacher_logprobs: [T_t] nats, of its tokens.

    Raises:
        ValueError: there is another number of tokens.
    """
    return _chunk_sums(alignment.teacher, teacher_logprobs, "teacher")


class SharedLogprobs(NamedTuple):
    """Each chunk's log-probabilities, in equal parts over the student's tokens of the chunk."""

    teacher: NDArray[np.float64]
    """[T_s] nats. Its sum is the text's log-probability in the teacher's canonical tokens, a lower
    bound of the text's."""
    student: NDArray[np.float64]
    """[T_s] nats. The same of the student, in the tokens that it was given."""

    @property
    def advantages(self) -> NDArray[np.float64]:
        """[T_s] log p - log q: the sum over any chunk, and so over the text, is conserved."""
        return self.teacher - self.student


def shared_over_chunk(
    alignment: Alignment, *, teacher_logprobs: Reals, student_logprobs: Reals
) -> SharedLogprobs:
    """Both models' log-probability of the text, told to the student's tokens chunk by chunk.

        advantage[s] = (log p(chunk) - log q(chunk)) / (student tokens in the chunk)

    A chunk of one token on either side gives the token's own log p - log q.

    Args:
        alignment: of the text.
        teacher_logprobs: [T_t] nats, of the teacher's tokens.
        student_logprobs: [T_s] nats, of the student's tokens.

    Raises:
        ValueError: there is another number of tokens, or one has no finite log-probability.
    """
    for who, logprobs in (("teacher", teacher_logprobs), ("student", student_logprobs)):
        if not np.isfinite(logprobs).all():
            raise ValueError(
                f"log-probability {logprobs[~np.isfinite(logprobs)][0]} of a token of the {who}; "
                "leave the text out."
            )
    sizes = np.diff(alignment.student)
    chunks = (
        chunk_logprobs(alignment, teacher_logprobs),
        _chunk_sums(alignment.student, student_logprobs, "student"),
    )
    return SharedLogprobs(*(np.repeat(sums / sizes, sizes) for sums in chunks))


def _chunk_sums(bounds: NDArray[np.int64], logprobs: Reals, who: str) -> NDArray[np.float64]:
    if logprobs.shape != (bounds[-1],):
        raise ValueError(
            f"log-probabilities of shape {logprobs.shape} for {bounds[-1]} tokens of the {who}."
        )
    return np.add.reduceat(logprobs.astype(np.float64), bounds[:-1])
