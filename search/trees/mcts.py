"""Monte Carlo tree search over reasoning steps, with whole rollouts.

One simulation: from the root, choose children by the tree policy down to a node that may have a
further child; from there, one rollout to the end of the completion. All of its steps join the tree,
and its score is backed up through every node from the root to its end. So a node has a visit from
the moment it exists, and N(s) = sum of its children's visits + the rollouts that ended in s.

Nodes that a rule refutes, and ends of completions, are never continued.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cotree.search.halving import behind_policy
from cotree.search.selection import (
    PUCT_C1,
    PUCT_C2,
    may_widen,
    mean_values,
    puct,
    sampled_priors,
    uct,
    with_virtual_losses,
    wu_uct,
)
from cotree.search.tree import ROOT, Node
from cotree.search.tree_strategy import Growing
from cotree.search.trees.gumbel import HalvingRoot
from cotree.search.types import Job, Reply
from cotree.search.votes import best_scored, voted, voters

Rule = Literal["puct", "uct", "gumbel"]
Parallel = Literal["wu", "virtual_loss", "none"]

UCT_C = math.sqrt(2.0)
CONSIDERED = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class MctsSettings:
    """How a search chooses.

    Raises:
        ValueError: a setting is out of range, is missing, or has no effect beside the others.
    """

    rule: Rule = "puct"
    """`puct` and `uct` at all nodes. `gumbel`: Sequential Halving at the root, below it the child
    whose visits are furthest behind the improved policy."""
    exploration: float | None = None
    """Above 0. c1 of `puct` (None: 1.25) or c of `uct` (None: sqrt(2)); `gumbel` takes none."""
    kappa: float = 1.0
    """Above 0. A node that was visited N times has ceil(kappa N^alpha) drawn children, or more."""
    alpha: float = 0.5
    """In [0, 1]; see `kappa`."""
    parallel: Parallel = "wu"
    """How jobs in flight count. `wu`: as visits without a value. `virtual_loss`: as visits of value
    0. `none`: not at all, so that what is asked for at once goes to one place."""
    stops_when_refuted: bool = False
    """Ends a rollout after its first refuted step; costs one request a step."""
    simulations: int | None = None
    """Jobs after which the search is done, dropped ones included. None: it never is by itself.
    `gumbel` needs it, for its schedule."""
    considered: int | None = None
    """Of `gumbel` alone: rollouts drawn at the root, whose distinct first steps are the candidates
    (None: 4)."""
    backup: Literal["mean", "max"] = "mean"
    """Value of a node: mean, or maximum, of the scores that were backed up through it."""
    select: Literal["vote", "visits", "value"] = "vote"
    """The answer at the end, among classes of equal ones. `vote`: the largest sum of scores.
    `visits`: the most rollouts. `value`: as `visits`, among completions of the highest score."""

    def __post_init__(self) -> None:
        if self.exploration is not None and self.exploration <= 0:
            raise ValueError(f"exploration = {self.exploration}; it must be above 0.")
        if self.kappa <= 0 or not 0 <= self.alpha <= 1:
            raise ValueError(
                f"kappa = {self.kappa} and alpha = {self.alpha}; kappa must be above 0, and alpha "
                "in [0, 1]."
            )
        if self.simulations is not None and self.simulations < 1:
            raise ValueError(f"simulations = {self.simulations}; give 1 up, or None for no limit.")
        if self.rule == "gumbel":
            self._check_gumbel()
        elif self.considered is not None:
            raise ValueError(
                f"considered = {self.considered} has no effect with rule {self.rule!r}; leave it "
                "out, or set rule to 'gumbel'."
            )

    def _check_gumbel(self) -> None:
        if self.exploration is not None:
            raise ValueError(
                f"exploration = {self.exploration} has no effect with rule 'gumbel', which has no "
                "bonus; leave it out."
            )
        if self.simulations is None:
            raise ValueError("rule 'gumbel' divides a known number of simulations; set it.")
        if self.considered is not None and not 1 <= self.considered <= self.simulations:
            raise ValueError(
                f"considered = {self.considered} of {self.simulations} simulations; each candidate "
                "takes one, so give from 1 to their number."
            )


class Mcts(Growing):
    """Monte Carlo tree search with one `rollout` job a simulation.

    A node may have a further child if it has none that can be continued, or by `may_widen`. There a
    child counts as often as it was drawn: else a node after which the policy nearly always says
    the same would be drawn from for ever. Priors are shares of draws, never probabilities.

    Args:
        settings: how it chooses.
        seed: of the noise of rule `gumbel`; otherwise there is no randomness but the engine's.

    Source: Kocsis and Szepesvari 2006, "Bandit based Monte-Carlo planning"; Silver et al. 2018,
        "A general reinforcement learning algorithm"; Danihelka et al. 2022, "Policy improvement by
        planning with Gumbel". The formulas are in `selection` and `halving`.
    """

    def __init__(self, settings: MctsSettings, *, seed: int) -> None:
        super().__init__()
        self._settings = settings
        self._seed = seed
        self._halving: HalvingRoot | None = None
        self._highest: dict[int, float] = {}
        """Of the values that were backed up through each node."""

    def best(self) -> int | None:
        """The end of a completion with the answer that `MctsSettings.select` prefers.

        Completions with a refuted step take part only where no other has an answer.
        """
        leaves = voters(self.tree)
        leaves = [leaf for leaf in leaves if not leaf.is_refuted] or leaves
        if self._settings.select == "value":
            leaves = best_scored(leaves)
        return voted(leaves, "score" if self._settings.select == "vote" else "visits")

    # --- where the next simulation goes ----------------------------------------------------------

    def _next(self) -> Job | None:
        settings = self._settings
        if settings.simulations is not None and self._num_asked >= settings.simulations:
            return None
        node = self._gumbel_root() if settings.rule == "gumbel" else self._selected(ROOT)
        if node is None:
            return None
        return self._job(node, "rollout", stops_when_refuted=settings.stops_when_refuted)

    def _gumbel_root(self) -> int | None:
        """As `_selected`; None: the schedule has to be told what is under way first."""
        is_waiting = self.num_under_way > 0
        if self._halving is None:
            assert self._settings.simulations is not None
            considered = self._settings.considered or min(CONSIDERED, self._settings.simulations)
            if self.tree[ROOT].draws < considered:
                return ROOT
            if is_waiting:
                return None
            siblings = list(self.tree.children(ROOT))
            candidates = [child for child in siblings if _is_live(child)]
            if not candidates:
                return ROOT
            self._halving = HalvingRoot(
                candidates,
                siblings,
                num_simulations=self._settings.simulations - self._num_asked,
                value=self._value,
                seed=self._seed,
            )
        turn = self._halving.next_turn(is_waiting=is_waiting)
        return None if turn is None else self._selected(turn.id)

    def _selected(self, start: int) -> int:
        """The node below `start`, or itself, from which the tree policy draws a new child."""
        at = self.tree[start]
        while True:
            # In the order of their keys, so that ties do not depend on who came first.
            children = sorted(self.tree.children(at.id), key=lambda child: child.key)
            if not any(map(_is_live, children)) or self._widens(at, children):
                return at.id
            pairs = zip(self._scores(at, children), children, strict=True)
            live = [pair for pair in pairs if _is_live(pair[1])]
            at = max(live, key=lambda pair: pair[0])[1]

    def _widens(self, node: Node, children: Sequence[Node]) -> bool:
        drawn, visits = sum(child.count for child in children), node.visits
        if self._settings.parallel != "none":
            drawn += node.inflight - sum(child.inflight for child in children)
            visits += node.inflight
        return may_widen(drawn, visits, kappa=self._settings.kappa, alpha=self._settings.alpha)

    def _scores(self, node: Node, children: Sequence[Node]) -> list[float]:
        """What the rule says of each child; refuted ones and ends count as its siblings."""
        visits = [child.visits for child in children]
        inflight = [child.inflight for child in children]
        # No child is without a visit; the formulas want to know what it would be worth.
        unvisited = self._value(node)
        sums = [child.visits * self._value(child) for child in children]
        counts: Sequence[float] = visits
        qvalues = mean_values(visits, sums, unvisited=unvisited)
        if self._settings.parallel == "virtual_loss":
            counts, qvalues = with_virtual_losses(
                visits, sums, inflight, losses=1.0, unvisited=unvisited
            )
        elif self._settings.parallel == "wu":
            counts = [count + jobs for count, jobs in zip(visits, inflight, strict=True)]
        priors = [child.prior or 0.0 for child in children]
        if self._settings.rule == "gumbel":
            return behind_policy(counts, qvalues, priors)
        if self._settings.rule == "puct":
            c1 = self._settings.exploration or PUCT_C1
            return puct(counts, qvalues, priors, c1=c1, c2=PUCT_C2)
        c = self._settings.exploration or UCT_C
        if self._settings.parallel == "wu":
            return wu_uct(visits, qvalues, inflight, c=c / math.sqrt(2.0))
        return uct(counts, qvalues, c=c)

    # --- backup ----------------------------------------------------------------------------------

    def _grown(self, job: Job, reply: Reply, grown: list[int]) -> None:
        end = self.tree[grown[-1]]
        value = 0.0 if end.is_refuted else reply.score
        for at in self.tree.path(end.id):
            node = self.tree[at]
            node.visits += 1
            node.value_sum += value
            self._highest[at] = max(value, self._highest.get(at, 0.0))
        for at in (job.node, *grown[:-1]):
            siblings = list(self.tree.children(at))
            priors = sampled_priors([child.count for child in siblings])
            for child, prior in zip(siblings, priors, strict=True):
                child.prior = prior

    def _value(self, node: Node) -> float:
        """Of a node that was visited."""
        if self._settings.backup == "max":
            return self._highest[node.id]
        return node.value_sum / node.visits


def _is_live(node: Node) -> bool:
    """Its completion can be continued, and no rule speaks against it."""
    return node.is_open and not node.is_refuted
