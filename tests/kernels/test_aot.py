"""Tests for kernels/aot.py: a report of kernels whose faults are known, and the gate itself."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import triton
from aot_kernels import HEALTHY

from cotree.kernels import aot
from cotree.kernels.aot import (
    REGISTER_SLACK,
    Baseline,
    Compiled,
    check,
    compile_one,
    main,
    specialisations,
)
from cotree.kernels.specialisation import Specialisation

HERE = Path(__file__).parent
FINE = Compiled("sums/64", "sm_90a", 40, 0, 0, 1024, opcode_found=True, seconds=1.0)
STORED = Baseline(triton.__version__, {"sums/64 sm_90a": 40})


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: Triton's compiler leaves state behind, and noise at its exit."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE.parents[1],
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def report() -> dict[str, Compiled]:
    """What `aot_kernels.py` compiles, by name and architecture."""
    done = python(str(HERE / "aot_kernels.py"))
    assert done.returncode == 0, done.stderr
    compiled = [Compiled(**fields) for fields in json.loads(done.stdout)]
    return {f"{one.name} {one.architecture}": one for one in compiled}


@pytest.mark.parametrize("architecture", ["sm_90a", "sm_100a"])
def test_a_kernel_that_fits_has_no_problem(report: dict[str, Compiled], architecture: str):
    compiled = report[f"multiply/128 {architecture}"]
    assert (compiled.stack_bytes, compiled.spills, compiled.opcode_found) == (0, 0, True)
    # 128 * 128 float32 sums over 256 threads are 64 registers, if they are not in tensor memory;
    # the operands, 16 KiB each, pass through shared memory.
    assert 64 <= compiled.registers <= 255
    assert compiled.shared_bytes >= 2 * 128 * 128
    assert check(compiled, None) == []


def test_a_kernel_that_spills_is_told(report: dict[str, Compiled]):
    compiled = report["multiply/256 sm_90a"]
    assert compiled.registers == 255
    assert compiled.stack_bytes > 0
    assert compiled.spills > 0
    assert compiled.opcode_found is None
    (problem,) = check(compiled, None)
    assert f"{compiled.spills} spill instructions" in problem


def test_a_missing_instruction_is_told(report: dict[str, Compiled]):
    (problem,) = check(report["multiply/misnamed sm_90a"], None)
    assert "lacks the instruction" in problem


@pytest.mark.parametrize("grown", [-20, 0, REGISTER_SLACK, REGISTER_SLACK + 1])
def test_registers_may_grow_by_the_slack(grown: int):
    problems = check(replace(FINE, registers=40 + grown), STORED)
    assert len(problems) == (grown > REGISTER_SLACK)
    assert all("40 in the baseline" in problem for problem in problems)


def test_another_compilers_registers_are_not_compared():
    assert check(replace(FINE, registers=200), replace(STORED, triton="1.0")) == []
    assert check(replace(FINE, name="new", spills=1), replace(STORED, triton="1.0")) != []


def test_a_kernel_without_a_baseline_is_told_how_to_get_one():
    (problem,) = check(replace(FINE, name="new"), STORED)
    assert "new on sm_90a" in problem
    assert "--write-baseline" in problem


def test_a_block_that_cannot_be_launched_is_told():
    # A block may have 227 KiB = 232448 bytes.
    assert check(replace(FINE, shared_bytes=232448), STORED) == []
    (problem,) = check(replace(FINE, shared_bytes=232449), STORED)
    assert "232449 bytes of shared memory" in problem


def test_a_name_is_given_once(monkeypatch: pytest.MonkeyPatch):
    form = Specialisation("a", None, {}, {}, frozenset(), num_warps=4)
    modules = {"one": [form], "two": [replace(form, name="b"), form]}
    for name, forms in modules.items():
        module = ModuleType(name)
        module.SPECIALISATIONS = forms
        monkeypatch.setitem(sys.modules, name, module)
    assert [found.name for found in specialisations(["one"])] == ["a"]
    with pytest.raises(ValueError, match=r"share the names \['a'\]"):
        specialisations(["one", "two"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signature": {"a_ptr": "*fp32"}}, "each must be named once"),
        ({"aligned": frozenset({"BLOCK"})}, r"aligned has \['BLOCK'\]"),
        ({"kernel": print}, "is no @triton.jit function"),
    ],
)
def test_a_form_that_is_not_the_kernels_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        compile_one(replace(HEALTHY, **change), "sm_90a")


def test_an_unreadable_architecture_is_refused():
    with pytest.raises(ValueError, match="must read like 'sm_90a'"):
        compile_one(HEALTHY, "hopper")


def test_every_module_with_kernels_is_compiled():
    stems = {path.stem for path in Path(aot.__file__).parent.glob("triton_*.py")}
    assert {f"cotree.kernels.{stem}" for stem in stems} == set(aot.MODULES)


def test_a_name_that_no_kernel_has_is_told(capsys: pytest.CaptureFixture[str]):
    assert main(["--only", "no such kernel"]) == 1
    assert "contains 'no such kernel'" in capsys.readouterr().out


def test_interpreted_kernels_are_not_compiled():
    done = python("-m", "cotree.kernels.aot", TRITON_INTERPRET="1")
    assert done.returncode == 1
    assert "TRITON_INTERPRET is set" in done.stderr


def test_a_baseline_of_some_kernels_is_not_written(tmp_path: Path):
    with pytest.raises(SystemExit):
        main(["--only", "quantize", "--write-baseline", str(tmp_path / "b.json")])
    assert not (tmp_path / "b.json").exists()


@pytest.mark.e2e
def test_no_kernel_spills_or_misses_its_instruction():
    done = python("-m", "cotree.kernels.aot", "--baseline", str(HERE / "aot_baseline.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert " compiled, 0 problems" in done.stdout
