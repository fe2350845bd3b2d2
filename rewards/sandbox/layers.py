"""The ways to shut a process in, and what each asks of the machine."""

import ctypes
import os
import platform
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from cotree.rewards.sandbox.interpreter import FLAGS, Interpreter
from cotree.rewards.sandbox.syscalls import MACHINES, Machine, seccomp_filter
from cotree.rewards.types import GraderError

_CREATE_RULESET, _VERSION_FLAG = 444, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
# Rights over files that the kernel's Landlock version knows: 13 at first, then "refer" (2),
# "truncate" (3) and device ioctl (5).
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP, _SCOPES = 0b11, 0b11
_DEVICES = ("/dev/null", "/dev/urandom")
_LOADER_CACHE = "/etc/ld.so.cache"
_NOBODY = "65534"


class Layer(StrEnum):
    """From the strongest to none."""

    BUBBLEWRAP = "bubblewrap"
    """Namespaces of its own (files, processes, network, users), and the seccomp filter."""
    LANDLOCK = "landlock"
    """Landlock (files, TCP, signals), no capabilities, and the seccomp filter."""
    LIMITS = "limits"
    """Resource limits only. Files, network and processes of the host are open to the program."""


@dataclass(frozen=True, slots=True)
class Layers:
    """What this machine offers."""

    best: Layer | None
    """The strongest layer that ran a program and refused it files, network and processes."""
    refused: Mapping[Layer, str]
    """Why a layer cannot be used."""


def bubblewrap_command(python: Interpreter, *, filter_fd: int, stdin_fd: int) -> list[str]:
    """The `bwrap` invocation in front of the interpreter's.

    Nothing is writable, /proc does not exist, and only the interpreter's files do.

    Args:
        python: its files appear under their own names.
        filter_fd: the seccomp filter, read once.
        stdin_fd: a copy of the input, which appears as /dev/stdin.

    Raises:
        GraderError: bubblewrap is not installed.
    """
    found = shutil.which("bwrap")
    if found is None:
        raise GraderError("bwrap is not on the PATH; `apt install bubblewrap`")
    argv = [found, "--unshare-user", "--unshare-all", "--uid", _NOBODY, "--gid", _NOBODY]
    argv += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "sandbox"]
    for path in (python.executable, *python.libraries, *python.folders):
        argv += ["--ro-bind", path, path]
    for path in python.hidden:
        argv += ["--tmpfs", path, "--remount-ro", path]
    argv += ["--ro-bind-try", _LOADER_CACHE, _LOADER_CACHE]
    for path in _DEVICES:
        argv += ["--dev-bind", path, path]
    argv += ["--ro-bind-data", str(stdin_fd), "/dev/stdin"]
    return [*argv, "--chdir", "/", "--remount-ro", "/", "--seccomp", str(filter_fd), "--"]


def interpreter_command(python: Interpreter, source: str, *descriptors: int) -> list[str]:
    """The interpreter with the bootstrap's source and the descriptors it is given."""
    return [python.executable, *FLAGS, "-c", source, *map(str, descriptors)]


def bubblewrap_filter() -> bytes:
    """The seccomp filter that bubblewrap loads before the interpreter starts."""
    return seccomp_filter(_machine(), allow_exec=True)


@cache
def confinement(python: Interpreter) -> Mapping[str, object]:
    """What the bootstrap needs to shut itself in: rules and filter, ready for the kernel.

    Raises:
        GraderError: the kernel has no Landlock, or the architecture no filter.
    """
    version = _landlock_version()
    handled = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    attributes = struct.pack("=Q", handled)
    if version >= 4:
        attributes += struct.pack("=Q", _TCP)
    if version >= 6:
        attributes += struct.pack("=Q", _SCOPES)
    # Not below a whole library folder: the packages installed in it stay unreadable.
    readable = [(path, _READ_DIR) for path in python.folders]
    for path in (*python.entries(), *python.libraries, *_DEVICES, _LOADER_CACHE):
        if os.path.isdir(path):  # noqa: PTH112 - strings go to the kernel
            readable.append((path, _READ_FILE | _READ_DIR))
        elif os.path.exists(path):  # noqa: PTH110
            readable.append((path, _READ_FILE | (_WRITE_FILE if path == "/dev/null" else 0)))
    return {
        "landlock": {"attributes": attributes},
        "readable": readable,
        "seccomp": seccomp_filter(_machine(), allow_exec=False),
    }


def _landlock_version() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    version = int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG))
    if version < 1:
        raise GraderError(
            f"the kernel {platform.release()} offers no Landlock "
            f"({os.strerror(ctypes.get_errno())}); it needs Linux 5.13 and lsm=landlock"
        )
    return version


def _machine() -> Machine:
    name = platform.machine()
    if name not in MACHINES:
        raise GraderError(f"no seccomp filter for {name}; there is one for {sorted(MACHINES)}")
    return MACHINES[name]
