"""Tests for search/votes.py, on answers and trees written down here."""

import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from cotree.search.strategies import Majority, WeightedMajority
from cotree.search.strategy import Candidate
from cotree.search.tree import ROOT, Tree
from cotree.search.types import Job, Reply, Step, StepEnd
from cotree.search.votes import best_scored, may_vote, voted, voters, winner


def grown(completions: Sequence[tuple[str | None, float, StepEnd]]) -> Tree:
    """A tree of one-step completions; those with equal answers, scores and ends are one leaf."""
    tree = Tree()
    for number, (answer, score, end) in enumerate(completions):
        tokens = tuple(f"{answer} {score} {end}".encode())
        reply = Reply(number, (Step(tokens, (), "", end),), answer, score)
        tree.grow(Job(number, ROOT, number, "rollout"), reply)
    return tree


def test_the_heaviest_class_wins():
    # 3 has 0.9, one half 0.4 + 0.6 = 1 in two notations.
    assert winner(["3", "0.5", r"\frac{1}{2}"], [0.9, 0.4, 0.6]) in (1, 2)
    assert winner(["3", "0.5", r"\frac{1}{2}"], [1.1, 0.4, 0.6]) == 0


def test_a_tie_goes_to_the_class_whose_first_member_comes_first():
    assert winner(["5", "4", "4", "5"], [1.0] * 4) == 0
    # By code points the class of 4 is opened first; 0.1 + 0.2 against 0.2 + 0.1 is a tie too.
    assert winner(["5", "4", "4", "5"], [0.1, 0.2, 0.1, 0.2]) == 3


def test_the_heaviest_member_with_the_commonest_text_speaks_for_a_class():
    answers = ["0.5", r"\frac{1}{2}", "0.5", "0.5"]
    assert winner(answers, [0.5, 0.9, 0.7, 0.7]) == 2


def test_what_weighs_nothing_votes_only_where_nothing_weighs_more():
    assert winner(["5", "5", "4"], [0.0, 0.0, 0.1]) == 2
    assert winner(["5", "4", "4"], [0.0, 0.0, 0.0]) == 1
    # A weight without an answer is no vote.
    assert winner([None, "4"], [1.0, 0.0]) == 1


def test_nobody_may_vote():
    assert winner([], []) is None
    assert winner([None, None], [1.0, 1.0]) is None


@given(st.lists(st.sampled_from(["1", "2", "3", None]), max_size=6), st.floats(0.01, 100.0))
def test_only_the_ratio_of_weights_matters(answers: list[str | None], factor: float):
    ones = [1.0] * len(answers)
    assert winner(answers, ones) == winner(answers, [factor] * len(answers))


def test_a_leaf_that_was_drawn_twice_votes_twice():
    tree = grown([("5", 1.0, "stop"), ("4", 0.4, "stop"), ("4", 0.4, "stop")])
    assert len(list(tree.leaves())) == 2
    by_count, by_score = voted(voters(tree), "count"), voted(voters(tree), "score")
    assert by_count is not None
    assert by_score is not None
    assert tree[by_count].answer == "4"  # 2 votes to 1
    assert tree[by_score].answer == "5"  # 1.0 to 2 * 0.4


def test_visits_count_every_draw_already():
    tree = grown([("5", 1.0, "stop"), ("4", 0.4, "stop"), ("4", 0.4, "stop")])
    five, four = voters(tree)
    five.visits, four.visits = 3, 2
    assert voted([five, four], "visits") == five.id  # 3 to 2, not 3 to 2 * 2


def test_what_was_cut_goes_on_or_has_no_answer_never_votes():
    tree = grown(
        [("5", 1.0, "length"), ("5", 1.0, "boundary"), (None, 1.0, "stop"), ("4", 0.0, "stop")]
    )
    assert [may_vote(tree[node]) for node in range(1, 5)] == [False, False, False, True]
    assert voted([tree[node] for node in range(5)], "score") == 4
    assert voters(grown([("5", 1.0, "length")])) == []
    assert voted([], "count") is None


def test_the_best_scored_are_all_with_the_highest_score():
    leaves = voters(grown([("5", 0.5, "stop"), ("4", 0.9, "stop"), ("3", 0.9, "stop")]))
    assert [leaf.answer for leaf in best_scored(leaves)] == ["4", "3"]
    assert best_scored([]) == []


completions = st.lists(
    st.tuples(
        st.sampled_from(["1", "2", r"\frac{1}{2}", "0.5", None]),
        st.sampled_from([0.0, 0.25, 1.0]),
        st.sampled_from(("stop", "length")),
    ),
    min_size=1,
    max_size=6,
)


@given(completions)
def test_a_tree_and_a_list_of_completions_have_one_vote(
    told: list[tuple[str | None, float, StepEnd]],
):
    tree = grown(told)
    as_candidates = [
        Candidate("", a, 1, e == "stop", is_refuted=False, score=s) for a, s, e in told
    ]
    pairs = (("count", Majority(len(told))), ("score", WeightedMajority(len(told))))
    for weight, strategy in pairs:
        strategy.tell(as_candidates)
        chosen, won = strategy.best(), voted(voters(tree), weight)
        if won is None:
            assert chosen is as_candidates[0]  # nobody votes
        else:
            assert tree[won].answer == chosen.answer


@given(completions)
def test_the_order_in_which_leaves_join_does_not_matter(
    told: list[tuple[str | None, float, StepEnd]],
):
    found: set[str | None] = set()
    for order in itertools.islice(itertools.permutations(range(len(told))), 24):
        tree = Tree()
        for number in order:
            answer, score, end = told[number]
            # All differ, as long texts do.
            reply = Reply(number, (Step((number,), (), "", end),), answer, score)
            tree.grow(Job(number, ROOT, number, "rollout"), reply)
        won = voted(voters(tree), "score")
        found.add(None if won is None else str(tree[won].key))
    assert len(found) == 1
