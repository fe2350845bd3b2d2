"""scripts/measure_fp8_loss.py: its models, its texts, and a measurement of two steps."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cotree.grpo.precision_preview.preview import LossGap

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_every_arm_is_trained_from_the_same_start():
    from measure_fp8_loss import ARMS, measured

    found = measured(3, steps=2, learning_rate=1e-3)
    assert found.keys() == ARMS.keys()
    # 97 characters and specials: random weights begin near ln 99 = 4.6, whatever the arithmetic.
    starts = [losses[0] for losses in found.values()]
    assert max(starts) - min(starts) < 0.05
    assert 4.0 < starts[0] < 5.5
    assert len(set(starts)) > 3  # they do differ in the last places
    assert found["bfloat16"] != found["nudged"]


def test_texts_are_pieces_of_one_length_in_the_seeds_order():
    from measure_fp8_loss import CHARACTERS, texts

    one, other = texts(0, count=40), texts(1, count=40)
    assert {len(text) for text in one} == {CHARACTERS}
    assert len(one) == 40
    assert one == texts(0, count=40)
    assert one != other


def test_a_nudge_changes_every_weight_a_little(tmp_path: Path):
    from measure_fp8_loss import NUDGE, nudge

    save_file({"w": torch.full((50, 40), 2.0)}, tmp_path / "w.safetensors")
    nudge(tmp_path / "w.safetensors", seed=0)
    change = load_file(tmp_path / "w.safetensors")["w"] / 2.0 - 1
    # 2,000 draws of a standard normal times 1e-4.
    assert float(change.std()) == pytest.approx(NUDGE, rel=0.1)
    assert int((change == 0).sum()) < 20


def test_a_row_has_the_mean_its_interval_and_the_extremes():
    from measure_fp8_loss import line

    gaps = [LossGap(bfloat16=2.0, low=low) for low in (2.002, 2.004, 2.006)]
    # Mean 0.2 %, standard deviation 0.1 %, t with 2 degrees of freedom 4.303: +- 0.248 %.
    assert line("arm", gaps) == ("arm: +0.20% (-0.05% to +0.45%), of single seeds +0.10% to +0.30%")


def test_more_steps_than_there_are_texts_for_are_refused():
    from measure_fp8_loss import TOKENS, step_batches

    encoded = [tuple(range(2, 258))] * 16  # 256 tokens each: two batches
    assert len(step_batches(encoded, steps=2)) == 16 * 256 // TOKENS == 2
    with pytest.raises(SystemExit, match="the texts last for 2; take fewer"):
        step_batches(encoded, steps=3)
