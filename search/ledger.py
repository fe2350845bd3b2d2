"""Tokens of a search: what was spent, and what is promised to the work under way."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a search."""

    budget_tokens: int
    """Generated tokens, hard: whatever is discarded counts as well."""
    max_tokens: int
    """Of one completion."""
    width: int = 1
    """Jobs under way at once in one search."""

    def __post_init__(self) -> None:
        for name in ("budget_tokens", "max_tokens", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be 1 or more.")


@dataclass(slots=True)
class Ledger:
    """Counts of one search. Tokens are reserved when a job is asked, and released when it ends.

    So `spent + reserved` never exceeds the budget, and neither does what is generated, however
    much is under way at once.
    """

    budget: int
    spent: int = 0
    """Generated tokens of replies that were told or given up."""
    lost: int = 0
    """Of these, tokens that are in no tree: of jobs that were given up."""
    prompt_tokens: int = 0
    """Read by engines, prefixes included, for every request again."""
    cached_tokens: int = 0
    """Of these, found in the prefix cache. What was evicted between differs from run to run."""
    requests: int = 0
    jobs: int = 0
    _reserved: dict[int, int] = field(default_factory=dict[int, int])

    @property
    def reserved(self) -> int:
        """Promised to jobs under way."""
        return sum(self._reserved.values())

    @property
    def free(self) -> int:
        """Neither spent nor promised."""
        return self.budget - self.spent - self.reserved

    def reserve(self, job: int, tokens: int) -> None:
        """Promises tokens to a job."""
        assert job not in self._reserved, f"job {job} has a promise already"
        assert 0 < tokens <= self.free, f"job {job}: {tokens} tokens of {self.free} free ones"
        self._reserved[job] = tokens
        self.jobs += 1

    def settle(self, job: int, tokens: int, *, is_lost: bool = False) -> None:
        """Takes what a job really used, and releases the rest of its promise."""
        promised = self._reserved.pop(job)
        assert tokens <= promised, f"job {job} used {tokens} tokens of {promised} promised"
        self.spent += tokens
        self.lost += tokens * is_lost

    def counts(self) -> dict[str, int]:
        """For files: the counts by name."""
        names = ("budget", "spent", "lost", "prompt_tokens", "cached_tokens", "requests", "jobs")
        return {name: getattr(self, name) for name in names}
