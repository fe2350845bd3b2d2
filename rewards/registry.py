"""From the name of a reward in a configuration to the function, checked before a run starts."""

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from cotree.rewards.types import RewardFn

GROUP = "cotree.rewards"
"""Entry-point group under which any installed package can offer rewards."""


class RewardLookupError(ValueError):
    """A configured reward does not exist, or its options do not fit its signature."""


@dataclass(frozen=True, slots=True)
class Term:
    """One reward function by name, its weight in the sum and its keyword arguments."""

    name: str
    weight: float = 1.0
    options: Mapping[str, bool | int | float | str] = field(
        default_factory=dict[str, bool | int | float | str]
    )


def installed() -> dict[str, EntryPoint]:
    """The rewards that installed packages offer, by name.

    Raises:
        RewardLookupError: two packages offer the same name, so neither can be chosen.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in found and found[entry.name].value != entry.value:
            raise RewardLookupError(
                f"two installed packages offer a reward named {entry.name!r}: "
                f"{found[entry.name].value} and {entry.value}. Uninstall one, or use the "
                "`module:function` form."
            )
        found[entry.name] = entry
    return found


def resolve(name: str) -> RewardFn:
    """The function behind a name.

    Args:
        name: an installed name (`answer`), `module:function`, or `path/file.py:function` with
            the path relative to the working directory.

    Raises:
        RewardLookupError: there is no such name, module, file or function.
    """
    source, colon, attribute = name.rpartition(":")
    if not colon:
        return _function(_installed_entry(name).load(), name)
    if source.endswith(".py"):
        return _attribute(_module_from_file(Path(source)), attribute, name)
    try:
        module = importlib.import_module(source)
    except ModuleNotFoundError as error:
        # A missing import inside the module is another problem; its own message says so.
        if error.name is None or not f"{source}.".startswith(f"{error.name}."):
            raise
        raise RewardLookupError(
            f"reward {name!r}: no module named {error.name!r}. Install it, or give the file as "
            "`path/file.py:function`."
        ) from error
    return _attribute(module, attribute, name)


def check_signature(fn: RewardFn, options: Mapping[str, object]) -> None:
    """Checks that `fn(completion, problem, **options)` is a call the function accepts.

    Raises:
        RewardLookupError: the first two parameters are not `completion, problem`; an option is
            no parameter of the function (one that only vanishes in `**kwargs` is refused too);
            or a parameter without a default is not given.
    """
    shown = getattr(fn, "__qualname__", repr(fn))
    if inspect.iscoroutinefunction(fn):
        raise RewardLookupError(f"reward {shown} is async; it must return its reward directly.")
    parameters = list(inspect.signature(fn).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    first = [p.name for p in parameters[:2] if p.kind in positional]
    if first != ["completion", "problem"]:
        raise RewardLookupError(
            f"reward {shown}{inspect.signature(fn)} must take `completion, problem` first."
        )
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = {p.name: p for p in parameters[2:] if p.kind in named}
    for option in options:
        if option not in known:
            raise RewardLookupError(
                f"reward {shown} has no option {option!r}{_near(option, known)}; "
                f"it has {sorted(known) or 'none'}."
            )
    missing = [p for p in known if known[p].default is inspect.Parameter.empty and p not in options]
    missing += [p.name for p in parameters[2:] if p.kind is inspect.Parameter.POSITIONAL_ONLY]
    if missing:
        raise RewardLookupError(
            f"reward {shown} needs the options {missing}; set them under [rewards.options]."
        )


def _installed_entry(name: str) -> EntryPoint:
    known = installed()
    if name not in known:
        raise RewardLookupError(
            f"no installed reward is named {name!r}{_near(name, known)}. Known: {sorted(known)}. "
            "Other forms: `module:function` and `path/file.py:function`."
        )
    return known[name]


def _module_from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise RewardLookupError(
            f"no reward file {str(path)!r} in the working directory {str(Path.cwd())!r}."
        )
    # Two files of the same name must not share a module, and a module that dataclasses or
    # pickle look up by name must be in sys.modules.
    digest = sha256(str(path.resolve()).encode()).hexdigest()[:12]
    module_name = f"cotree_reward_{path.stem}_{digest}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        # Else the next lookup would find half a module.
        del sys.modules[module_name]
        raise
    return module


def _attribute(module: ModuleType, attribute: str, name: str) -> RewardFn:
    names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
    if not hasattr(module, attribute):
        raise RewardLookupError(
            f"reward {name!r}: {module.__file__} has no {attribute!r}{_near(attribute, names)}."
        )
    return _function(getattr(module, attribute), name)


def _function(found: object, name: str) -> RewardFn:
    if not callable(found):
        raise RewardLookupError(f"reward {name!r} is {found!r}, which is not a function.")
    return found  # pyright: ignore[reportReturnType] - what it returns is checked by `combine`


def _near(name: str, known: Mapping[str, object] | list[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=2)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
