"""Tests for search/selection.py: sequences of choices against the formulas, written out again."""

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.search.selection import (
    may_widen,
    mean_values,
    puct,
    sampled_priors,
    softmax,
    uct,
    with_virtual_losses,
    wu_uct,
)

REWARDS = (0.9, 0.6, 0.3)  # of three arms, the same at each visit
PRIORS = (0.2, 0.3, 0.5)
Rule = Callable[[Sequence[int], Sequence[float], Sequence[int]], list[float]]


def choices(rule: Rule, num: int, batch: int) -> str:
    """Arms that a rule chooses, `batch` before any of them reports. Ties go to the first arm."""
    visits, sums, chosen = [0, 0, 0], [0.0, 0.0, 0.0], ""
    while len(chosen) < num:
        inflight = [0, 0, 0]
        for _ in range(batch):
            scores = rule(visits, sums, inflight)
            arm = scores.index(max(scores))
            inflight[arm] += 1
            chosen += "abc"[arm]
        for arm, jobs in enumerate(inflight):
            visits[arm] += jobs
            sums[arm] += jobs * REWARDS[arm]
    return chosen


def brute_force(bound: Callable[[int, int, float, int, int, int, float], float]) -> Rule:
    """A rule from a formula of one arm: n, o, w, of all arms N, J, and the arm's number and prior.

    An arm without a visit or a job comes first, by a number that no formula reaches.
    """

    def rule(visits: Sequence[int], sums: Sequence[float], inflight: Sequence[int]) -> list[float]:
        n, o = sum(visits), sum(inflight)
        return [
            bound(visits[a], inflight[a], sums[a], n, o, a, PRIORS[a]) for a in range(len(visits))
        ]

    return rule


def ours_uct(visits: Sequence[int], sums: Sequence[float], _: Sequence[int]) -> list[float]:
    return uct(visits, mean_values(visits, sums, unvisited=0.0), c=0.5)


def ours_puct(visits: Sequence[int], sums: Sequence[float], _: Sequence[int]) -> list[float]:
    return puct(visits, mean_values(visits, sums, unvisited=0.5), PRIORS, c1=1.25, c2=19652.0)


def ours_wu(visits: Sequence[int], sums: Sequence[float], inflight: Sequence[int]) -> list[float]:
    return wu_uct(visits, mean_values(visits, sums, unvisited=0.5), inflight, c=0.5)


def ours_losses(
    visits: Sequence[int], sums: Sequence[float], inflight: Sequence[int]
) -> list[float]:
    counts, qvalues = with_virtual_losses(visits, sums, inflight, losses=1.0, unvisited=0.5)
    return uct(counts, qvalues, c=0.5)


THEIRS: dict[str, Rule] = {
    "uct": brute_force(
        lambda n, _o, w, N, _O, _a, _p: w / n + 0.5 * (math.log(N) / n) ** 0.5 if n else 1e9
    ),
    "puct": brute_force(
        lambda n, _o, w, N, _O, _a, p: (
            (w / n if n else 0.5)
            + (1.25 + math.log((N + 19653.0) / 19652.0)) * p * max(1, N) ** 0.5 / (n + 1)
        )
    ),
    "wu": brute_force(
        lambda n, o, w, N, J, _a, _p: (
            (w / n if n else 0.5) + 0.5 * (2 * math.log(N + J) / (n + o)) ** 0.5 if n + o else 1e9
        )
    ),
    "losses": brute_force(
        lambda n, o, w, N, J, _a, _p: (
            w / (n + o) + 0.5 * (math.log(N + J) / (n + o)) ** 0.5 if n + o else 1e9
        )
    ),
}
OURS: dict[str, Rule] = {
    "uct": ours_uct,
    "puct": ours_puct,
    "wu": ours_wu,
    "losses": ours_losses,
}


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("batch", [1, 4])
def test_choices_are_those_of_the_formula_written_out_again(name: str, batch: int):
    assert choices(OURS[name], 40, batch) == choices(THEIRS[name], 40, batch)


def test_the_first_choices_of_uct_are_those_worked_out_by_hand():
    # c = 0.5. Each arm once: abc. Then ln N = ln 3 = 1.099 adds 0.5 * 1.048 to all: a, 1.424.
    # N = 4: ln 4 = 1.386; a 0.9 + 0.5 * sqrt(1.386 / 2) = 1.316, b 0.6 + 0.5 * 1.177 = 1.189: a.
    # N = 5: ln 5 = 1.609; a 0.9 + 0.5 * sqrt(1.609 / 3) = 1.266, b 0.6 + 0.5 * 1.269 = 1.234: a.
    # N = 6: ln 6 = 1.792; a 0.9 + 0.5 * sqrt(1.792 / 4) = 1.235, b 0.6 + 0.5 * 1.339 = 1.269: b.
    # N = 7: ln 7 = 1.946; a 0.9 + 0.5 * sqrt(1.946 / 4) = 1.249, b 0.6 + 0.5 * 0.986 = 1.093: a.
    assert choices(ours_uct, 8, 1) == "abcaaaba"


def test_the_first_choices_of_puct_are_those_worked_out_by_hand():
    # c(N) = 1.25 to three digits. N = 0: sqrt(max(1, 0)) = 1; 0.5 + 1.25 * P: the prior decides, c.
    # N = 1: c is worth 0.3 + 1.25 * 0.5 / 2 = 0.613; b 0.5 + 1.25 * 0.3 = 0.875: b.
    # N = 2, sqrt 1.414: a 0.5 + 1.25 * 0.2 * 1.414 = 0.854; b 0.6 + 0.265 = 0.865;
    # c 0.3 + 0.442 = 0.742: b.
    # N = 3, sqrt 1.732: a 0.5 + 0.433 = 0.933; b 0.6 + 1.25 * 0.3 * 1.732 / 3 = 0.817: a.
    # N = 4, sqrt 2: a 0.9 + 1.25 * 0.2 * 2 / 2 = 1.150; b 0.6 + 0.25 = 0.85; c 0.3 + 0.625: a.
    assert choices(ours_puct, 5, 1) == "cbbaa"


def test_jobs_in_flight_spread_a_batch_without_changing_values():
    # N = 2 each, Q = .9, .6, .3, c = 0.5, so sqrt(2) c = 0.707. ln 6 = 1.792:
    # a 0.9 + 0.707 * sqrt(1.792 / 2) = 1.569. With 1 in flight, ln 7 = 1.946:
    # a 0.9 + 0.707 * sqrt(1.946 / 3) = 1.469. b 0.6 + 0.707 * sqrt(1.946 / 2) = 1.297.
    visits, qvalues = [2, 2, 2], [0.9, 0.6, 0.3]
    assert wu_uct(visits, qvalues, [0, 0, 0], c=0.5)[0] == pytest.approx(1.569, abs=1e-3)
    busy = wu_uct(visits, qvalues, [1, 0, 0], c=0.5)
    assert busy[:2] == pytest.approx([1.469, 1.297], abs=1e-3)
    # A virtual loss takes a third of the value as well: Q' = 1.8 / 3.
    counts, lost = with_virtual_losses(visits, [1.8, 1.2, 0.6], [1, 0, 0], losses=1, unvisited=0.0)
    assert counts == [3, 2, 2]
    assert lost == pytest.approx([0.6, 0.6, 0.3])


counts = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9), st.floats(0, 1)), min_size=2)


@given(counts, st.floats(0.1, 3))
def test_nothing_in_flight_is_plain_selection(arms: list[tuple[int, int, float]], c: float):
    visits = [n for n, _, _ in arms]
    sums = [n * q for n, _, q in arms]
    idle = [0] * len(arms)
    qvalues = mean_values(visits, sums, unvisited=0.0)
    plain = uct(visits, qvalues, c=c)
    assert wu_uct(visits, qvalues, idle, c=c / math.sqrt(2)) == pytest.approx(plain)
    lost = with_virtual_losses(visits, sums, idle, losses=3.0, unvisited=0.0)
    assert lost == (visits, qvalues)


@given(counts)
def test_a_job_in_flight_never_makes_its_child_more_attractive(arms: list[tuple[int, int, float]]):
    visits, inflight = [n for n, _, _ in arms], [o for _, o, _ in arms]
    qvalues = [q for _, _, q in arms]
    more = [inflight[0] + 1, *inflight[1:]]
    before, after = (wu_uct(visits, qvalues, jobs, c=1.0) for jobs in (inflight, more))
    # Measured against any sibling: ln(N + O) grows for all of them. ln(x) / x falls from x = e on.
    if visits[0] + inflight[0] >= 3:
        assert after[0] - after[1] <= before[0] - before[1] + 1e-12


def test_a_child_without_a_visit_comes_before_any_other_in_uct():
    assert uct([5, 0], [1.0, 0.0], c=0.01)[1] == math.inf
    assert wu_uct([5, 0], [1.0, 0.0], [0, 0], c=0.01)[1] == math.inf
    assert wu_uct([5, 0], [1.0, 0.0], [0, 1], c=0.01)[1] < math.inf


def test_a_child_without_a_visit_is_explored_in_puct():
    # Without a prior, or with Q = 0 and sqrt(0), such a child would never be tried again.
    first, second = puct([100, 0], [0.5, 0.5], [0.5, 0.5], c1=1.25, c2=19652.0)
    # 0.5 + c * 0.5 * 10 against 0.5 + c * 0.5 * 10 / 101, c = 1.25 + ln(19753 / 19652).
    assert second - 0.5 == pytest.approx(101 * (first - 0.5))
    assert second == pytest.approx(0.5 + (1.25 + math.log(19753 / 19652)) * 5)


def test_priors_break_the_first_tie():
    scores = puct([0, 0, 0], [0.0] * 3, PRIORS, c1=1.25, c2=19652.0)
    assert scores == sorted(scores)
    assert scores[0] < scores[2]


def test_priors_of_drawn_children_are_shares_of_draws():
    assert sampled_priors([3, 1]) == [0.75, 0.25]
    # Drawn from beta: 3 * 0.5 = 1.5 against 1 * 1.5.
    assert sampled_priors([3, 1], [0.5, 1.5]) == [0.5, 0.5]
    assert sampled_priors([]) == []


@pytest.mark.parametrize(("counts", "ratios"), [([0, 1], None), ([1, 1], [1.0, 0.0])])
def test_priors_of_what_was_never_drawn_are_refused(counts: list[int], ratios: list[float] | None):
    with pytest.raises(ValueError, match="count each child once a draw"):
        sampled_priors(counts, ratios)


def test_a_node_widens_as_the_square_root_of_its_visits():
    # The k-th child is allowed from N = (k - 1)^2 + 1 on: ceil(sqrt N) = 1, 2 2 2, 3 3 3 3 3, 4.
    allowed = [
        next(k for k in range(99) if not may_widen(k, n, kappa=1.0, alpha=0.5)) for n in range(11)
    ]
    assert allowed == [0, 1, 2, 2, 2, 3, 3, 3, 3, 3, 4]
    assert may_widen(2, 100, kappa=2.5, alpha=0.0)
    assert not may_widen(3, 100, kappa=2.5, alpha=0.0)


@given(st.lists(st.floats(-800, 800), min_size=1, max_size=9), st.floats(-50, 50))
def test_softmax_ignores_a_shift_and_sums_to_one(logits: list[float], shift: float):
    shares = softmax(logits)
    assert sum(shares) == pytest.approx(1.0)
    assert softmax([one + shift for one in logits]) == pytest.approx(shares, abs=1e-9)
