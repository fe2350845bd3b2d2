"""A policy small enough to enumerate, and rollouts small enough to write by hand.

The policy writes 2 tokens over 3 symbols from a table of logits: row 0 for the first token, row
1 + a for the second after the first was a. All 9 sequences can be listed, so expectations over
samples, and over groups of samples, are sums without sampling error.
"""

import itertools

import torch
from torch import Tensor

from cotree.grpo.types import Completion, Group, Problem, Rollout
from cotree.rewards.types import Reward, StepScore, Verdict

SEQUENCES = torch.tensor(list(itertools.product(range(3), repeat=2)))  # [9, 2]
TABLE = torch.tensor(
    [[0.3, -0.8, 0.5], [1.1, 0.0, -0.4], [-0.2, 0.9, 0.1], [0.0, -1.0, 0.7]], dtype=torch.float64
)
OTHER_TABLE = torch.tensor(
    [[-0.1, 0.4, 0.2], [0.6, -0.3, 0.0], [0.5, 0.5, -0.9], [0.8, 0.1, 0.2]], dtype=torch.float64
)
REWARDS = torch.tensor([1.0, 0.0, 0.0, 2.0, -1.0, 0.5, 0.0, 3.0, 0.25], dtype=torch.float64)


def sequence_logprobs(table: Tensor) -> Tensor:
    """[9, 2] log-probability of each token of each sequence."""
    log_p = torch.log_softmax(table, -1)
    first, second = SEQUENCES.unbind(-1)
    return torch.stack([log_p[0, first], log_p[1 + first, second]], -1)


def every_group(size: int) -> tuple[Tensor, Tensor]:
    """All 9^size groups: sequence numbers [9^size * size] and group labels of the same shape."""
    members = torch.tensor(list(itertools.product(range(9), repeat=size)))
    labels = torch.arange(len(members)).repeat_interleave(size)
    return members.flatten(), labels


def group_probabilities(table: Tensor, sequences: Tensor, *, size: int) -> Tensor:
    """[9^size * size] probability of the group that each rollout belongs to."""
    p = sequence_logprobs(table.detach()).sum(-1).exp()[sequences]
    return p.view(-1, size).prod(-1).repeat_interleave(size)


def rollout(
    value: float,
    *,
    text: str = "abc",
    steps: tuple[tuple[int, int, float], ...] = (),
    stop_reason: str = "stop",
) -> Rollout:
    """One token per character of `text`; steps as (start, end, value)."""
    completion = Completion(
        token_ids=tuple(ord(c) for c in text),
        logprobs=tuple(-0.5 - 0.25 * i for i in range(len(text))),
        text=text,
        token_ends=tuple(range(1, len(text) + 1)),
        stop_reason=stop_reason,
        policy_version=0,
    )
    scores = tuple(StepScore((a, b), v, Verdict.UNCHECKED, "") for a, b, v in steps)
    return Rollout(completion, Reward(value, "", {"answer": value}, scores))


def group_of(name: str, *rollouts: Rollout, prompt: tuple[int, ...] = (1, 2)) -> Group:
    """A group of one problem."""
    return Group(Problem(name, "p", "r", "t"), prompt, rollouts)
