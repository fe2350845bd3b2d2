"""Tests for grpo/distilling/offline.py: which texts are learned from."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from readers import BPE, CHARACTERS, reader

from cotree.grpo.config import Pipeline
from cotree.grpo.config_distill import ResidentTeacher, Selection
from cotree.grpo.config_file import ConfigError
from cotree.grpo.distilling.offline import (
    OfflineDistillation,
    refuse_other_tokenizer,
    selected_texts,
)
from cotree.grpo.distilling.view import TeacherView
from cotree.grpo.log import RunLog
from cotree.grpo.run_folder import RunFolder
from cotree.grpo.supervised import Example

EXAMPLES = [Example((5, 6), (7 + number, 1)) for number in range(12)]


class Measured:
    """A student whose entropy on a text is its last number, and whose gradient is the opposite."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, examples: Sequence[Example]) -> tuple[list[float], list[float]]:
        self.times += 1
        entropies = [float(one.completion_ids[0]) for one in examples]
        return entropies, [-entropy for entropy in entropies]


def chosen(
    path: Path,
    measure: Measured,
    *,
    examples: Sequence[Example] = EXAMPLES,
    seed: int = 0,
    **settings: object,
) -> list[int]:
    selection = Selection(share=0.25, **settings)
    return selected_texts(examples, selection, path, seed=seed, measure=measure)


def test_the_texts_of_the_highest_value_are_kept_in_the_order_of_the_corpus(tmp_path: Path):
    shuffled = random.Random(0).sample(EXAMPLES, len(EXAMPLES))
    kept = chosen(tmp_path / "v.json", Measured(), examples=shuffled, entropy_weight=0.9)
    assert kept == sorted(shuffled.index(one) for one in EXAMPLES[-3:])
    by_gradient = chosen(tmp_path / "v.json", Measured(), examples=shuffled, entropy_weight=0.1)
    assert by_gradient == sorted(shuffled.index(one) for one in EXAMPLES[:3])


def test_values_are_measured_once_and_kept(tmp_path: Path):
    path, measure = tmp_path / "corpus" / "values.json", Measured()
    first = chosen(path, measure)
    kept = path.read_bytes()
    assert json.loads(kept)["entropy"] == [float(7 + number) for number in range(12)]
    assert chosen(path, measure) == first
    # Another share or weight is another choice among the same values.
    assert len(chosen(path, measure, entropy_weight=0.2)) == 3
    assert measure.times == 1
    assert path.read_bytes() == kept


def test_values_of_other_texts_are_measured_again(tmp_path: Path):
    path, measure = tmp_path / "values.json", Measured()
    chosen(path, measure)
    assert chosen(path, measure, examples=EXAMPLES[::-1]) == [0, 1, 2]
    assert measure.times == 2


def test_the_random_control_is_as_large_and_measures_nothing(tmp_path: Path):
    path, measure = tmp_path / "values.json", Measured()
    controls = [chosen(path, measure, by="random", seed=seed) for seed in range(20)]
    assert {len(control) for control in controls} == {len(chosen(path, Measured()))}
    assert all(control == sorted(set(control)) for control in controls)
    assert controls[0] == chosen(path, measure, by="random", seed=0)
    assert len({tuple(control) for control in controls}) > 1
    assert measure.times == 0


def test_a_teacher_in_the_learner_needs_the_students_tokenizer():
    teacher = ResidentTeacher(type="resident", path="big")
    same = TeacherView(reader(BPE), reader(BPE), max_tokens=9)
    refuse_other_tokenizer(same, teacher)
    other = TeacherView(reader(BPE), reader(CHARACTERS), max_tokens=9)
    with pytest.raises(ConfigError, match="teacher big has another tokenizer than the student"):
        refuse_other_tokenizer(other, teacher)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(400)
def test_a_run_measures_its_texts_once_and_learns_from_their_share(
    tiny_model: Path, tmp_path: Path
):
    pipeline = Pipeline.model_validate(
        {
            "output_dir": str(tmp_path),
            "model": {"type": "pretrained", "path": str(tiny_model)},
            "task": {"type": "arithmetic", "num_train": 40, "num_test": 8},
            "distill": {
                "type": "traces",
                "corpus": {"type": "generated"},
                "selection": {"share": 0.1},
                "num_steps": 2,
                "sequences_per_step": 4,
                "optimizer": {"learning_rate": 1e-3},
            },
        }
    )
    folder = RunFolder(tmp_path / "distill")

    def log() -> RunLog:
        return RunLog(folder, num_steps=2, json_lines=True, trackers=())

    def run(*, resume: bool) -> Path:
        stage = OfflineDistillation(pipeline, pipeline.distill, folder, (str(tiny_model), None))
        return stage.run(resume=resume, log=log)

    model = run(resume=False)
    values = tmp_path / "distill" / "corpus" / "values.json"
    found = json.loads(values.read_text())
    assert len(found["entropy"]) == len(found["gradient_norm"]) == 40
    assert min(found["entropy"] + found["gradient_norm"]) > 0
    weights = (model / "model.safetensors").read_bytes()
    written = values.stat().st_mtime_ns
    assert (run(resume=True) / "model.safetensors").read_bytes() == weights
    assert values.stat().st_mtime_ns == written
    # The texts that are worth less have no part in it: each step has all 4 that are left.
    steps = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert len({step["tokens"] for step in steps}) == 1
