"""What moves between steps and processes. Imports no torch; `Batch` only names its tensors.

Shape letters used everywhere: P prompts, G completions per prompt, B = P * G rollouts,
S tokens of prompt and completion together, T completion tokens, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from cotree.rewards.types import Problem, Reward, Ungraded

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Batch",
    "Completion",
    "Group",
    "Problem",
    "PromptTokens",
    "Rollout",
    "Routes",
    "SampleRequest",
    "Segment",
    "Stats",
    "StopReason",
    "TreePlan",
    "Ungraded",
]

StopReason = Literal["stop", "length"]
"""`stop`: the policy ended the completion itself. `length`: it was cut at `max_tokens`."""

Stats = Mapping[str, float]
"""One step's measurements, `section/name` -> number. Units are part of the name."""

PromptTokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TreePlan:
    """The shape of a rollout tree: chains from the prompt, and forks that branch off them."""

    chains: int
    """Completions sampled from the prompt (M)."""
    points: int
    """Positions at which each chain branches (T)."""
    forks: int
    """Continuations sampled at each position, besides the chain's own (N)."""
    branch: Literal["entropy", "uniform", "step"]
    """How positions are chosen; see `search.branching`."""

    @property
    def num_leaves(self) -> int:
        """M * (1 + T * N), whole completions."""
        return self.chains * (1 + self.points * self.forks)


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """A prompt and the seeds of the completions wanted for it, one completion per seed."""

    problem: Problem
    prompt_ids: PromptTokens
    seeds: tuple[int, ...]
    """A pure function of (run seed, step, problem id, sample index); see `grpo.seeds`."""
    tree: TreePlan | None = None
    """The completions are the leaves of this tree, with a seed each; None samples them alone."""


class Segment(NamedTuple):
    """The part of a completion that belongs to one node of a rollout tree."""

    node: int
    """Number of the node, unique within the group."""
    end: int
    """Completion tokens up to and including the node."""


@dataclass(frozen=True, slots=True)
class Routes:
    """The experts that an engine chose for each token of a prompt and its completion."""

    layers: int
    """Layers with experts."""
    per_token: int
    """Experts of a token in one layer (k)."""
    ids: str
    """Base64 of little-endian uint16 [T, layers, k]: the T tokens from the first of the prompt to
    the last but one of the completion, which are those that the engine computed."""


@dataclass(frozen=True, slots=True)
class Completion:
    """Sampled tokens, their log-probabilities in nats, and who sampled them."""

    token_ids: tuple[int, ...]
    """Includes the end-of-sequence token when `stop_reason` is `stop`."""
    logprobs: tuple[float, ...]
    """Of the sampling distribution, temperature applied (vLLM's `processed_logprobs`)."""
    text: str
    """`token_ids` decoded without special tokens: what graders read."""
    token_ends: tuple[int, ...]
    """Characters of `text` decoded after each token: monotone, the last equals `len(text)`. A
    token that completes no character, such as end-of-sequence, adds none."""
    stop_reason: StopReason
    policy_version: int
    segments: tuple[Segment, ...] = ()
    """The nodes of the rollout tree that the tokens belong to, in order: completions of a group
    with the same node share all tokens up to its end. Empty: sampled alone."""
    routes: Routes | None = None
    """Where the engine was told to record them."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """A graded completion; made once, when graded."""

    completion: Completion
    reward: Reward | Ungraded


@dataclass(frozen=True, slots=True)
class Group:
    """The rollouts of one problem: one object, never parallel lists."""

    problem: Problem
    prompt_ids: PromptTokens
    rollouts: tuple[Rollout, ...]


@dataclass(slots=True)
class Batch:
    """One step's rollouts as CPU tensors, right-padded.

    Position t scores token t given those before it. All but `token_ids` and `lengths`
    are zero outside the completion.
    """

    token_ids: Tensor
    """[B, S] int64, prompt then completion then padding (0)."""
    lengths: Tensor
    """[B] int64, prompt and completion tokens."""
    mask: Tensor
    """[B, S] bool, True on completion tokens that are trained on."""
    behavior_logprobs: Tensor
    """[B, S] float32, nats."""
    advantages: Tensor
    """[B, S] float32, one per token (constant over a rollout without process supervision)."""
    weights: Tensor
    """[B, S] float32: each token's share of the step's loss. Summing loss * weights over any
    partition of the batch gives the whole step's loss; see `grpo.collate.token_weights`."""
    num_tokens: int
    """Trained tokens in the whole step."""
    routes: Tensor | None = field(default=None, kw_only=True)
    """[B, S, layers, k] int16: experts that a token goes to; -1 where the model chooses."""


@dataclass(slots=True)
class TaughtBatch(Batch):
    """A batch with what a teacher thinks of each trained token's position.

    An outcome is a set of next tokens: the student's vocabulary in a fixed order (its own, or by
    bytes where the teacher has another tokenizer) from `first` up to, not including, `end`. The
    outcomes of a position are disjoint; what none of them holds is its tail. Empty outcomes fill
    up the K places: first = end = 0, log-probability -inf.
    """

    outcome_first: Tensor
    """[B, S, K] int32."""
    outcome_end: Tensor
    """[B, S, K] int32."""
    teacher_logprobs: Tensor
    """[B, S, K + 1] float32 nats: of each outcome, and of the tail. All -inf where the teacher has
    no opinion: such a position adds nothing to the divergence."""
