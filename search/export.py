"""What a searched tree is worth training on: solved traces, preferred steps, values of prefixes.

Pure selection: nothing is written here. Outcomes come from whoever may see references, and what is
selected is for training; none of it may reach a strategy that is evaluated on the same problems.
Whatever is left out is counted with the reason.

A revision was written by someone who was shown another completion, so neither it nor what follows
it is an example of how to continue the question. It is left out everywhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations
from statistics import fmean
from typing import Generic, Literal, NamedTuple, TypeVar

from cotree.rewards.types import Verdict
from cotree.search.monte_carlo import (
    StepValue,
    continuation_values,
    difference_in_errors,
    subtree_outcomes,
)
from cotree.search.tree import ROOT, Node, Tree
from cotree.search.tree_json import SearchRecord

INDEPENDENT = (
    "monte-carlo",
    "sample",
    "majority",
    "best-of",
    "weighted-majority",
    "vetoed-majority",
)
"""Strategies, by the name before the colon, that draw completions without regard to what becomes of
them, unless they stop at refuted steps. Values of their nodes are unbiased."""

Rank = Literal["mean-q", "score"]
"""What makes a trace a good one. `mean-q`: the mean value of the nodes on its path, as the strategy
backed it up. `score`: the judge's, of the finished completion."""

_MARKS = re.compile(r"\d+(?:[.,]\d+)*|[^\w\s.,;:!?'\"*#$\\]")
"""Numbers and operators, without punctuation and the marks of typesetting."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class GradedSearch:
    """A finished search, and what became of its completions."""

    record: SearchRecord
    correct: Mapping[int, bool | None]
    """By the node in which a completion ends. None or absent: it could not be graded."""


class Origin(NamedTuple):
    """Where something exported comes from."""

    problem_id: str
    search: int
    seed: int
    strategy: str
    digest: str
    """Of the tree."""


@dataclass(frozen=True, slots=True)
class Selected(Generic[_T]):
    """What is exported, and why the rest is not."""

    items: Sequence[_T]
    left_out: Mapping[str, int]
    """Reason -> how many."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A completion to imitate."""

    origin: Origin
    node: int
    """In which it ends."""
    question: str
    text: str
    token_ids: tuple[int, ...]
    """As sampled; the end-of-sequence token is among them, and has no text."""
    quality: float
    """By which it was preferred, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class StepPair:
    """Two steps after one prefix, one of them better."""

    origin: Origin
    question: str
    prefix: str
    prefix_ids: tuple[int, ...]
    chosen: Node
    rejected: Node
    chosen_value: StepValue
    rejected_value: StepValue | None
    """None: no completion that it is part of was graded; it is refuted."""
    by: Literal["outcomes", "verdict"]


@dataclass(frozen=True, slots=True)
class StepLabel:
    """The value of a prefix of a completion."""

    origin: Origin
    node: int
    question: str
    steps: tuple[str, ...]
    """Of the prefix; at least one."""
    is_end: bool
    """The completion ends there, so that its value is known and not estimated."""
    value: StepValue


@dataclass(frozen=True, slots=True)
class PairRule:
    """When one of two steps counts as better."""

    min_errors: float = 2.0
    """Standard errors of the difference that have to lie between the two values."""
    min_outcomes: int = 4
    """Graded completions that each of them needs."""
    max_similarity: float = 0.9
    """Share of characters, in order, that the texts may have in common if the same numbers and
    operators are in both: above it they are one step, said twice."""
    use_verdicts: bool = False
    """A refuted step is worse than one that is not, if right completions follow that one and none
    follows the refuted one."""

    def __post_init__(self) -> None:
        if self.min_errors <= 0.0 or self.min_outcomes < 1 or not 0.0 < self.max_similarity <= 1.0:
            raise ValueError(
                f"min_errors = {self.min_errors} must be above 0, min_outcomes = "
                f"{self.min_outcomes} 1 or more, max_similarity = {self.max_similarity} above 0 "
                "and at most 1."
            )


# --- traces ------------------------------------------------------------------------------------


def traces(searches: Sequence[GradedSearch], *, per_problem: int, rank: Rank) -> Selected[Trace]:
    """The best right completions of each problem, over all its searches.

    A trace ended by itself, is right, and no step of it is refuted. Of those with the same text,
    blanks at the ends aside, the first one stands for all. Higher rank comes first, then fewer
    tokens, then the earlier one. Where a strategy backed up nothing, `mean-q` is the score.

    Args:
        searches: of any strategies.
        per_problem: traces a problem, at most.
        rank: by what they are preferred.

    Returns:
        Traces by problem, in the order in which problems come first; the reasons count completions.

    Raises:
        ValueError: `per_problem` is below 1.
    """
    if per_problem < 1:
        raise ValueError(f"per_problem = {per_problem} keeps no trace; give 1 or more.")
    left_out: Counter[str] = Counter()
    found: dict[str, dict[str, Trace]] = {}
    for search in searches:
        tree, origin = search.record.tree, _origin(search.record)
        revised = _revised(tree)
        texts = found.setdefault(origin.problem_id, {})
        for end in tree.leaves():
            reason = _unfit(end, search.correct.get(end.id), is_revised=end.id in revised)
            text = tree.text(end.id)
            if reason is None and text.strip() in texts:
                reason = "repeats another"
            if reason is not None:
                left_out[reason] += 1
                continue
            ids, quality = tree.token_ids(end.id), _quality(tree, end, rank)
            texts[text.strip()] = Trace(origin, end.id, search.record.question, text, ids, quality)
    kept: list[Trace] = []
    for texts in found.values():
        # Sorting is stable: of equals, the earlier one.
        best = sorted(texts.values(), key=lambda one: (-one.quality, len(one.token_ids)))
        kept += best[:per_problem]
        if len(best) > per_problem:
            left_out["others are better"] += len(best) - per_problem
    return Selected(kept, left_out)


def _unfit(end: Node, correct: bool | None, *, is_revised: bool) -> str | None:
    """Why a completion is no trace; None: it is one."""
    if not end.is_finished:
        return "cut"
    if correct is None:
        return "not graded"
    if not correct:
        return "wrong"
    if end.is_refuted:
        return "refuted"
    return "revision" if is_revised else None


def _quality(tree: Tree, end: Node, rank: Rank) -> float:
    path = (tree[node] for node in tree.path(end.id) if node != ROOT)
    values = [node.value for node in path if node.value is not None]
    return fmean(values) if values and rank == "mean-q" else end.score or 0.0


# --- pairs -------------------------------------------------------------------------------------


def step_pairs(searches: Sequence[GradedSearch], rule: PairRule) -> Selected[StepPair]:
    """Pairs of steps after one prefix of which one is better, by outcomes or by a rule's verdict.

    Each step's subtree has to be finished: what a search gave up, unless it was refuted, says
    nothing about the step. Errors assume independent completions, which only the trees that
    `step_labels` takes have. In others a step's value is that of the completions that the search
    chose to draw after it, and a pair says which step the search came further with.

    Args:
        searches: of any strategies.
        rule: what counts as better.

    Returns:
        Pairs in the order of the trees; the reasons count pairs of steps after one prefix.
    """
    pairs: list[StepPair] = []
    left_out: Counter[str] = Counter()
    for search in searches:
        tree, origin = search.record.tree, _origin(search.record)
        revised, values = _revised(tree), _values(search)
        for parent in tree.nodes:
            for one, other in combinations(tree.children(parent.id), 2):
                if one.id in revised or other.id in revised:
                    found = "revision"
                elif parent.is_refuted:
                    found = "refuted before"
                else:
                    found = _better(one, other, values, rule)
                if not isinstance(found, str) and _is_same(one, other, rule.max_similarity):
                    found = "nearly the same text"
                if isinstance(found, str):
                    left_out[found] += 1
                    continue
                best, worst, by = found
                prefix = (tree.text(parent.id), tree.token_ids(parent.id))
                pair = (best, worst, values[best.id], values.get(worst.id), by)
                pairs.append(StepPair(origin, search.record.question, *prefix, *pair))
    return Selected(pairs, left_out)


_Better = tuple[Node, Node, Literal["outcomes", "verdict"]]


def _better(
    one: Node, other: Node, values: Mapping[int, StepValue], rule: PairRule
) -> _Better | str:
    """The better step, the worse one and what says so; or why there is no pair."""
    refuted = [node for node in (one, other) if _is_refuted_here(node)]
    if rule.use_verdicts and len(refuted) == 1:
        bad = refuted[0]
        good = other if bad is one else one
        value, bad_value = values.get(good.id), values.get(bad.id)
        if value is None or value.n < rule.min_outcomes:
            return "too few outcomes"
        if (bad_value is not None and bad_value.hard) or not value.hard:
            return "outcomes do not bear the verdict out"
        return good, bad, "verdict"
    a, b = values.get(one.id), values.get(other.id)
    if a is None or b is None or min(a.n, b.n) < rule.min_outcomes:
        return "too few outcomes"
    errors = difference_in_errors(a, b)
    if abs(errors) <= rule.min_errors:
        return "no clear difference"
    chosen, rejected = (one, other) if errors > 0 else (other, one)
    if refuted == [chosen]:
        return "outcomes do not bear the verdict out"
    return chosen, rejected, "outcomes"


def _values(search: GradedSearch) -> dict[int, StepValue]:
    """Values of the nodes whose subtrees are finished, as far as the tree tells."""
    tree = search.record.tree
    if is_independent(search.record.strategy):
        return continuation_values(tree, search.correct)
    unfinished: set[int] = set()
    values: dict[int, StepValue] = {}
    for node in reversed(tree.nodes):
        below = [child.id for child in tree.children(node.id) if not child.restarts]
        gives_up = node.is_open and not below and not node.is_refuted
        if gives_up or (node.is_open and not unfinished.isdisjoint(below)):
            unfinished.add(node.id)
        elif node.id != ROOT and len(tree[node.parent].children) > 1:
            num_correct, num = subtree_outcomes(tree, node.id, search.correct)
            if num:
                values[node.id] = StepValue(num_correct / num, num)
    return values


def _is_refuted_here(node: Node) -> bool:
    return node.step is not None and node.step.verdict is Verdict.REFUTED


def _is_same(one: Node, other: Node, max_similarity: float) -> bool:
    """Whether two steps say the same: one wrong digit makes a step another one."""
    texts = [node.step.text if node.step else "" for node in (one, other)]
    first, second = (" ".join(text.split()).casefold() for text in texts)
    if first == second:
        return True
    if _MARKS.findall(first) != _MARKS.findall(second):
        return False
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    # Each is an upper bound of the next, and cheaper.
    bounds = (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio)
    return all(bound() > max_similarity for bound in bounds)


# --- labels ------------------------------------------------------------------------------------


def is_independent(strategy: str) -> bool:
    """Whether a strategy of this full name draws completions regardless of what becomes of them."""
    name, _, settings = strategy.partition(":")
    return name in INDEPENDENT and "stops_when_refuted=true" not in settings.split(",")


def step_labels(searches: Sequence[GradedSearch], *, min_outcomes: int) -> Selected[StepLabel]:
    """Values of prefixes, soft and hard, to train a process reward model on.

    An end of a completion is labelled with its outcome where the prefix before it is labelled, and
    wherever it was drawn often enough itself.

    Args:
        searches: of strategies that draw completions regardless of outcomes and verdicts.
        min_outcomes: draws after a prefix, at least.

    Returns:
        Labels in the order of the trees; the reasons count nodes.

    Raises:
        ValueError: `min_outcomes` is below 1, or a tree was grown where values were high or steps
            not refuted.

    Source: Wang et al. 2023, arXiv:2312.08935 (Math-Shepherd), sec. 3.3.
    """
    if min_outcomes < 1:
        raise ValueError(f"min_outcomes = {min_outcomes}; a value has 1 outcome or more.")
    labels: list[StepLabel] = []
    left_out: Counter[str] = Counter()
    for search in searches:
        _refuse_adaptive(search.record)
        tree, origin = search.record.tree, _origin(search.record)
        values = continuation_values(tree, search.correct)
        enough = {node for node, value in values.items() if value.n >= min_outcomes}
        for node in tree.nodes[1:]:
            value = values.get(node.id)
            if value is None:
                left_out["no graded end"] += 1
            elif node.id not in enough and (node.is_open or node.parent not in enough):
                left_out["too few outcomes"] += 1
            else:
                steps = tuple(step.text for step in tree.completion(node.id))
                question, is_end = search.record.question, not node.is_open
                labels.append(StepLabel(origin, node.id, question, steps, is_end, value))
    return Selected(labels, left_out)


def _refuse_adaptive(record: SearchRecord) -> None:
    if not is_independent(record.strategy):
        raise ValueError(
            f"search {record.search} is of {record.strategy!r}, which draws more where values are "
            "high or steps are not refuted, so that the shares of right completions in its tree "
            "are biased (by -75 % to +45 % in a simulation). Search with `monte-carlo` for labels; "
            f"{', '.join(INDEPENDENT[1:])} will do if they do not stop at refuted steps."
        )


def _origin(record: SearchRecord) -> Origin:
    return Origin(record.problem_id, record.search, record.seed, record.strategy, record.digest)


def _revised(tree: Tree) -> set[int]:
    """Nodes of completions that are revisions."""
    found: set[int] = set()
    for node in tree.nodes:
        if node.restarts or node.parent in found:
            found.add(node.id)
    return found
