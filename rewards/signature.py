"""How a reward function's parameters are filled: by name, decided once at start-up.

    completion            the completion's text
    problem               the `Problem`
    prompt, reference, question, task, id
                          the problem's field of that name
    any other name        an option, else the column of that name of the data set

A parameter with a default is filled when there is something to fill it with: an option, or a
column where the row has one. A function with the parameter `completions` is called with a batch:
`completions` and `problems` are lists then, and every other field or column keeps its name and is
a list as well, while options stay single values.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cotree.rewards.types import CheckFn, Problem, RewardFn

Item = tuple[str, Problem]
"""A completion's text and the problem it answers."""

PROBLEM_FIELDS = ("prompt", "reference", "question", "task", "id")
FIELDS = ("completion", "problem", *PROBLEM_FIELDS)
BATCH_FIELDS = ("completions", "problems", *PROBLEM_FIELDS)


class RewardLookupError(ValueError):
    """A configured reward does not exist, or what it asks for does not."""


@dataclass(frozen=True, slots=True)
class BoundReward:
    """A reward function and where each of its arguments comes from."""

    name: str
    """As in the configuration."""
    fn: RewardFn
    fields: tuple[str, ...]
    columns: tuple[str, ...]
    """Columns that every problem must have."""
    defaults: Mapping[str, object]
    """Parameters with a default that no option sets; a column of the same name replaces it."""
    options: Mapping[str, object]
    is_batch: bool
    is_async: bool

    @property
    def is_grouped(self) -> bool:
        """Whether several completions are handed over at once."""
        return self.is_batch or self.is_async

    @property
    def check(self) -> CheckFn | None:
        """The check of problems that `checked_by` attached, if any."""
        return getattr(self.fn, "check_problem", None)

    def arguments(self, item: Item) -> dict[str, object]:
        """The arguments of one call for one completion.

        Raises:
            LookupError: the problem lacks a column.
        """
        completion, problem = item
        found = dict(self.options)
        for name in self.fields:
            if name == "completion":
                found[name] = completion
            else:
                found[name] = problem if name == "problem" else getattr(problem, name)
        for name in self.columns:
            found[name] = _column(problem, name)
        for name in self.defaults:
            if name in problem.columns:
                found[name] = problem.columns[name]
        return found

    def batch_arguments(self, items: Sequence[Item]) -> dict[str, object]:
        """The arguments of one call for several completions.

        Raises:
            LookupError: a problem lacks a column.
        """
        found = dict(self.options)
        problems = [problem for _, problem in items]
        for name in self.fields:
            if name == "completions":
                found[name] = [completion for completion, _ in items]
            elif name == "problems":
                found[name] = problems
            else:
                found[name] = [getattr(problem, name) for problem in problems]
        for name in self.columns:
            found[name] = [_column(problem, name) for problem in problems]
        for name, default in self.defaults.items():
            if any(name in problem.columns for problem in problems):
                found[name] = [problem.columns.get(name, default) for problem in problems]
        return found


def bind(fn: RewardFn, options: Mapping[str, object], *, name: str = "") -> BoundReward:
    """Decides by name where each argument of `fn` comes from.

    Args:
        fn: a function, a callable object or a partial; `async` or not.
        options: keyword arguments from the configuration.
        name: how the configuration calls the function.

    Raises:
        RewardLookupError: there is no parameter `completion` or `completions`; a parameter cannot
            be given by name; an option is no parameter of the function (one that would only
            vanish in `**kwargs` is refused too) or has the name of a field.
    """
    shown = getattr(fn, "__qualname__", type(fn).__qualname__)
    parameters = _parameters(fn, shown)
    is_batch = "completions" in parameters
    known = BATCH_FIELDS if is_batch else FIELDS
    _refuse_mixed_forms(parameters, shown, is_batch=is_batch)
    for option in options:
        if option in (*FIELDS, *BATCH_FIELDS):
            raise RewardLookupError(
                f"reward {shown}: the option {option!r} has the name of a field, which is filled "
                "from the problem; rename the parameter, or drop the option."
            )
        if option not in parameters:
            takes = [p for p in parameters if p not in known]
            raise RewardLookupError(
                f"reward {shown} has no option {option!r}{near(option, takes)}; "
                f"it has {sorted(takes) or 'none'}."
            )
    free = [p for p in parameters if p not in known and p not in options]
    empty = inspect.Parameter.empty
    return BoundReward(
        name=name or shown,
        fn=fn,
        fields=tuple(p for p in parameters if p in known),
        columns=tuple(p for p in free if parameters[p].default is empty),
        defaults={p: parameters[p].default for p in free if parameters[p].default is not empty},
        options=dict(options),
        is_batch=is_batch,
        is_async=inspect.iscoroutinefunction(fn)
        or inspect.iscoroutinefunction(getattr(fn, "__call__", None)),  # noqa: B004 - its kind
    )


def check_columns(bound: Iterable[BoundReward], problems: Sequence[Problem]) -> None:
    """Checks that the problems have the columns that the functions ask for.

    Raises:
        RewardLookupError: a parameter is neither a field nor an option nor a column of every
            problem, or an option has the name of a column.
    """
    names: set[str] = set()
    for problem in problems:
        names.update(problem.columns)
    for reward in bound:
        for column in reward.columns:
            lacking = [problem.id for problem in problems if column not in problem.columns]
            if lacking:
                raise RewardLookupError(
                    f"reward {reward.name} needs {column!r}{near(column, names - {column})}, "
                    f"which is no option, and {len(lacking)} of {len(problems)} problems have no "
                    f"such column (the first: {lacking[0]}). Columns of the data set: "
                    f"{sorted(names) or 'none'}; fields: {list(FIELDS)}. Add the column to the "
                    f"rows, or set {column!r} under [rewards.options]."
                )
        for option in reward.options:
            if option in names:
                raise RewardLookupError(
                    f"reward {reward.name}: the option {option!r} hides the data set's column of "
                    "that name; drop the option to use the column, or rename the column."
                )


def near(name: str, known: Iterable[str]) -> str:
    """` (did you mean …?)`, or nothing where no name is close."""
    close = difflib.get_close_matches(name, list(known), n=2)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def _parameters(fn: RewardFn, shown: str) -> dict[str, inspect.Parameter]:
    """The parameters that can be given by name; `**kwargs` is none, it would hide misspellings."""
    try:
        signature = inspect.signature(fn)
    except ValueError as error:
        raise RewardLookupError(
            f"reward {shown} has no signature to bind by name ({error}); wrap it in a function "
            "with a parameter `completion`."
        ) from error
    found: dict[str, inspect.Parameter] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise RewardLookupError(
                f"reward {shown}{signature}: {parameter} cannot be given by name; "
                "arguments are bound by name, so drop the `/` or the `*args`."
            )
        if parameter.kind is not parameter.VAR_KEYWORD:
            found[name] = parameter
    if "completion" not in found and "completions" not in found:
        raise RewardLookupError(
            f"reward {shown}{signature} must take `completion` (or `completions`, for a batch)"
            f"{near('completion', found)}."
        )
    return found


def _refuse_mixed_forms(parameters: Iterable[str], shown: str, *, is_batch: bool) -> None:
    wrong = {"completion", "problem"} if is_batch else {"problems"}
    for name in wrong.intersection(parameters):
        right = f"{name}s" if is_batch else name.removesuffix("s")
        raise RewardLookupError(
            f"reward {shown}: a function with `{'completions' if is_batch else 'completion'}` "
            f"takes `{right}`, not `{name}`."
        )


def _column(problem: Problem, name: str) -> object:
    if name not in problem.columns:
        raise LookupError(
            f"{problem.id} has no column {name!r}; it has {sorted(problem.columns) or 'none'}"
        )
    return problem.columns[name]
