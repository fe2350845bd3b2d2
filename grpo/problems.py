"""Tasks and data sets as problems, cold-start rows, and the order in which problems are used."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cotree.grpo import arithmetic, countdown
from cotree.grpo.arithmetic import Split
from cotree.grpo.config import ArithmeticTask, CountdownTask, Pipeline, RowsTask
from cotree.grpo.config_model import Prompt
from cotree.grpo.config_traces import GeneratedTraces, RowTraces
from cotree.grpo.rows import load_rows
from cotree.grpo.seeds import derive
from cotree.rewards.types import Problem

Render = Callable[[str], str]
"""From a question to the text the policy sees."""


class ChatTokenizer(Protocol):
    """The slice of a Hugging Face tokenizer that prompts need."""

    @property
    def apply_chat_template(self) -> Callable[..., Any]: ...


def render_prompt(prompt: Prompt, question: str, tokenizer: ChatTokenizer | None) -> str:
    """The text the policy sees: the template filled in, as a chat turn if `prompt.chat`.

    Raises:
        ValueError: `prompt.chat` is set and there is no tokenizer to take the chat template from.
    """
    text = prompt.template.replace("{question}", question)
    if not prompt.chat:
        return text
    if tokenizer is None:
        raise ValueError("prompt.chat = true needs the model's tokenizer for its chat template.")
    turns = [{"role": "user", "content": text}]
    if prompt.system is not None:
        turns.insert(0, {"role": "system", "content": prompt.system})
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert isinstance(rendered, str), type(rendered)
    return rendered


def load_problems(pipeline: Pipeline, split: Split, render: Render) -> list[Problem]:
    """The problems of a split, in their own order; the same whatever the run seed.

    Args:
        pipeline: names the task.
        split: which problems; the splits of a generated task never overlap.
        render: from a question to the prompt; see `render_prompt`.

    Raises:
        ValueError: there are fewer generated problems than asked for, or the rows are not usable;
            the message has the file and the row's number.
        FileNotFoundError: there is no such file.
    """
    task = pipeline.task
    if isinstance(task, RowsTask):
        return _row_problems(task, split, render)
    count = task.num_train if split == "train" else task.num_test
    if isinstance(task, CountdownTask):
        return _countdown_problems(task, split, count, render)
    return [
        Problem(
            id=f"arithmetic/{split}/{index}",
            prompt=render(question.text),
            reference=str(question.value),
            task="arithmetic",
            question=question.text,
        )
        for index, question in enumerate(arithmetic.questions(task, split, count=count))
    ]


def task_alphabet(task: ArithmeticTask | CountdownTask) -> tuple[str, ...]:
    """Tokens of a character tokenizer that spells the task's questions and worked solutions.

    Their order decides the vocabulary, and with it what a seed makes of a new model.
    """
    return countdown.ALPHABET if isinstance(task, CountdownTask) else arithmetic.ALPHABET


class TraceRow(NamedTuple):
    """A worked solution."""

    question: str
    prompt: str
    """The question as the policy sees it."""
    solution: str


def trace_rows(
    pipeline: Pipeline, traces: GeneratedTraces | RowTraces, render: Render
) -> list[TraceRow]:
    """The worked solutions that `traces` means.

    Generated traces answer the train problems, one each; they depend on `pipeline.seed`, on the
    problem and on the traces' settings only.

    Raises:
        ValueError: a row is not usable.
        FileNotFoundError: there is no such file.
    """
    if isinstance(traces, RowTraces):
        rows = load_rows(
            traces.path, question_field=traces.question_field, answer_field=traces.solution_field
        )
        return [TraceRow(row.question, render(row.question), row.answer) for row in rows]
    task = pipeline.task
    assert not isinstance(task, RowsTask), "Pipeline refuses generated traces for other tasks"
    return [
        TraceRow(problem.question, problem.prompt, _trace(pipeline.seed, problem, traces, task))
        for problem in load_problems(pipeline, "train", render)
    ]


class PromptOrder:
    """Which problem is used at which position: a new permutation for each pass over them.

    A pure function of (seed, position), so a resumed run needs only its position.
    """

    def __init__(self, num_problems: int, seed: int) -> None:
        if num_problems < 1:
            raise ValueError("there are no problems to put in order.")
        self._num_problems = num_problems
        self._seed = seed
        self._epoch = -1
        self._permutation: list[int] = []

    def at(self, position: int) -> int:
        """The index of the problem at this position; each occurs once per epoch.

        Raises:
            ValueError: the position is negative.
        """
        if position < 0:
            raise ValueError(f"position = {position}; the order starts at 0.")
        epoch, offset = divmod(position, self._num_problems)
        if epoch != self._epoch:
            permutation = list(range(self._num_problems))
            random.Random(derive(self._seed, "prompt order", epoch)).shuffle(permutation)
            self._epoch, self._permutation = epoch, permutation
        return self._permutation[offset]


def _trace(
    seed: int, problem: Problem, traces: GeneratedTraces, task: ArithmeticTask | CountdownTask
) -> str:
    rng = random.Random(derive(seed, "trace", problem.id))
    teacher = countdown if isinstance(task, CountdownTask) else arithmetic
    return teacher.worked_solution(problem.question, traces, largest=task.largest, rng=rng)


def _countdown_problems(
    task: CountdownTask, split: Split, count: int, render: Render
) -> list[Problem]:
    problems: list[Problem] = []
    for index, game in enumerate(countdown.task_games(task, split, count=count)):
        question = countdown.question_text(game.numbers, game.target)
        problems.append(
            Problem(
                id=f"countdown/{split}/{index}",
                prompt=render(question),
                reference=str(game.target),
                task="countdown",
                question=question,
                columns={"numbers": sorted(game.numbers), "target": game.target},
            )
        )
    return problems


def _row_problems(task: RowsTask, split: Split, render: Render) -> list[Problem]:
    source = task.train if split == "train" else task.test
    name = source if source.startswith("hub:") else Path(source).stem
    problems: list[Problem] = []
    first_use: dict[str, int] = {}
    rows = load_rows(source, question_field=task.question_field, answer_field=task.answer_field)
    for row in rows:
        id_ = f"{name}/{split}/{row.id}"
        if id_ in first_use:
            raise ValueError(
                f"{source}, row {row.number}: its id {row.id!r} is that of row {first_use[id_]} "
                "already; ids seed the sampling and must be unique."
            )
        first_use[id_] = row.number
        reference = _reference(row.answer, task.answer_after, f"{source}, row {row.number}")
        problems.append(
            Problem(id_, render(row.question), reference, name, row.question, row.columns)
        )
    return problems


def _reference(answer: str, answer_after: str | None, place: str) -> str:
    if answer_after is not None:
        if answer_after not in answer:
            raise ValueError(
                f"{place}: the answer {answer[-80:]!r} has no {answer_after!r} in it; correct the "
                "row or task.answer_after."
            )
        answer = answer.rpartition(answer_after)[2]
    if not answer.strip():
        raise ValueError(f"{place}: the answer is empty; nothing can be graded against it.")
    return answer.strip()
