"""What a benchmark is: the class that is subclassed to add one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

from cotree.grpo.config_file import ConfigError
from cotree.grpo.rows import text_of
from cotree.rewards.extract import LENIENT, Extraction, extract
from cotree.rewards.registry import Term
from cotree.rewards.types import Problem

Row = Mapping[str, object]
Example = tuple[str, str]
"""A question and its worked solution."""


class Benchmark(ABC):
    """Problems and how they are asked and graded. Subclasses set the attributes as class variables.

    `problem` is all that most need to define: with `hub` it makes a benchmark that is graded by
    the reward `math`.
    """

    name: str = ""
    """Part of file names, so letters, digits, `_`, `-` and `.` only."""
    version: int = 1
    """Raised whenever prompts, references or grading change: results of two do not compare."""
    hub: str | None = None
    """`hub:NAME[/SUBSET]:SPLIT`; None: `rows` generates them, or `--data` has them."""
    hub_examples: str | None = None
    """Where worked examples come from, as `hub`; None: only a local file has them."""
    prompt: str = "boxed"
    """The default prompt style, see `prompting`."""
    example_rule: str = "boxed"
    """The extraction rule that reads the answers of the worked examples."""
    step_reward: str | None = None
    """A reward that judges the steps of a completion from the question alone, by an installed name
    or as `module:function`; None: no rule does. See `question_columns`."""
    description: str = ""
    """One line: what it is, from whom, under which licence."""

    @abstractmethod
    def problem(self, row: Row, place: str, index: int) -> Problem:
        """The problem of a row; `posed` makes one.

        Its columns are what grading uses and nothing else: they are part of the checksum, and
        other fields come out differently of JSONL and parquet (absent, or null).

        Args:
            row: as published.
            place: file and row number, for messages.
            index: from 0, in the order of the rows.

        Raises:
            ValueError: the row cannot be used; the message begins with `place`.
        """

    def example(self, row: Row, place: str) -> Example:
        """Question and worked solution of a training row, for few-shot prompts.

        Raises:
            ConfigError: this benchmark has no worked examples.
            ValueError: the row cannot be used; the message begins with `place`.
        """
        raise ConfigError(
            f"{self.name} has no worked examples ({place}, {sorted(row)}); choose another prompt."
        )

    def rows(self) -> Iterable[Row]:
        """The rows of a benchmark that is generated; a pure function without arguments."""
        return ()

    def term(self, strict_rule: str | None) -> Term | None:
        """The reward that grades.

        Args:
            strict_rule: the extraction rule of the format that the prompt asked for; None: any
                format that commits to an answer.

        Returns:
            None where the answer's format cannot be judged; never for `strict_rule` None.
        """
        return Term("math", options={"extraction": strict_rule or "lenient"})

    def answer(self, text: str) -> Extraction:
        """The answer of a completion, as votes are counted."""
        return extract(text, LENIENT)

    def question_columns(self, question: str) -> Row:
        """Columns for `step_reward`, as far as the question's text tells them.

        It is given no row of the data set: those have columns to grade with.
        """
        del question
        return {}

    def posed(
        self, index: int, question: str, reference: str, columns: Row | None = None
    ) -> Problem:
        """A problem of this benchmark. Its id depends on its place alone: no published id does."""
        id_ = f"{self.name}/{index}"
        return Problem(id_, question, reference, self.name, question, columns or {})


def first_text(row: Row, fields: Sequence[str], place: str) -> str:
    """The text of the first of these fields that the row has: copies of a data set rename them.

    Raises:
        ValueError: it has none of them, or the first is blank or neither text nor a number.
    """
    for field in fields:
        if row.get(field) is not None:
            return text_of(row, field, place)
    raise ValueError(f"{place}: there is none of the fields {list(fields)}; it has {sorted(row)}.")
