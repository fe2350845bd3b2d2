"""Tests for rewards/sandbox/syscalls.py: the filter is run by a small interpreter of BPF."""

import re
import struct
from pathlib import Path

import pytest

from cotree.rewards.sandbox.syscalls import MACHINES, Machine, seccomp_filter

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
THREAD_FLAGS = 0x003D0F00
"""What glibc's pthread_create passes to clone."""


def verdict(program: bytes, number: int, *arguments: int, arch: int) -> int:
    """What the kernel would answer: loads, jumps, one `and`, returns."""
    seen = struct.pack("=IIQ6Q", number, arch, 0, *(arguments + (0,) * (6 - len(arguments))))
    at = accumulator = 0
    while True:
        code, if_true, if_false, operand = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", seen, operand)
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x15:
            at += if_true if accumulator == operand else if_false
        else:
            assert code == 0x06
            return operand


@pytest.fixture(params=sorted(MACHINES))
def machine(request: pytest.FixtureRequest) -> Machine:
    return MACHINES[request.param]


def answer(machine: Machine, name: str, *arguments: int, allow_exec: bool = False) -> int:
    program = seccomp_filter(machine, allow_exec=allow_exec)
    return verdict(program, machine.numbers[name], *arguments, arch=machine.audit_arch)


def test_every_listed_call_gets_its_own_verdict(machine: Machine):
    conditional = {"clone", "ioctl", "fcntl", "socketpair", "sendto", "prlimit64"}
    for name in machine.numbers.keys() - conditional - {"clone3", "openat2"}:
        assert answer(machine, name, allow_exec=True) == ALLOW, name
    assert answer(machine, "execve") == EPERM
    assert answer(machine, "clone3") == answer(machine, "openat2") == ENOSYS


def test_every_other_call_is_refused(machine: Machine):
    program = seccomp_filter(machine, allow_exec=True)
    for number in set(range(600)) - set(machine.numbers.values()):
        assert verdict(program, number, arch=machine.audit_arch) == EPERM, number
    assert verdict(program, 0x40000000, arch=machine.audit_arch) == EPERM  # the x32 numbers


def test_another_architecture_kills(machine: Machine):
    program = seccomp_filter(machine, allow_exec=True)
    assert verdict(program, machine.numbers["read"], arch=0x40000003) == KILL  # 32-bit x86


def test_threads_pass_and_processes_and_namespaces_do_not(machine: Machine):
    assert answer(machine, "clone", THREAD_FLAGS) == ALLOW
    assert answer(machine, "clone", 17) == EPERM  # fork: SIGCHLD
    assert answer(machine, "clone", THREAD_FLAGS | 0x10000000) == EPERM  # a user namespace


def test_an_address_to_send_to_is_refused_wherever_it_lies(machine: Machine):
    assert answer(machine, "sendto", 3, 1, 1, 0, 0) == ALLOW
    assert answer(machine, "sendto", 3, 1, 1, 0, 0x7FFF) == EPERM
    assert answer(machine, "sendto", 3, 1, 1, 0, 0x7FFF << 32) == EPERM


def test_descriptor_flags_may_be_set_but_not_the_owner_of_signals(machine: Machine):
    assert answer(machine, "fcntl", 3, 4) == ALLOW  # F_SETFL
    for command in (8, 10, 15, 1031):  # F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETPIPE_SZ
        assert answer(machine, "fcntl", 3, command) == EPERM
    assert answer(machine, "ioctl", 3, 0x5421) == ALLOW  # FIONBIO
    assert answer(machine, "ioctl", 3, 0x5412) == EPERM  # TIOCSTI types into a terminal
    assert answer(machine, "ioctl", 3, 0x8901) == EPERM  # FIOSETOWN


def test_only_its_own_limits_and_pairs_of_local_sockets(machine: Machine):
    assert answer(machine, "prlimit64", 0) == ALLOW
    assert answer(machine, "prlimit64", 1) == EPERM
    assert answer(machine, "socketpair", 1) == ALLOW
    assert answer(machine, "socketpair", 2) == EPERM


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ],
)
def test_the_numbers_are_those_of_the_kernel_headers(name: str, header: str):
    if not Path(header).exists():
        pytest.skip(f"no {header} here (Debian: linux-libc-dev)")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text())
    numbers = {name: int(number) for name, number in found}
    if name == "aarch64":
        numbers["newfstatat"] = numbers["fstatat"]  # one call under its 32- and 64-bit name
    for call, number in MACHINES[name].numbers.items():
        assert numbers[call] == number, call
