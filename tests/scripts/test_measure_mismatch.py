"""scripts/measure_mismatch.py: its figures, on gaps that are known."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def figures(gaps: list[list[torch.Tensor]]) -> dict[str, Any]:
    from measure_mismatch import summary

    return summary(gaps, seed=0)


def test_figures_are_of_tokens_and_of_whole_completions():
    found = figures([[torch.tensor([0.1, -0.3])], [torch.tensor([0.2])]])
    assert (found["problems"], found["completions"], found["tokens"]) == (2, 2, 3)
    assert found["mean"]["value"] == pytest.approx(0.2)
    assert found["max"]["value"] == pytest.approx(0.3)
    # k3 of a gap d = log p_engine - log p_reference: exp(-d) - 1 + d.
    k3 = sum(math.exp(-d) - 1 + d for d in (0.1, -0.3, 0.2)) / 3
    assert found["k3"]["value"] == pytest.approx(k3, rel=1e-4)
    # Completions: gaps of -0.2 and 0.2, so that ratios are exp(0.2) and exp(-0.2).
    ratio = (math.exp(0.2) - 1 + 1 - math.exp(-0.2)) / 2
    assert found["ratio"]["value"] == pytest.approx(ratio, rel=1e-4)


def test_intervals_hold_the_value_and_are_narrower_with_more_problems():
    few = figures([[torch.tensor([0.1 * (i % 4)])] for i in range(8)])["mean"]
    many = figures([[torch.tensor([0.1 * (i % 4)])] for i in range(200)])["mean"]
    assert few["low"] < few["value"] < few["high"]
    assert many["high"] - many["low"] < (few["high"] - few["low"]) / 3  # 1 / sqrt(25) = 1 / 5
