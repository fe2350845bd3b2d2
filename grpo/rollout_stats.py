"""What a step's rollouts looked like, as numbers for the log."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from cotree.grpo.filter import is_correct
from cotree.grpo.types import Group, Stats
from cotree.rewards.types import Reward, Status, Verdict


def rollout_stats(groups: Sequence[Group], *, first_term: str) -> Stats:
    """Rewards, accuracy, lengths, statuses and step verdicts over a step's graded rollouts.

    `sampling/generated_tokens` counts all tokens that were drawn, each once whatever shares it;
    `sampling/leaves_per_prompt` counts completions. Rollouts that could not be graded are left out
    of every other mean, and counted elsewhere; accuracy also leaves out those to which the first
    term does not apply. `does_not_apply/TERM_frac` and `error_value/TERM_frac` are there when a
    term returned `None`, or failed and was given its `error_value`, for some.
    """
    completions = [rollout.completion for group in groups for rollout in group.rollouts]
    rewards = [
        rollout.reward
        for group in groups
        for rollout in group.rollouts
        if isinstance(rollout.reward, Reward)
    ]
    sampling = {
        "sampling/generated_tokens": float(sum(map(generated_tokens, groups))),
        "sampling/leaves_per_prompt": len(completions) / max(1, len(groups)),
    }
    if not rewards:
        return sampling
    judged = [reward for reward in rewards if first_term in reward.breakdown]
    stats = {
        "reward/mean": fmean(reward.value for reward in rewards),
        "completion/mean_tokens": fmean(len(c.token_ids) for c in completions),
        "completion/truncated_frac": fmean(c.stop_reason == "length" for c in completions),
        "status/no_answer_frac": _share(rewards, Status.NO_ANSWER),
        "status/parse_error_frac": _share(rewards, Status.PARSE_ERROR),
    }
    if judged:
        correct = [is_correct(reward, first_term=first_term) for reward in judged]
        stats["accuracy"] = fmean(correct)
    return {**sampling, **stats, **_term_means(rewards), **_verdict_shares(rewards)}


def generated_tokens(group: Group) -> int:
    """Tokens drawn for a group; those of a tree's node count once, however many leaves share it."""
    lengths: dict[int, int] = {}
    alone = 0
    for rollout in group.rollouts:
        start = 0
        for node, end in rollout.completion.segments:
            lengths[node] = end - start
            start = end
        alone += len(rollout.completion.token_ids) - start
    return alone + sum(lengths.values())


def _share(rewards: Sequence[Reward], status: Status) -> float:
    return fmean(reward.status is status for reward in rewards)


def _term_means(rewards: Sequence[Reward]) -> Mapping[str, float]:
    """The mean of each term over the rollouts it applies to, and the share of others, if any."""
    by_term: dict[str, list[float]] = {}
    failed: Counter[str] = Counter()
    for reward in rewards:
        failed.update(reward.failed.keys())
        for term, value in reward.breakdown.items():
            by_term.setdefault(term, []).append(value)
    stats: dict[str, float] = {}
    for term, values in by_term.items():
        stats[f"reward/{term}"] = fmean(values)
        if len(values) < len(rewards):
            stats[f"does_not_apply/{term}_frac"] = 1 - len(values) / len(rewards)
        if failed[term]:
            stats[f"error_value/{term}_frac"] = failed[term] / len(rewards)
    return stats


def _verdict_shares(rewards: Sequence[Reward]) -> Mapping[str, float]:
    counts = Counter(step.verdict for reward in rewards for step in reward.steps)
    total = counts.total()
    if not total:
        return {}
    return {f"steps/{verdict}_frac": counts[verdict] / total for verdict in Verdict}
