"""Which answer wins: one vote for whole completions and for the leaves of a tree.

Classes are by mathematical equality, not by equal strings. What was cut and what has no answer
never votes.

Source: Wang et al. 2023, arXiv:2203.11171, sec. 2 (self-consistency); Li et al. 2022,
    arXiv:2206.02336, and Snell et al. 2024, arXiv:2408.03314 (weights by a verifier).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from cotree.rewards.equality.classes import answer_classes
from cotree.search.tree import Node, Tree

Weight = Literal["count", "score", "visits"]
"""What a leaf's vote weighs. `count`: 1 for each time that it was drawn. `score`: its score, as
often. `visits`: those of the search, which count every draw already."""


def winner(answers: Sequence[str | None], weights: Sequence[float]) -> int | None:
    """Position of the answer that speaks for the class with the largest weight.

        argmax over classes y of equal answers of  sum of weights[i] over i in y

    Of classes with as much weight it is the one whose first member comes first. For a class speaks
    the heaviest member with the text that most of its members have, the first of several.

    Args:
        answers: [N] one a vote; None does not vote.
        weights: [N] not negative. What weighs 0 votes only where nothing weighs more, and then
            all votes are equal.

    Returns:
        None: nobody votes.
    """
    assert min(weights, default=0.0) >= 0.0, f"a vote weighs less than nothing: {weights}"
    able = [i for i, answer in enumerate(answers) if answer is not None]
    weighty = [i for i in able if weights[i] > 0.0]
    voting = weighty or able
    if not voting:
        return None
    shares = [weights[i] if weighty else 1.0 for i in voting]
    classes = answer_classes([answers[i] for i in voting])
    totals = [math.fsum(shares[member] for member in found.members) for found in classes]
    most = max(totals)
    ties = [found for found, total in zip(classes, totals, strict=True) if total == most]
    won = min(ties, key=lambda found: found.members[0])
    speakers = [place for place in won.members if answers[voting[place]] == won.representative]
    return voting[max(speakers, key=lambda place: shares[place])]  # the first of equals


def may_vote(node: Node) -> bool:
    """A completion that ended by itself and commits to an answer ends here."""
    return node.is_finished and node.answer is not None


def voted(leaves: Sequence[Node], weight: Weight) -> int | None:
    """Id of the leaf that wins a vote; None: none of them may vote.

    A leaf that was drawn twice votes twice.

    Args:
        leaves: in the order that decides ties.
        weight: of a vote.
    """
    able = filter(may_vote, leaves)
    # Each draw is a vote of its own, so that classes are those of `winner` over completions.
    ballots = [leaf for leaf in able for _ in range(1 if weight == "visits" else leaf.count)]
    weights = [_weight(leaf, weight) for leaf in ballots]
    won = winner([leaf.answer for leaf in ballots], weights)
    return None if won is None else ballots[won].id


def voters(tree: Tree) -> list[Node]:
    """The leaves that may vote, by their keys: no matter in which order they were told."""
    return sorted(filter(may_vote, tree.leaves()), key=lambda leaf: leaf.key)


def best_scored(leaves: Sequence[Node]) -> list[Node]:
    """Those with the highest score."""
    highest = max((leaf.score or 0.0 for leaf in leaves), default=0.0)
    return [leaf for leaf in leaves if (leaf.score or 0.0) == highest]


def _weight(leaf: Node, weight: Weight) -> float:
    if weight == "visits":
        return float(leaf.visits)
    return (leaf.score or 0.0) if weight == "score" else 1.0
