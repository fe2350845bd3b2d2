"""The first code in the sandboxed process: limits, then confinement, then the generated program.

Not imported but passed to an isolated interpreter as text, so it imports nothing of ours. What
runs after `ready` shares its memory; nothing in here is a secret worth having: the parent
compares values, and expected ones are never sent.
"""

import builtins
import marshal
import os
import resource
import sys
from _sitebuiltins import Quitter
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SIGKILL, _SECCOMP_MODE_FILTER = 9, 2
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CAPABILITY_VERSION = 0x20080522


def main(request_fd: int, report_fd: int) -> None:
    """Reads the request, shuts this process in, reports ready and runs the program."""
    with open(request_fd, "rb") as request_file:
        request: dict[str, Any] = marshal.loads(request_file.read())
    for limit, most in request["limits"]:
        _lower(limit, most)
    if request["confine"] is not None:
        _confine(**request["confine"])
    os.environ.clear()
    # Made by `site`, which is not imported because it would look for packages.
    setattr(builtins, "exit", Quitter("exit", "Ctrl-D"))  # noqa: B010
    setattr(builtins, "quit", Quitter("quit", "Ctrl-D"))  # noqa: B010
    nonce: str = request["nonce"]
    os.write(report_fd, f"{nonce} ready\n".encode())
    if request["call"] is None:
        os.close(report_fd)
        _execute(request["code"], "__main__")
        return
    function, arguments = request["call"]
    returned = _call(_execute(request["code"], "solution"), function, arguments)
    import json  # noqa: PLC0415 - 7 ms that programs without a call need not pay

    _write_all(report_fd, f"{nonce} returned {json.dumps(returned)}\n".encode())
    os._exit(0)


def _execute(code: str, name: str) -> dict[str, Any]:
    """Runs the program as a module of this name; its exceptions are its own."""
    module = type(sys)(name)
    sys.modules[name] = module
    sys.argv[:] = ["solution.py"]
    exec(compile(code, "solution.py", "exec"), module.__dict__)
    return module.__dict__


def _call(namespace: dict[str, Any], path: str, arguments: list[Any]) -> object:
    """`function(*arguments)`, or `Class().method(*arguments)` for a path with a dot."""
    first, *rest = path.split(".")
    found = namespace[first]
    if rest:
        found = found()
    for name in rest:
        found = getattr(found, name)
    return found(*arguments)


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _lower(limit: int, most: int) -> None:
    """Sets both the soft and the hard limit, so that the program cannot raise it again."""
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(limit, (most, most))


def _confine(
    *, parent: int, landlock: dict[str, Any], readable: list[tuple[str, int]], seccomp: bytes
) -> None:
    """Landlock, no capabilities and seccomp, through the C library. Order matters."""
    import ctypes  # noqa: PLC0415 - 2 ms that the other layers need not pay

    libc = ctypes.CDLL(None, use_errno=True)

    def checked(what: str, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")
        return result

    def zero(count: int) -> tuple[Any, ...]:
        return tuple(ctypes.c_ulong(0) for _ in range(count))

    checked("prctl PDEATHSIG", libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(_SIGKILL), *zero(3)))
    if os.getppid() != parent:
        raise RuntimeError("the grading process ended while the sandbox was starting")
    checked("prctl NO_NEW_PRIVS", libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), *zero(3)))

    attributes: bytes = landlock["attributes"]
    size = ctypes.c_size_t(len(attributes))
    ruleset = checked("landlock", libc.syscall(_CREATE_RULESET, attributes, size, 0))
    for path, access in readable:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = access.to_bytes(8, sys.byteorder) + beneath.to_bytes(4, sys.byteorder)
        checked(f"landlock {path}", libc.syscall(_ADD_RULE, ruleset, 1, rule, 0))
        os.close(beneath)
    checked("landlock", libc.syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)

    header = _CAPABILITY_VERSION.to_bytes(4, sys.byteorder) + bytes(4)
    checked("capset", libc.capset(header, bytes(24)))

    class Program(ctypes.Structure):
        """`struct sock_fprog`."""

        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    program = Program(len(seccomp) // 8, seccomp)
    mode = ctypes.c_ulong(_SECCOMP_MODE_FILTER)
    checked("seccomp", libc.prctl(_PR_SET_SECCOMP, mode, ctypes.byref(program), *zero(2)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
