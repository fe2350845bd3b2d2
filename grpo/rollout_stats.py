"""What a step's rollouts looked like, as numbers for the log."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from cotree.grpo.filter import is_correct
from cotree.grpo.types import Group, Stats
from cotree.rewards.types import Reward, Verdict


def rollout_stats(groups: Sequence[Group], *, first_term: str) -> Stats:
    """Rewards, accuracy, lengths and step verdicts over the graded rollouts of a step.

    Rollouts that could not be graded are left out of every mean, and counted elsewhere.
    """
    completions = [rollout.completion for group in groups for rollout in group.rollouts]
    rewards = [
        rollout.reward
        for group in groups
        for rollout in group.rollouts
        if isinstance(rollout.reward, Reward)
    ]
    if not rewards:
        return {}
    stats = {
        "reward/mean": fmean(reward.value for reward in rewards),
        "accuracy": fmean(is_correct(reward, first_term=first_term) for reward in rewards),
        "completion/mean_tokens": fmean(len(c.token_ids) for c in completions),
        "completion/truncated_frac": fmean(c.stop_reason == "length" for c in completions),
    }
    for term in rewards[0].breakdown:
        stats[f"reward/{term}"] = fmean(reward.breakdown[term] for reward in rewards)
    return {**stats, **_verdict_shares(rewards)}


def _verdict_shares(rewards: Sequence[Reward]) -> Mapping[str, float]:
    counts = Counter(step.verdict for reward in rewards for step in reward.steps)
    total = counts.total()
    if not total:
        return {}
    return {f"steps/{verdict}_frac": counts[verdict] / total for verdict in Verdict}
