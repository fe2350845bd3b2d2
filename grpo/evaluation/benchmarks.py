r"""The built-in benchmarks. Published rows are read as they are; no row is stored here.

Copies of one data set name their fields differently and write answers differently; each class
says which forms it takes. Hub names and licences are those of the data sets' own pages.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from cotree.grpo.arithmetic import questions
from cotree.grpo.config import ArithmeticTask, CountdownTask
from cotree.grpo.countdown import (
    Game,
    Rules,
    question_text,
    random_game,
    read_question,
    task_games,
)
from cotree.grpo.evaluation.benchmark import Benchmark, Example, Row, first_text
from cotree.grpo.rows import text_of
from cotree.grpo.seeds import derive
from cotree.rewards.extract import boxes
from cotree.rewards.olympiad import several
from cotree.rewards.registry import Term
from cotree.rewards.types import Problem

_CALCULATION = re.compile(r"<<[^<>]*>>")
_NUMPY = re.compile(r"\bnp\.(?=[a-z])")
_WHOLE_FLOAT = re.compile(r"([+-]?[0-9]+)\.0+")
_CONTEST_INTEGER = re.compile(r"\$?0*([0-9]{1,3})(?:\.0+)?\s*(?:\^\s*\{?\s*\\circ\s*\}?|°)?\$?")
_NUMBERS_TOLD = re.compile(r"each of the numbers (.+?) exactly once")

ASKED = ("problem", "Problem", "question", "Question")
ANSWERED = ("answer", "Answer")
SOLVED = ("solution", "Solution")


def boxed_last(row: Row, place: str) -> str:
    r"""The last `\boxed{…}` of the row's solution.

    Raises:
        ValueError: there is no solution, or no box in it.
    """
    solution = first_text(row, SOLVED, place)
    found = boxes(solution)
    if not found or not found[-1].content.strip():
        raise ValueError(f"{place}: there is no \\boxed{{}} in the solution {solution[-80:]!r}.")
    return found[-1].content.strip()


def answer_of(row: Row, place: str) -> str:
    """The row's answer; without such a field, the one boxed in its solution.

    Raises:
        ValueError: there is neither.
    """
    if any(row.get(field) is not None for field in ANSWERED):
        return first_text(row, ANSWERED, place).strip()
    return boxed_last(row, place)


# --- word problems ---------------------------------------------------------------------------


class Gsm8k(Benchmark):
    """Grade-school word problems; the answer follows `####` in the published solution."""

    name = "gsm8k"
    hub = "hub:openai/gsm8k/main:test"
    hub_examples = "hub:openai/gsm8k/main:train"
    example_rule = "hashes"
    step_reward = "arithmetic_steps"
    description = "GSM8K test, 1,319 word problems (Cobbe et al. 2021, arXiv:2110.14168); MIT"

    def problem(self, row: Row, place: str, index: int) -> Problem:
        solution = text_of(row, "answer", place)
        reference = solution.rpartition("####")[2].strip()
        if "####" not in solution or not reference:
            raise ValueError(f"{place}: the answer {solution[-80:]!r} has no `#### NUMBER` in it.")
        return self.posed(index, text_of(row, "question", place), reference)

    def example(self, row: Row, place: str) -> Example:
        # The annotations `<<2*3=6>>` are for a calculator, which no model here has.
        solution = _CALCULATION.sub("", text_of(row, "answer", place))
        return text_of(row, "question", place), solution


# --- mathematics -----------------------------------------------------------------------------


class Math500(Benchmark):
    """500 problems of the MATH test set; rows without `answer` are read from their solution."""

    name = "math500"
    hub = "hub:HuggingFaceH4/MATH-500:test"
    hub_examples = "hub:DigitalLearningGmbH/MATH-lighteval:train"
    step_reward = "arithmetic_steps"
    description = (
        "MATH-500, the split of Lightman et al. 2023 (arXiv:2305.20050; MIT) of the MATH test set "
        "(Hendrycks et al. 2021, arXiv:2103.03874)"
    )

    def problem(self, row: Row, place: str, index: int) -> Problem:
        return self.posed(index, first_text(row, ASKED, place), answer_of(row, place))

    def example(self, row: Row, place: str) -> Example:
        boxed_last(row, place)  # an example without a box would teach another format
        return first_text(row, ASKED, place), first_text(row, SOLVED, place)


class Minerva(Benchmark):
    r"""University problems with rounded numbers; some answers are Python (`np.arcsin(10/13)`)."""

    name = "minerva"
    hub = "hub:math-ai/minervamath:test"
    step_reward = "arithmetic_steps"
    description = (
        "OCWCourses of Minerva, 272 problems from MIT courses (Lewkowycz et al. 2022, "
        "arXiv:2206.14858); numbers are graded as published, to their last digit"
    )

    def problem(self, row: Row, place: str, index: int) -> Problem:
        reference = _NUMPY.sub(r"\\", answer_of(row, place))
        return self.posed(index, first_text(row, ASKED, place), reference)


class OlympiadBench(Benchmark):
    """Competition problems with several answers in any order, and tolerances, where published."""

    name = "olympiadbench"
    hub = "hub:Hothan/OlympiadBench/OE_TO_maths_en_COMP:train"
    step_reward = "arithmetic_steps"
    description = (
        "OlympiadBench, its 674 open-ended English text-only competition problems of mathematics "
        "(He et al. 2024, arXiv:2402.14008); Apache-2.0"
    )

    def problem(self, row: Row, place: str, index: int) -> Problem:
        question = first_text(row, ASKED, place)
        if row.get("context"):
            question = f"{text_of(row, 'context', place)}\n{question}"
        published = self._published(row, place)
        answers = published
        if len(published) == 1 and row.get("is_multiple_answer"):
            answers = several(published[0]) or published
        columns: dict[str, object] = {}
        if len(answers) > 1:
            columns["answers"] = answers
        if row.get("error") is not None and str(row["error"]).strip():
            columns["tolerance"] = text_of(row, "error", place).strip()
        return self.posed(index, question, ", ".join(answers), columns)

    def term(self, strict_rule: str | None) -> Term | None:
        return Term("olympiad", options={"extraction": strict_rule or "lenient"})

    def _published(self, row: Row, place: str) -> list[str]:
        """`final_answer` is a list, mostly of one text that holds all answers."""
        final = row.get("final_answer")
        if isinstance(final, list | tuple):
            texts = [str(text).strip() for text in final]
            if not texts or not all(texts):
                raise ValueError(f"{place}: `final_answer` is {final!r}; it must hold answers.")
            return texts
        return [first_text(row, ("final_answer", *ANSWERED), place).strip()]


# --- contests whose answers are integers -----------------------------------------------------


class _Aime(Benchmark):
    """A year of AIME: integers from 0 to 999, published as `25`, `025`, `25.0` or with degrees."""

    step_reward = "arithmetic_steps"

    def problem(self, row: Row, place: str, index: int) -> Problem:
        answer = answer_of(row, place)
        integer = _CONTEST_INTEGER.fullmatch(answer)
        if integer is None:
            raise ValueError(
                f"{place}: the answer {answer!r} is no integer from 0 to 999, as AIME's are."
            )
        return self.posed(index, first_text(row, ASKED, place), integer[1])


class Aime24(_Aime):
    """AIME I and II of 2024."""

    name = "aime24"
    hub = "hub:HuggingFaceH4/aime_2024:train"
    description = "AIME 2024 I and II, 30 problems of the Mathematical Association of America"


class Aime25(_Aime):
    """AIME I and II of 2025."""

    name = "aime25"
    hub = "hub:math-ai/aime25:test"
    description = "AIME 2025 I and II, 30 problems of the Mathematical Association of America"


class Amc23(Benchmark):
    """AMC 12 of 2023 with the choices removed; integers are published as floats (`27.0`)."""

    name = "amc23"
    hub = "hub:math-ai/amc23:test"
    step_reward = "arithmetic_steps"
    description = "AMC 12 of 2023, 40 problems of the Mathematical Association of America"

    def problem(self, row: Row, place: str, index: int) -> Problem:
        answer = answer_of(row, place)
        whole = _WHOLE_FLOAT.fullmatch(answer)
        question = first_text(row, ("question", "problem"), place)
        return self.posed(index, question, whole[1] if whole else answer)


# --- generated -------------------------------------------------------------------------------


class Arithmetic(Benchmark):
    """Test expressions of the task that `configs/quickstart.toml` trains on."""

    name = "arithmetic"
    prompt = "bare"
    step_reward = "rewriting_steps"
    description = "nested integer expressions, 500 generated; none of them is a training problem"

    def rows(self) -> Iterable[Row]:
        task = ArithmeticTask(type="arithmetic", operands=(4, 6), largest=12)
        found = questions(task, "test", count=500)
        return [{"question": question.text, "answer": question.value} for question in found]

    def problem(self, row: Row, place: str, index: int) -> Problem:
        return self.posed(
            index, text_of(row, "question", place), text_of(row, "answer", place).strip()
        )


class Countdown(Benchmark):
    """Reach a target with three or four numbers; rows as of Jiayi-Pan/Countdown-Tasks-3to4."""

    name = "countdown"
    step_reward = "cotree.rewards.steps.countdown:countdown_steps"
    description = "500 generated games of three or four numbers, each used exactly once"

    def rows(self) -> Iterable[Row]:
        return [{"nums": list(game.numbers), "target": game.target} for game in games(500)]

    def problem(self, row: Row, place: str, index: int) -> Problem:
        numbers, target = row.get("nums"), text_of(row, "target", place)
        if not isinstance(numbers, list | tuple) or len(numbers) < 2:
            raise ValueError(f"{place}: `nums` is {numbers!r}; it must be a list of numbers.")
        *most, last = [str(number) for number in numbers]
        question = (
            f"Write an expression with the value {target}. It must use each of the numbers "
            f"{', '.join(most)} and {last} exactly once and no other number, with +, -, *, / and "
            "parentheses. The final answer is the expression itself, not its value."
        )
        columns = {"numbers": list(numbers), "target": row["target"]}
        return self.posed(index, question, target, columns)

    def question_columns(self, question: str) -> Row:
        told = _NUMBERS_TOLD.search(question)
        assert told is not None, question
        return {"numbers": re.split(", | and ", told[1])}

    def term(self, strict_rule: str | None) -> Term | None:
        options = {"use_all": True, "extraction": strict_rule or "lenient"}
        return Term("countdown_answer", options=options)


class TinyCountdown(Benchmark):
    """Test games of the task that `configs/countdown.toml` trains on."""

    name = "countdown-tiny"
    prompt = "bare"
    step_reward = "countdown"
    description = "500 generated games of small numbers; none of them is a training problem"

    def rows(self) -> Iterable[Row]:
        games = task_games(CountdownTask(type="countdown"), "test", count=500)
        return [{"question": question_text(game.numbers, game.target)} for game in games]

    def problem(self, row: Row, place: str, index: int) -> Problem:
        question = text_of(row, "question", place)
        try:
            told = self.question_columns(question)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        return self.posed(index, question, str(told["target"]), told)

    def question_columns(self, question: str) -> Row:
        # The target is told as well, so the answer can be judged like any other step.
        numbers, target = read_question(question)
        return {"numbers": list(numbers), "target": target}

    def term(self, strict_rule: str | None) -> Term | None:
        return Term("countdown_answer", options={"extraction": strict_rule or "lenient"})


TARGETS = range(10, 100)
"""Of the games of the benchmark `countdown`."""


def games(count: int) -> list[Game]:
    """Games of three and four numbers up to 99 in turn, no two alike; always the same.

    They are made backwards, see `random_game`; the targets lie in `TARGETS`.
    """
    rng = random.Random(derive("countdown benchmark", 1))
    rules = Rules(largest_number=99, signs="+-*/", largest_value=None, targets=TARGETS)
    found: dict[tuple[tuple[int, ...], int], Game] = {}
    while len(found) < count:
        game = random_game(rng, 3 + len(found) % 2, rules)
        if game is not None:
            found.setdefault((tuple(sorted(game.numbers)), game.target), game)
    return list(found.values())
