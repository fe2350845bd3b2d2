"""What a program must not reach, tried for real under every layer that works here.

Most programs print `reached` when the attempt succeeds and `refused` when it does not, and the
test expects `reached`: so 0 means that the attempt failed, and the reason proves that it was made.
The same programs earn 1 under resource limits alone, which proves that they would notice.
"""

import os
import platform
import secrets
import socket
import textwrap
import threading
from pathlib import Path

import pytest

import cotree.rewards.types
from cotree.rewards.sandbox.layers import Layer
from cotree.rewards.sandbox.python_tests import OutputTest, UnitTest, graded
from cotree.rewards.sandbox.runner import Limits
from cotree.rewards.types import Reward

LIMITS = Limits(timeout_seconds=5.0, memory_bytes=512 << 20, output_bytes=1 << 18)
ATTEMPT = """
import os, sys, socket, ctypes, signal, fcntl, gc
libc = ctypes.CDLL(None, use_errno=True)
asked = input()
try:
{body}
except (OSError, ImportError) as error:
    print("refused:", type(error).__name__)
else:
    print("reached")
"""


def attempt(body: str) -> str:
    return ATTEMPT.format(body=textwrap.indent(textwrap.dedent(body).strip(), "    "))


def reward(code: str, test: UnitTest, layer: Layer, limits: Limits = LIMITS) -> Reward:
    return graded(code, [test], limits=limits, layer=layer, form="all", tolerance=0.0)


# What only confinement refuses. `asked` is the place to reach: see `target`.
REACHING = {
    "tcp": "socket.create_connection(('127.0.0.1', int(asked)), timeout=2).close()",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "unix_socket": "socket.socket(socket.AF_UNIX).connect(asked)",
    "abstract_socket": """
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        pair[0].sendto(b'x', '\\0' + asked)
    """,
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "passwd": "open('/etc/passwd').read()",
    "secret_file": "open(asked).read()",
    "secret_by_os_open": "os.read(os.open(asked, os.O_RDONLY), 9)",
    "listing": "os.listdir(os.path.dirname(asked))",
    "root_listing": "os.stat('/etc/passwd'); os.listdir('/etc')",
    "home_listing": """
        # The way to an interpreter that lies in the home folder can be seen, nothing beside it.
        beside = [n for n in os.listdir(asked) if not sys.base_prefix.startswith(f"{asked}/{n}")]
        if not beside: raise OSError("nothing here")
    """,
    "installed_packages": "sys.path.append(asked); import cotree.rewards.types",
    "write_beside": "open(asked + '.new', 'w').write('x')",
    "write_tmp": "open('/tmp/' + asked, 'w')",
    "write_shm": "open('/dev/shm/' + asked, 'w')",
    "remove": "os.unlink(asked)",
    "chmod": "os.chmod(asked, 0o777)",
    "touch": "os.utime(asked, (0, 0))",
    "make_folder": "os.mkdir(asked + '.d')",
    "fork": "os.fork() or os._exit(0)",
    "system": "if os.system('exit 3') != 3 << 8: raise OSError('no shell')",
    "spawn": "import subprocess; subprocess.run(['/bin/true'])",
    "daemon": "if os.fork() == 0: os.setsid(); os.fork() or os._exit(0); os._exit(0)",
    "pool": "import multiprocessing; multiprocessing.Process(target=print).start()",
    "parent_environment": "open(f'/proc/{asked}/environ', 'rb').read()",
    "parent_command": "open(f'/proc/{asked}/cmdline', 'rb').read()",
    "parent_descriptors": "os.listdir(f'/proc/{asked}/fd')",
    "parent_folder": "os.readlink(f'/proc/{asked}/cwd')",
    "parent_memory": "open(f'/proc/{asked}/mem', 'rb')",
    "parent_signal": "os.kill(int(asked), 0)",
    "any_process_signal": "os.kill(os.getppid(), 0)",
    "signal_by_descriptor": """
        read, write = os.pipe()
        fcntl.fcntl(read, fcntl.F_SETOWN, int(asked))
        fcntl.fcntl(read, 10, 0)  # F_SETSIG
    """,
    "own_memory_file": "os.memfd_create('x')",
    "shared_memory": "import multiprocessing.shared_memory as s; s.SharedMemory(None, True, 9)",
}


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path):
    """What the attempt named by the test's `name` is to reach: it exists, and can be reached."""
    name = request.getfixturevalue("name")
    secret = tmp_path / "secret"
    secret.write_text("the secret\n")
    if name == "tcp":
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield str(server.getsockname()[1])
    elif name in ("unix_socket", "abstract_socket"):
        path = str(secret) + ".socket" if name == "unix_socket" else secrets.token_hex(8)
        kind = socket.SOCK_STREAM if name == "unix_socket" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_UNIX, kind) as server:
            server.bind(path if name == "unix_socket" else f"\0{path}")
            if name == "unix_socket":
                server.listen()
            yield path
    elif name == "home_listing":
        yield str(Path.home())
    elif name == "installed_packages":
        tree = tmp_path / "cotree"
        tree.mkdir()
        (tree / "rewards").symlink_to(Path(cotree.rewards.types.__file__).parent)
        yield str(tmp_path)
    elif name in ("write_tmp", "write_shm"):
        name = f"cotree-{secrets.token_hex(8)}"
        yield name
        for folder in ("/tmp", "/dev/shm"):
            Path(folder, name).unlink(missing_ok=True)
    elif name.startswith("parent") or name == "signal_by_descriptor":
        yield str(os.getpid())
    else:
        yield str(secret)


@pytest.mark.parametrize("name", REACHING)
def test_what_lies_outside_is_refused(name: str, target: str, layer: Layer):
    result = reward(attempt(REACHING[name]), OutputTest(f"{target}\n", "reached"), layer)
    assert result.value == 0.0
    assert "refused" in result.reason


# Resource limits refuse writing by themselves (no file may grow); a folder's listing and the like
# they do not. Attempts that would leave something behind are not made without confinement.
@pytest.mark.parametrize(
    "name",
    sorted(
        REACHING.keys()
        - {"netlink", "write_beside", "daemon", "spawn", "shared_memory", "parent_memory", "pool"}
    ),
)
def test_the_attempts_would_succeed_without_confinement(name: str, target: str):
    result = reward(attempt(REACHING[name]), OutputTest(f"{target}\n", "reached"), Layer.LIMITS)
    assert result.value == 1.0, result.reason


SYSTEM_CALLS = {
    "socket": "41, 2, 1, 0",
    "fork": "57",
    "vfork": "58",
    "clone": "56, 17, 0, 0, 0, 0",
    "clone3": "435, 0, 0",
    "execve of nothing": "59, b'/bin/sh', 0, 0",
    "kill": "62, 1, 0",
    "tgkill": "234, 1, 1, 0",
    "ptrace": "101, 16, 1, 0, 0",
    "process_vm_readv": "310, 1, 0, 0, 0, 0, 0",
    "pidfd_open": "434, 1, 0",
    "unshare": "272, 0x10000000",
    "setns": "308, 0, 0",
    "mount": "165, b'x', b'/', b'tmpfs', 0, 0",
    "chroot": "161, b'/'",
    "bpf": "321, 0, 0, 0",
    "io_uring_setup": "425, 1, 0",
    "userfaultfd": "323, 0",
    "keyctl": "250, 0, 0",
    "perf_event_open": "298, 0, 0, 0, 0, 0",
    "prctl PDEATHSIG": "157, 1, 0, 0, 0, 0",
    "setuid": "105, 0",
    "shmget": "29, 0, 4096, 0o1600",
    "open_by_handle_at": "304, 0, 0, 0",
    "name_to_handle_at": "303, 0, 0, 0, 0, 0",
    "prlimit of the parent": "302, 1, 7, 0, 0",
    "a 32-bit number": "0x40000000 + 41, 2, 1, 0",
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86_64")
def test_raw_system_calls_are_refused(layer: Layer):
    # EPERM before the arguments are even looked at (ENOSYS for clone3, EACCES for a shell).
    calls = "\n".join(
        f"    ctypes.set_errno(0); result = libc.syscall({arguments})\n"
        f"    print({name!r}, result, ctypes.get_errno())"
        for name, arguments in SYSTEM_CALLS.items()
    )
    code = f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nif True:\n{calls}\n"
    refused = dict.fromkeys(SYSTEM_CALLS, 1) | {"clone3": 38}
    if layer is Layer.BUBBLEWRAP:
        refused["execve of nothing"] = 2  # exec is allowed, but no such file exists
    expected = "".join(f"{name} -1 {number}\n" for name, number in refused.items())
    result = reward(code, OutputTest("", expected), layer)
    assert result.value == 1.0, result.reason


def test_a_listener_never_hears_of_the_program(layer: Layer):
    heard = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)

        def listen() -> None:
            try:
                server.accept()[0].close()
                heard.set()
            except TimeoutError:
                return

        thread = threading.Thread(target=listen)
        thread.start()
        code = attempt(REACHING["tcp"])
        reward(code, OutputTest(f"{server.getsockname()[1]}\n", "reached"), layer)
        thread.join()
    assert not heard.is_set()


def test_nothing_outside_changes(layer: Layer, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("the secret\n")
    before = (secret.stat(), sorted(tmp_path.iterdir()))
    for name in ("remove", "chmod", "touch", "make_folder", "write_beside"):
        reward(attempt(REACHING[name]), OutputTest(f"{secret}\n", "reached"), layer)
    assert (secret.stat(), sorted(tmp_path.iterdir())) == before
    assert secret.read_text() == "the secret\n"


def test_nothing_can_be_written_in_any_folder_that_can_be_seen(layer: Layer):
    code = """
    import os, sys, sysconfig
    folders = {"/", "/dev", "/tmp", "/root", "/home", "/run", "/var/tmp", "/dev/shm"}
    folders |= {folder for folder, _, _ in os.walk("/")} | {sysconfig.get_path("purelib")}
    folders |= {folder for folder, _, _ in os.walk(os.path.dirname(os.__file__))}
    for folder in sorted(folders):
        for attempt in (lambda path: open(path, "x").close(), os.mkdir):
            try:
                attempt(folder + "/cotree_escape")
                print("wrote in", folder)
            except OSError:
                pass
    print(len(folders) > 50)
    """
    result = reward(textwrap.dedent(code), OutputTest("", "True"), layer)
    assert result.value == 1.0, result.reason


def test_the_expected_output_is_nowhere_in_the_process(layer: Layer):
    # Every object the collector knows, every frame's variables, and the readable memory itself.
    expected = secrets.token_hex(16)
    code = """
    import ctypes, gc, re, sys
    found = []
    frame = sys._getframe()
    while frame:
        found.append(repr(frame.f_locals))
        frame = frame.f_back
    found += [repr(thing) for thing in gc.get_objects() if isinstance(thing, (dict, list, tuple))]
    found += [open(0).read()] + sys.argv + sys.orig_argv
    for word in re.findall("[0-9a-f]{32}", " ".join(found)):
        print(word)
    """
    code = textwrap.dedent(code)
    result = reward(code, OutputTest("", expected), layer)
    assert result.value == 0.0
    assert result.reason.startswith("0 of 1 passed; test 0: printed ")  # the nonce, at most
    assert expected not in result.reason
