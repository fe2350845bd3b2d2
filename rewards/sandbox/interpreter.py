"""What a Python interpreter consists of on disk: the only files that sandboxed code can read.

Listed exactly, not as `/usr`: in containers a project, its data and its keys often lie under
`/usr/src` or beside the interpreter. Installed packages are left out.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cotree.rewards.types import GraderError

FLAGS = ("-s", "-S", "-P", "-B", "-X", "utf8")
"""No site packages, no working directory on the import path, no bytecode written."""
ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""Sets of strings iterate in the same order in every run, so a verdict repeats."""

_LIST_SECONDS = 60.0
_PACKAGES = ("site-packages", "dist-packages")
# Extensions that draw in a windowing system or a network directory, and the interpreter's tests.
_UNUSED = ("_tkinter", "nis", "readline", "_curses", "_dbm", "_gdbm", "_test", "xx")

# The dynamic loader knows which libraries it opened and under which names.
_LIST_FILES = """
import ctypes, importlib, json, os, sys

class Loaded(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("name", ctypes.c_char_p)]

folders = [folder for folder in sys.path if os.path.isdir(folder)]
for folder in folders:
    if os.path.basename(folder) == "lib-dynload":
        for file in sorted(os.listdir(folder)):
            if not file.startswith(tuple(json.loads(sys.argv[1]))):
                try:
                    importlib.import_module(file.partition(".")[0])
                except ImportError:
                    pass
try:
    ctypes.CDLL("libgcc_s.so.1")  # opened when a thread ends
except OSError:
    pass
names = []
CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(Loaded), ctypes.c_size_t, ctypes.c_void_p
)
note = CALLBACK(lambda loaded, size, _: names.append(os.fsdecode(loaded.contents.name)) or 0)
ctypes.CDLL(None).dl_iterate_phdr(note, None)
print(json.dumps([folders, [name for name in names if name.startswith("/")]]))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Absolute paths, under the names by which the interpreter looks for them."""

    executable: str
    libraries: tuple[str, ...]
    folders: tuple[str, ...]
    """Of the standard library."""
    hidden: tuple[str, ...]
    """Folders of installed packages inside `folders`."""

    def entries(self) -> tuple[str, ...]:
        """The files and folders directly in `folders`, without the hidden ones."""
        return tuple(
            str(path)
            for folder in self.folders
            for path in sorted(Path(folder).iterdir())
            if str(path) not in self.hidden
        )


@cache
def interpreter() -> Interpreter:
    """The interpreter that runs this process, without its virtual environment.

    Raises:
        GraderError: it cannot be run, or does not list its files.
    """
    executable = _executable()
    argv = [executable, *FLAGS, "-c", _LIST_FILES, json.dumps(_UNUSED)]
    try:
        listed = subprocess.run(
            argv, env=ENVIRONMENT, capture_output=True, timeout=_LIST_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        printed = getattr(error, "stderr", None) or b""
        raise GraderError(
            f"{executable} could not list its files for the sandbox: {error} {printed[-500:]!r}"
        ) from error
    found, libraries = json.loads(listed.stdout)
    folders = [folder for folder in found if not any(_inside(folder, other) for other in found)]
    inside = tuple(f"{folder}{os.sep}" for folder in folders)
    hidden = [
        path
        for folder in folders
        for name in _PACKAGES
        if Path(path := f"{folder}/{name}").is_dir()
    ]
    outside = [path for path in libraries if not path.startswith(inside)]
    return Interpreter(executable, tuple(outside), tuple(folders), tuple(hidden))


def _executable() -> str:
    """The base interpreter: in a virtual environment `sys.executable` may be a link or a copy."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix) / "bin" / version
    return str((base if base.exists() else Path(sys.executable)).resolve())


def _inside(folder: str, other: str) -> bool:
    return folder.startswith(f"{other}{os.sep}")
