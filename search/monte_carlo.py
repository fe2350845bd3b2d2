"""Values of reasoning steps by Monte Carlo: how often completions from a prefix are right.

Outcomes need a reference, and strategies have none. So `MonteCarlo` only draws, and whoever may see
references grades its tree afterwards. `FirstErrorSearch` needs outcomes while it runs: it labels
completions and is no strategy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from cotree.search.tree import ROOT, Node, Tree
from cotree.search.tree_strategy import Growing
from cotree.search.types import Job, Reply, Step
from cotree.search.votes import voted, voters


@dataclass(frozen=True, slots=True)
class StepValue:
    """An estimate of the probability that a completion from some prefix is right."""

    soft: float
    """Share of right outcomes (y)."""
    n: int
    """Outcomes; at least 1."""

    @property
    def hard(self) -> bool:
        """Any outcome was right."""
        return self.soft > 0.0

    @property
    def standard_error(self) -> float:
        """sqrt(y (1 - y) / n). It is 0 when all outcomes agree, however few; see `adjusted`."""
        return math.sqrt(self.soft * (1.0 - self.soft) / self.n)

    @property
    def adjusted(self) -> tuple[float, float]:
        """Center and standard error with one right and one wrong outcome added.

            p = (n y + 1) / (n + 2),    sqrt(p (1 - p) / (n + 2))

        Source: Agresti and Caffo 2000, "Simple and effective confidence intervals for proportions
            and differences of proportions result from adding two successes and two failures".
        """
        center = (self.n * self.soft + 1.0) / (self.n + 2.0)
        return center, math.sqrt(center * (1.0 - center) / (self.n + 2.0))


def step_value(outcomes: Sequence[bool]) -> StepValue:
    """The value of a prefix from the outcomes of independent completions of it.

    Raises:
        ValueError: there is no outcome.

    Source: Wang et al. 2023, arXiv:2312.08935 (Math-Shepherd), sec. 3.3: soft and hard estimation.
    """
    if not outcomes:
        raise ValueError("a value needs at least one outcome, got none; roll the prefix out.")
    return StepValue(fmean(outcomes), len(outcomes))


def difference_in_errors(a: StepValue, b: StepValue) -> float:
    """How far one value is above another, in standard errors of the difference.

        (p_a - p_b) / sqrt(e_a^2 + e_b^2),    p and e as in `StepValue.adjusted`

    It is 0 where the shares themselves are equal (2 of 2, 1 of 1) or in the other order.

    With the plain error, 1 of 1 right against 0 of 1 would be infinitely far apart. With the
    adjusted one, two equal values with as many outcomes each come out more than 2 apart at most
    7.1 % of the time, whatever they are, from any number of outcomes up to 32.

    Source: Agresti and Caffo 2000.
    """
    center_a, error_a = a.adjusted
    center_b, error_b = b.adjusted
    if (center_a - center_b) * (a.soft - b.soft) <= 0.0:
        return 0.0
    return (center_a - center_b) / math.hypot(error_a, error_b)


# --- values of a graded tree -------------------------------------------------------------------


class Outcomes(NamedTuple):
    """Graded completions."""

    num_correct: int
    num: int


def subtree_outcomes(tree: Tree, node: int, correct: Mapping[int, bool | None]) -> Outcomes:
    """Counts graded completions that pass through a node, each as often as it was drawn.

    Completions that end there count; revisions of them are other completions. What did not end is
    no outcome. The share is the node's value only if completions were drawn from it alike: not in
    a tree that was grown where values were high, and not below nodes that were sampled more often
    than others. See `continuation_values`.

    Args:
        tree: of a search.
        node: in it.
        correct: outcome of each end of a completion; None or absent: it was not graded.
    """
    num_correct = num = 0
    waiting = [node]
    while waiting:
        here = tree[waiting.pop()]
        if here.is_open:
            waiting += (child.id for child in tree.children(here.id) if not child.restarts)
        elif (outcome := correct.get(here.id)) is not None:
            num_correct += here.count * outcome
            num += here.count
    return Outcomes(num_correct, num)


def continuation_values(tree: Tree, correct: Mapping[int, bool | None]) -> dict[int, StepValue]:
    """Values of the nodes of a tree that was grown without regard to outcomes.

        V(end) = outcome,    V(s) = sum_c m_c V(c) / sum_c m_c

    over children c, each drawn m_c times after s. All draws after s are independent draws from the
    policy, those of completions that only pass through s too, so V(s) is unbiased although some of
    its descendants were sampled more than others. The plain share of right ends is not, where
    longer completions have more nodes to be sampled from.

    `n` counts the draws after s. A draw's value is the mean of at least one completion, so the
    error that `n` gives is not too small.

    Args:
        tree: every completion in it was drawn to its end from the policy; see `MonteCarlo`.
        correct: outcome of each end of a completion; None or absent: it was not graded.

    Returns:
        By node. Nodes without a graded end below have none. Nodes below which a completion was
        given up have none either: what was given up is not missing at random.
    """
    values: dict[int, StepValue] = {}
    given_up: set[int] = set()
    for node in reversed(tree.nodes):
        if not node.is_open:
            outcome = correct.get(node.id)
            if outcome is not None:
                values[node.id] = StepValue(float(outcome), node.count)
            continue
        below = [child for child in tree.children(node.id) if not child.restarts]
        passed = 0 if node.id == ROOT else node.count
        if sum(child.count for child in below) < passed or given_up & {c.id for c in below}:
            given_up.add(node.id)
        elif (value := _mean_value(below, values)) is not None:
            values[node.id] = value
    return values


def _mean_value(children: Sequence[Node], values: Mapping[int, StepValue]) -> StepValue | None:
    # A child with ungraded ends may have fewer outcomes than it has draws.
    known = [(child.count, values[child.id]) for child in children if child.id in values]
    weighted = [(min(count, value.n), value.soft) for count, value in known]
    n = sum(weight for weight, _ in weighted)
    return StepValue(sum(weight * soft for weight, soft in weighted) / n, n) if n else None


# --- drawing -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MonteCarloSettings:
    """Of `MonteCarlo`."""

    chains: int = 4
    """Completions of the question whose prefixes are measured."""
    samples: int = 8
    """Completions from each measured prefix."""
    every: int = 1
    """Measures prefixes of `every`, 2 `every`, … steps."""

    def __post_init__(self) -> None:
        for name in ("chains", "samples", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be 1 or more.")


class MonteCarlo(Growing):
    """Independent completions, then further ones from prefixes of these.

    First `chains` completions of the question. Once they are there, `samples` completions from
    every `every`-th of their steps that can be continued, one each in turn, so that a budget that
    ends it early leaves the prefixes about equally well known. Nothing it is told changes what it
    asks for, except where steps end: outcomes are unbiased, and `continuation_values` of the graded
    tree are too.

    Source: Wang et al. 2023, arXiv:2312.08935 (Math-Shepherd), sec. 3.3; Kazemnejad et al. 2024,
        arXiv:2410.01679 (VinePPO), for fresh completions from every state.
    """

    def __init__(self, settings: MonteCarloSettings) -> None:
        super().__init__()
        self._settings = settings
        self._measured: list[int] | None = None
        self._num_drawn = 0

    @property
    def measured(self) -> Sequence[int]:
        """Nodes whose values it draws completions for; empty until the chains are there."""
        return self._measured or ()

    def best(self) -> int | None:
        """The most frequent answer of all completions; those from measured prefixes vote too."""
        return voted(voters(self.tree), "count")

    def _next(self) -> Job | None:
        if self.tree[ROOT].draws < self._settings.chains:
            return self._job(ROOT, "rollout", is_whole=True)
        if self._measured is None:
            if self.num_under_way:
                return None
            self._measured = [
                node.id
                for node in self.tree.nodes
                if node.is_open and node.id != ROOT and node.depth % self._settings.every == 0
            ]
        if self._num_drawn >= self._settings.samples * len(self._measured):
            return None
        node = self._measured[self._num_drawn % len(self._measured)]
        self._num_drawn += 1
        return self._job(node, "rollout", is_whole=True)

    def _grown(self, job: Job, reply: Reply, grown: list[int]) -> None:
        del job
        for node in self.tree.path(grown[-1]):
            self.tree[node].visits += 1
            self.tree[node].value_sum += reply.score


# --- labelling, with outcomes ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of a completion, to be completed several times."""

    num_steps: int
    token_ids: tuple[int, ...]


class FirstErrorSearch:
    """Finds the first step of a wrong completion after which no completion is right.

        while (prefix := search.ask()) is not None:
            search.tell([is_right(completion) for completion in completions(prefix)])
        search.first_error

    Binary search: 1 + ceil(log2(steps)) prefixes are rolled out. It supposes that nothing right
    follows a hopeless prefix, which holds but for sampling: of a prefix with value v, all N
    completions are wrong with probability (1 - v)^N.

    It is told outcomes, which only a reference gives. So it is no strategy, and its labels must
    never reach one that is evaluated on the same problems.

    Source: Luo et al. 2024, arXiv:2406.06592 (OmegaPRM), sec. 3.2 and 3.3.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        """Asks for nothing yet.

        Args:
            steps: of a whole completion that is wrong.

        Raises:
            ValueError: there is no step.
        """
        if not steps:
            raise ValueError("a completion without steps has no first error; give one with steps.")
        self._steps = tuple(steps)
        self._possible = 0
        self._hopeless = len(steps)
        self.values: dict[int, StepValue] = {}
        """What was told, by the prefix's number of steps."""

    @property
    def is_done(self) -> bool:
        """It asks for nothing more."""
        return self.ask() is None

    @property
    def first_error(self) -> int | None:
        """Number of the step from 0; None: it is not known yet, or the question itself is hopeless.

        No completion of a hopeless question is right, so that no step can be blamed.
        """
        return self._hopeless - 1 if self.is_done and self._hopeless else None

    def ask(self) -> Prefix | None:
        """The prefix that it wants to be completed now; None: it is done. Changes nothing."""
        if 0 not in self.values:
            return self._prefix(0)
        if self._hopeless - self._possible <= 1:
            return None
        return self._prefix((self._possible + self._hopeless) // 2)

    def tell(self, outcomes: Sequence[bool]) -> None:
        """Takes the outcomes of completions of the prefix that it asks for.

        Raises:
            ValueError: there is no outcome, or it asks for nothing.
        """
        prefix = self.ask()
        if prefix is None:
            raise ValueError("the first error is found already; tell what was asked for, once.")
        value = self.values[prefix.num_steps] = step_value(outcomes)
        if value.hard:
            self._possible = prefix.num_steps
        else:
            self._hopeless = prefix.num_steps

    def _prefix(self, num_steps: int) -> Prefix:
        steps = self._steps[:num_steps]
        return Prefix(num_steps, tuple(token for step in steps for token in step.token_ids))
