"""Tests for grpo/problems.py."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cotree.grpo.config import Pipeline, RowsTask
from cotree.grpo.config_model import Prompt
from cotree.grpo.models import character_tokenizer, encode_checked
from cotree.grpo.problems import (
    PromptOrder,
    Render,
    load_problems,
    render_prompt,
    task_alphabet,
    trace_rows,
)
from cotree.rewards.answer import answer
from cotree.rewards.steps.countdown import countdown, countdown_steps
from cotree.rewards.steps.rewriting import rewriting_steps
from cotree.rewards.types import Verdict

ARITHMETIC = {"type": "arithmetic", "num_train": 60, "num_test": 20}
COUNTDOWN = {"type": "countdown", "num_train": 60, "num_test": 20}
OPTIMIZER = {"learning_rate": 1e-3}


def solutions(settings: Pipeline, render: Render) -> list[tuple[str, str]]:
    """Prompt and solution of every trace of the cold start."""
    assert settings.sft is not None
    return [(row.prompt, row.solution) for row in trace_rows(settings, settings.sft.traces, render)]


def pipeline(task: dict[str, Any] = ARITHMETIC, *, seed: int = 0, **traces: Any) -> Pipeline:
    reward = "countdown" if task["type"] == "countdown" else "answer"
    settings: dict[str, Any] = {
        "seed": seed,
        "output_dir": "unused",
        "model": {"type": "pretrained", "path": "unused"},
        "task": task,
        "rewards": [{"name": reward}],
    }
    if traces:
        settings["sft"] = {"traces": traces, "num_steps": 1, "optimizer": OPTIMIZER}
    return Pipeline.model_validate(settings)


def equation(question: str) -> str:
    return f"{question}="


each_task = pytest.mark.parametrize(
    "task", [ARITHMETIC, COUNTDOWN], ids=["arithmetic", "countdown"]
)


class EchoTokenizer:
    """The documented interface of a chat tokenizer; shows what it was given."""

    def apply_chat_template(
        self, turns: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert not tokenize
        assert add_generation_prompt
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in turns) + "<assistant>"


def test_arithmetic_problems_carry_what_graders_need():
    problems = load_problems(pipeline(), "test", equation)
    assert [problem.id for problem in problems] == [f"arithmetic/test/{i}" for i in range(20)]
    for problem in problems:
        assert problem.prompt == f"{problem.question}="
        assert problem.task == "arithmetic"
        assert answer(rf"\boxed{{{problem.reference}}}", problem).value == 1.0
        assert rewriting_steps(rf"\boxed{{{problem.reference}}}", problem).value == 0.0


def test_countdown_problems_carry_what_graders_need():
    problems = load_problems(pipeline(COUNTDOWN), "test", equation)
    assert [problem.id for problem in problems] == [f"countdown/test/{i}" for i in range(20)]
    for problem in problems:
        told = f"{','.join(map(str, problem.columns['numbers']))}->{problem.columns['target']}"
        assert (problem.question, problem.prompt, problem.task) == (told, f"{told}=", "countdown")
        assert problem.reference == str(problem.columns["target"])
        # The target alone is no solution: it is none of the numbers.
        assert countdown(rf"\boxed{{{problem.reference}}}", problem).value == -1.0
        assert countdown_steps(rf"\boxed{{{problem.reference}}}", problem).value == 0.0


@each_task
def test_problems_do_not_depend_on_the_run_seed(task: dict[str, Any]):
    for split in ("train", "test"):
        assert load_problems(pipeline(task, seed=1), split, equation) == load_problems(
            pipeline(task, seed=2), split, equation
        )


@each_task
def test_no_train_question_is_a_test_question(task: dict[str, Any]):
    train, test = (
        {problem.question for problem in load_problems(pipeline(task), split, equation)}
        for split in ("train", "test")
    )
    assert not train & test


@each_task
def test_the_alphabet_spells_every_prompt_and_solution(task: dict[str, Any]):
    settings = pipeline(task, type="generated", slip_frac=0.5)
    assert not isinstance(settings.task, RowsTask)
    tokenizer = character_tokenizer(task_alphabet(settings.task), max_positions=128)
    for prompt, solution in solutions(settings, lambda question: f"{question}\n"):
        ids = encode_checked(tokenizer, prompt + solution)
        assert tokenizer.decode(ids) == prompt + solution


def test_the_alphabet_of_arithmetic_keeps_its_order():
    # It decides the vocabulary, and with it every number that the quickstart reports.
    words = character_tokenizer(task_alphabet(pipeline().task), max_positions=8).get_vocab()
    in_order = "".join(sorted(words, key=words.__getitem__)[2:24])
    assert in_order == "0123456789+-*()= \n<think></think>\\boxed{}"


def test_generated_rows_solve_the_train_problems():
    rows = solutions(pipeline(type="generated"), equation)
    problems = load_problems(pipeline(), "train", equation)
    assert [prompt for prompt, _ in rows] == [problem.prompt for problem in problems]
    for (_, solution), problem in zip(rows, problems, strict=True):
        assert answer(solution, problem).value == 1.0
        assert {step.verdict for step in rewriting_steps(solution, problem).steps} == {
            Verdict.VERIFIED
        }


def test_generated_rows_win_the_train_games():
    rows = solutions(pipeline(COUNTDOWN, type="generated"), equation)
    problems = load_problems(pipeline(COUNTDOWN), "train", equation)
    assert [prompt for prompt, _ in rows] == [problem.prompt for problem in problems]
    for (_, solution), problem in zip(rows, problems, strict=True):
        reward = countdown(solution, problem)
        assert reward.value == 1.0
        assert {step.verdict for step in reward.steps} == {Verdict.VERIFIED}


@pytest.mark.parametrize(
    ("task", "mistake"),
    [(ARITHMETIC, "wrong_order_frac"), (COUNTDOWN, "wrong_choice_frac")],
    ids=["arithmetic", "countdown"],
)
def test_generated_mistakes_depend_on_the_run_seed_only(task: dict[str, Any], mistake: str):
    faulty = {"type": "generated", "slip_frac": 0.2, mistake: 0.5}
    first = solutions(pipeline(task, seed=1, **faulty), equation)
    assert first == solutions(pipeline(task, seed=1, **faulty), equation)
    assert first != solutions(pipeline(task, seed=2, **faulty), equation)
    assert first != solutions(pipeline(task, seed=1, type="generated"), equation)


def write(path: Path, *records: dict[str, object]) -> str:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return str(path)


def row_task(source: str, **more: str) -> dict[str, str]:
    return {"type": "rows", "train": source, "test": source, **more}


def test_row_problems_keep_what_follows_the_last_marker(tmp_path: Path):
    source = write(
        tmp_path / "clips.jsonl",
        {"question": "q0", "answer": "48/2 = 24\n#### no\n#### 72 "},
        {"question": "q1", "answer": "#### 1,000", "id": "second"},
    )
    problems = load_problems(pipeline(row_task(source, answer_after="####")), "train", equation)
    assert [(p.id, p.prompt, p.reference, p.task, p.question) for p in problems] == [
        ("clips/train/0", "q0=", "72", "clips", "q0"),
        ("clips/train/second", "q1=", "1,000", "clips", "q1"),
    ]


def test_row_problems_carry_the_rows_other_fields(tmp_path: Path):
    source = write(
        tmp_path / "a.jsonl", {"question": "q", "answer": "1", "id": 7, "level": 3, "tests": ["t"]}
    )
    (problem,) = load_problems(pipeline(row_task(source)), "test", equation)
    assert problem.columns == {"level": 3, "tests": ["t"]}
    assert not load_problems(pipeline(), "test", equation)[0].columns


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"question": "q", "answer": "72"}, "row 2: the answer '72' has no '####' in it"),
        ({"question": "q", "answer": "a ####  "}, "row 2: the answer is empty"),
        ({"question": "q", "answer": "#### 1", "id": 0}, "row 2: its id '0' is that of row 1"),
    ],
)
def test_a_row_that_cannot_be_a_problem_is_named(
    tmp_path: Path, record: dict[str, object], says: str
):
    source = write(tmp_path / "a.jsonl", {"question": "q", "answer": "#### 1"}, record)
    with pytest.raises(ValueError, match=says):
        load_problems(pipeline(row_task(source, answer_after="####")), "train", equation)


def test_trace_rows_are_rendered_prompts_and_whole_solutions(tmp_path: Path):
    source = write(tmp_path / "t.jsonl", {"question": "1+1", "solution": "<think>2</think>\n"})
    settings = pipeline(row_task(source), type="rows", path=source)
    assert solutions(settings, equation) == [("1+1=", "<think>2</think>\n")]


def test_a_template_keeps_its_other_braces():
    prompt = Prompt(template=r"{question} Answer in \boxed{}.")
    assert render_prompt(prompt, "1+{x}?", None) == r"1+{x}? Answer in \boxed{}."


def test_a_chat_prompt_is_the_tokenizers_own():
    prompt = Prompt(template="Q: {question}", chat=True, system="Be brief.")
    assert (
        render_prompt(prompt, "1+1", EchoTokenizer()) == "<system>Be brief.<user>Q: 1+1<assistant>"
    )
    plain = Prompt(template="Q: {question}", chat=True)
    assert render_prompt(plain, "1+1", EchoTokenizer()) == "<user>Q: 1+1<assistant>"
    with pytest.raises(ValueError, match="needs the model's tokenizer"):
        render_prompt(plain, "1+1", None)


def test_each_problem_occurs_once_per_epoch_in_a_new_order():
    order = PromptOrder(50, seed=3)
    epochs = [[order.at(epoch * 50 + i) for i in range(50)] for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(50))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_is_a_function_of_seed_and_position():
    order = PromptOrder(50, seed=3)
    forwards = [order.at(position) for position in range(150)]
    backwards = [PromptOrder(50, seed=3).at(position) for position in range(149, -1, -1)]
    assert forwards == backwards[::-1]
    assert forwards != [PromptOrder(50, seed=4).at(position) for position in range(150)]


def test_an_order_of_nothing_and_a_negative_position_are_refused():
    with pytest.raises(ValueError, match="no problems"):
        PromptOrder(0, seed=0)
    with pytest.raises(ValueError, match="position = -1"):
        PromptOrder(3, seed=0).at(-1)


def test_importing_problems_loads_no_engine():
    script = (
        "import sys, cotree.grpo.problems; "
        "print(sorted({'torch', 'ray', 'vllm', 'datasets', 'transformers'} & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"
