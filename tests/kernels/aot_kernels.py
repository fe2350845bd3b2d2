"""Kernels whose compile report is known, and a program that prints it."""

import json
import sys
from dataclasses import asdict, replace

import triton
import triton.language as tl

from cotree.kernels.aot import compile_one
from cotree.kernels.specialisation import Specialisation


@triton.jit
def multiply(a_ptr, b_ptr, out_ptr, stride, BLOCK: tl.constexpr):
    """Writes a @ b.T of one [BLOCK, BLOCK] block of bytes."""
    rows = tl.arange(0, BLOCK)
    at = rows[:, None] * stride + rows[None, :]
    product = tl.dot(tl.load(a_ptr + at), tl.trans(tl.load(b_ptr + at)))
    tl.store(out_ptr + at, product)


HEALTHY = Specialisation(
    name="multiply/128",
    kernel=multiply,
    signature={"a_ptr": "*fp8e4nv", "b_ptr": "*fp8e4nv", "out_ptr": "*fp32", "stride": "i32"},
    constants={"BLOCK": 128},
    aligned=frozenset({"a_ptr", "b_ptr", "out_ptr", "stride"}),
    num_warps=8,
    opcodes={"sm_90a": "QGMMA", "sm_100a": "UTCQMMA"},
)
# 256 * 256 float32 sums over 256 threads are 256 a thread, of 255 registers.
SPILLING = replace(HEALTHY, name="multiply/256", constants={"BLOCK": 256}, opcodes={})
# The instruction of the other architecture.
MISNAMED = replace(HEALTHY, name="multiply/misnamed", opcodes={"sm_90a": "UTCQMMA"})

FORMS = [
    (HEALTHY, "sm_90a"),
    (HEALTHY, "sm_100a"),
    (SPILLING, "sm_90a"),
    (MISNAMED, "sm_90a"),
]

if __name__ == "__main__":
    report = [asdict(compile_one(form, architecture)) for form, architecture in FORMS]
    json.dump(report, sys.stdout)
