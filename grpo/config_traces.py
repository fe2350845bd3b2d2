"""Configuration of worked solutions that a model is taught with, as they are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cotree.grpo.config_algorithm import Strict


class GeneratedTraces(Strict):
    """Worked solutions by a rule-based teacher that can be made to err like a real one."""

    type: Literal["generated"]
    slip_frac: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of steps whose result is off by one or two."""
    wrong_order_frac: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Arithmetic: share of steps that ignore operator precedence where it matters."""
    wrong_choice_frac: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Countdown: share of steps after which the target, in reach until then, is out of reach."""


class RowTraces(Strict):
    """Prompt and solution rows from a local .jsonl/.parquet file or `hub:NAME[/SUBSET]:SPLIT`."""

    type: Literal["rows"]
    path: str
    question_field: str = "question"
    solution_field: str = "solution"


Traces = Annotated[GeneratedTraces | RowTraces, Field(discriminator="type")]
