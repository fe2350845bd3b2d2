"""A teacher's most likely tokens as sets of a student's tokens, where the two vocabularies differ.

T positions, K tokens that the teacher names at each, V tokens of a vocabulary.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cotree.grpo.token_scores import FloatArray, IntArray

_MASS_SLACK = 1e-3
"""How far above 1 rounding may lift the sum of a teacher's probabilities."""


_LEAST_TAIL = 2.0**-24
"""Probability of all tokens that the teacher does not name, where those that it names round to 1:
a tail of 0 would forbid the student what is merely unlikely."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What the teacher expects next, as disjoint sets of the student's tokens.

    A set is `order[first:end]`, with the `order` of the vocabularies; empty ones (first = end = 0,
    log-probability -inf) fill up the K places.
    """

    first: IntArray
    """[T, K]."""
    end: IntArray
    """[T, K]."""
    logprobs: FloatArray
    """[T, K + 1] nats: of each set, and of all other tokens. They sum to 1, or are all -inf: no
    opinion."""
    unmapped_mass: FloatArray
    """[T] probability of the teacher's tokens that no token of the student begins to write; it is
    part of the last log-probability."""


class SharedVocabulary:
    """Which tokens of a student write what a token of the teacher begins with.

    A teacher's token with bytes b is, by itself, one of these events:

    - "the next bytes are b", all student tokens that start with b, if there is one;
    - else "the next bytes are s", all that start with s, the longest token of the student that b
      starts with;
    - for a special token, the student's special token that means the same.
    """

    def __init__(
        self,
        teacher: Sequence[bytes | None],
        student: Sequence[bytes | None],
        specials: Mapping[int, int],
    ) -> None:
        """Finds the place of each of the teacher's tokens; a second or so for a large vocabulary.

        Args:
            teacher: [V of the teacher] the bytes of its tokens, see `token_bytes`.
            student: [V] those of the student's.
            specials: teacher id -> id of the student's special token that means the same, as
                end-of-sequence does. Both write no bytes.

        Raises:
            ValueError: a token is empty, or a special one has bytes or is not in its vocabulary.
        """
        _check_tables(teacher, student, specials)
        self._teacher, self._student = tuple(teacher), tuple(student)
        by_bytes = sorted(
            range(len(student)), key=lambda i: (student[i] is None, student[i] or b"", i)
        )
        self._sorted = [piece for i in by_bytes if (piece := student[i]) is not None]
        self._pieces = frozenset(self._sorted)
        self.order: NDArray[np.int64] = np.array(by_bytes, dtype=np.int64)
        """[V] the student's ids; by bytes, then those without."""
        self._position = position = np.empty_like(self.order)
        position[self.order] = np.arange(len(student))
        self._ranges: IntArray = np.zeros((len(teacher), 2), np.int32)
        for index, piece in enumerate(teacher):
            if index in specials:
                place = int(position[specials[index]])
                self._ranges[index] = place, place + 1
            elif piece is not None:
                self._ranges[index] = self._range(piece)

    @property
    def num_teacher(self) -> int:
        """Rows of the teacher's table."""
        return len(self._teacher)

    def teacher_piece(self, token: int) -> bytes | None:
        """The bytes of a teacher's token; None of a special one."""
        return self._teacher[token]

    def student_piece(self, token: int) -> bytes | None:
        """The bytes of a student's token; None of a special one."""
        return self._student[token]

    def place_of(self, token: int) -> tuple[int, int]:
        """The places in `order` of the student's tokens with this one's bytes, or of it alone."""
        piece = self._student[token]
        place = int(self._position[token])
        return (place, place + 1) if piece is None else self.exactly(piece) or (place, place + 1)

    def range_of(self, token: int) -> tuple[int, int]:
        """The places of a teacher's token by itself; empty where the student has none for it."""
        first, end = self._ranges[token].tolist()
        return first, end

    def exactly(self, piece: bytes) -> tuple[int, int] | None:
        """The places of the tokens with these bytes, if there are any."""
        first = bisect_left(self._sorted, piece)
        end = bisect_right(self._sorted, piece, lo=first)
        return (first, end) if first < end else None

    def longest_prefix(self, piece: bytes) -> bytes | None:
        """The longest token of the student that `piece` starts with and is longer than."""
        lengths = range(len(piece) - 1, 0, -1)
        return next((piece[:n] for n in lengths if piece[:n] in self._pieces), None)

    def starting_with(self, prefix: bytes) -> tuple[int, int]:
        """The places of the student's tokens that start with these bytes; perhaps none."""
        first = bisect_left(self._sorted, prefix)
        stem = prefix.rstrip(b"\xff")  # the last byte that can be raised ends the range
        if not stem:
            return first, len(self._sorted)
        return first, bisect_left(self._sorted, stem[:-1] + bytes([stem[-1] + 1]), lo=first)

    def _range(self, piece: bytes) -> tuple[int, int]:
        """Places of the tokens that start with `piece`, else with the longest it starts with."""
        first, end = self.starting_with(piece)
        if first < end:
            return first, end
        longest = self.longest_prefix(piece)
        return (0, 0) if longest is None else self.starting_with(longest)


def identity_outcomes(
    top_ids: NDArray[np.integer], top_logprobs: FloatArray, *, vocab_size: int
) -> Outcomes:
    """The teacher's most likely tokens as sets of one token each: both models share a tokenizer.

    Args:
        top_ids: [T, K] ids, distinct at a position; -1 fills up.
        top_logprobs: [T, K] nats.
        vocab_size: rows of the student. Ids beyond, which a teacher with more of the unused rows
            may name, count among the others.

    Raises:
        ValueError: the shapes differ, an id is twice at a position, or the probabilities sum to
            more than 1.
    """
    ids, logprobs = checked_names(top_ids, top_logprobs)
    mass = np.exp(logprobs)
    mapped = (ids >= 0) & (ids < vocab_size)
    first = np.where(mapped, ids, 0)
    return Outcomes(
        first=first.astype(np.int32),
        end=np.where(mapped, ids + 1, 0).astype(np.int32),
        logprobs=_with_tail(np.where(mapped, mass, 0.0)),
        unmapped_mass=np.where(mapped, 0.0, mass).sum(-1).astype(np.float32),
    )


def merged_outcomes(
    first: NDArray[np.int32],
    end: NDArray[np.int32],
    mass: NDArray[np.float64],
    unmapped: NDArray[np.float64],
    vocab_size: int,
) -> Outcomes:
    """[T, K] ranges with their probabilities as outcomes; those that hold one another are joined.

    Args:
        first: [T, K] places; empty ranges fill up.
        end: [T, K] likewise. Two ranges overlap only if one holds the other.
        mass: [T, K] probabilities; what they lack of 1 is all other tokens together.
        unmapped: [T] of that, what the teacher named.
        vocab_size: of the student.
    """
    positions, width = first.shape
    # By beginning, the widest first: a range that holds others comes just before them.
    rank = first.astype(np.int64) * (vocab_size + 1) + (vocab_size - end)
    by_range = np.argsort(np.where(end > first, rank, np.iinfo(np.int64).max), kind="stable")
    first, end = (np.take_along_axis(bound, by_range, -1) for bound in (first, end))
    mass = np.take_along_axis(mass, by_range, -1)
    reach = np.maximum.accumulate(np.pad(end, ((0, 0), (1, 0))), axis=-1)[:, :-1]
    is_widest = (end > first) & (first >= reach)
    place = np.cumsum(is_widest, axis=-1) - 1
    rows = np.broadcast_to(np.arange(positions)[:, None], place.shape)
    merged = np.zeros((2, positions, width), np.int32)
    merged[:, rows[is_widest], place[is_widest]] = first[is_widest], end[is_widest]
    flat = (rows * width + place)[end > first]
    summed = np.zeros(positions * width)
    np.add.at(summed, flat, mass[end > first])
    return Outcomes(
        first=merged[0],
        end=merged[1],
        logprobs=_with_tail(summed.reshape(positions, width)),
        unmapped_mass=unmapped.astype(np.float32),
    )


def _with_tail(mass: NDArray[np.float64]) -> FloatArray:
    """[T, K + 1] log of the probabilities, and of what they lack of 1."""
    kept = mass.sum(-1, keepdims=True)
    mass = mass / np.maximum(kept, 1.0)  # rounding may have lifted the sum above 1
    with np.errstate(divide="ignore"):
        rest = np.where(kept < 1.0, 1.0 - kept, _LEAST_TAIL)
        return np.log(np.concatenate([mass, rest], -1)).astype(np.float32)


def checked_names(
    top_ids: NDArray[np.integer], top_logprobs: FloatArray
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids, and log-probabilities in float64 with -inf where there is no id.

    Args:
        top_ids: [T, K] tokens that the teacher names; -1 fills up.
        top_logprobs: [T, K] nats.

    Raises:
        ValueError: the shapes differ, an id is twice at a position, or the probabilities sum to
            more than 1.
    """
    if top_ids.ndim != 2 or top_ids.shape != top_logprobs.shape:
        raise ValueError(
            f"top_ids {top_ids.shape} and top_logprobs {top_logprobs.shape} must both be [T, K]."
        )
    ids = top_ids.astype(np.int64)
    logprobs = np.where(ids >= 0, top_logprobs.astype(np.float64), -np.inf)
    ordered = np.sort(ids, axis=-1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        raise ValueError(
            f"token {ordered[:, 1:][twice][0]} is named twice at a position; name each once."
        )
    with np.errstate(over="ignore"):
        most = np.exp(logprobs).sum(-1).max(initial=0.0)
    if not most <= 1 + _MASS_SLACK:
        raise ValueError(
            f"the teacher's probabilities sum to {most:g} at a position; they must be those of "
            "its softmax, in nats."
        )
    return ids, logprobs


def _check_tables(
    teacher: Sequence[bytes | None], student: Sequence[bytes | None], specials: Mapping[int, int]
) -> None:
    for who, table in (("teacher", teacher), ("student", student)):
        if b"" in table:
            raise ValueError(
                f"token {list(table).index(b'')} of the {who} is empty; give None for a token that "
                "writes no text."
            )
    for pair in specials.items():
        for who, table, index in zip(("teacher", "student"), (teacher, student), pair, strict=True):
            if not 0 <= index < len(table):
                raise ValueError(
                    f"specials names token {index} of the {who}, which has {len(table)} tokens."
                )
            if table[index] is not None:
                raise ValueError(
                    f"specials names token {index} of the {who}, which writes {table[index]!r}; "
                    "only tokens without bytes need a partner."
                )
