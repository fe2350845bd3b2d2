"""The completions of one request, while the engine draws their pieces.

    samples = RequestSamples(request, max_tokens=..., complete=...)
    pieces = samples.first()
    while pieces under way:                  # in any order
        pieces += samples.take(leaf, drawn)

With a tree plan, M chains are drawn from the prompt; when one is there it is branched at T
positions, with N forks at each: M * (1 + T * N) leaves. Which piece is drawn with which seed, and
what the nodes are called, depends on the request and the chains alone, never on who comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cotree.grpo.engine_routes import with_first_rows
from cotree.grpo.types import (
    Completion,
    PromptTokens,
    Routes,
    SampleRequest,
    Segment,
    StopReason,
    TreePlan,
)
from cotree.search.branching import entropy_points, step_points, uniform_points

__all__ = ["Drawn", "Piece", "RequestSamples"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Something to draw: tokens to continue, for how long, and with which seed."""

    leaf: int
    """The completion it ends, an index into the request's seeds."""
    prompt_ids: PromptTokens
    """The prompt, and the completion so far."""
    max_tokens: int
    seed: int
    with_entropies: bool


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the engine drew for a piece: tokens, log-probabilities in nats, why it stopped."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop_reason: StopReason
    entropies: tuple[float, ...]
    """Of the distribution each token was drawn from, in nats; empty unless asked for."""
    routes: Routes | None = None
    """Of all tokens before the last, those that the piece continues included."""


@dataclass(frozen=True, slots=True)
class _Stem:
    """The part of a chain that a fork continues."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    segments: tuple[Segment, ...]
    routes: Routes | None = None
    """Of the whole chain."""


_ROOT = _Stem((), (), ())


class RequestSamples:
    """The leaves of one request. Leaf k has the request's k-th seed: chains first, then forks.

    The nodes of chain c are numbered from c * (T + 1), in order; that of a fork is M * T + leaf.
    Numbers may be missing.

    A chain too short for T positions branches at all it has. The forks of the positions it lacks
    are whole new completions from the prompt, so every tree has M * (1 + T * N) leaves.

    Args:
        request: what is sampled. Without a plan its completions are chains that do not branch.
        max_tokens: limit of a whole completion.
        complete: makes a completion of whole tokens.
    """

    def __init__(
        self,
        request: SampleRequest,
        *,
        max_tokens: int,
        complete: Callable[[Drawn], Completion],
    ) -> None:
        self._request = request
        self._plan = request.tree or TreePlan(len(request.seeds), 0, 0, "uniform")
        self._max_tokens = max_tokens
        self._complete = complete
        self._stems: dict[int, _Stem] = {}
        self._leaves: dict[int, Completion] = {}

    @property
    def is_whole(self) -> bool:
        """Whether all leaves are there."""
        return len(self._leaves) == len(self._request.seeds)

    @property
    def leaves(self) -> tuple[Completion, ...]:
        """The completions, in the order of the seeds."""
        return tuple(self._leaves[leaf] for leaf in range(len(self._request.seeds)))

    def first(self) -> list[Piece]:
        """The chains."""
        return [self._piece(chain, _ROOT) for chain in range(self._plan.chains)]

    def take(self, leaf: int, drawn: Drawn) -> list[Piece]:
        """Takes in what was drawn for a leaf; returns what is to be drawn after it."""
        if leaf < self._plan.chains:
            return self._branched(leaf, drawn)
        stem = self._stems.pop(leaf)
        whole = replace(
            drawn,
            token_ids=stem.token_ids + drawn.token_ids,
            logprobs=stem.logprobs + drawn.logprobs,
            routes=self._routes(stem, drawn.routes),
        )
        own = Segment(self._plan.chains * self._plan.points + leaf, len(whole.token_ids))
        self._leaves[leaf] = replace(self._complete(whole), segments=(*stem.segments, own))
        return []

    def _branched(self, chain: int, drawn: Drawn) -> list[Piece]:
        """The forks of a chain, whose nodes end where it branches."""
        plan, completion = self._plan, self._complete(drawn)
        if self._request.tree is None:
            self._leaves[chain] = completion
            return []
        points = self._points(chain, drawn, completion) if plan.points else ()
        segments = tuple(
            Segment(chain * (plan.points + 1) + part, end)
            for part, end in enumerate((*points, len(drawn.token_ids)))
        )
        self._leaves[chain] = replace(completion, segments=segments)
        stems = [
            _Stem(drawn.token_ids[:end], drawn.logprobs[:end], segments[: part + 1], drawn.routes)
            for part, end in enumerate(points)
        ]
        stems += [_ROOT] * (plan.points - len(points))
        leaf = plan.chains + chain * plan.points * plan.forks
        pieces: list[Piece] = []
        for stem in stems:
            for _ in range(plan.forks):
                self._stems[leaf] = stem
                pieces.append(self._piece(leaf, stem))
                leaf += 1
        return pieces

    def _routes(self, stem: _Stem, own: Routes | None) -> Routes | None:
        """Those of a fork: its stem's log-probabilities came from the chain's choices.

        The choices of the stem's last token are the fork's own: the next log-probability, which
        came from them, is that of the first token that the fork has for itself.
        """
        if own is None or stem.routes is None:
            return own
        tokens = len(self._request.prompt_ids) + len(stem.token_ids) - 1
        return with_first_rows(own, stem.routes, tokens=tokens)

    def _piece(self, leaf: int, stem: _Stem) -> Piece:
        is_ranked = leaf < self._plan.chains and self._request.tree is not None
        return Piece(
            leaf=leaf,
            prompt_ids=self._request.prompt_ids + stem.token_ids,
            max_tokens=self._max_tokens - len(stem.token_ids),
            seed=self._request.seeds[leaf],
            with_entropies=is_ranked and self._plan.branch == "entropy",
        )

    def _points(self, chain: int, drawn: Drawn, completion: Completion) -> Sequence[int]:
        count = self._plan.points
        if self._plan.branch == "entropy":
            return entropy_points(drawn.entropies, count=count)
        if self._plan.branch == "step":
            return step_points(completion.text, completion.token_ends, count=count)
        seed = self._request.seeds[chain]
        return uniform_points(len(drawn.token_ids), count=count, seed=seed)
