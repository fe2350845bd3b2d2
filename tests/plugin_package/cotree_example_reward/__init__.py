"""Two rewards: one with an option, one that reads a column of the data set, many at a time."""

from collections.abc import Sequence

from cotree.rewards.types import Reward


def brevity(completion: str, *, limit: int) -> Reward:
    """1 for a completion of at most `limit` characters, else 0."""
    return Reward(float(len(completion) <= limit), f"{len(completion)} of {limit} characters")


async def unit(completions: Sequence[str], unit: Sequence[str]) -> list[float | None]:
    """1 where the completion ends in the unit that the row names; nothing where it names none."""
    return [
        float(completion.rstrip(" .").endswith(wanted)) if wanted else None
        for completion, wanted in zip(completions, unit, strict=True)
    ]
