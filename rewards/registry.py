"""From the name of a reward in a configuration to the function, checked before a run starts."""

import importlib
import inspect
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Literal

from cotree.rewards.plugins import (
    SourceFile,
    importing,
    module_from_file,
    read_source,
    unique_entry_points,
)
from cotree.rewards.signature import BoundReward, RewardLookupError, bind, check_columns, near
from cotree.rewards.types import RewardFn

GROUP = "cotree.rewards"
"""Entry-point group under which any installed package can offer rewards."""


__all__ = [
    "GROUP",
    "BoundReward",
    "Description",
    "Executor",
    "OnError",
    "RewardLookupError",
    "SourceFile",
    "Term",
    "bind",
    "bound",
    "check_columns",
    "check_signature",
    "describe",
    "installed",
    "located",
    "resolve",
]

Executor = Literal["process", "inline", "ray"]
OnError = Literal["mask", "value", "raise"]


@dataclass(frozen=True, slots=True)
class Term:
    """One reward function by name, its weight in the sum and how it is run."""

    name: str
    weight: float = 1.0
    options: Mapping[str, bool | int | float | str] = field(
        default_factory=dict[str, bool | int | float | str]
    )
    timeout_seconds: float | None = None
    """Wall-clock limit of one call; `None`: the limit of whatever runs the term."""
    executor: Executor = "process"
    on_error: OnError = "mask"
    error_value: float | None = None
    """What a failure counts as under `on_error = "value"`."""
    source: SourceFile | None = None
    """Set by `located` for a reward that is named by its file."""

    def __post_init__(self) -> None:
        if (self.on_error == "value") != (self.error_value is not None):
            raise ValueError(
                f"reward {self.name!r}: on_error = {self.on_error!r} and error_value = "
                f'{self.error_value}; error_value goes with on_error = "value", and only there.'
            )


@dataclass(frozen=True, slots=True)
class Description:
    """A reward as `cotree reward list` shows it."""

    name: str
    origin: str
    """Package and version, or the file."""
    summary: str = ""
    """First line of the docstring."""
    is_batch: bool = False
    is_async: bool = False
    needs: tuple[str, ...] = ()
    """Names that must be a column of the data set or an option."""
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    """Parameters with their defaults."""
    checks_problems: bool = False
    """Whether it refuses unusable references before a run starts."""
    error: str = ""
    """Why it cannot be used here; then the fields above are empty."""


def installed() -> dict[str, EntryPoint]:
    """The rewards that installed packages offer, by name.

    Raises:
        RewardLookupError: two packages offer the same name, so neither can be chosen.
    """
    return unique_entry_points(GROUP, what="reward", refusal=RewardLookupError)


def resolve(name: str, *, source: SourceFile | None = None) -> RewardFn:
    """The function behind a name.

    Args:
        name: an installed name (`answer`), `module:function`, or `path/file.py:function` with
            the path relative to the working directory; `path/file.py` alone will do where the
            file defines a single public function.
        source: of a name with a path: the file's text, which is used instead of the file.

    Raises:
        RewardLookupError: there is no such name, module, file or function, or importing it
            raised something else than an `ImportError`.
        ImportError: something that it imports is missing.
    """
    path, attribute = _split_path(name)
    if path is not None:
        file = source or _read(path)
        with _importing(name, Path(file.path).parent):
            module = module_from_file(file)
        return _attribute(module, attribute or _only_function(module, name), name)
    source_module, colon, attribute = name.rpartition(":")
    if not colon:
        entry = _installed_entry(name)
        with _importing(name):
            found = entry.load()
        return _function(found, name)
    try:
        with _importing(name):
            module = importlib.import_module(source_module)
    except ModuleNotFoundError as error:
        # A missing import inside the module is another problem; its own message says so.
        if error.name is None or not f"{source_module}.".startswith(f"{error.name}."):
            raise
        raise RewardLookupError(
            f"reward {name!r}: no module named {error.name!r}. Install it, or give the file as "
            "`path/file.py:function`."
        ) from error
    return _attribute(module, attribute, name)


def located(term: Term, folder: Path) -> Term:
    """The term with the text of its file, where it is named by one.

    Workers on other nodes then need no such file, and one that is started later in the run sees
    the code that the run began with.

    Args:
        term: from a configuration.
        folder: what a relative path is relative to.

    Raises:
        RewardLookupError: there is no such file.
    """
    path, _ = _split_path(term.name)
    if path is None or term.source is not None:
        return term
    return replace(term, source=_read(folder / path))


def describe(names: Sequence[str] | None = None) -> list[Description]:
    """What a person needs to know about rewards, in the order given.

    Args:
        names: names as in a configuration; all installed ones, sorted, when left out.

    Returns:
        One each; a reward that cannot be imported here has the `error` instead of the rest.
    """
    return [_described(name) for name in (sorted(installed()) if names is None else names)]


def _described(name: str) -> Description:
    origin = _origin(name)
    try:
        reward = bind(resolve(name), {}, name=name)
    except Exception as error:  # whatever importing someone's package raises belongs in the list
        return Description(name, origin, error=f"{type(error).__name__}: {error}")
    lines = (inspect.getdoc(reward.fn) or "").splitlines()
    return Description(
        name=name,
        origin=origin,
        summary=lines[0] if lines else "",
        is_batch=reward.is_batch,
        is_async=reward.is_async,
        needs=reward.columns,
        options=reward.defaults,
        checks_problems=reward.check is not None,
    )


def _origin(name: str) -> str:
    path, _ = _split_path(name)
    if path is not None:
        return str(path.resolve())
    module, colon, _ = name.rpartition(":")
    if colon:
        return f"module {module}"
    entry = installed().get(name)
    if entry is None:
        return "not installed"
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def bound(term: Term) -> BoundReward:
    """The term's function with its arguments decided by name.

    Raises:
        RewardLookupError: there is no such reward, or it does not take the term's options.
    """
    return bind(resolve(term.name, source=term.source), term.options, name=term.name)


def check_signature(fn: RewardFn, options: Mapping[str, object]) -> None:
    """Checks that the function can be bound by name with these options; see `signature`.

    Raises:
        RewardLookupError: it cannot.
    """
    bind(fn, options)


def _installed_entry(name: str) -> EntryPoint:
    known = installed()
    if name not in known:
        raise RewardLookupError(
            f"no installed reward is named {name!r}{near(name, known)}. Known: {sorted(known)}. "
            "Other forms: `module:function` and `path/file.py:function`."
        )
    return known[name]


@contextmanager
def _importing(name: str, folder: Path | None = None) -> Generator[None]:
    try:
        with importing(f"reward {name!r}", refusal=RewardLookupError, passing=(ImportError,)):
            yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        beside = () if folder is None else (folder / f"{missing}.py", folder / missing)
        if not missing or not any(path.exists() for path in beside):
            raise
        raise RewardLookupError(
            f"reward {name!r} imports {missing!r}, which lies beside it. A reward file is run from "
            "its text alone, on any machine; install both as a package, and name the reward "
            "`module:function`."
        ) from error


def _split_path(name: str) -> tuple[Path | None, str]:
    """Path and function of `path/file.py[:function]`; no path for the other forms."""
    if name.endswith(".py"):
        return Path(name), ""
    path, _, attribute = name.rpartition(":")
    return (Path(path), attribute) if path.endswith(".py") else (None, "")


def _read(path: Path) -> SourceFile:
    return read_source(path, what="reward", refusal=RewardLookupError)


def _only_function(module: ModuleType, name: str) -> str:
    own = [
        n
        for n, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and n[0] != "_"
    ]
    if len(own) != 1:
        raise RewardLookupError(
            f"reward {name!r}: the file has {len(own)} public functions {own}; say which as "
            "`path/file.py:function`."
        )
    return own[0]


def _attribute(module: ModuleType, attribute: str, name: str) -> RewardFn:
    names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
    if not hasattr(module, attribute):
        raise RewardLookupError(
            f"reward {name!r}: {module.__file__} has no {attribute!r}{near(attribute, names)}."
        )
    return _function(getattr(module, attribute), name)


def _function(found: object, name: str) -> RewardFn:
    if not callable(found):
        raise RewardLookupError(f"reward {name!r} is {found!r}, which is not a function.")
    return found  # pyright: ignore[reportReturnType] - what it returns is checked by `combine`
