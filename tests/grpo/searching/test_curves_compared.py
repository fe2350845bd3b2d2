"""Tests for grpo/searching/curves_compared.py: runs on shared problems, and what is said."""

import json

import pytest

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.compare import holm
from cotree.grpo.searching.anytime import Anytime, Run
from cotree.grpo.searching.curves import Difference, paired_differences
from cotree.grpo.searching.curves_compared import (
    Comparison,
    compared,
    curves_json,
    headlines,
    p_text,
    plain_lines,
    signed,
)


def run(name: str, firsts: str, *, end: int = 64, **changes: object) -> Run:
    """One search a problem; digit k: right from 2^k tokens on, dash: never, dot: no problem."""
    problems = {
        f"{place:02}": [Anytime(end, () if first == "-" else ((2 ** int(first), True),))]
        for place, first in enumerate(firsts)
        if first != "."
    }
    return Run(name, problems, budget=end, **changes)


BASELINE = run("majority", "455-" * 5)
BETTER = run("mcts", "2345" * 5)
RUNS = (BASELINE, BETTER, run("short", "4-4-" * 5, end=32))


def comparison(*runs: Run, **changes: object) -> Comparison:
    settings = {"baseline": "majority", "oracles": {}, "parameters": None, "seed": 0}
    return compared(runs or RUNS, **{**settings, **changes})


def test_every_run_but_the_baseline_is_held_against_it():
    found = comparison()
    assert [one.name for one in found.runs] == ["majority", "mcts", "short"]
    assert [one.against is None for one in found.runs] == [True, False, False]
    against = found.runs[1].against
    assert against is not None
    (expected,) = paired_differences(BETTER, BASELINE, [16], seed=0)
    # The draws of a budget do not depend on the other budgets.
    assert against.at[16] == expected
    # At 16: right on 3 of 4 (4, 8 and 16 tokens) against 1 of 4.
    assert against.at[16].value == 0.5


def test_differences_go_as_far_as_both_runs_and_areas_as_far_as_all():
    found = comparison()
    assert (found.area_from, found.area_to) == (4, 32)
    ends = {one.name: (one.points[-1].budget, one.against) for one in found.runs}
    assert ends["majority"][0] == ends["mcts"][0] == 64
    assert ends["short"][0] == 32
    assert ends["short"][1] is not None
    assert max(ends["short"][1].at) == 32
    # Right at 32 tokens: 3 of 4, 4 of 4 and 2 of 4.
    assert [found.at_common_end(one).value for one in found.runs] == [0.75, 1.0, 0.5]


def test_problems_that_not_all_runs_have_are_left_out_of_all_curves():
    found = comparison(run("majority", "44--"), run("mcts", "2222."), run("other", ".4-45"))
    # Problems 1 to 3 are everywhere; 0 and 4 are not.
    assert (found.num_problems, found.num_left_out) == (3, 2)
    assert [one.points[-1].accuracy.value for one in found.runs] == [1 / 3, 1.0, 2 / 3]
    assert [one.num_searches for one in found.runs] == [3, 3, 3]


def test_the_p_values_of_areas_are_adjusted_for_the_number_of_runs():
    others = [one.against for one in comparison().runs[1:]]
    raw = [one.area.p_value for one in others if one]
    assert [one.area_p_adjusted for one in others if one] == holm(raw)
    assert holm(raw) != raw


def test_flops_are_known_where_parameters_and_prompts_are():
    read = run("mcts", "2222", prompt_tokens=36.0)
    found = comparison(run("majority", "4444"), read, parameters=5)
    assert [one.flops for one in found.runs] == [None, 1000.0]  # 2 * 5 * (64 + 36)
    assert [one.flops for one in comparison(run("majority", "4444"), read).runs] == [None, None]


def test_the_oracle_of_a_run_is_a_curve_of_its_own():
    found = comparison(oracles={"majority": run("majority", "3344" * 5)})
    oracle = found.runs[0].oracle
    assert oracle is not None
    assert {point.budget: point.accuracy.value for point in oracle}[8] == 0.5
    assert found.runs[1].oracle is None
    with pytest.raises(ConfigError, match="oracle of mcts lacks 18 of the shared problems"):
        comparison(oracles={"mcts": run("mcts", "22")})


@pytest.mark.parametrize(
    ("runs", "changes", "message"),
    [
        ((BASELINE, BETTER, BETTER), {}, r"two runs \['mcts'\]"),
        ((BETTER,), {}, r"no run \['majority'\]"),
        (RUNS, {"oracles": {"beam": BETTER}}, r"no run \['beam'\]"),
        ((BASELINE, run("tiny", "0" * 20, end=1)), {}, "budget of 1 tokens"),
        ((BASELINE, Run("else", {"z": [Anytime(9, ())]})), {}, "share no problem"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    runs: tuple[Run, ...], changes: dict[str, object], message: str
):
    with pytest.raises(ConfigError, match=message):
        comparison(*runs, **changes)


def test_the_json_has_stable_keys_and_no_infinity():
    found = json.loads(json.dumps(curves_json(comparison()), allow_nan=False))
    assert sorted(found) == [
        "area_from", "area_to", "baseline", "budgets", "num_left_out", "num_problems", "resamples",
        "runs",
    ]  # fmt: skip
    first, second, third = found["runs"]
    assert sorted(first) == [
        "against_baseline", "area", "end", "flops", "mean_spent", "name", "num_searches",
        "num_ungraded", "oracle", "points", "seconds",
    ]  # fmt: skip
    assert first["against_baseline"] is None
    assert sorted(second["points"][0]) == ["budget", "high", "low", "value"]
    against = second["against_baseline"]
    assert sorted(against) == ["area", "differences", "tokens"]
    assert sorted(against["differences"][0]) == [
        "budget", "high", "low", "num_better", "num_worse", "p_value", "value",
    ]  # fmt: skip
    assert "p_adjusted" in against["area"]
    # mcts is at 3/4, the baseline's best, from 16 tokens on; the baseline from 32.
    assert against["tokens"]["ratio"] == 0.5
    assert third["against_baseline"]["tokens"]["ratio"] is None


def test_headlines_say_how_many_tokens_a_run_needs_or_that_it_does_not_get_there():
    reached, not_reached = headlines(comparison())
    assert reached.startswith(
        "mcts reaches majority's best accuracy (75.0 %, at 32 tokens) with 0.50 of its tokens "
        "(95 % interval 0."
    )
    assert not_reached.startswith(
        "short does not reach majority's best accuracy (75.0 %, at 32 tokens) within its 32 "
        "tokens; in "
    )
    (never,) = headlines(comparison(run("majority", "----"), run("mcts", "2222")))
    assert never.endswith("majority is never right.")


def test_plain_lines_are_complete_without_each_other():
    first, second, *_ = plain_lines(comparison())
    assert first.startswith("majority: 75.0 % (")
    assert "right at 32 tokens a problem, 64 spent; area " in first
    assert "points" not in first
    assert "points against majority, p < 0.001" in second


def test_differences_are_written_in_points_with_their_sign():
    found = Difference(0.0416, -0.0004, 0.0861, 0.05, 3, 2)
    assert signed(found) == "+4.2 (0.0 to +8.6)"  # no -0.0
    assert [p_text(p) for p in (0.0001, 0.0123, 1.0)] == ["p < 0.001", "p = 0.012", "p = 1.000"]
