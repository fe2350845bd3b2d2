"""Tests for search/trees/mcts.py, on replies written down here."""

from typing import Any

import pytest

from cotree.rewards.types import Verdict
from cotree.search.tree import ROOT
from cotree.search.trees.mcts import Mcts, MctsSettings
from cotree.search.types import Job, Reply, Step, StepEnd


def step(
    token: int, end: StepEnd = "boundary", *, refuted: bool = False, logprob: float = -0.5
) -> Step:
    verdict = Verdict.REFUTED if refuted else Verdict.UNCHECKED
    return Step((token,), (logprob,), f"{token} ", end, verdict)


def tell(strategy: Mcts, steps: list[Step], score: float, answer: str | None = None) -> Job:
    """Asks for one job and answers it."""
    (job,) = strategy.ask(1)
    strategy.tell(Reply(job.number, tuple(steps), answer, score))
    return job


def mcts(**settings: Any) -> Mcts:
    return Mcts(MctsSettings(**settings), seed=0)


def test_one_rollout_is_backed_up_through_all_of_its_steps():
    strategy = mcts()
    tell(strategy, [step(1), step(2), step(3, "stop")], 0.75, "x")
    assert [(node.visits, node.value_sum) for node in strategy.tree.nodes] == [(1, 0.75)] * 4
    assert [node.prior for node in strategy.tree.nodes] == [None, 1.0, 1.0, 1.0]
    assert strategy.best() == 3


def test_a_batch_at_an_empty_root_goes_to_the_root():
    jobs = mcts(stops_when_refuted=True).ask(5)
    assert jobs == [Job(i, ROOT, i, "rollout", stops_when_refuted=True) for i in range(5)]


def test_widening_alternates_with_descent_as_the_square_root_says():
    # Each reply is two steps, the second ends it. Drawn children of the root allowed: 1, 2 2 2,
    # 3 3 3 3 3, ... for N = 1, 2 3 4, 5 ..., so the root draws at N = 0, 1 (before the second), 4
    # and 9. In between a child is chosen, which has no child that can be continued.
    strategy, at_root = mcts(), list[int]()
    for n in range(12):
        job = tell(strategy, [step(n), step(100 + n, "stop")] if n == 0 else [step(n)], 0.5)
        if job.node == ROOT:
            at_root.append(n)
    assert at_root == [0, 2, 5, 10]


def test_jobs_under_way_count_as_children_that_are_being_drawn():
    # One child, N = 1: with k jobs asked for, N + O = 1 + k allows ceil(sqrt(1 + k)) children,
    # and each job at the root is one: the 1st goes below, then ceil(sqrt 2) = 2 > 1 at the root,
    # 2 and 3 below, ceil(sqrt 5) = 3 > 2 at the root.
    strategy = mcts()
    tell(strategy, [step(1), step(2, "stop")], 1.0, "x")
    assert [job.node for job in strategy.ask(5)] == [1, 0, 1, 1, 0]
    naive = mcts(parallel="none")
    tell(naive, [step(1), step(2, "stop")], 1.0, "x")
    assert [job.node for job in naive.ask(5)] == [1] * 5


def test_a_refuted_step_counts_nothing_and_is_never_continued():
    strategy = mcts(stops_when_refuted=True)
    tell(strategy, [step(1), step(2, refuted=True)], 0.9)
    assert [node.value_sum for node in strategy.tree.nodes] == [0.0] * 3
    # Node 1 has no live child, so it widens whatever its width is; node 2 is dead.
    for n in range(3, 40):
        job = tell(strategy, [step(n, refuted=True)], 0.9)
        assert job.node in (ROOT, 1)
    assert strategy.tree[1].visits > 10
    assert strategy.best() is None


def test_an_unfinished_sibling_of_a_finished_step_is_kept():
    # Two draws a node. The root's: step 1 and a dead one. Those of step 1: an end of score 0.6,
    # and step 4, which goes on and has 0.5. There is the next simulation, and not at the end.
    strategy = mcts(kappa=2.0, alpha=0.0, exploration=0.01)
    tell(strategy, [step(1), step(2, "stop")], 0.6, "x")
    assert tell(strategy, [step(3, refuted=True)], 0.0).node == ROOT
    assert tell(strategy, [step(4), step(5, "stop")], 0.5, "y").node == 1
    (job,) = strategy.ask(1)
    assert strategy.tree.token_ids(job.node) == (1, 4)


def test_priors_are_shares_of_draws_whatever_the_log_probabilities():
    # The first step is e^10 times as likely per token as the second, and as often drawn.
    strategy = mcts(kappa=9.0)
    tell(strategy, [step(1, logprob=-0.1), step(9, "stop")], 0.5)
    tell(strategy, [step(2, logprob=-10.1), step(9, "stop")], 0.5)
    assert [child.prior for child in strategy.tree.children(ROOT)] == [0.5, 0.5]
    tell(strategy, [step(2), step(8, "stop")], 0.5)
    assert [child.prior for child in strategy.tree.children(ROOT)] == [1 / 3, 2 / 3]
    assert strategy.tree[3].count == 2


def test_a_policy_that_always_says_the_same_is_not_drawn_from_for_ever():
    # Draws are counted, not distinct children: otherwise the root would never have its second.
    strategy = mcts()
    for _ in range(30):
        (job,) = strategy.ask(1)
        depth = strategy.tree[job.node].depth
        chain = [step(n) for n in range(depth, 3)] + [step(3, "stop")]
        strategy.tell(Reply(job.number, tuple(chain), "x", 1.0))
    assert len(strategy.tree) == 5
    assert strategy.tree[ROOT].draws < 10
    assert strategy.tree[4].visits == strategy.tree[4].count == 30


def test_the_maximum_may_be_backed_up_instead_of_the_mean():
    # Step 1 leads to 0.9 and then to 0.1 (mean 0.5), step 2 to 0.6 twice.
    chosen = dict[str, int]()
    for backup in ("mean", "max"):
        strategy = mcts(backup=backup, exploration=1e-6, kappa=2.0, alpha=0.0)
        tell(strategy, [step(1), step(11, "stop")], 0.9)
        tell(strategy, [step(2), step(12, "stop")], 0.6)
        tell(strategy, [step(13, "stop")], 0.1)
        chosen[backup] = strategy.ask(1)[0].node
    assert chosen == {"mean": 3, "max": 1}


# --- which answer --------------------------------------------------------------------------------


def voters(select: str) -> Mcts:
    """Answer x once with score 0.9; y twice with 0.4, once as 2/4; z thrice with 0.2."""
    strategy = mcts(select=select, kappa=99.0)
    ends = [("z", 0.2), ("1/2", 0.4), ("x", 0.9), ("2/4", 0.5), ("z", 0.2), ("z", 0.2)]
    for n, (answer, score) in enumerate(ends):
        tell(strategy, [step(n, "stop")], score, answer)
    return strategy


@pytest.mark.parametrize(("select", "answers"), [("value", {"x"}), ("visits", {"z"})])
def test_the_answer_of_the_highest_score_or_of_most_rollouts(select: str, answers: set[str]):
    strategy = voters(select)
    best = strategy.best()
    assert best is not None
    assert strategy.tree[best].answer in answers


def test_by_default_scores_are_votes_and_equal_answers_vote_together():
    # x has 0.9, z 0.6; one half has 0.4 + 0.5 = 0.9 and more with one tenth.
    strategy = voters("vote")
    tell(strategy, [step(50, "stop")], 0.1, "0.5")
    best = strategy.best()
    assert best is not None
    assert strategy.tree[best].answer in ("1/2", "2/4", "0.5")


def test_a_refuted_completion_is_preferred_to_none_only():
    strategy = mcts()
    assert strategy.best() is None
    tell(strategy, [step(1, refuted=True), step(2, "stop")], 0.0, "x")
    assert strategy.best() == 2
    tell(strategy, [step(3), step(4, "length")], 0.0)
    assert strategy.best() == 2
    tell(strategy, [step(5, "stop")], 0.0, "y")
    best = strategy.best()
    assert best is not None
    assert strategy.tree[best].answer == "y"


# --- when it is done -----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["puct", "uct", "gumbel"])
@pytest.mark.parametrize("batch", [1, 3, 50])
def test_a_number_of_simulations_ends_it(rule: str, batch: int):
    strategy, asked = mcts(rule=rule, simulations=17), 0
    while jobs := strategy.ask(batch):
        assert not strategy.is_done
        for job in jobs:
            strategy.tell(Reply(job.number, (step(job.number), step(99, "stop")), "x", 1.0))
        asked += len(jobs)
    assert asked == strategy.tree[ROOT].visits == 17
    assert strategy.is_done


def test_gumbel_halves_the_root_among_its_first_draws():
    # 4 of 20 simulations draw; 4 more are one each for all, 20 // (2 * 4) = 2 with the draw; 12 are
    # for two: 8, 8, 2, 2 visits.
    strategy = mcts(rule="gumbel", simulations=20, considered=4)
    tree = strategy.tree
    while jobs := strategy.ask(16):
        for job in jobs:
            first = tree.path(job.node)[1] if job.node != ROOT else None
            good = (
                job.number in (1, 2) if first is None else tree[first].step.token_ids[0] in (1, 2)
            )
            chain = (step(job.number), step(99, "stop"))
            strategy.tell(Reply(job.number, chain, "x", float(good)))
    visits = {child.step.token_ids[0]: child.visits for child in tree.children(ROOT)}
    assert visits == {0: 2, 1: 8, 2: 8, 3: 2}


def test_gumbel_shares_visits_out_by_the_policy_below_the_root():
    # Two draws a node. After step 1, steps 2 and 4 of equal priors and values: they take turns.
    strategy = mcts(rule="gumbel", simulations=22, considered=1, kappa=2.0, alpha=0.0)
    tell(strategy, [step(1), step(2), step(3, "stop")], 0.5, "x")
    tell(strategy, [step(4), step(5, "stop")], 0.5, "x")
    for n in range(20):
        tell(strategy, [step(100 + n, "stop")], 0.5, "x")
    assert [child.visits for child in strategy.tree.children(1)] == [11, 11]


def test_gumbel_draws_again_where_all_draws_are_refuted():
    strategy = mcts(rule="gumbel", simulations=8, considered=2)
    for job in strategy.ask(8):
        strategy.tell(Reply(job.number, (step(job.number, refuted=True),), None, 0.0))
    assert [job.node for job in strategy.ask(8)] == [ROOT]  # one, whose reply has to be waited for
    strategy.tell(Reply(2, (step(5), step(6, "stop")), "x", 1.0))
    assert len(strategy.ask(8)) == 5


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"exploration": 0.0}, "must be above 0"),
        ({"kappa": 0.0}, "kappa must be above 0"),
        ({"alpha": 1.5}, r"alpha in \[0, 1\]"),
        ({"simulations": 0}, "give 1 up"),
        ({"considered": 4}, "has no effect with rule 'puct'"),
        ({"rule": "gumbel"}, "set it"),
        ({"rule": "gumbel", "simulations": 8, "exploration": 1.0}, "has no effect"),
        ({"rule": "gumbel", "simulations": 8, "considered": 9}, "from 1 to their number"),
    ],
)
def test_settings_out_of_range_or_without_effect_are_refused(
    settings: dict[str, Any], complaint: str
):
    with pytest.raises(ValueError, match=complaint):
        MctsSettings(**settings)
