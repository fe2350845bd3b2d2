"""THE loop: sample, grade, filter, advantages, step, sync. Synchronous is `max_staleness = 0`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cotree.grpo.collate import NothingToTrainError, collate
from cotree.grpo.config_algorithm import Train
from cotree.grpo.evaluate import Evaluation
from cotree.grpo.filter import informative, shape_overlong, split_ungraded
from cotree.grpo.learner import LearnerGroup
from cotree.grpo.log import RunLog
from cotree.grpo.phases import Phases
from cotree.grpo.rollout_source import RolloutSource
from cotree.grpo.rollout_stats import rollout_stats
from cotree.grpo.types import Batch, Group, Stats


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop drives. `sync` moves the learner's weights to the generators and proves it."""

    source: RolloutSource
    learner: LearnerGroup
    sync: Callable[[], Stats]
    evaluate: Callable[[], Evaluation]
    save: Callable[[int], None]
    log: RunLog
    phases: Phases
    first_term: str
    teach: Callable[[Sequence[Group], Batch], tuple[Batch, Stats]] | None = None
    """Adds a teacher's opinion to the batch of these groups."""


def train_loop(train: Train, parts: Parts, *, start: int) -> None:
    """Group-relative policy optimization from step `start` until `train.num_steps`.

    Source: Shao et al. 2024, arXiv:2402.03300, algorithm 1, with the reference policy, the
    baseline, the loss and the corrections left to the configuration.
    """
    for step in range(start, train.num_steps):
        with parts.phases("step"):
            version = parts.learner.policy_version()
            groups, kept, stats = sample_step(train, parts, step=step, version=version)
            batch = step_batch(train, kept, first_term=parts.first_term)
            if batch is not None:
                if parts.teach is not None:
                    with parts.phases("teach"):
                        batch, taught = parts.teach(kept, batch)
                    stats.update(taught)
                with parts.phases("learn"):
                    stats.update(parts.learner.step(batch))
                with parts.phases("sync"):
                    stats.update(parts.sync())
        done = step + 1
        if train.evaluate_every and done % train.evaluate_every == 0 and done < train.num_steps:
            with parts.phases("evaluate"):
                stats.update(evaluation_stats(parts.evaluate()))
        parts.log.write(done, {**stats, **step_speed(groups, parts.phases.take())})
        parts.log.write_samples(done, groups)
        if done % train.save_every == 0 or done == train.num_steps:
            parts.save(done)


def sample_step(
    train: Train, parts: Parts, *, step: int, version: int
) -> tuple[list[Group], list[Group], dict[str, float]]:
    """All graded groups of the step, those with a gradient, and what was dropped and why."""
    rounds = train.dynamic_sampling.max_rounds if train.dynamic_sampling else 1
    groups: list[Group] = []
    kept: list[Group] = []
    stats: dict[str, float] = {"groups/constant": 0.0, "sampling/rounds": 0.0}
    for _ in range(rounds):
        first = not groups
        take = parts.source.take if first else parts.source.take_more
        sampled = take(step, version=version)
        groups += sampled
        graded, failures = split_ungraded(sampled, min_size=min(2, train.rollout.group_size))
        for failure, count in failures.items():
            stats[f"ungraded/{failure}"] = stats.get(f"ungraded/{failure}", 0.0) + count
        if train.overlong:
            graded = shape_overlong(
                graded,
                max_tokens=train.rollout.max_tokens,
                buffer_tokens=train.overlong.buffer_tokens,
                penalty=train.overlong.penalty,
            )
        # With a teacher, and over the whole batch, a constant group has a gradient all the same.
        if train.advantage.baseline != "batch_mean" and parts.teach is None:
            graded, constant = informative(graded, use_steps=train.advantage.process_coef > 0)
            stats["groups/constant"] += constant
        kept += graded
        stats["sampling/rounds"] += 1
        if len(kept) >= train.prompts_per_step:
            break
    stats["groups/kept"] = len(kept)
    stats["policy_version"] = version
    sampled_by = [r.completion.policy_version for g in groups for r in g.rollouts]
    stats["staleness"] = float(version - min(sampled_by))
    assert stats["staleness"] <= train.rollout.max_staleness, "a generator served stale weights"
    return (
        groups,
        kept[: train.prompts_per_step],
        {**stats, **rollout_stats(groups, first_term=parts.first_term)},
    )


def step_batch(train: Train, kept: list[Group], *, first_term: str) -> Batch | None:
    """The step's batch, or None when nothing in it can teach: then the weights stay."""
    if not kept:
        return None
    try:
        return collate(
            kept,
            advantage=train.advantage,
            first_term=first_term,
            aggregation=train.loss.aggregation,
            max_tokens=train.rollout.max_tokens,
            mask_truncated=train.mask_truncated,
        )
    except NothingToTrainError:
        return None


def evaluation_stats(evaluation: Evaluation) -> Stats:
    """An evaluation as the log's `eval/…` keys."""
    accuracy = evaluation.accuracy
    stats = {"eval/accuracy": accuracy.value, "eval/low": accuracy.low, "eval/high": accuracy.high}
    for measured in evaluation.benchmarks:
        value, low, high = measured.avg
        named = {"accuracy": value, "low": low, "high": high, "no_answer_frac": measured.no_answer}
        stats |= {f"eval/{measured.benchmark}/{key}": number for key, number in named.items()}
    return stats


def step_speed(groups: list[Group], seconds: Stats) -> Stats:
    """The step's seconds by phase, and the learner's tokens per second, prompts included.

    The generators report their own speed (`sync`): with staleness the loop hardly waits for them.
    """
    if not seconds.get("seconds/learn"):
        return seconds
    tokens = sum(
        len(group.prompt_ids) + len(rollout.completion.token_ids)
        for group in groups
        for rollout in group.rollouts
    )
    return {**seconds, "tokens_per_second/learn": tokens / seconds["seconds/learn"]}
