"""From the name of a benchmark to the benchmark."""

from __future__ import annotations

import importlib
import re
from contextlib import AbstractContextManager
from importlib.metadata import EntryPoint
from pathlib import Path

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.definition import Benchmark
from cotree.rewards.plugins import importing, module_from_file, read_source, unique_entry_points
from cotree.rewards.signature import near

GROUP = "cotree.benchmarks"
"""Entry-point group under which any installed package can offer benchmarks."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def installed_benchmarks() -> dict[str, EntryPoint]:
    """The benchmarks that installed packages offer, by name in alphabetical order.

    Raises:
        ConfigError: two packages offer the same name, so neither can be chosen.
    """
    return unique_entry_points(GROUP, what="benchmark", refusal=ConfigError)


def benchmark_named(name: str) -> Benchmark:
    """The benchmark behind a name.

    Args:
        name: an installed name (`gsm8k`), `module:Class`, or `path/file.py:Class` with the path
            relative to the working directory.

    Raises:
        ConfigError: there is no such name, module, file or class; importing it failed; or what
            was found is no usable benchmark.
    """
    source, colon, attribute = name.rpartition(":")
    if name.endswith(".py"):
        raise ConfigError(f"benchmark {name!r}: say which class as {name}:Class.")
    if not colon:
        entry = _entry(name)
        with _importing(name):
            found = entry.load()
        return _instance(found, name, installed_as=name)
    with _importing(name):
        if source.endswith(".py"):
            file = read_source(Path(source), what="benchmark", refusal=ConfigError)
            module = module_from_file(file)
        else:
            module = importlib.import_module(source)
    classes = [n for n, value in vars(module).items() if _is_benchmark(value)]
    if not hasattr(module, attribute):
        raise ConfigError(
            f"benchmark {name!r}: {module.__file__} has no {attribute!r}"
            f"{near(attribute, classes)}; its benchmarks: {classes or 'none'}."
        )
    return _instance(getattr(module, attribute), name, installed_as=None)


def _entry(name: str) -> EntryPoint:
    known = installed_benchmarks()
    if name not in known:
        raise ConfigError(
            f"no benchmark is named {name!r}{near(name, known)}. Known: {', '.join(known)}. "
            "Other forms: `module:Class` and `path/file.py:Class`."
        )
    return known[name]


def _importing(name: str) -> AbstractContextManager[None]:
    return importing(f"benchmark {name!r}", refusal=ConfigError, passing=(ConfigError,))


def _is_benchmark(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Benchmark) and value is not Benchmark


def _instance(found: object, name: str, *, installed_as: str | None) -> Benchmark:
    if not _is_benchmark(found):
        raise ConfigError(f"benchmark {name!r} is {found!r}, which is no subclass of Benchmark.")
    assert isinstance(found, type), found
    try:
        benchmark = found()
    except TypeError as error:
        raise ConfigError(f"benchmark {name!r} cannot be made like this: {error}") from error
    assert isinstance(benchmark, Benchmark), benchmark
    if not _NAME.fullmatch(benchmark.name):
        raise ConfigError(
            f"benchmark {name!r}: its name is {benchmark.name!r}; set `name` to letters, digits, "
            "`_`, `-` and `.`: files are called after it."
        )
    if installed_as not in (None, benchmark.name):
        raise ConfigError(
            f"benchmark {name!r} calls itself {benchmark.name!r}; give the entry point that name."
        )
    return benchmark
