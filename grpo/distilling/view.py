"""A student's texts as a teacher reads them, and the teacher's opinion as the student hears it.

Teacher and student may have different tokenizers and put a question differently. A text that the
teacher cannot read is refused and counted; so are tokens that begin inside one of the teacher's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from cotree.grpo.distilling.alignment import Alignment, align, shared_over_chunk
from cotree.grpo.distilling.path_outcomes import path_scores
from cotree.grpo.distilling.token_bytes import check_token_bytes, token_bytes
from cotree.grpo.distilling.vocabulary import Outcomes, SharedVocabulary, identity_outcomes
from cotree.grpo.models import encode_checked
from cotree.grpo.token_scores import FloatArray, ScoreRequest, TokenScores
from cotree.grpo.types import PromptTokens


class Reader(NamedTuple):
    """A model as a reader of texts."""

    tokenizer: PreTrainedTokenizerFast
    vocab_size: int
    """Rows of its embedding table, which may be padded beyond the tokenizer's."""
    prompt: Callable[[str], PromptTokens]
    """From a question to its prompt's tokens."""


class Text(NamedTuple):
    """What a student wrote, or reads, after a question."""

    question: str
    token_ids: PromptTokens
    """The student's; the teacher is asked about them."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """Of a teacher, about the T tokens of a text."""

    outcomes: Outcomes
    """[T, K] and [T, K + 1]."""
    num_inside: int
    """Tokens that begin inside one of the teacher's, where it is less sure of what is meant."""


class TeacherView:
    """Both directions of reading between one teacher and one student."""

    def __init__(
        self, student: Reader, teacher: Reader, *, max_tokens: int, probes: Sequence[str] = ()
    ) -> None:
        """Compares the tokenizers.

        Args:
            student: reads and writes the texts.
            teacher: is asked about them.
            max_tokens: longest text that the teacher takes, prompt included, in its tokens.
            probes: texts that different tokenizers must spell byte for byte.

        Raises:
            ValueError: the tokenizers differ, and one of them changes texts that it reads.
        """
        self._student, self._teacher, self._max_tokens = student, teacher, max_tokens
        self.is_same = _same(student.tokenizer, teacher.tokenizer)
        self.refused: Counter[str] = Counter()
        """Texts by the reason why the teacher was not asked about them."""
        self._shared: SharedVocabulary | None = None
        self._pieces: tuple[tuple[bytes | None, ...], ...] = ()
        if not self.is_same:
            readers = (teacher, student)
            theirs, ours = (token_bytes(one.tokenizer, one.vocab_size) for one in readers)
            for reader, table in zip(readers, (theirs, ours), strict=True):
                check_token_bytes(reader.tokenizer, table, probes)
            self._pieces = (theirs, ours)
            self._shared = SharedVocabulary(theirs, ours, _specials(student, teacher))

    @property
    def order(self) -> tuple[int, ...] | None:
        """Of the student's vocabulary, in which outcomes are ranges; None is its own."""
        return None if self._shared is None else tuple(self._shared.order.tolist())

    def request(self, text: Text) -> ScoreRequest | None:
        """The text as the teacher reads it; None, counted in `refused`, if it cannot."""
        prompt_ids = self._teacher.prompt(text.question)
        token_ids = text.token_ids if self.is_same else self._reread(text.token_ids)
        if token_ids is None:
            return None
        if not token_ids:
            self.refused["empty"] += 1
            return None
        if len(prompt_ids) + len(token_ids) > self._max_tokens:
            self.refused["too long for the teacher"] += 1
            return None
        return ScoreRequest(prompt_ids, token_ids)

    def opinion(self, text: Text, request: ScoreRequest, scores: TokenScores) -> Opinion:
        """What the teacher would have written in the place of each token of the student's."""
        if self._shared is None:
            size = self._student.vocab_size
            return Opinion(
                identity_outcomes(scores.top_ids, scores.top_logprobs, vocab_size=size), 0
            )
        found = path_scores(
            scores, self._shared, teacher_ids=request.token_ids, student_ids=text.token_ids
        )
        return Opinion(found.outcomes, found.num_inside)

    def log_ratios(
        self, text: Text, request: ScoreRequest, scores: TokenScores, logprobs: Sequence[float]
    ) -> FloatArray:
        """[T] nats: log p - log q of each of the student's tokens, p the teacher's and q given.

        With different tokenizers, of each shortest stretch that both spell alone, shared evenly
        by its tokens: the sum over the text is log p(text) - log q(text) all the same.
        """
        given = np.asarray(logprobs, dtype=np.float32)
        if self._shared is None:
            return scores.logprobs - given
        shared = shared_over_chunk(
            self._alignment(text, request),
            teacher_logprobs=scores.logprobs,
            student_logprobs=given,
        )
        return shared.advantages.astype(np.float32)

    def _alignment(self, text: Text, request: ScoreRequest) -> Alignment:
        theirs, ours = self._pieces
        return align(
            [theirs[token] for token in request.token_ids],
            [ours[token] for token in text.token_ids],
        )

    def _reread(self, token_ids: PromptTokens) -> PromptTokens | None:
        """The teacher's tokens of what the student's tokens spell."""
        eos = self._student.tokenizer.eos_token_id
        is_ended = bool(token_ids) and token_ids[-1] == eos
        pieces = [self._pieces[1][token] for token in token_ids[: len(token_ids) - is_ended]]
        if any(piece is None for piece in pieces):
            self.refused["a special token inside"] += 1
            return None
        spelled = b"".join(piece for piece in pieces if piece is not None)
        try:
            written = spelled.decode("utf-8")
            ids = encode_checked(self._teacher.tokenizer, written)
        except UnicodeDecodeError:
            self.refused["ends inside a character"] += 1
            return None
        except ValueError:
            self.refused["a character that the teacher does not know"] += 1
            return None
        theirs = b"".join(self._pieces[0][token] or b"" for token in ids)
        if theirs != spelled:
            self.refused["the teacher's tokenizer changes it"] += 1
            return None
        end = self._teacher.tokenizer.eos_token_id
        if not is_ended:
            return tuple(ids)
        if not isinstance(end, int):
            self.refused["the teacher has no end of sequence"] += 1
            return None
        return (*ids, end)


def _same(one: PreTrainedTokenizerFast, other: PreTrainedTokenizerFast) -> bool:
    ends = one.eos_token_id == other.eos_token_id
    return ends and one.get_vocab() == other.get_vocab()


def _specials(student: Reader, teacher: Reader) -> Mapping[int, int]:
    """Special tokens that mean the same: the teacher's to the student's."""
    theirs, ours = teacher.tokenizer.eos_token_id, student.tokenizer.eos_token_id
    return {theirs: ours} if isinstance(theirs, int) and isinstance(ours, int) else {}
