"""What a teacher with another tokenizer expects in the place of a student's token.

The teacher's first token says only how the student's may begin: "the next bytes are (" holds for
every token that starts with a bracket. The text says how it goes on, and the teacher was asked
there too. So its tokens are followed along the bytes of the student's token:

- where the teacher would leave the text, the bytes up to there and its other token are an event,
  "the next bytes are …", with the probability of the way there times that of the other token;
- where it stays on the text to the token's end, the student's own token is the event, less what
  longer tokens begin with;
- what would have ended on a shorter token of the text belongs to that token.

The events are disjoint, and their probabilities and the rest's sum to 1.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cotree.grpo.distilling.alignment import align, token_bounds
from cotree.grpo.distilling.vocabulary import (
    Outcomes,
    SharedVocabulary,
    checked_names,
    merged_outcomes,
)
from cotree.grpo.token_scores import TokenScores

_MOST_EVENTS = 32
"""Of one position, by falling probability; the others count among the rest."""

Place = tuple[int, int]
"""Of tokens in the student's order, from the first up to, not including, the second."""


class PathScores(NamedTuple):
    """A teacher's opinions at the student's tokens."""

    outcomes: Outcomes
    """Over the T_s positions."""
    num_inside: int
    """Tokens of the student that begin inside one of the teacher's."""


def path_scores(
    scores: TokenScores,
    vocabulary: SharedVocabulary,
    *,
    teacher_ids: Sequence[int],
    student_ids: Sequence[int],
) -> PathScores:
    """What the teacher expects at each of the student's tokens.

    Its distributions are those after the canonical tokens of the text. Where the student's token
    begins inside one of the teacher's, it is the distribution over the teacher's tokens that begin
    with what is written of it; tokens that the teacher does not name count as if they did, among
    the rest.

    Args:
        scores: the teacher's, T_t tokens.
        vocabulary: of both.
        teacher_ids: [T_t] the text in the teacher's tokens.
        student_ids: [T_s] and in the student's.

    Raises:
        ValueError: the texts differ, there are scores of another number of tokens, a token is named
            twice at a position, or the probabilities sum to more than 1.
    """
    theirs = [vocabulary.teacher_piece(token) for token in teacher_ids]
    ours = [vocabulary.student_piece(token) for token in student_ids]
    if len(scores.logprobs) != len(theirs):
        raise ValueError(f"{len(scores.logprobs)} scores for {len(theirs)} tokens of the teacher.")
    align(theirs, ours)
    begin, ask = token_bounds(theirs)[:-1], token_bounds(ours)[:-1]
    places = np.searchsorted(begin, ask, side="right") - 1
    path = _Path(scores, vocabulary, teacher_ids)
    found = [
        path.events(place, token, skip=skip)
        for place, token, skip in zip(
            places.tolist(), student_ids, (ask - begin[places]).tolist(), strict=True
        )
    ]
    width = max((len(events) for events, _ in found), default=0)
    shape = (len(found), width)
    first, end, mass = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape)
    for row, (events, _) in enumerate(found):
        for column, ((start, stop), share) in enumerate(events):
            first[row, column], end[row, column], mass[row, column] = start, stop, share
    unmapped = np.array([lost for _, lost in found])
    outcomes = merged_outcomes(first, end, mass, unmapped, len(vocabulary.order))
    return PathScores(outcomes, int((begin[places] < ask).sum()))


class _Other(NamedTuple):
    """A token that the teacher might have written instead."""

    token: int
    left: bytes | None
    """Its bytes that are not written yet; None of a special one."""


class _Path:
    """The teacher's tokens of one text, and what it would have written instead of each."""

    def __init__(
        self, scores: TokenScores, vocabulary: SharedVocabulary, teacher_ids: Sequence[int]
    ) -> None:
        self._vocabulary, self._teacher_ids = vocabulary, teacher_ids
        self._logprobs: list[float] = scores.logprobs.tolist()
        largest = int(scores.top_ids.max(initial=-1))
        if largest >= vocabulary.num_teacher:
            raise ValueError(
                f"token {largest} is beyond the teacher's {vocabulary.num_teacher}; its checkpoint "
                "and its tokenizer do not belong together."
            )
        top_ids, top_logprobs = checked_names(scores.top_ids, scores.top_logprobs)
        self._named: list[list[tuple[int, float]]] = [
            [(token, share) for token, share in zip(ids, shares, strict=True) if token >= 0]
            for ids, shares in zip(top_ids.tolist(), np.exp(top_logprobs).tolist(), strict=True)
        ]

    def events(
        self, place: int, student_id: int, *, skip: int
    ) -> tuple[list[tuple[Place, float]], float]:
        """Events and their probabilities at a student's token; also what has no event.

        Args:
            place: of the teacher's token in which the student's begins.
            student_id: the student's token.
            skip: bytes of the teacher's token that come before it.
        """
        own = self._vocabulary.place_of(student_id)
        piece = self._vocabulary.student_piece(student_id)
        mass: dict[Place, float] = defaultdict(float)
        lost = 0.0
        if piece is None:  # a special token: the teacher's has no bytes to follow
            mass[own] = math.exp(self._logprobs[place])
            for token, share in self._named[place]:
                if token != self._teacher_ids[place]:
                    mass[self._vocabulary.range_of(token)] += share
            lost = mass.pop((0, 0), 0.0)
            return _largest(mass, own), lost
        written, left = b"", 1.0
        while len(written) < len(piece):
            others, stays = self._shares(place, skip)
            for other, share in others:
                where = self._where(written, other, piece)
                if where is None:
                    lost += left * share
                else:
                    mass[where] += left * share
            left *= stays
            written += (self._vocabulary.teacher_piece(self._teacher_ids[place]) or b"")[skip:]
            place, skip = place + 1, 0
        longer = self._longer(place, piece) if len(written) == len(piece) else {}
        for where, share in longer.items():
            mass[where] += left * share
        mass[own] += left * max(0.0, 1.0 - sum(longer.values()))
        return _largest(mass, own), lost

    def _longer(self, place: int, piece: bytes) -> dict[Place, float]:
        """Longer tokens that begin as the student's does, where the teacher leaves the text later.

        Args:
            place: of the teacher's token after the student's.
            piece: the student's token.

        Returns:
            Probabilities, given the student's token.
        """
        vocabulary = self._vocabulary
        found: dict[Place, float] = defaultdict(float)
        ahead, left = piece, 1.0
        while place < len(self._logprobs):
            first, end = vocabulary.starting_with(ahead)
            if vocabulary.exactly(ahead) == (first, end) or first == end:
                break
            others, stays = self._shares(place, 0)
            for other, share in others:
                if other.left is None:
                    continue
                wanted = ahead + other.left
                first, end = vocabulary.starting_with(wanted)
                begun = None if first < end else vocabulary.longest_prefix(wanted)
                if begun is not None and len(begun) > len(ahead):
                    first, end = vocabulary.starting_with(begun)
                if first < end:
                    found[first, end] += left * share
            follows = vocabulary.teacher_piece(self._teacher_ids[place])
            if follows is None:
                break
            ahead, left, place = ahead + follows, left * stays, place + 1
        return found

    def _shares(self, place: int, skip: int) -> tuple[list[tuple[_Other, float]], float]:
        """What the teacher would write instead of its token here, and how likely it stays with it.

        Args:
            place: of the token.
            skip: bytes of it that are written: only tokens that begin with them can be meant.

        Returns:
            Each other token with its probability; and the probability of the text's own.
        """
        piece_of = self._vocabulary.teacher_piece
        actual = self._teacher_ids[place]
        stays = math.exp(self._logprobs[place])
        others = [
            (_Other(token, piece_of(token)), share)
            for token, share in self._named[place]
            if token != actual
        ]
        if not skip:
            return others, stays
        begun = (piece_of(actual) or b"")[:skip]
        rest = max(0.0, 1.0 - stays - sum(share for _, share in others))
        meant = [
            (_Other(other.token, other.left[skip:]), share)
            for other, share in others
            if other.left is not None and other.left.startswith(begun) and len(other.left) > skip
        ]
        total = stays + rest + sum(share for _, share in meant)
        return [(other, share / total) for other, share in meant], stays / total

    def _where(self, written: bytes, other: _Other, piece: bytes) -> Place | None:
        """The student's tokens that begin to write what the teacher would, having left the text.

        Args:
            written: bytes of the text before the teacher's token, from the student's token on.
            other: the teacher's other token.
            piece: the student's token.

        Returns:
            None where no token does, or where the other token is but a shorter way along the text:
            which text it would have become is not known.
        """
        vocabulary = self._vocabulary
        if other.left is None:
            if written:
                return vocabulary.exactly(written)  # the text would end here
            found = vocabulary.range_of(other.token)
            return found if found[0] < found[1] else None
        wanted = written + other.left
        if piece.startswith(wanted) and len(wanted) < len(piece):
            return None
        if wanted == piece:
            return vocabulary.exactly(piece)
        found = vocabulary.starting_with(wanted)
        if found[0] < found[1]:
            return found
        begun = vocabulary.longest_prefix(wanted)
        if begun is None:
            return None
        if piece.startswith(begun):
            return vocabulary.exactly(begun)
        return vocabulary.starting_with(begun)


def _largest(mass: dict[Place, float], own: Place) -> list[tuple[Place, float]]:
    """The most likely events, the student's own token among them however unlikely it is."""
    ordered = sorted(mass.items(), key=lambda event: (event[0] != own, -event[1], event[0]))
    return [event for event in ordered[:_MOST_EVENTS] if event[1] > 0]
