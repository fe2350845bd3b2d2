"""Tests for search/export.py: one prefix a pair, finished subtrees, values without bias, counts."""

from collections.abc import Iterator
from math import comb
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.types import Verdict
from cotree.search.export import (
    INDEPENDENT,
    GradedSearch,
    PairRule,
    Rank,
    is_independent,
    step_labels,
    step_pairs,
    traces,
)
from cotree.search.monte_carlo import StepValue, difference_in_errors
from cotree.search.tree import ROOT, Node, Tree
from cotree.search.tree_json import SearchRecord
from cotree.search.types import Step, StepEnd

RULE = PairRule()
ENDS: tuple[StepEnd, ...] = get_args(StepEnd)


def step(text: str, end: StepEnd = "boundary", verdict: Verdict = Verdict.UNCHECKED) -> Step:
    ids = tuple(map(ord, text))
    return Step(ids, (-0.5,) * len(ids), text, end, verdict)


def graded(
    tree: Tree,
    correct: dict[int, bool | None],
    strategy: str = "puct:8",
    *,
    problem: str = "p",
    number: int = 0,
) -> GradedSearch:
    record = SearchRecord(number, problem, f"{problem}?", 7, strategy, tree, None, (), {})
    return GradedSearch(record, correct)


def siblings(
    first: tuple[int, int], second: tuple[int, int], texts: tuple[str, str] = ("2+2=4\n", "2+2=5\n")
) -> tuple[Tree, dict[int, bool | None], tuple[int, int]]:
    """A tree with two steps after one prefix, and (right, all) completions of each."""
    tree, correct = Tree(), dict[int, bool | None]()
    prefix = tree.add(ROOT, step("so\n"), (0,))
    made: list[int] = []
    for text, (right, num) in zip(texts, (first, second), strict=True):
        node = tree.add(prefix, step(text), (0, len(made)))
        made.append(node)
        for number in range(num):
            end = tree.add(node, step(f"end {number}", "stop"), (number,))
            correct[end] = number < right
        tree[node].count = max(1, num)  # as if whole completions had been drawn
    tree[prefix].count = sum(tree[node].count for node in made)
    return tree, correct, (made[0], made[1])


@st.composite
def searches(draw: st.DrawFn) -> GradedSearch:
    """Any tree, with any outcomes."""
    tree = Tree()
    for number in range(draw(st.integers(0, 16))):
        ends = [node.id for node in tree.leaves()]
        restarts = bool(ends) and draw(st.integers(0, 9)) == 0
        choices = ends if restarts else [node.id for node in tree.nodes if node.is_open]
        made = step(
            draw(st.sampled_from(["1=1\n", "2=1\n", "so ", "thus "])),
            draw(st.sampled_from(["boundary", *ENDS])),
            Verdict.REFUTED if draw(st.integers(0, 5)) == 0 else Verdict.UNCHECKED,
        )
        node = tree[tree.add(draw(st.sampled_from(choices)), made, (number,), restarts=restarts)]
        node.visits = draw(st.integers(0, 3))
        node.value_sum = node.visits * draw(st.sampled_from([0.0, 0.5, 1.0]))
        node.score = draw(st.sampled_from([None, 0.0, 1.0]))
    correct = {leaf.id: draw(st.sampled_from([True, False, None])) for leaf in tree.leaves()}
    strategy = draw(st.sampled_from(["puct:8", "monte-carlo:4", "beam", "majority:8"]))
    return graded(tree, correct, strategy)


def below(tree: Tree, node: int) -> Iterator[Node]:
    """The node and all that continues it."""
    yield tree[node]
    for child in tree.children(node):
        if not child.restarts:
            yield from below(tree, child.id)


# --- traces ------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.lists(searches(), max_size=2), st.integers(1, 3), st.sampled_from(get_args(Rank)))
def test_traces_are_right_and_every_other_completion_is_counted(
    found: list[GradedSearch], per_problem: int, rank: Rank
):
    selected = traces(found, per_problem=per_problem, rank=rank)
    num_ends = sum(len(list(search.record.tree.leaves())) for search in found)
    assert len(selected.items) + sum(selected.left_out.values()) == num_ends
    assert len(selected.items) <= per_problem
    texts = [trace.text.strip() for trace in selected.items]
    assert len(set(texts)) == len(texts)
    assert sorted((-one.quality, len(one.token_ids)) for one in selected.items) == [
        (-one.quality, len(one.token_ids)) for one in selected.items
    ]
    for trace in selected.items:
        candidates = [one for one in found if one.record.digest == trace.origin.digest]
        assert any(_is_fit(one, trace.node, trace.text) for one in candidates)


def _is_fit(search: GradedSearch, end: int, text: str) -> bool:
    tree = search.record.tree
    path = [tree[node] for node in tree.path(end)]
    steps = [node.step for node in path if node.step is not None]
    return (
        text == "".join(one.text for one in steps)
        and steps[-1].end == "stop"
        and search.correct[end] is True
        and not any(node.restarts for node in path)
        and all(one.verdict is not Verdict.REFUTED for one in steps)
    )


def test_traces_of_a_problem_are_compared_over_its_searches():
    def search(number: int, texts: dict[str, float], problem: str) -> GradedSearch:
        tree = Tree()
        for place, (text, score) in enumerate(texts.items()):
            tree[tree.add(ROOT, step(text, "stop"), (place,))].score = score
        correct: dict[int, bool | None] = {leaf.id: True for leaf in tree.leaves()}
        return graded(tree, correct, problem=problem, number=number)

    first = search(0, {"long way": 1.0, "poor": 0.2, "way": 1.0}, "a")
    second = search(1, {"best\n": 1.0, "way \n": 1.0}, "a")
    third = search(2, {"way": 0.1}, "b")
    selected = traces([first, second, third], per_problem=2, rank="score")
    # As good, "way" and "best\n" are shorter; "way \n" repeats the first search's.
    kept = [(trace.origin.search, trace.question, trace.text) for trace in selected.items]
    assert kept == [(0, "a?", "way"), (1, "a?", "best\n"), (2, "b?", "way")]
    assert selected.left_out == {"repeats another": 1, "others are better": 2}
    assert selected.items[0].token_ids == tuple(map(ord, "way"))


def test_mean_q_is_over_the_path_and_the_score_where_nothing_was_backed_up():
    tree = Tree()
    tree[ROOT].visits, tree[ROOT].value_sum = 9, 9.0  # the root's is no step's
    a = tree.add(ROOT, step("a"), (0,))
    end = tree.add(a, step("b", "stop"), (1,))
    (tree[a].visits, tree[a].value_sum), (tree[end].visits, tree[end].value_sum) = (4, 1.0), (1, 1)
    tree[end].score = 0.5
    other = tree.add(ROOT, step("c", "stop"), (2,))
    tree[other].score = 0.75
    search = graded(tree, {end: True, other: True})
    by_q = traces([search], per_problem=2, rank="mean-q").items
    assert [(one.node, one.quality) for one in by_q] == [(other, 0.75), (end, (0.25 + 1.0) / 2)]
    by_score = traces([search], per_problem=1, rank="score")
    assert [(one.node, one.quality) for one in by_score.items] == [(other, 0.75)]


def test_each_reason_to_leave_a_completion_out_is_told():
    tree = Tree()
    right = tree.add(ROOT, step("right", "stop"), (0,))
    cut = tree.add(ROOT, step("cut", "length"), (1,))
    wrong = tree.add(ROOT, step("wrong", "stop"), (2,))
    lost = tree.add(ROOT, step("lost", "stop"), (3,))
    refuted = tree.add(ROOT, step("1=2", "stop", Verdict.REFUTED), (4,))
    revised = tree.add(wrong, step("anew", "stop"), (5,), restarts=True)
    correct = {right: True, cut: True, wrong: False, lost: None, refuted: True, revised: True}
    selected = traces([graded(tree, correct)], per_problem=9, rank="score")
    assert [one.text for one in selected.items] == ["right"]
    reasons = ("cut", "wrong", "not graded", "refuted", "revision")
    assert selected.left_out == dict.fromkeys(reasons, 1)


def test_no_traces_a_problem_is_refused():
    with pytest.raises(ValueError, match="per_problem = 0"):
        traces([], per_problem=0, rank="score")


# --- pairs -------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(searches(), st.booleans(), st.integers(1, 3), st.sampled_from([0.1, 1.0]))
def test_pairs_have_one_prefix_finished_subtrees_and_a_clear_difference(
    search: GradedSearch, use_verdicts: bool, min_outcomes: int, min_errors: float
):
    tree = search.record.tree
    rule = PairRule(min_errors, min_outcomes, 0.9, use_verdicts)
    selected = step_pairs([search], rule)
    num_pairs = sum(comb(len(node.children), 2) for node in tree.nodes)
    assert len(selected.items) + sum(selected.left_out.values()) == num_pairs
    for pair in selected.items:
        assert pair.chosen.parent == pair.rejected.parent
        assert pair.prefix == tree.text(pair.chosen.parent)
        assert pair.prefix_ids == tree.token_ids(pair.chosen.parent)
        assert not any(tree[node].restarts for node in tree.path(pair.chosen.id))
        assert not tree[pair.chosen.parent].is_refuted
        for side in (pair.chosen, pair.rejected):
            ends = [node for node in below(tree, side.id) if not node.children]
            assert all(not node.is_open or node.is_refuted for node in ends)
        assert pair.chosen_value.n >= min_outcomes
        if pair.by == "outcomes":
            assert pair.rejected_value is not None
            assert pair.rejected_value.n >= min_outcomes
            assert pair.chosen_value.soft > pair.rejected_value.soft
            assert difference_in_errors(pair.chosen_value, pair.rejected_value) > min_errors
        else:
            assert use_verdicts
            assert pair.rejected.step is not None
            assert pair.rejected.step.verdict is Verdict.REFUTED
            assert pair.rejected_value is None or not pair.rejected_value.hard
        assert not pair.chosen.is_refuted or pair.rejected.is_refuted


@settings(max_examples=100)
@given(st.integers(0, 12).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_equal_outcomes_are_never_a_pair(outcomes: tuple[int, int]):
    tree, correct, _ = siblings(outcomes, outcomes)
    rule = PairRule(min_errors=1e-9, min_outcomes=1)
    pairs = step_pairs([graded(tree, correct)], rule).items
    assert not [pair for pair in pairs if pair.prefix == "so\n"]


@pytest.mark.parametrize(
    ("first", "second", "is_pair"),
    [
        ((8, 8), (0, 8), True),
        ((0, 8), (8, 8), True),
        ((5, 8), (3, 8), False),
        ((3, 3), (0, 8), False),  # too few of the first
    ],
)
@pytest.mark.parametrize("strategy", ["puct:8", "monte-carlo:8"])
def test_eight_of_eight_is_better_than_none_and_five_not_than_three(
    first: tuple[int, int], second: tuple[int, int], is_pair: bool, strategy: str
):
    tree, correct, nodes = siblings(first, second)
    selected = step_pairs([graded(tree, correct, strategy)], RULE)
    # The ends after one step are siblings too, with one completion each.
    assert len(selected.items) == is_pair
    for pair in selected.items:
        best, worst = nodes if first > second else nodes[::-1]
        assert (pair.prefix, pair.question, pair.by) == ("so\n", "p?", "outcomes")
        assert (pair.chosen.id, pair.rejected.id) == (best, worst)
        assert (pair.chosen_value, pair.rejected_value) == (StepValue(1.0, 8), StepValue(0.0, 8))


def test_a_subtree_that_a_search_gave_up_is_in_no_pair():
    tree, correct, (first, _) = siblings((8, 8), (0, 8))
    tree.add(first, step("and then"), (9,))
    selected = step_pairs([graded(tree, correct)], RULE)
    assert not selected.items
    assert set(selected.left_out) == {"too few outcomes"}


@pytest.mark.parametrize(
    ("texts", "is_pair"),
    [
        (("Then we add both sides up.\n", "Then we add both  sides up!\n"), False),
        (("**Step**: the sum is 12.\n", "Step: the sum is 12.\n"), False),
        (("Then 12 * 15 = 180 apples.\n", "Then 12 * 15 = 170 apples.\n"), True),  # one digit
        (("We write x - 3 for it.\n", "We write x + 3 for it.\n"), True),  # one sign
        (("Let us count the apples.\n", "The pears cost nothing.\n"), True),
    ],
)
def test_steps_that_say_the_same_are_no_pair(texts: tuple[str, str], is_pair: bool):
    tree, correct, _ = siblings((8, 8), (0, 8), texts)
    selected = step_pairs([graded(tree, correct)], RULE)
    assert len(selected.items) == is_pair
    assert selected.left_out.get("nearly the same text", 0) == (not is_pair)


def _refuted_sibling(first: tuple[int, int], second: tuple[int, int]) -> GradedSearch:
    tree, correct, (_, bad) = siblings(first, second)
    node = tree[bad]
    node.step, node.is_refuted = step("2+2=5\n", verdict=Verdict.REFUTED), True
    return graded(tree, correct)


def test_a_refuted_step_is_worse_if_verdicts_are_used_and_outcomes_bear_them_out():
    by_verdict = PairRule(use_verdicts=True)
    abandoned = _refuted_sibling((1, 8), (0, 0))
    assert step_pairs([abandoned], RULE).items == []
    (pair,) = step_pairs([abandoned], by_verdict).items
    assert (pair.by, pair.chosen_value, pair.rejected_value) == (
        "verdict",
        StepValue(1 / 8, 8),
        None,
    )
    for first, second in (((0, 8), (0, 8)), ((4, 8), (1, 8))):
        selected = step_pairs([_refuted_sibling(first, second)], by_verdict)
        assert selected.items == []
        assert selected.left_out["outcomes do not bear the verdict out"] == 1


def test_a_refuted_step_is_not_chosen_for_its_outcomes():
    selected = step_pairs([_refuted_sibling((0, 8), (8, 8))], RULE)
    assert selected.items == []
    assert selected.left_out["outcomes do not bear the verdict out"] == 1


@pytest.mark.parametrize("wrong", [{"min_errors": 0.0}, {"min_outcomes": 0}, {"max_similarity": 0}])
def test_rules_that_compare_nothing_are_refused(wrong: dict[str, int]):
    with pytest.raises(ValueError, match="must be above 0"):
        PairRule(**wrong)


# --- labels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy",
    [
        "puct:8",
        "uct",
        "gumbel:16",
        "beam:4",
        "refine",
        "particles:8",
        "dfs",
        "resample-whole:4",
        "vetoed-majority:completions=8,stops_when_refuted=true",
    ],
)
def test_trees_that_were_grown_by_value_or_verdict_have_no_labels(strategy: str):
    tree, correct, _ = siblings((8, 8), (0, 8))
    with pytest.raises(
        ValueError, match=rf"search 0 is of '{strategy}'.*Search with `monte-carlo`"
    ):
        step_labels([graded(tree, correct, strategy)], min_outcomes=1)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_labels_have_their_prefix_and_both_estimates(name: str):
    tree, correct, (first, second) = siblings((2, 8), (0, 8))
    assert is_independent(f"{name}:16")
    selected = step_labels([graded(tree, correct, f"{name}:16")], min_outcomes=8)
    labels = {label.node: label for label in selected.items}
    assert len(labels) == 1 + 2 + 16  # the prefix, the two steps, and the ends after them
    assert labels[first].steps == ("so\n", "2+2=4\n")
    assert (labels[first].value.soft, labels[first].value.hard) == (0.25, True)
    assert (labels[second].value.soft, labels[second].value.hard) == (0.0, False)
    assert not labels[first].is_end
    ends = [label for label in selected.items if label.is_end]
    assert sorted(label.value.soft for label in ends) == [0.0] * 14 + [1.0] * 2
    assert all(label.steps[-1].startswith("end") and label.value.n == 1 for label in ends)
    assert selected.left_out == {}


@settings(max_examples=100)
@given(searches(), st.integers(1, 3))
def test_labels_and_what_is_left_out_are_all_nodes(search: GradedSearch, min_outcomes: int):
    tree = search.record.tree
    search = graded(tree, dict(search.correct), "monte-carlo:4")
    selected = step_labels([search], min_outcomes=min_outcomes)
    assert len(selected.items) + sum(selected.left_out.values()) == len(tree) - 1
    for label in selected.items:
        assert "".join(label.steps) == tree.text(label.node)
        assert label.is_end or label.value.n >= min_outcomes
        assert not label.is_end or search.correct[label.node] is not None


def test_labels_without_outcomes_are_refused():
    with pytest.raises(ValueError, match="min_outcomes = 0"):
        step_labels([], min_outcomes=0)
