"""Code that other people add: entry points of installed packages, and single files."""

from __future__ import annotations

import importlib.util
import platform
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.abc import InspectLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import CodeType, ModuleType

Refusal = Callable[[str], Exception]
"""Makes what is raised of its message."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A plugin's file as it was when the run started; workers need no copy of their own."""

    path: str
    text: str


def unique_entry_points(group: str, *, what: str, refusal: Refusal) -> dict[str, EntryPoint]:
    """What installed packages offer under an entry-point group, by name in alphabetical order.

    Args:
        group: of the entry points.
        what: is offered, for the message: `reward`, say.
        refusal: of two packages that offer the same name, so that neither can be chosen.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        if entry.name in found and found[entry.name].value != entry.value:
            raise refusal(
                f"two installed packages offer a {what} named {entry.name!r}: "
                f"{found[entry.name].value} and {entry.value}. Uninstall one, or name the object "
                "itself as `module:name`."
            )
        found[entry.name] = entry
    return found


def read_source(path: Path, *, what: str, refusal: Refusal) -> SourceFile:
    """A plugin's file, read.

    Args:
        path: of the file.
        what: is in it, for the message.
        refusal: of a path without a file.
    """
    if not path.is_file():
        raise refusal(
            f"no {what} file {str(path)!r} in the working directory {str(Path.cwd())!r} of "
            f"{platform.node()}."
        )
    return SourceFile(str(path.resolve()), path.read_text(encoding="utf-8"))


@contextmanager
def importing(
    what: str, *, refusal: Refusal, passing: tuple[type[Exception], ...]
) -> Generator[None]:
    """Importing runs someone's code: what it raises, `sys.exit()` included, becomes a message.

    Args:
        what: is imported, for the message: `reward 'mine.py:brief'`, say.
        refusal: of an import that raised.
        passing: exceptions that the caller has a message of its own for.
    """
    try:
        yield
    except passing:
        raise
    except (Exception, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise refusal(
            f"{what}: importing it raised {type(error).__name__}: {error} "
            f"(at {place.filename}:{place.lineno})"
        ) from error


def module_from_file(file: SourceFile) -> ModuleType:
    """The file's text as a module, the same one each time for the same path and text.

    Two files of the same name, or two states of one, do not share a module; and it is in
    `sys.modules`, where dataclasses and pickle look it up by name.
    """
    digest = sha256(f"{file.path}\0{file.text}".encode()).hexdigest()[:12]
    module_name = f"cotree_plugin_{Path(file.path).stem}_{digest}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_loader(module_name, _FileLoader(file), origin=file.path)
    assert spec is not None, file.path
    assert spec.loader is not None, file.path
    module = importlib.util.module_from_spec(spec)
    module.__file__ = file.path
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        # Else the next lookup would find half a module.
        del sys.modules[module_name]
        raise
    return module


class _FileLoader(InspectLoader):
    """Imports a module from text that was read earlier, perhaps on another machine."""

    def __init__(self, file: SourceFile) -> None:
        self._file = file

    def get_source(self, fullname: str) -> str:  # noqa: ARG002 - importlib's interface
        return self._file.text

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - importlib's interface
        return self.source_to_code(self._file.text, self._file.path)
