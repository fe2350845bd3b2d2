"""A seccomp filter, assembled by hand: the system calls that a pure computation may make.

An allow list: what is not named is refused with EPERM. So there are no sockets to anywhere, no
second process, no signal to another one, no change to a file's owner, mode or times, and none of
the calls that kernel exploits usually start with (bpf, io_uring, userfaultfd, keyctl, perf, mount).

Source: Linux `Documentation/userspace-api/seccomp_filter.rst`; numbers of `asm/unistd_64.h` and
`asm-generic/unistd.h`.
"""

import errno
import struct
from typing import NamedTuple

_X86_64 = """
    read=0 write=1 open=2 openat=257 close=3 close_range=436 stat=4 fstat=5 lstat=6 newfstatat=262
    statx=332 poll=7 ppoll=271 lseek=8 mmap=9 mprotect=10 munmap=11 mremap=25 madvise=28 brk=12
    rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 rt_sigpending=127 rt_sigtimedwait=128
    rt_sigsuspend=130 sigaltstack=131 pause=34 alarm=37 setitimer=38 getitimer=36
    restart_syscall=219 ioctl=16 fcntl=72 dup=32 dup2=33 dup3=292 pipe=22 pipe2=293 readv=19
    writev=20 pread64=17 pwrite64=18 access=21 faccessat=269 faccessat2=439 readlink=89
    readlinkat=267 getcwd=79 chdir=80 getdents64=217 ftruncate=77 fadvise64=221 select=23
    pselect6=270 epoll_create1=291 epoll_ctl=233 epoll_wait=232 epoll_pwait=281 eventfd2=290
    socketpair=53 sendto=44 recvfrom=45 shutdown=48 futex=202 sched_yield=24 sched_getaffinity=204
    set_robust_list=273 set_tid_address=218 rseq=334 membarrier=324 clone=56 execve=59 exit=60
    exit_group=231 wait4=61 waitid=247 arch_prctl=158 nanosleep=35 clock_nanosleep=230
    clock_gettime=228 clock_getres=229 gettimeofday=96 time=201 times=100 getrusage=98
    getrlimit=97 prlimit64=302 sysinfo=99 uname=63 getrandom=318 getpid=39 getppid=110 gettid=186
    getuid=102 geteuid=107 getgid=104 getegid=108 getresuid=118 getresgid=120 getgroups=115
    getpgid=121 getpgrp=111 getsid=124 clone3=435 openat2=437
"""

_AARCH64 = """
    read=63 write=64 openat=56 close=57 close_range=436 fstat=80 newfstatat=79 statx=291 ppoll=73
    lseek=62 mmap=222 mprotect=226 munmap=215 mremap=216 madvise=233 brk=214 rt_sigaction=134
    rt_sigprocmask=135 rt_sigreturn=139 rt_sigpending=136 rt_sigtimedwait=137 rt_sigsuspend=133
    sigaltstack=132 setitimer=103 getitimer=102 restart_syscall=128 ioctl=29 fcntl=25 dup=23
    dup3=24 pipe2=59 readv=65 writev=66 pread64=67 pwrite64=68 faccessat=48 faccessat2=439
    readlinkat=78 getcwd=17 chdir=49 getdents64=61 ftruncate=46 fadvise64=223 pselect6=72
    epoll_create1=20 epoll_ctl=21 epoll_pwait=22 eventfd2=19 socketpair=199 sendto=206
    recvfrom=207 shutdown=210 futex=98 sched_yield=124 sched_getaffinity=123 set_robust_list=99
    set_tid_address=96 rseq=293 membarrier=283 clone=220 execve=221 exit=93 exit_group=94
    wait4=260 waitid=95 nanosleep=101 clock_nanosleep=115 clock_gettime=113 clock_getres=114
    gettimeofday=169 times=153 getrusage=165 getrlimit=163 prlimit64=261 sysinfo=179 uname=160
    getrandom=278 getpid=172 getppid=173 gettid=178 getuid=174 geteuid=175 getgid=176 getegid=177
    getresuid=148 getresgid=150 getgroups=158 getpgid=155 getsid=156 clone3=435 openat2=437
"""


class Machine(NamedTuple):
    """An architecture as the kernel names it to a filter, and the numbers of its calls."""

    audit_arch: int
    numbers: dict[str, int]


def _numbers(table: str) -> dict[str, int]:
    pairs = (entry.split("=") for entry in table.split())
    return {name: int(number) for name, number in pairs}


MACHINES = {
    "x86_64": Machine(0xC000003E, _numbers(_X86_64)),
    "aarch64": Machine(0xC00000B7, _numbers(_AARCH64)),
}

_LOAD, _EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06
_KILL, _REFUSE, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_MASK = 0xFFFFFFFF

_THREAD = 0x00010000
_NAMESPACES = 0x7E020000
_AF_UNIX = 1
# FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, TCGETS, TIOCGWINSZ. Not FIOSETOWN: it aims signals.
_IOCTLS = (0x541B, 0x5421, 0x5450, 0x5451, 0x5401, 0x5413)
# Descriptor and status flags, F_DUPFD_CLOEXEC. F_SETOWN with F_SETSIG can aim SIGKILL at another
# process of the same user; F_SETPIPE_SZ takes kernel memory.
_FCNTLS = (0, 1, 2, 3, 4, 1030)


class _Check(NamedTuple):
    """`argument & mask == value`, on the low or the high 32 bits of an argument."""

    argument: int
    mask: int
    value: int
    high: bool = False


# For each of these calls one alternative must hold, that is, all its checks.
_CONDITIONS: dict[str, tuple[tuple[_Check, ...], ...]] = {
    "clone": ((_Check(0, _THREAD | _NAMESPACES, _THREAD),),),
    "ioctl": tuple((_Check(1, _MASK, command),) for command in _IOCTLS),
    "fcntl": tuple((_Check(1, _MASK, command),) for command in _FCNTLS),
    # An event loop wakes itself through a socket pair. Without an address (argument 4) nothing
    # leaves the pair.
    "socketpair": ((_Check(0, _MASK, _AF_UNIX),),),
    "sendto": ((_Check(4, _MASK, 0), _Check(4, _MASK, 0, high=True)),),
    "prlimit64": ((_Check(0, _MASK, 0),),),
}
# The C library falls back to older calls when these "do not exist", but not when refused. Their
# arguments lie in memory, where a filter cannot look.
_ABSENT = ("clone3", "openat2")


def seccomp_filter(machine: Machine, *, allow_exec: bool) -> bytes:
    """The filter as an array of `struct sock_filter`.

    Args:
        machine: whose numbers to use; calls of another architecture (a 32-bit entry) kill.
        allow_exec: needed where the filter is loaded before the interpreter starts.
    """
    program = [
        _instruction(_LOAD, _ARCH),
        _instruction(_EQUAL, machine.audit_arch, if_true=1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
    ]
    for name, number in machine.numbers.items():
        if name == "execve" and not allow_exec:
            continue
        body = _body(name)
        program += [_instruction(_EQUAL, number, if_false=len(body)), *body]
    program.append(_instruction(_RETURN, _REFUSE | errno.EPERM))
    return b"".join(program)


def _body(name: str) -> list[bytes]:
    """What happens after the call's number matched; ends with a verdict on every path."""
    if name in _ABSENT:
        return [_instruction(_RETURN, _REFUSE | errno.ENOSYS)]
    if name not in _CONDITIONS:
        return [_instruction(_RETURN, _ALLOW)]
    body: list[bytes] = []
    for checks in _CONDITIONS[name]:
        for done, check in enumerate(checks):
            offset = _ARGUMENTS + 8 * check.argument + 4 * check.high
            # A failed check jumps over the rest of its alternative: three instructions each for
            # the checks that follow, and the verdict.
            rest = 3 * (len(checks) - done - 1) + 1
            body += [
                _instruction(_LOAD, offset),
                _instruction(_AND, check.mask),
                _instruction(_EQUAL, check.value, if_false=rest),
            ]
        body.append(_instruction(_RETURN, _ALLOW))
    return [*body, _instruction(_RETURN, _REFUSE | errno.EPERM)]


def _instruction(code: int, operand: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)
