"""Tests for grpo/supervised.py: the data without Ray, then real cold starts on a real actor."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from transformers import AutoTokenizer

from cotree.grpo.config import Pipeline
from cotree.grpo.countdown import read_question
from cotree.grpo.models import load_model
from cotree.grpo.supervised import Example, base_model, load_examples, run_sft, sft_batch
from cotree.rewards.steps.countdown import countdown
from cotree.rewards.types import Problem


def _pipeline(folder: Path, *, num_steps: int = 4, max_positions: int = 128) -> Pipeline:
    return Pipeline.model_validate(
        {
            "output_dir": str(folder),
            "model": {
                "type": "new",
                "layers": 1,
                "width": 32,
                "heads": 1,
                "kv_heads": 1,
                "mlp_width": 32,
                "max_positions": max_positions,
            },
            "task": {
                "type": "arithmetic",
                "operands": [2, 3],
                "largest": 9,
                "num_train": 40,
                "num_test": 8,
            },
            "learner": {"precision": {"type": "float32"}, "micro_batch_tokens": 512},
            "sft": {
                "traces": {"type": "generated"},
                "num_steps": num_steps,
                "sequences_per_step": 8,
                "save_every": 2,
                "optimizer": {"learning_rate": 1e-2},
            },
        }
    )


def test_loss_falls_on_the_solution_and_its_end_alone():
    batch = sft_batch([Example((5, 6), (7, 8, 1)), Example((5,), (9, 1))])
    assert batch.token_ids.tolist() == [[5, 6, 7, 8, 1], [5, 9, 1, 0, 0]]
    assert batch.mask.tolist() == [
        [False, False, True, True, True],
        [False, True, True, False, False],
    ]
    assert batch.lengths.tolist() == [5, 3]
    assert batch.num_tokens == 5
    torch.testing.assert_close(batch.weights, batch.mask / 5)  # token_mean over the 5


def test_an_example_is_prompt_and_solution_as_text_and_ends_with_eos(tmp_path: Path):
    pipeline = _pipeline(tmp_path)
    path, revision = base_model(pipeline)
    tokenizer = AutoTokenizer.from_pretrained(path)
    examples = load_examples(pipeline, path, revision=revision)
    assert len(examples) == 40
    for example in examples:
        assert example.completion_ids[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in example.completion_ids[:-1]
        solution = tokenizer.decode(example.completion_ids, skip_special_tokens=True)
        assert solution.startswith("<think>\n")
        assert solution.endswith("}")
        assert tokenizer.decode(example.prompt_ids).endswith("\n")


def test_a_new_model_has_the_alphabet_of_its_task(tmp_path: Path):
    settings = _pipeline(tmp_path).model_dump(exclude_unset=True) | {
        "task": {"type": "countdown", "num_train": 40, "num_test": 8},
        "rewards": [{"name": "countdown"}],
    }
    pipeline = Pipeline.model_validate(settings)
    path, revision = base_model(pipeline)
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert "->" in tokenizer.get_vocab()
    for example in load_examples(pipeline, path, revision=revision):
        question = tokenizer.decode(example.prompt_ids).removesuffix("\n")
        numbers, target = read_question(question)
        solution = tokenizer.decode(example.completion_ids, skip_special_tokens=True)
        columns = {"numbers": numbers, "target": target}
        assert countdown(solution, Problem("p", "", "", "", columns=columns)).value == 1.0


def test_a_trace_longer_than_the_model_is_an_error_with_its_number(tmp_path: Path):
    pipeline = _pipeline(tmp_path, max_positions=16)
    path, _ = base_model(pipeline)
    with pytest.raises(ValueError, match=r"trace \d+ has \d+ tokens, the model takes 16"):
        load_examples(pipeline, path, revision=None)


def test_the_base_model_depends_on_the_seed_and_is_made_once(tmp_path: Path):
    path, _ = base_model(_pipeline(tmp_path / "a"))
    first = (Path(path) / "model.safetensors").read_bytes()
    marked = Path(path) / "model.safetensors"
    before = marked.stat().st_mtime_ns
    assert base_model(_pipeline(tmp_path / "a"))[0] == path
    assert marked.stat().st_mtime_ns == before
    again, _ = base_model(_pipeline(tmp_path / "b"))
    assert (Path(again) / "model.safetensors").read_bytes() == first
    other = _pipeline(tmp_path / "c").model_copy(update={"seed": 1})
    assert (Path(base_model(other)[0]) / "model.safetensors").read_bytes() != first


@pytest.fixture
def _cluster() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=128 << 20,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


class InterruptedRunError(Exception):
    """Stands for whatever ends a run."""


@pytest.mark.e2e
@pytest.mark.usefixtures("_cluster")
def test_an_interrupted_cold_start_resumes_to_the_same_bits(tmp_path: Path):
    whole: list[tuple[int, float]] = []
    straight = run_sft(
        _pipeline(tmp_path / "whole"),
        resume=False,
        log=lambda step, stats: whole.append((step, stats["loss"])),
    )
    assert [step for step, _ in whole] == [1, 2, 3, 4]
    assert whole[-1][1] < whole[0][1]

    def stop_in_step_3(step: int, _) -> None:
        if step == 3:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        run_sft(_pipeline(tmp_path / "cut"), resume=False, log=stop_in_step_3)
    assert not (tmp_path / "cut" / "sft" / "model").exists()

    rest: list[tuple[int, float]] = []
    rewound: list[int] = []
    resumed = run_sft(
        _pipeline(tmp_path / "cut"),
        resume=True,
        log=lambda step, stats: rest.append((step, stats["loss"])),
        rewind=rewound.append,
    )
    assert rewound == [2]
    assert rest == whole[2:]
    assert resumed == tmp_path / "cut" / "sft" / "model"
    weights = (straight / "model.safetensors").read_bytes()
    assert (resumed / "model.safetensors").read_bytes() == weights
    load_model(str(resumed), dtype="float32")
