"""One file of a teacher's answers: what is kept of each distribution, and in how many bytes.

A scored token that keeps n others, in a vocabulary of at most 65536:

    its id 2 | its log-probability 2 | n 1 | tail 2 | n * (id 2 + log-probability 2)

which is 7 + 4 n bytes. An id of a larger vocabulary takes a third byte, in a plane of its own:
8 + 5 n. A token of the prompt takes an id, a sequence three int64 offsets.

A log-probability is a whole number of quanta of 1/2048 nat, so that it is off by 1/4096 at most.
The tail is kept because the most likely tokens alone, scaled up to sum to 1, are a biased teacher
(Anshumann et al. 2025, arXiv:2503.16870).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from cotree.grpo.token_scores import FloatArray, IntArray, ScoreRequest, TokenScores

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

QUANTUM = 1.0 / 2048.0
"""Nats between two codes. 16 bits of them reach down to -32 nats, a probability of 1e-14."""
MOST_KEPT = 255
"""Entries of one position: their number is a byte."""
LARGEST_VOCABULARY = 1 << 24
ASK_AGAIN = "Copy the folder again from where it is whole, or remove it and ask the teacher again."

_LAST_CODE = 65535
_NO_TAIL = 65535
_ONE_PLANE = 1 << 16
_SLACK = 1e-3
"""How far above 1 a teacher's probabilities may be: servers round them to bfloat16 and back."""

_TEXT, _TOP = "text_ids", "top_ids"
_COLUMNS = ("logprob_codes", "num_top", "tail_codes", "top_codes")
_STARTS = ("text_starts", "token_starts", "top_starts")


class LogitStoreError(ValueError):
    """A store cannot be read as it is, or not be written."""


class StoredScores(NamedTuple):
    """One sequence as it is read back."""

    request: ScoreRequest
    scores: TokenScores
    tail_logprobs: FloatArray
    """[T] nats: of all tokens that are not in `scores.top_ids`; -inf where there are none."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A whole file of sequences, as the manifest names it."""

    name: str
    num_sequences: int
    num_tokens: int
    """Scored ones."""
    num_bytes: int
    digest: str
    tail_mass_sum: float
    tail_mass_max: float

    def verify(self, folder: Path) -> None:
        """Reads the file once, in pieces.

        Raises:
            LogitStoreError: it is missing, cut short or changed.
        """
        path = folder / self.name
        if not path.exists():
            raise LogitStoreError(f"there is no {path}, which the manifest names. {ASK_AGAIN}")
        size = path.stat().st_size
        if size != self.num_bytes:
            raise LogitStoreError(
                f"{path} has {size} bytes instead of {self.num_bytes}. {ASK_AGAIN}"
            )
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        if found != self.digest:
            raise LogitStoreError(
                f"{path} was changed since it was written: its BLAKE2b digest is {found} instead "
                f"of {self.digest}. {ASK_AGAIN}"
            )


class ShardContents:
    """Whole sequences in codes, until there are enough of them for a file."""

    def __init__(self, *, vocab_size: int) -> None:
        self.num_tokens = 0
        """Scored ones."""
        self._tail_mass_sum = 0.0
        self._tail_mass_max = 0.0
        self._vocab_size = vocab_size
        self._columns: dict[str, list[NDArray[Any]]] = {
            name: [] for name in (_TEXT, _TOP, *_COLUMNS)
        }
        self._starts = {name: [0] for name in _STARTS}

    @property
    def num_sequences(self) -> int:
        return len(self._starts[_STARTS[0]]) - 1

    def add(self, request: ScoreRequest, scores: TokenScores) -> None:
        """Adds one sequence, or raises and leaves what is there as it was.

        Raises:
            ValueError: `scores` are not what a teacher can say of `request`'s tokens.
        """
        text = np.asarray((*request.prompt_ids, *request.token_ids), np.int64)
        _refuse_unfit(request, scores, text, vocab_size=self._vocab_size)
        tail = scores.tail_mass().astype(np.float64)
        kept = scores.top_ids >= 0
        with np.errstate(divide="ignore"):
            tail_codes = np.where(
                tail > 0, np.minimum(_codes(np.log(tail)), _NO_TAIL - 1), _NO_TAIL
            )
        new = {
            _TEXT: text.astype(np.uint32),
            _TOP: scores.top_ids[kept].astype(np.uint32),
            "logprob_codes": _codes(scores.logprobs),
            "num_top": kept.sum(-1).astype(np.uint8),
            "tail_codes": tail_codes.astype(np.uint16),
            "top_codes": _codes(scores.top_logprobs[kept]),
        }
        for name, values in new.items():
            self._columns[name].append(values)
        sizes = (len(text), len(tail), int(kept.sum()))
        for name, size in zip(_STARTS, sizes, strict=True):
            self._starts[name].append(self._starts[name][-1] + size)
        self.num_tokens += len(tail)
        self._tail_mass_sum += float(tail.sum())
        self._tail_mass_max = max(self._tail_mass_max, float(tail.max()))

    def encoded(self, name: str) -> tuple[Shard, bytes]:
        """The file that is to have this name, whole; at least one sequence must have been added.

        As bytes, because safetensors' own writer reports a full disk by an error of its own.
        """
        content = save(self._tensors())
        shard = Shard(
            name=name,
            num_sequences=self.num_sequences,
            num_tokens=self.num_tokens,
            num_bytes=len(content),
            digest=hashlib.blake2b(content, digest_size=16).hexdigest(),
            tail_mass_sum=self._tail_mass_sum,
            tail_mass_max=self._tail_mass_max,
        )
        return shard, content

    def _tensors(self) -> dict[str, NDArray[Any]]:
        whole = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        tensors: dict[str, NDArray[Any]] = {name: whole[name] for name in _COLUMNS}
        for name in (_TEXT, _TOP):
            tensors[f"{name}_low"] = (whole[name] & 0xFFFF).astype(np.uint16)
            if self._vocab_size > _ONE_PLANE:
                tensors[f"{name}_high"] = (whole[name] >> 16).astype(np.uint8)
        return tensors | {name: np.asarray(at, np.int64) for name, at in self._starts.items()}


class ShardFile:
    """A file of sequences, mapped into memory: a sequence is read when it is asked for."""

    def __init__(self, path: Path, *, vocab_size: int) -> None:
        self._file = safe_open(path, framework="numpy")
        self._planes = ("low", "high") if vocab_size > _ONE_PLANE else ("low",)

    def sequence(self, index: int) -> StoredScores:
        """The sequence at `index`, counted from 0 in this file.

        A position's kept entries and its tail are divided by their sum: each was rounded on its
        own, so that together they miss 1 by up to QUANTUM / 2, and a divergence from them would
        not be 0 at its minimum. The sum is 1 in float64; float32, in which they are handed out,
        rounds each once more. The tokens' own log-probabilities are as they were stored.

        With errors of at most QUANTUM / 2 before the division, Hoeffding's lemma bounds the
        divergence of what is read from what was stored:

            KL(stored || read) = log E[exp(e)] - E[e] <= QUANTUM^2 / 8 = 3.0e-8 nats
        """
        text, tokens, top = (self._bounds(name, index) for name in _STARTS)
        ids = self._ids(_TEXT, text).tolist()
        prompt_length = len(ids) - (tokens[1] - tokens[0])
        codes_T = self._slice("tail_codes", tokens)
        tail_T = np.where(codes_T == _NO_TAIL, -np.inf, codes_T * -QUANTUM)
        counts_T = self._slice("num_top", tokens).astype(np.int64)
        kept_TK = np.arange(counts_T.max()) < counts_T[:, None]
        ids_TK = np.full(kept_TK.shape, -1, np.int32)
        ids_TK[kept_TK] = self._ids(_TOP, top)
        top_TK = np.full(kept_TK.shape, -np.inf)
        top_TK[kept_TK] = self._slice("top_codes", top) * -QUANTUM
        log_sum_T = np.log(np.exp(top_TK).sum(-1) + np.exp(tail_T))
        return StoredScores(
            request=ScoreRequest(tuple(ids[:prompt_length]), tuple(ids[prompt_length:])),
            scores=TokenScores(
                logprobs=(self._slice("logprob_codes", tokens) * -QUANTUM).astype(np.float32),
                top_ids=ids_TK,
                top_logprobs=(top_TK - log_sum_T[:, None]).astype(np.float32),
            ),
            tail_logprobs=(tail_T - log_sum_T).astype(np.float32),
        )

    def _bounds(self, name: str, index: int) -> tuple[int, int]:
        start, end = self._slice(name, (index, index + 2)).tolist()
        return start, end

    def _ids(self, name: str, bounds: tuple[int, int]) -> IntArray:
        planes = [self._slice(f"{name}_{plane}", bounds) for plane in self._planes]
        joined = planes[0].astype(np.int32)
        for high in planes[1:]:
            joined |= high.astype(np.int32) << 16
        return joined

    def _slice(self, name: str, bounds: tuple[int, int]) -> NDArray[Any]:
        start, end = bounds
        if start == end:  # which safetensors refuses at the end of a tensor
            return np.zeros(0, np.uint16)
        return self._file.get_slice(name)[start:end]


def _codes(logprobs: NDArray[Any]) -> NDArray[np.uint16]:
    """round(-logprob / QUANTUM), in the range of 16 bits."""
    codes = np.rint(logprobs.astype(np.float64) / -QUANTUM)
    return np.clip(codes, 0, _LAST_CODE).astype(np.uint16)


# --- what is refused -------------------------------------------------------------------------


def _refuse_unfit(
    request: ScoreRequest, scores: TokenScores, text: NDArray[np.int64], *, vocab_size: int
) -> None:
    """Raises a ValueError that says where the scores are not those of the request's tokens."""
    _refuse_other_shapes(request, scores)
    ids, logprobs = scores.top_ids, scores.top_logprobs
    kept = ids >= 0
    known = f"below vocab_size = {vocab_size} (give LogitWriter the teacher's own)"
    _refuse(
        "prompt_ids + token_ids", text, (text < 0) | (text >= vocab_size), f"0 or more, {known}"
    )
    _refuse(
        "top_ids", ids, (ids < -1) | (ids >= vocab_size), f"-1 to fill up, or 0 or more, {known}"
    )
    unfit = ~np.isfinite(scores.logprobs) | (scores.logprobs > _SLACK)
    _refuse("logprobs", scores.logprobs, unfit, "the logarithm of a probability above 0")
    _refuse(
        "top_logprobs",
        logprobs,
        np.where(kept, ~np.isfinite(logprobs), logprobs != -np.inf),
        "finite where top_ids names a token and -inf where it is -1",
    )
    with np.errstate(over="ignore"):
        mass = np.exp(logprobs.astype(np.float64)).sum(-1)
    _refuse(
        "exp(top_logprobs).sum(-1)",
        mass,
        mass > 1.0 + _SLACK,
        "at most 1: ask for log-probabilities at temperature 1, not for logits",
    )
    in_order = np.sort(ids, axis=-1)
    twice = (in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)
    _refuse("top_ids (sorted)", in_order[:, 1:], twice, "there once a position")


def _refuse_other_shapes(request: ScoreRequest, scores: TokenScores) -> None:
    num_tokens = len(request.token_ids)
    if not request.prompt_ids or not num_tokens:
        raise ValueError(
            f"a request of {len(request.prompt_ids)} prompt and {num_tokens} scored tokens cannot "
            "be stored; each needs at least one. Leave such texts out."
        )
    shapes = [a.shape for a in (scores.logprobs, scores.top_ids, scores.top_logprobs)]
    width = shapes[1][-1] if len(shapes[1]) == 2 else -1
    if shapes != [(num_tokens,), (num_tokens, width), (num_tokens, width)]:
        raise ValueError(
            f"{num_tokens} scored tokens need logprobs [T], top_ids [T, K] and top_logprobs "
            f"[T, K]; got {shapes}. Pass the scores of this very request."
        )
    if width > MOST_KEPT:
        raise ValueError(
            f"{width} tokens a position are more than the {MOST_KEPT} that are kept; trim the "
            "scores first (keep.most)."
        )


def _refuse(what: str, values: NDArray[Any], unfit: NDArray[np.bool_], rule: str) -> None:
    if unfit.any():
        at: Sequence[int] = np.argwhere(unfit)[0].tolist()
        raise ValueError(f"{what} at {at} is {values[tuple(at)]}; it must be {rule}.")
