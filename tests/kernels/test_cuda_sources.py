"""Tests for kernels/cuda_sources.py: what the sources compile to, and where they cannot run."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from triton import knobs

from cotree.kernels import cuda_matmul, cuda_quantize
from cotree.kernels.cuda_sources import FOLDER, compile_source, missing

NVCC = shutil.which("nvcc")
CPU = torch.device("cpu")
# Source, architecture, and the instruction that the kernel is written for.
COMPILED = [
    ("quantize", "90a", r"F2FP\.SATFINITE\.E4M3"),
    ("quantize", "100a", r"F2FP\.SATFINITE\.E4M3"),
    ("wgmma", "90a", r"QGMMA\.64x128x32\.F32\.E4M3\.E4M3"),
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """The assembler's report and the machine code, by source and architecture."""
    if NVCC is None:
        pytest.skip("needs nvcc of the CUDA toolkit on the PATH")
    folder = tmp_path_factory.mktemp("cubin")
    return {
        f"{source} {architecture}": machine_code(NVCC, source, architecture, folder)
        for source, architecture, _ in COMPILED
    }


def machine_code(nvcc: str, source: str, architecture: str, folder: Path) -> tuple[str, str]:
    cubin = folder / f"{source}_{architecture}.cubin"
    done = subprocess.run(
        [
            *(nvcc, "-O3", "-std=c++17", "-cubin", "-Xptxas", "-v", "-Werror", "all-warnings"),
            f"-gencode=arch=compute_{architecture},code=sm_{architecture}",
            *("-o", cubin, FOLDER / f"{source}.cu"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    disassembled = subprocess.run(
        [knobs.nvidia.nvdisasm.path, "-c", cubin], capture_output=True, text=True, check=True
    )
    return done.stderr, disassembled.stdout


@pytest.mark.parametrize(("source", "architecture", "opcode"), COMPILED)
def test_kernels_do_not_spill_and_use_their_instruction(
    compiled: dict[str, tuple[str, str]], source: str, architecture: str, opcode: str
):
    report, code = compiled[f"{source} {architecture}"]
    stacks = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores", report)
    # One function for each of float32, bfloat16 and float16.
    assert stacks == [("0", "0")] * 3, report
    assert re.search(opcode, code)


def test_the_product_leaves_the_tensor_core_after_128(compiled: dict[str, tuple[str, str]]):
    # 128 of the contraction are 4 instructions of 32; the first starts from zero, so nothing is
    # left in the tensor core's accumulator from one scale to the next. In each of 3 functions.
    _, code = compiled["wgmma 90a"]
    products = re.findall(r"QGMMA\.\S+ R\d+, gdesc\[UR\d+\], (RZ|R\d+)", code)
    assert [product == "RZ" for product in products] == [True, False, False, False] * 3


@pytest.mark.parametrize("module", [cuda_quantize, cuda_matmul])
def test_a_cpu_is_told_what_it_lacks(module):
    reason = module.available(CPU)
    assert reason is not None
    assert "the operands are on cpu" in reason
    assert missing(CPU, [(9, 0)]) == reason


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is a CUDA build")
def test_without_cuda_there_is_no_compiler():
    with pytest.raises(OSError, match="this build of torch has no CUDA"):
        compile_source("quantize", "sm_90a")
