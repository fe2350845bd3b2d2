"""Tests for grpo/precision_preview/preview.py: texts, batches, and a whole preview."""

import json
from pathlib import Path

import pytest

from cotree.grpo.config_learner import Fp8Block
from cotree.grpo.precision_preview.preview import LossGap, Preview, preview, texts_of


def test_texts_come_from_rows_or_lines_or_are_worked_arithmetic(tiny_model: Path, tmp_path: Path):
    rows, lines = tmp_path / "rows.jsonl", tmp_path / "lines.txt"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("abc", "de", "f")))
    lines.write_text("abc\n\nde\nf\n")
    # A character a token; a single token predicts nothing.
    found = texts_of(str(tiny_model), rows, longest=100)
    assert [len(ids) for ids in found] == [3, 2]
    assert texts_of(str(tiny_model), lines, longest=100) == found
    assert texts_of(str(tiny_model), lines, longest=2)[0] == found[0][:2]
    solved = texts_of(str(tiny_model), None, longest=500, count=5)
    assert len(solved) == 5
    assert all(len(ids) > 20 for ids in solved)


def test_a_preview_measures_layers_the_loss_and_some_steps(tiny_model: Path):
    said: list[str] = []
    texts = texts_of(str(tiny_model), None, longest=128, count=60)
    found = preview(
        str(tiny_model),
        texts,
        precision=Fp8Block(),
        tokens=256,
        steps=4,
        learning_rate=1e-3,
        runs=2,
        tell=said.append,
    )
    assert 256 <= found.tokens < 256 + 128
    assert len(found.layers) == 14
    assert found.largest_step_gap is not None
    # Random weights over 128 tokens: a loss of some nats, the same to some per cent.
    assert found.loss.bfloat16 > 1
    assert 0 < abs(found.loss.relative) < 0.05
    first, second = found.trained
    assert first != second  # other batches
    for gap in found.trained:
        assert 0 < abs(gap.relative) <= found.largest_step_gap < 0.05
    assert said[1:] == [
        f"training, run {run} of 2: 4 steps in {name}"
        for run in (1, 2)
        for name in ("bfloat16", "fp8_block")
    ]


def test_without_steps_nothing_is_trained(tiny_model: Path):
    texts = texts_of(str(tiny_model), None, longest=64, count=3)
    found = preview(
        str(tiny_model),
        texts,
        precision=Fp8Block(scales="float32"),
        tokens=100,
        steps=0,
        learning_rate=1e-3,
        runs=1,
        tell=lambda _line: None,
    )
    assert (found.trained, found.largest_step_gap, found.estimate()) == ((), None, None)


def test_no_texts_are_an_error(tiny_model: Path):
    with pytest.raises(ValueError, match="no text of two tokens or more; give others"):
        preview(
            str(tiny_model),
            [],
            precision=Fp8Block(),
            tokens=100,
            steps=0,
            learning_rate=1e-3,
            runs=1,
            tell=lambda _line: None,
        )


def test_a_gap_is_relative_to_bfloat16():
    assert LossGap(bfloat16=2.0, low=1.99).relative == pytest.approx(-0.005)


def test_the_runs_gaps_have_a_mean_and_an_interval():
    def of(*lows: float) -> Preview:
        trained = tuple(LossGap(bfloat16=2.0, low=low) for low in lows)
        return Preview(10, (), trained[0], trained, 0.01)

    assert of(1.99).estimate() is None
    # Gaps of 0.1, 0.2 and 0.3 %: standard deviation 0.1 %, t with 2 degrees of freedom 4.303.
    value, low, high = of(2.002, 2.004, 2.006).estimate()
    assert value == pytest.approx(0.002)
    assert (low, high) == pytest.approx((0.002 - 0.002484, 0.002 + 0.002484), abs=1e-6)
