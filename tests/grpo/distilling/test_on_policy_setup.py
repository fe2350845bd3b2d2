"""Tests for grpo/distilling/on_policy_setup.py: what is found out before anything starts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from readers import SUMS, byte_level_bpe
from tiny_models import write_tiny_model

from cotree.grpo.config import Pipeline
from cotree.grpo.config_distill import OnPolicyDistill
from cotree.grpo.config_file import ConfigError
from cotree.grpo.distilling.on_policy_setup import OnPolicySetup
from cotree.grpo.distilling.view import Text
from cotree.grpo.types import Batch, Completion, Group, Problem, Rollout
from cotree.rewards.types import Reward

QUESTION = "1+2"
PROMPT_TOKENS = 24
"""More than any question of the task below has: 3 numbers of 2 digits, 2 signs, 4 brackets, \\n."""


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with another tokenizer, of longer tokens."""
    folder = tmp_path_factory.mktemp("other")
    byte_level_bpe(SUMS).save_pretrained(folder)
    write_tiny_model(folder, seed=1, vocab_size=320)
    return folder


def setup_of(
    student: Path, teacher: dict[str, object], *, max_tokens: int = 40, **settings: object
) -> OnPolicySetup:
    pipeline = Pipeline.model_validate(
        {
            "output_dir": "unused",
            "model": {"type": "pretrained", "path": str(student)},
            "task": {"type": "arithmetic", "operands": [2, 3], "num_train": 80, "num_test": 8},
            "distill": {
                "type": "on_policy",
                "teacher": teacher,
                "train": {
                    "num_steps": 1,
                    "rollout": {"max_tokens": max_tokens},
                    "optimizer": {"learning_rate": 1e-3},
                },
                **settings,
            },
        }
    )
    assert isinstance(pipeline.distill, OnPolicyDistill)
    return OnPolicySetup(pipeline, pipeline.distill, (str(student), None))


def engine(path: Path) -> dict[str, object]:
    return {"type": "engine", "path": str(path)}


def longest_readable(setup: OnPolicySetup, token: int) -> int:
    """Tokens of the longest completion that the teacher can be asked about."""
    lengths = range(1, 600)
    read = [n for n in lengths if setup.view.request(Text(QUESTION, (token,) * n)) is not None]
    assert read == list(range(1, len(read) + 1))
    return len(read)


def test_a_teacher_reads_whatever_the_student_may_write(tiny_model: Path):
    setup = setup_of(tiny_model, engine(tiny_model))
    assert setup.view.is_same
    # The longest prompt leaves room for 40 tokens; this one is shorter.
    assert 40 <= longest_readable(setup, 20) <= 40 + PROMPT_TOKENS
    engines = setup.engines
    assert engines is not None
    # An engine samples one token more than it scores.
    assert engines.max_model_len > longest_readable(setup, 20) + len(QUESTION + "\n")


def test_another_tokenizer_has_room_for_more_tokens_of_the_same_text(
    tiny_model: Path, other_model: Path
):
    setup = setup_of(other_model, engine(tiny_model))
    assert not setup.view.is_same
    one = byte_level_bpe(SUMS).convert_tokens_to_ids("1")
    assert 4 * 40 <= longest_readable(setup, one) <= 4 * 40 + PROMPT_TOKENS


def test_no_text_is_longer_than_the_teacher_takes(tiny_model: Path):
    setup = setup_of(tiny_model, engine(tiny_model), max_tokens=500)
    engines = setup.engines
    assert engines is not None
    assert engines.max_model_len <= 512
    # Prompt, text and the token that the engine samples.
    assert len(QUESTION + "\n") + longest_readable(setup, 20) + 1 <= 512


def test_only_a_teacher_on_engines_has_engines_and_only_a_resident_one_is_resident(
    tiny_model: Path,
):
    resident = setup_of(tiny_model, {"type": "resident", "path": str(tiny_model)})
    assert resident.engines is None
    assert resident.resident is not None
    server = {"type": "server", "url": "http://127.0.0.1:9", "tokenizer": str(tiny_model)}
    served = setup_of(tiny_model, server)
    assert served.engines is None
    assert served.resident is None
    assert setup_of(tiny_model, engine(tiny_model)).resident is None


def test_a_resident_teacher_needs_the_students_tokenizer(tiny_model: Path, other_model: Path):
    with pytest.raises(ConfigError, match="another tokenizer than the student"):
        setup_of(tiny_model, {"type": "resident", "path": str(other_model)})


def test_a_server_has_to_name_its_tokenizer(tiny_model: Path):
    with pytest.raises(ConfigError, match=r"distill\.teacher\.tokenizer is missing"):
        setup_of(tiny_model, {"type": "server", "url": "http://127.0.0.1:9"})


def test_a_teacher_that_is_not_there_is_named(tiny_model: Path):
    with pytest.raises(FileNotFoundError, match=r"cannot load a model from '\./nobody'"):
        setup_of(tiny_model, {"type": "engine", "path": "./nobody"})


class Learner:
    """Stands where a learner with a resident teacher would: says what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Sequence[tuple[int, ...]], Sequence[int], str]] = []

    def logprobs(
        self, texts: Sequence[tuple[int, ...]], given: Sequence[int], *, of: str
    ) -> list[list[float]]:
        self.asked.append((texts, given, of))
        return [
            [-token / 64 for token in text[start:]]
            for text, start in zip(texts, given, strict=True)
        ]


def test_a_resident_teachers_advantages_are_asked_of_the_learner(tiny_model: Path):
    from cotree.grpo.collate import collate
    from cotree.grpo.config_algorithm import Advantage

    setup = setup_of(tiny_model, {"type": "resident", "path": str(tiny_model)})
    completion = Completion((20, 21), (-0.5, -0.25), "ab", (1, 2), "stop", 0)
    problem = Problem("p", f"{QUESTION}\n", "3", "t", QUESTION)
    groups = [Group(problem, (5, 6), (Rollout(completion, Reward(1.0, "", {"answer": 1.0})),) * 2)]
    batch = collate(
        groups,
        advantage=Advantage(),
        first_term="answer",
        aggregation="token_mean",
        max_tokens=40,
        mask_truncated=False,
    )
    learner = Learner()
    with setup.opened(learner, gpu_share=0.0) as teacher:
        taught, _ = teacher.teach(groups, batch)
    prompt = setup.view.request(Text(QUESTION, (20,))).prompt_ids
    assert learner.asked == [([(*prompt, 20, 21)] * 2, [len(prompt)] * 2, "teacher")]
    assert isinstance(taught, Batch)
    # log p - log q: -20/64 + 1/2 and -21/64 + 1/4.
    expected = np.array([0.1875, -0.078125], np.float32)
    for row in range(2):
        np.testing.assert_array_equal(taught.advantages[row][batch.mask[row]].numpy(), expected)


def test_a_resident_teachers_divergence_is_left_to_the_learner(tiny_model: Path):
    setup = setup_of(
        tiny_model,
        {"type": "resident", "path": str(tiny_model)},
        signal={"type": "divergence"},
    )
    learner = Learner()
    with setup.opened(learner, gpu_share=0.0) as teacher:
        assert teacher is not None
    assert learner.asked == []
