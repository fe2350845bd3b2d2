"""Tree strategies by name: `beam`, `beam:16`, `beam:width=16,expansions=4`.

A number alone is the setting that a kind names for it. Settings are the fields of a dataclass,
read by their annotations; what is not written has its default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from cotree.search.monte_carlo import MonteCarlo, MonteCarloSettings
from cotree.search.strategies import STRATEGIES
from cotree.search.tree_strategy import TreeStrategy
from cotree.search.trees.beam import Beam, BeamSettings
from cotree.search.trees.completions import Completions
from cotree.search.trees.mcts import Mcts, MctsSettings
from cotree.search.trees.particles import Particles, ParticleSettings
from cotree.search.trees.refine import Refine, RefineSettings
from cotree.search.trees.resample import Resample, ResampleSettings
from cotree.search.types import JobKind

_INT = re.compile(r"-?[0-9]{1,9}")
_EXPECTED: dict[object, str] = {
    NoneType: "none",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """Of a strategy that has none."""


@dataclass(frozen=True, kw_only=True)
class CompletionsSettings:
    """Of a strategy over whole completions."""

    completions: int | None = None
    """Completions that it draws at most. None: only the budget ends it."""
    stops_when_refuted: bool = False
    """Ends a completion after its first refuted step, so that it does not vote."""

    def __post_init__(self) -> None:
        if self.completions is not None and self.completions < 1:
            raise ValueError(
                f"completions = {self.completions} must be 1 or more, or none for no limit."
            )


@dataclass(frozen=True, kw_only=True)
class TreeKind:
    """A tree strategy that can be named."""

    settings: type[Any]
    """A frozen dataclass whose fields all have defaults; it refuses what is out of range."""
    build: Callable[[Any, int], TreeStrategy]
    """From settings and the seed of the search."""
    needs_verdicts: bool
    """It looks at scores or refuted steps, so there must be a judge that knows some."""
    kinds: frozenset[JobKind]
    """Of the jobs that it asks for."""
    number: str | None = None
    """The setting that a number alone stands for."""
    fixed: Mapping[str, object] = field(default_factory=dict[str, object])
    """Settings that the name decides."""

    @property
    def keys(self) -> list[str]:
        """Settings that can be written, in the order of the fields."""
        return [one.name for one in fields(self.settings) if one.name not in self.fixed]


def _over_completions(name: str, *, can_stop: bool = True) -> TreeKind:
    """A strategy of `STRATEGIES`; one that takes a single completion has no settings."""
    kind = STRATEGIES[name]
    if not kind.has_size:
        return TreeKind(
            settings=NoSettings,
            build=lambda *_: Completions(kind.build(None), stops_when_refuted=False),
            needs_verdicts=kind.needs_verdicts,
            kinds=frozenset(("rollout",)),
        )

    def build(settings: CompletionsSettings, seed: int) -> TreeStrategy:
        del seed  # all chance is the engine's
        strategy = kind.build(settings.completions)
        return Completions(strategy, stops_when_refuted=settings.stops_when_refuted)

    return TreeKind(
        settings=CompletionsSettings,
        build=build,
        needs_verdicts=kind.needs_verdicts,
        kinds=frozenset(("rollout",)),
        number="completions",
        fixed={} if can_stop else {"stops_when_refuted": False},
    )


def _beam(*, diverse: bool) -> TreeKind:
    return TreeKind(
        settings=BeamSettings,
        build=lambda settings, _: Beam(settings),
        needs_verdicts=True,
        kinds=frozenset(("step",)),
        number="width",
        fixed={"diverse": diverse},
    )


def _mcts(rule: str) -> TreeKind:
    return TreeKind(
        settings=MctsSettings,
        build=lambda settings, seed: Mcts(settings, seed=seed),
        needs_verdicts=True,
        kinds=frozenset(("rollout",)),
        number="simulations",
        fixed={"rule": rule},
    )


TREE_STRATEGIES: dict[str, TreeKind] = {
    "sample": _over_completions("first"),
    "majority": _over_completions("majority", can_stop=False),
    "best-of": _over_completions("best-of"),
    "weighted-majority": _over_completions("weighted-majority"),
    "vetoed-majority": _over_completions("vetoed-majority"),
    "resample-whole": _over_completions("resample"),
    "dfs": TreeKind(
        settings=ResampleSettings,
        build=lambda settings, _: Resample(settings),
        needs_verdicts=True,
        kinds=frozenset(("rollout",)),
        number="tries",
    ),
    "beam": _beam(diverse=False),
    "dvts": _beam(diverse=True),
    "particles": TreeKind(
        settings=ParticleSettings,
        build=lambda settings, seed: Particles(settings, seed=seed),
        needs_verdicts=True,
        kinds=frozenset(("step",)),
        number="particles",
    ),
    "refine": TreeKind(
        settings=RefineSettings,
        build=lambda settings, _: Refine(settings),
        needs_verdicts=True,
        kinds=frozenset(("rollout", "revise")),
        number="completions",
    ),
    "puct": _mcts("puct"),
    "uct": _mcts("uct"),
    "gumbel": _mcts("gumbel"),
    "monte-carlo": TreeKind(
        settings=MonteCarloSettings,
        build=lambda settings, _: MonteCarlo(settings),
        needs_verdicts=False,
        kinds=frozenset(("rollout",)),
        number="samples",
    ),
}
"""By name. Another strategy joins with an entry here."""


@dataclass(frozen=True)
class NamedTreeStrategy:
    """A strategy with all its settings; each search builds one of its own."""

    name: str
    """With every setting spelled out, so that equal names are equal strategies:
    `beam:width=16,expansions=4,rounds=40,repeats=true`."""
    settings: Any
    kind: TreeKind

    def build(self, seed: int) -> TreeStrategy:
        """A strategy for one problem, which uses it up.

        Args:
            seed: of the search; strategies without random choices do not read it.
        """
        return self.kind.build(self.settings, seed)

    @property
    def needs_verdicts(self) -> bool:
        return self.kind.needs_verdicts

    @property
    def kinds(self) -> frozenset[JobKind]:
        return self.kind.kinds


def tree_strategy_named(text: str) -> NamedTreeStrategy:
    """The strategy behind a name.

    Args:
        text: `NAME`, `NAME:NUMBER` or `NAME:key=value,key=value`. Values are whole numbers,
            numbers, `true`, `false`, words, or `none`.

    Raises:
        ValueError: there is no such strategy or setting, or a value is of the wrong kind or out of
            range. It says what there is.
    """
    name, colon, written = text.partition(":")
    kind = TREE_STRATEGIES.get(name)
    if kind is None:
        choices = ", ".join(TREE_STRATEGIES)
        raise ValueError(f"no tree strategy is named {name!r}; there are {choices}.")
    keys = ", ".join(kind.keys) or "none"
    allowed = f"Settings of {name}: {keys}."
    try:
        values = _values(kind, written) if colon else {}
        settings = kind.settings(**values, **kind.fixed)
    except ValueError as error:
        raise ValueError(f"tree strategy {text!r}: {error} {allowed}") from error
    spelled = ",".join(f"{key}={_spelled(getattr(settings, key))}" for key in kind.keys)
    return NamedTreeStrategy(f"{name}:{spelled}" if spelled else name, settings, kind)


def _values(kind: TreeKind, written: str) -> dict[str, object]:
    """Settings by key, from what follows the colon of a name."""
    if "=" not in written:
        if kind.number is None:
            raise ValueError(f"it takes no number, {written!r} was given.")
        written = f"{kind.number}={written}"
    hints = get_type_hints(kind.settings)
    found: dict[str, object] = {}
    for part in written.split(","):
        key, equals, value = part.partition("=")
        if not equals or key not in kind.keys:
            raise ValueError(f"{part!r} is no setting; write key=value.")
        if key in found:
            raise ValueError(f"{key} is set twice; set it once.")
        found[key] = _read(key, value, hints[key])
    return found


def _read(key: str, text: str, hint: object) -> object:
    """A value from its text, by the annotation of its field."""
    hints = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for one in hints:
        if one is NoneType and text == "none":
            return None
        if one is bool and text in ("true", "false"):
            return text == "true"
        if one is int and _INT.fullmatch(text):
            return int(text)
        if one is float and (number := _finite(text)) is not None:
            return number
        if get_origin(one) is Literal and text in get_args(one):
            return text
    raise ValueError(f"{key} = {text!r} must be {' or '.join(map(_expected, hints))}.")


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _expected(hint: object) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    return _EXPECTED[hint]


def _spelled(value: object) -> str:
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
