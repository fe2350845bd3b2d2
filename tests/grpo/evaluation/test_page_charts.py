"""Tests for grpo/evaluation/page_charts.py: where the points of pass@k and maj@k lie."""

import pytest
from evaluated import sampled, summary

from cotree.grpo.evaluation.page_charts import Chart, sampling_chart
from cotree.grpo.evaluation.records import Estimate


def chart(**changes: object) -> Chart:
    drawn = sampling_chart(sampled(**changes))
    assert drawn is not None
    return drawn


def test_one_point_is_no_curve():
    assert sampling_chart(summary()) is None
    once = {1: Estimate(0.25, 0.1, 0.4)}
    assert sampling_chart(sampled(pass_at=once, maj_at=once)) is None


def test_samples_are_on_a_logarithmic_axis():
    drawn = chart()
    one, two, four = (tick.at for tick in drawn.x_ticks)
    assert [tick.label for tick in drawn.x_ticks] == ["1", "2", "4"]
    assert two - one == pytest.approx(four - two)  # each doubling is as wide
    assert (one, four) == (drawn.left, drawn.right)


def test_the_vertical_axis_covers_the_intervals_in_steps_of_20_points():
    # The intervals of pass@k and maj@k go from 10 to 70 %.
    assert [tick.label for tick in chart().y_ticks] == ["0 %", "20 %", "40 %", "60 %", "80 %"]
    narrow = {k: Estimate(0.9, 0.85, 0.95) for k in (1, 2, 4)}
    labels = [tick.label for tick in chart(pass_at=narrow, maj_at=narrow).y_ticks]
    assert labels == ["80 %", "100 %"]
    full = {k: Estimate(1.0, 1.0, 1.0) for k in (1, 2, 4)}
    labels = [tick.label for tick in chart(pass_at=full, maj_at=full).y_ticks]
    assert labels == ["80 %", "100 %"]


def test_a_point_lies_at_its_share_of_the_height():
    drawn = chart()
    bottom, top = drawn.y_ticks[0].at, drawn.y_ticks[-1].at  # 0 and 80 %
    last_x, last_y = drawn.curves[0].dots[-1]
    assert last_x == drawn.right
    assert last_y == pytest.approx(bottom - (bottom - top) * 50 / 80, abs=0.1)  # pass@4 = 50 %
    assert drawn.curves[0].label == "pass@4"
    assert drawn.curves[0].value == "50.0 %"


def test_labels_of_close_curves_do_not_touch_and_stay_inside():
    close = {1: Estimate(0.0, 0.0, 0.1), 2: Estimate(0.0, 0.0, 0.1), 4: Estimate(0.01, 0.0, 0.1)}
    drawn = chart(pass_at=close, maj_at=close)
    ys = [curve.label_y for curve in drawn.curves]
    assert abs(ys[0] - ys[1]) >= 40
    assert max(ys) <= drawn.bottom


def test_a_curve_ends_where_enough_samples_were_graded():
    few = {1: Estimate(0.25, 0.1, 0.4), 2: Estimate(0.4, 0.2, 0.6)}
    drawn = chart(pass_at=few, maj_at=few)
    assert [tick.label for tick in drawn.x_ticks] == ["1", "2"]
    assert drawn.curves[0].label == "pass@2"
