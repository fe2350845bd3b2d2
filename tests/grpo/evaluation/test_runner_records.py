"""Tests for grpo/evaluation/runner.py, with a sampler that answers from a table."""

import json
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import pytest

from cotree.grpo.config_evaluation import Benchmarks
from cotree.grpo.evaluation.job import Job, make_job
from cotree.grpo.evaluation.records import Ask, Drawn, Prompt
from cotree.grpo.evaluation.runner import run_job


class Table:
    """Answers backwards, so that problems finish in another order than they were asked."""

    def __init__(self, answers: Mapping[int, str], *, opening: str = "") -> None:
        self._answers = answers
        self._opening = opening
        self.asked: list[Ask] = []

    def describe(self) -> Mapping[str, object]:
        return {"engine": "table"}

    def shown(self, prompt: Prompt) -> str:
        assert isinstance(prompt, str)
        return prompt + self._opening

    def sample(self, asks: Sequence[Ask]) -> Generator[tuple[int, tuple[Drawn, ...]]]:
        self.asked += asks
        for ask in reversed(asks):
            yield ask.index, tuple(Drawn(self._answers[ask.index], 3, "stop") for _ in ask.seeds)


SETTINGS = Benchmarks(names=("gsm8k",), samples=2, temperature=1.0)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    rows = [{"question": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in range(4)]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = SETTINGS.model_copy(update={"data": str(tmp_path)})
    return make_job("gsm8k", settings, has_template=False)


def test_records_are_of_their_own_problem_whatever_the_order(job: Job):
    answers = {n: rf"\boxed{{{n + 1 if n != 2 else 7}}}" for n in range(4)}
    records = list(run_job(job, SETTINGS, sampler=Table(answers), finished=()))
    assert [record.index for record in records] == [3, 2, 1, 0]
    for record in records:
        assert record.id == f"gsm8k/{record.index}"
        assert record.question == f"{record.index} + 1?"
        assert record.reference == str(record.index + 1)
        assert [sample.correct for sample in record.samples] == [record.index != 2] * 2


def test_finished_problems_are_not_sampled_again(job: Job):
    sampler = Table(dict.fromkeys(range(4), ""))
    records = list(run_job(job, SETTINGS, sampler=sampler, finished={0, 3}))
    assert {record.index for record in records} == {ask.index for ask in sampler.asked} == {1, 2}
    assert list(run_job(job, SETTINGS, sampler=sampler, finished=range(4))) == []


def test_a_sampler_sees_no_reference(job: Job):
    sampler = Table(dict.fromkeys(range(4), ""))
    list(run_job(job, SETTINGS, sampler=sampler, finished=()))
    for ask in sampler.asked:
        assert set(Ask.__dataclass_fields__) == {"index", "id", "prompt", "seeds"}
        assert "####" not in str(ask)


def test_a_prompt_that_opens_the_thinking_is_noticed(job: Job):
    answers = dict.fromkeys(range(4), r"\boxed{1}")  # never closes what the prompt opened
    sampler = Table(answers, opening="<think>\n")
    records = list(run_job(job, SETTINGS, sampler=sampler, finished=()))
    assert all(sample.unfinished_thinking for record in records for sample in record.samples)
