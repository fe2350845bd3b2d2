"""Which rollouts and groups a step learns from, and DAPO's shaping of long ones.

Everything that is left out is counted; nothing is turned into a zero.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from cotree.grpo.advantage import are_equal
from cotree.grpo.types import Rollout, Ungraded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cotree.grpo.types import Group
    from cotree.rewards.types import Reward

TOO_SMALL = "group_too_small"
"""Key under which `split_ungraded` counts graded rollouts that lost their group."""


def split_ungraded(
    groups: Sequence[Group], *, min_size: int = 1
) -> tuple[list[Group], dict[str, int]]:
    """The groups without their ungraded rollouts, and how many rollouts were left out, by cause.

    Args:
        groups: graded, with `Ungraded` where a grader failed.
        min_size: a group left with fewer graded rollouts than this is left out as a whole. Two
            when rollouts are compared within their group: one alone has nothing to teach.

    Returns:
        The groups in order, and a count per cause: the failures' names (`crash`, `timeout`,
        `invalid`) and `group_too_small` for graded rollouts whose group was left out. A cause
        that did not occur has no key.
    """
    kept: list[Group] = []
    dropped: Counter[str] = Counter()
    for group in groups:
        graded: list[Rollout] = []
        for rollout in group.rollouts:
            if isinstance(rollout.reward, Ungraded):
                dropped[rollout.reward.failure.value] += 1
            else:
                graded.append(rollout)
        if len(graded) >= max(1, min_size):
            kept.append(replace(group, rollouts=tuple(graded)))
        elif graded:
            dropped[TOO_SMALL] += len(graded)
    return kept, dict(dropped)


def informative(groups: Sequence[Group], *, use_steps: bool) -> tuple[list[Group], int]:
    """The groups that have a gradient, and how many groups were left out.

    A group has none when all its rewards are equal and, with `use_steps`, all its step values
    are. That holds for baselines within the group (group_mean, leave_one_out) only: under
    batch_mean a group of equal rewards still teaches, so do not filter there.

    Args:
        groups: without ungraded rollouts.
        use_steps: whether step values enter the advantage (`advantage.process_coef` > 0).

    Raises:
        ValueError: a rollout is ungraded.

    Source: Yu et al. 2025, arXiv:2503.14476, sec. 3.2, eq. 11.
    """
    kept: list[Group] = []
    for group in groups:
        rewards = [reward_of(rollout, group) for rollout in group.rollouts]
        step_values = [step.value for reward in rewards for step in reward.steps]
        constant = are_equal([reward.value for reward in rewards])
        if not constant or (use_steps and not are_equal(step_values)):
            kept.append(group)
    return kept, len(groups) - len(kept)


def shape_overlong(
    groups: Sequence[Group], *, max_tokens: int, buffer_tokens: int, penalty: float
) -> list[Group]:
    """The groups with DAPO's soft punishment added to the reward of long completions.

        shape(n) = clip((max_tokens - buffer_tokens - n) / buffer_tokens, -1, 0)
        reward  += penalty * shape(n)

    Args:
        groups: ungraded rollouts are passed through as they are.
        max_tokens: completion length limit; the full penalty applies there.
        buffer_tokens: the penalty grows linearly over the last this many tokens before it.
        penalty: largest deduction, >= 0.

    Returns:
        New groups. `breakdown["overlong"]` holds shape(n), in [-1, 0], before the penalty factor,
        as it does for every other reward.

    Raises:
        ValueError: the buffer does not fit, or a reward function is already called "overlong".

    Source: Yu et al. 2025, arXiv:2503.14476, eq. 13.
    """
    if not 0 < buffer_tokens < max_tokens:
        raise ValueError(
            f"buffer_tokens = {buffer_tokens} must lie in 1..{max_tokens - 1} (max_tokens - 1)."
        )

    def shaped(rollout: Rollout) -> Rollout:
        reward = rollout.reward
        if isinstance(reward, Ungraded):
            return rollout
        if "overlong" in reward.breakdown:
            raise ValueError(
                'a reward is already called "overlong"; rename it or drop [train.overlong].'
            )
        num_tokens = len(rollout.completion.token_ids)
        shape = (max_tokens - buffer_tokens - num_tokens) / buffer_tokens
        shape = min(0.0, max(-1.0, shape))
        return replace(
            rollout,
            reward=replace(
                reward,
                value=reward.value + penalty * shape,
                breakdown={**reward.breakdown, "overlong": shape},
            ),
        )

    return [replace(group, rollouts=tuple(map(shaped, group.rollouts))) for group in groups]


def is_correct(reward: Reward, *, first_term: str) -> bool:
    """Whether the first reward term, which decides correctness, applies and gave at least 1."""
    return reward.breakdown.get(first_term, 0.0) >= 1.0


def reward_of(rollout: Rollout, group: Group) -> Reward:
    """The rollout's reward.

    Raises:
        ValueError: it could not be graded and should have been dropped by `split_ungraded`.
    """
    if isinstance(rollout.reward, Ungraded):
        raise ValueError(
            f"a rollout of problem {group.problem.id!r} is ungraded "
            f"({rollout.reward.failure.value}); pass the groups through split_ungraded first."
        )
    return rollout.reward
