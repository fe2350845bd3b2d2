"""Tests for grpo/evaluation/job.py: prompts, seeds and the fingerprint of what is asked."""

import json
from pathlib import Path

import pytest

from cotree.grpo.config_evaluation import Benchmarks
from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.fingerprint import differing_parts
from cotree.grpo.evaluation.job import all_parts, make_job, make_jobs
from cotree.grpo.evaluation.records import Turn

QUESTIONS = [("How many are 2 and 3?", "5"), ("What is 6 x 7?", "42"), ("And 9 - 1?", "8")]


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = [{"question": q, "answer": f"Thinking.\n#### {a}"} for q, a in QUESTIONS]
    (tmp_path / "gsm8k").mkdir()
    for name in ("test", "train"):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "gsm8k" / f"{name}.jsonl").write_text(lines)
    return str(tmp_path)


def settings(data: str, **changes: object) -> Benchmarks:
    return Benchmarks(names=("gsm8k",), data=data, **changes)


def test_a_model_with_a_template_is_asked_in_a_chat(data: str):
    job = make_job("gsm8k", settings(data), has_template=True)
    (turn,) = job.asks[0].prompt
    assert isinstance(turn, Turn)
    assert turn.role == "user"
    assert turn.content.startswith("How many are 2 and 3?\n")
    assert r"\boxed{}" in turn.content
    assert job.strict_rule == "boxed"


def test_a_model_without_one_gets_the_same_words_as_plain_text(data: str):
    chat = make_job("gsm8k", settings(data), has_template=True)
    plain = make_job("gsm8k", settings(data), has_template=False)
    assert isinstance(plain.asks[0].prompt, str)
    assert chat.asks[0].prompt[0].content in plain.asks[0].prompt
    assert "prompt.chat" in differing_parts(chat.parts, plain.parts)


def test_chat_that_the_model_cannot_do_is_refused(data: str):
    with pytest.raises(ConfigError, match="needs a chat template"):
        make_job("gsm8k", settings(data, chat=True), has_template=False)


def test_worked_examples_come_from_the_training_rows(data: str):
    job = make_job("gsm8k", settings(data, prompt="few-shot", examples=2), has_template=True)
    prompt = job.asks[0].prompt
    assert isinstance(prompt, str)
    assert prompt.count("#### ") == 2
    assert job.strict_rule == "hashes"
    assert job.stop


def test_the_seeds_of_a_problem_do_not_depend_on_the_others(data: str):
    every = make_job("gsm8k", settings(data, samples=2, temperature=1), has_template=True)
    subset = make_job("gsm8k", settings(data, samples=2, temperature=1, limit=1), has_template=True)
    seeds = {ask.id: ask.seeds for ask in every.asks}
    assert subset.asks[0].seeds == seeds[subset.asks[0].id]
    assert len({seed for pair in seeds.values() for seed in pair}) == 6


def test_another_run_seed_draws_other_samples_of_the_same_measurement(data: str):
    one, other = (make_job("gsm8k", settings(data, seed=s), has_template=True) for s in (0, 1))
    assert one.asks[0].seeds != other.asks[0].seeds
    assert one.parts == other.parts


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"temperature": 0.6}, "sampler.temperature"),
        ({"max_tokens": 7}, "sampler.max_tokens"),
        ({"limit": 2}, "data.limit"),
        ({"prompt": "{question} Go:"}, "prompt.digest"),
        ({"system": "Be brief."}, "prompt.digest"),
    ],
)
def test_what_changes_a_measurement_changes_its_fingerprint(data: str, changes: dict, key: str):
    usual = make_job("gsm8k", settings(data), has_template=True)
    other = make_job("gsm8k", settings(data, **changes), has_template=True)
    assert key in differing_parts(usual.parts, other.parts)


def test_the_data_are_part_of_the_fingerprint(data: str, tmp_path: Path):
    before = make_job("gsm8k", settings(data), has_template=True)
    path = tmp_path / "gsm8k" / "test.jsonl"
    path.write_text(path.read_text().replace("#### 42", "#### 43"))
    after = make_job("gsm8k", settings(data), has_template=True)
    assert set(differing_parts(before.parts, after.parts)) == {"data.checksum"}


def test_a_template_counts_only_where_it_is_used(data: str):
    chat = make_job("gsm8k", settings(data), has_template=True)
    plain = make_job("gsm8k", settings(data, chat=False), has_template=True)
    engine = {"engine": "vllm"}
    one, other = (all_parts(chat, engine=engine, template=t) for t in ("A", "B"))
    assert set(differing_parts(one, other)) == {"template"}
    assert all_parts(plain, engine=engine, template="A")["template"] is None


def test_an_unknown_benchmark_is_named(data: str):
    with pytest.raises(ConfigError, match="gsm8"):
        make_jobs(Benchmarks(names=("gsm8",), data=data), has_template=True)


def test_a_folder_that_no_benchmark_reads_is_refused(data: str):
    with pytest.raises(ConfigError, match=r"has no effect: arithmetic, countdown are generated"):
        make_jobs(Benchmarks(names=("arithmetic", "countdown"), data=data), has_template=True)
    both = Benchmarks(names=("arithmetic", "gsm8k"), data=data)
    assert len(make_jobs(both, has_template=True)) == 2
