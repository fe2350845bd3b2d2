"""The rewards of a configuration, and what is refused before anything is started for them.

Imports no torch, ray or vllm: `cotree check` answers at once, on any machine.
"""

from collections.abc import Sequence
from pathlib import Path

from cotree.grpo.config import Grading, Pipeline, RewardTerm
from cotree.grpo.config_file import ConfigError
from cotree.rewards.isolation import IsolatedPool
from cotree.rewards.registry import Term, bound, check_columns, located
from cotree.rewards.signature import BoundReward
from cotree.rewards.types import Problem

SHOWN_PROBLEMS = 5
"""Refused problems that a message shows; it says how many there are in all."""


def reward_terms(rewards: Sequence[RewardTerm]) -> tuple[Term, ...]:
    """The configured rewards, the text of those named by a file with them.

    Relative paths are relative to the working directory of this process: call it in the one that
    a person started, not in an actor.

    Raises:
        RewardLookupError: there is no such file.
    """
    return tuple(
        located(
            Term(
                reward.name,
                weight=reward.weight,
                options=reward.options,
                timeout_seconds=reward.timeout_seconds,
                executor=reward.executor,
                on_error=reward.on_error,
                error_value=reward.error_value,
            ),
            Path.cwd(),
        )
        for reward in rewards
    )


def bound_rewards(pipeline: Pipeline) -> list[BoundReward]:
    """Every reward's function with its arguments decided by name.

    Raises:
        ConfigError: a reward cannot be found or imported, or does not take its options.
    """
    found: list[BoundReward] = []
    for index, reward in enumerate(pipeline.rewards):
        try:
            (term,) = reward_terms([reward])
            found.append(bound(term))
        except (ValueError, TypeError, ImportError, OSError, SyntaxError) as error:
            raise ConfigError(f"rewards.{index} ({reward.name}): {error}") from error
    return found


def refuse_unfit(pipeline: Pipeline, problems: Sequence[Problem]) -> None:
    """Checks that every reward can grade these problems: columns, then references.

    Rewards with a check of their own (`checked_by`) read each reference once, in processes that
    are killed when they hang.

    Raises:
        ConfigError: a column is missing, or references cannot be graded against; it names the
            problems, their references and what to do.
    """
    bound_by_name = bound_rewards(pipeline)
    try:
        check_columns(bound_by_name, problems)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    terms = reward_terms(pipeline.rewards)
    checking = [
        term for term, reward in zip(terms, bound_by_name, strict=True) if reward.check is not None
    ]
    if not checking:
        return
    grading: Grading = pipeline.grading
    with IsolatedPool(
        checking,
        workers=grading.workers,
        timeout_seconds=grading.timeout_seconds,
        memory_bytes=grading.memory_bytes,
    ) as pool:
        refused = pool.check(problems)
    if refused:
        shown = "\n".join(f"  {message}" for message in refused[:SHOWN_PROBLEMS])
        more = len(refused) - SHOWN_PROBLEMS
        rest = f"\n  and {more} more" if more > 0 else ""
        raise ConfigError(
            f"{len(refused)} of {len(problems)} problems cannot be graded:\n{shown}{rest}\n"
            "Correct or remove these rows, or grade this data set with another reward."
        )
