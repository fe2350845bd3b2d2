"""The compile report: every Triton kernel as machine code for Hopper and Blackwell, without a GPU.

Triton's wheel carries its assembler and disassembler, so nothing else is needed:

    python -m cotree.kernels.aot --baseline tests/kernels/aot_baseline.json

A kernel that spills registers, keeps a stack or misses the tensor-core instruction it was written
for is correct in every test and several times slower; this is where that shows.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

if TYPE_CHECKING:
    from cotree.kernels.specialisation import Specialisation

MODULES = (
    "cotree.kernels.triton_quantize",
    "cotree.kernels.triton_matmul",
    "cotree.kernels.triton_grouped",
    "cotree.kernels.triton_head",
)
"""The modules with kernels; each lists its forms as `SPECIALISATIONS`."""
FP_FUSION = True
"""Whether a * b + c may become one fused operation. Triton 3.10 changes what it does when nobody
says, so every launch passes `enable_fp_fusion` and this report compiles with the same value."""
REGISTER_SLACK = 8
"""Registers a thread that a kernel may grow over its baseline: one step of the allocator."""
SHARED_LIMIT = 227 * 1024
"""Bytes of shared memory that a block may have, on Hopper and Blackwell alike."""
_SPILL = re.compile(r"^\s+(?:/\*\w+\*/\s+)?(?:@!?U?P\w+\s+)?(?:LDL|STL)\b", re.MULTILINE)
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")


@dataclass(frozen=True)
class Compiled:
    """What the assembler made of one specialisation."""

    name: str
    architecture: str
    registers: int
    """Of one thread, at most 255."""
    stack_bytes: int
    """Of one thread; local memory, so 0 is what we want."""
    spills: int
    """Instructions that load from or store to local memory."""
    shared_bytes: int
    """Of one block."""
    opcode_found: bool | None
    """Whether the machine code has the expected instruction; None where none is expected."""
    seconds: float
    """Near 0 where Triton's cache had it."""


@dataclass(frozen=True)
class Baseline:
    """Registers that kernels had when the file was written, and by which compiler."""

    triton: str
    registers: Mapping[str, int]
    """By `name architecture`."""


def specialisations(modules: Sequence[str] = MODULES) -> list[Specialisation]:
    """Every form that the modules' `SPECIALISATIONS` list, in order.

    Raises:
        RuntimeError: TRITON_INTERPRET is set, so there is nothing to compile.
        ValueError: two forms have one name.
    """
    _refuse_interpreter()
    found: list[Specialisation] = []
    for module in modules:
        found.extend(importlib.import_module(module).SPECIALISATIONS)
    names = [specialisation.name for specialisation in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"specialisations share the names {twice}; give each its own.")
    return found


def compile_one(specialisation: Specialisation, architecture: str) -> Compiled:
    """The specialisation's machine code for `architecture`, measured.

    Args:
        specialisation: its arguments must cover the kernel's, each once.
        architecture: such as `sm_90a`.

    Raises:
        RuntimeError: TRITON_INTERPRET is set, so there is nothing to compile.
        ValueError: the arguments are not the kernel's, or the architecture's name is unreadable.
    """
    _refuse_interpreter()
    match = re.fullmatch(r"sm_(\d+)a?", architecture)
    if match is None:
        raise ValueError(f"architecture = {architecture!r} must read like 'sm_90a'.")
    source = _source(specialisation)
    begin = time.perf_counter()
    kernel = triton.compile(
        source,
        target=GPUTarget("cuda", int(match[1]), 32),
        options={
            "num_warps": specialisation.num_warps,
            "num_stages": specialisation.num_stages,
            "enable_fp_fusion": FP_FUSION,
        },
    )
    seconds = time.perf_counter() - begin
    usage, code = _disassembled(kernel.asm["cubin"])
    expected = specialisation.opcodes.get(architecture)
    return Compiled(
        name=specialisation.name,
        architecture=architecture,
        registers=usage[0],
        stack_bytes=usage[1],
        spills=len(_SPILL.findall(code)),
        shared_bytes=kernel.metadata.shared,
        opcode_found=None if expected is None else re.search(expected, code) is not None,
        seconds=seconds,
    )


def check(compiled: Compiled, baseline: Baseline | None) -> list[str]:
    """What is wrong with a compiled kernel, in words; empty when nothing is.

    Registers are compared only with a baseline of the same Triton: another compiler allocates
    otherwise, and that is not the kernel's doing.
    """
    where = f"{compiled.name} on {compiled.architecture}"
    problems: list[str] = []
    if compiled.spills or compiled.stack_bytes:
        problems.append(
            f"{where}: {compiled.spills} spill instructions and {compiled.stack_bytes} bytes of "
            f"stack at {compiled.registers} registers; use smaller blocks or more warps."
        )
    if compiled.shared_bytes > SHARED_LIMIT:
        problems.append(
            f"{where}: {compiled.shared_bytes} bytes of shared memory, over the {SHARED_LIMIT} "
            "that a block may have; it cannot be launched. Use smaller blocks or fewer stages."
        )
    if compiled.opcode_found is False:
        problems.append(f"{where}: the machine code lacks the instruction that it is meant to use.")
    if baseline is None or baseline.triton != triton.__version__:
        return problems
    before = baseline.registers.get(_key(compiled))
    if before is None:
        problems.append(f"{where}: not in the baseline; add it with --write-baseline FILE.")
    elif compiled.registers > before + REGISTER_SLACK:
        problems.append(
            f"{where}: {compiled.registers} registers, {before} in the baseline (slack "
            f"{REGISTER_SLACK}); if that is meant, write a new one with --write-baseline FILE."
        )
    return problems


def read_baseline(path: Path) -> Baseline:
    """The baseline that `--write-baseline` stored."""
    stored = json.loads(path.read_text())
    return Baseline(triton=stored["triton"], registers=stored["registers"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles, prints the report, and returns 1 where there is a problem, else 0."""
    options = _options(arguments)
    forms = [form for form in specialisations() if options.only in form.name]
    pairs = [(form.name, architecture) for form in forms for architecture in form.architectures]
    if not pairs:
        print(f"no specialisation's name contains {options.only!r}")  # noqa: T201 - a command's output
        return 1
    report = _compile_all(pairs)
    baseline = read_baseline(options.baseline) if options.baseline else None
    lines = [_HEADER, *(_row(compiled) for compiled in report)]
    problems = [problem for compiled in report for problem in check(compiled, baseline)]
    if baseline is None:
        lines.append("No baseline: registers are not compared.")
    elif baseline.triton != triton.__version__:
        lines.append(
            f"The baseline is of Triton {baseline.triton}, this is {triton.__version__}: registers "
            "are not compared, only spills, stack, shared memory and instructions."
        )
    elif not options.only:
        gone = sorted(set(baseline.registers) - {_key(compiled) for compiled in report})
        problems += [f"{key}: in the baseline, but no such kernel; write it anew." for key in gone]
    if options.write_baseline:
        _write_baseline(options.write_baseline, report)
    lines.append(f"{len(report)} compiled, {len(problems)} problems")
    print("\n".join([*lines, *problems]))  # noqa: T201 - a command's output
    return 1 if problems else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m cotree.kernels.aot",
        description="Compiles every Triton kernel for Hopper and Blackwell, without a GPU.",
    )
    parser.add_argument("--baseline", type=Path, help="compare registers with this file")
    parser.add_argument("--write-baseline", type=Path, help="store the registers in this file")
    parser.add_argument("--only", default="", help="only names that contain this")
    options = parser.parse_args(arguments)
    if options.only and options.write_baseline:
        parser.error("--write-baseline with --only would drop the other kernels; leave one out.")
    return options


def _refuse_interpreter() -> None:
    if knobs.runtime.interpret:
        raise RuntimeError(
            "TRITON_INTERPRET is set: kernels are interpreted in this process and cannot be "
            "compiled. Unset it, or compile in a process of its own."
        )


def _source(specialisation: Specialisation) -> ASTSource:
    kernel = specialisation.kernel
    if not isinstance(kernel, JITFunction):
        raise ValueError(
            f"{specialisation.name}: {kernel!r} is no @triton.jit function; autotuned and "
            "interpreted ones cannot be compiled ahead of time."
        )
    names = list(kernel.arg_names)
    given = [*specialisation.signature, *specialisation.constants]
    if sorted(given) != sorted(names):
        raise ValueError(
            f"{specialisation.name}: signature and constants name {sorted(given)}, the kernel's "
            f"arguments are {sorted(names)}; each must be named once."
        )
    if not specialisation.aligned <= set(specialisation.signature):
        extra = sorted(specialisation.aligned - set(specialisation.signature))
        raise ValueError(f"{specialisation.name}: aligned has {extra}, not in the signature.")
    return ASTSource(
        fn=kernel,
        signature={name: specialisation.signature.get(name, "constexpr") for name in names},
        constexprs=dict(specialisation.constants),
        attrs={
            (names.index(name),): [["tt.divisibility", 16]]
            for name in sorted(specialisation.aligned)
        },
    )


def _disassembled(cubin: bytes) -> tuple[tuple[int, int], str]:
    """(registers, bytes of stack) and the machine code as text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage, code = (
            subprocess.run([*tool, path], capture_output=True, text=True, check=True).stdout
            for tool in (
                (knobs.nvidia.cuobjdump.path, "-res-usage"),
                (knobs.nvidia.nvdisasm.path, "-c"),
            )
        )
    match = _USAGE.search(usage)
    if match is None:
        raise RuntimeError(f"cuobjdump's report has no register count:\n{usage}")
    return (int(match[1]), int(match[2])), code


def _compile_named(pair: tuple[str, str]) -> Compiled:
    """In a worker: compiled kernels do not travel between processes, names do."""
    name, architecture = pair
    (form,) = (form for form in specialisations() if form.name == name)
    return compile_one(form, architecture)


def _compile_all(pairs: list[tuple[str, str]]) -> list[Compiled]:
    # Two are as fast as it gets on the machines that run this, and one is idle during the other's
    # imports. Spawned, not forked: torch and LLVM have threads by now.
    workers = min(2, len(pairs), os.cpu_count() or 1)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(pool.map(_compile_named, pairs))


def _key(compiled: Compiled) -> str:
    return f"{compiled.name} {compiled.architecture}"


_HEADER = (
    f"{'kernel':44} {'arch':8} {'regs':>4} {'stack':>5} {'spill':>5} {'shared':>7} {'opcode':>7} "
    f"{'s':>5}"
)


def _row(compiled: Compiled) -> str:
    opcode = {True: "found", False: "MISSING", None: "-"}[compiled.opcode_found]
    return (
        f"{compiled.name:44} {compiled.architecture:8} {compiled.registers:4} "
        f"{compiled.stack_bytes:5} {compiled.spills:5} {compiled.shared_bytes:7} {opcode:>7} "
        f"{compiled.seconds:5.1f}"
    )


def _write_baseline(path: Path, report: list[Compiled]) -> None:
    registers = {_key(compiled): compiled.registers for compiled in report}
    stored = {"triton": triton.__version__, "registers": registers}
    path.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
