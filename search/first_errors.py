"""The first wrong step of a completion, by rollouts in the driver: a label, never a choice.

It is told outcomes, which only a reference gives. So it has no name in the registry of strategies:
who builds it may see the reference, and must not evaluate anything with what it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from cotree.search.monte_carlo import FirstErrorSearch, StepValue
from cotree.search.tree import ROOT
from cotree.search.tree_strategy import Growing
from cotree.search.types import Job, Reply, Step

Ending = Literal["found", "hopeless", "not graded", "out of budget"]
"""`hopeless`: no rollout from the question itself was right, so that no step can be blamed. `not
graded`: none of a prefix's rollouts could be graded."""


def most_rollouts(num_steps: int, samples: int) -> int:
    """Rollouts that a completion takes at most: samples * (1 + ceil(log2(num_steps)))."""
    return samples * (1 + (num_steps - 1).bit_length())


class FirstErrors(Growing):
    """Rolls prefixes of a wrong completion out until its first error is known.

    To the driver it is a strategy; it is none, see above. From the prefix that `FirstErrorSearch`
    wants next it asks for `samples` rollouts, and tells it their outcomes once all are there.

    Of the outcomes, a rollout that the length limit cut is wrong: it answers nothing. One that
    could not be graded is none, so a value may have fewer of them than `samples`.

    The completion's steps are in the tree from the start, as nodes that were drawn 0 times: nothing
    is generated for them here. So `Tree.num_tokens` is what the rollouts took, as for any strategy,
    and a given step counts as often as rollouts repeat it.

    Source: Luo et al. 2024, arXiv:2406.06592 (OmegaPRM), sec. 3.2 and 3.3.
    """

    def __init__(
        self, steps: Sequence[Step], *, samples: int, is_right: Callable[[str], bool | None]
    ) -> None:
        """Asks for nothing yet.

        Args:
            steps: of a wrong completion that the policy ended.
            samples: rollouts from a prefix.
            is_right: of the text of a whole completion, prefix included, by the reference; None:
                it could not be graded.

        Raises:
            ValueError: `samples` is below 1, or the steps are not those of a finished completion.
        """
        super().__init__()
        if samples < 1:
            raise ValueError(f"samples = {samples} rolls nothing out; give 1 or more.")
        self._search = FirstErrorSearch(steps)
        ends = [step.end for step in steps]
        if ends[-1] != "stop" or set(ends[:-1]) - {"boundary"}:
            raise ValueError(
                f"the steps end at {', '.join(ends)}; those of a finished completion end at a "
                "boundary each, and the last one at a stop. Give a whole completion."
            )
        self._samples = samples
        self._is_right = is_right
        self._outcomes: list[bool] = []
        self._is_given_up = self._is_ungraded = False
        self._given = [ROOT]
        for number, step in enumerate(steps, start=1):
            # Keys of steps that a job brought are longer.
            node = self.tree.add(self._given[-1], step, (number,))
            self.tree[node].count = 0
            self._given.append(node)

    @property
    def ending(self) -> Ending:
        """How it ended, once it is over."""
        if self._search.is_done:
            return "hopeless" if self.first_error is None else "found"
        return "not graded" if self._is_ungraded else "out of budget"

    @property
    def first_error(self) -> int | None:
        """Number of the step from 0; None: it was not found, see `ending`."""
        return self._search.first_error

    @property
    def values(self) -> Mapping[int, StepValue]:
        """Of the prefixes that were rolled out, by their numbers of steps."""
        return self._search.values

    def best(self) -> None:
        """It selects nothing."""
        return

    def _next(self) -> Job | None:
        prefix = self._search.ask()
        if prefix is None or self._is_given_up or self._is_ungraded:
            return None
        node = self._given[prefix.num_steps]
        if self.tree[node].draws == self._samples:
            return None
        return self._job(node, "rollout", is_whole=True)

    def _grown(self, job: Job, reply: Reply, grown: list[int]) -> None:
        del reply
        end = self.tree[grown[-1]]
        outcome = self._is_right(self.tree.text(end.id)) if end.is_finished else False
        if outcome is not None:
            self._outcomes.append(outcome)
        if self.num_under_way or self.tree[job.node].draws < self._samples or self._is_given_up:
            return
        self._is_ungraded = not self._outcomes
        if self._outcomes:
            self._search.tell(self._outcomes)
            self._outcomes = []

    def _gave_up(self, job: Job) -> None:
        # What was given up is not missing at random: longer completions do not fit in.
        del job
        self._is_given_up = True
