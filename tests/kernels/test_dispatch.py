"""Tests for kernels/dispatch.py without a GPU; test_fp8_gpu.py has those with one."""

import subprocess
import sys

import pytest
import torch

from cotree.kernels import fp8
from cotree.kernels.dispatch import OPS, VARIABLE, backend, choice, missing_for_triton, status

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.parametrize("op", OPS)
def test_on_a_cpu_torch_runs_and_the_reason_says_why(op):
    assert backend(op, torch.zeros(1)) == "torch"
    assert "cpu" in choice(op, CPU).reason


def test_the_status_lists_every_operation_once():
    assert [one.op for one in status()] == list(OPS)


def test_auto_is_the_default(monkeypatch: pytest.MonkeyPatch):
    unset = choice("quantize_tiles", CPU)
    monkeypatch.setenv(VARIABLE, "auto")
    assert choice("quantize_tiles", CPU) == unset


def test_torch_can_be_asked_for_anywhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "torch")
    for device in (CPU, torch.device("cuda")):
        chosen = choice("matmul_blocks", device)
        assert (chosen.backend, chosen.reason) == ("torch", f"{VARIABLE} = torch")


@pytest.mark.parametrize("value", ["", "Triton", "cpu"])
def test_an_unknown_value_is_refused_with_the_known_ones(value, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ValueError, match=rf"{VARIABLE} = '{value}' must be auto, torch, triton or"):
        backend("quantize_tiles", torch.zeros(1))


def test_an_unknown_operation_is_refused():
    with pytest.raises(ValueError, match="unknown operation 'softmax'; known: quantize_tiles,"):
        backend("softmax", torch.zeros(1))


def test_triton_on_a_cpu_is_refused_with_the_way_to_interpret(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "triton")
    with pytest.raises(ValueError, match=r"quantize_blocks: .*TRITON_INTERPRET=1"):
        fp8.quantize_blocks(torch.zeros(2, 2), scales="pow2")


def test_triton_on_a_cpu_is_interpreted_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backend("quantize_tiles", torch.zeros(1)) == "torch"
    monkeypatch.setenv(VARIABLE, "triton")
    assert backend("quantize_tiles", torch.zeros(1)) == "triton"


@pytest.mark.parametrize("op", ["quantize_tiles", "matmul_blocks"])
def test_a_cuda_kernel_on_a_cpu_is_refused_with_its_reason(op, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "cuda")
    with pytest.raises(ValueError, match=f"{VARIABLE} = cuda cannot run {op}: .*CUDA GPU"):
        backend(op, torch.zeros(1))


def test_without_a_cuda_kernel_the_choice_is_as_without_the_variable(
    monkeypatch: pytest.MonkeyPatch,
):
    expected = choice("quantize_blocks", CPU)
    monkeypatch.setenv(VARIABLE, "cuda")
    assert choice("quantize_blocks", CPU) == expected


def test_triton_needs_a_gpu_with_e4m3():
    assert "compute capability 8.0 has no e4m3" in str(
        missing_for_triton((8, 0), interpreted=False)
    )
    assert [missing_for_triton(pair, interpreted=False) for pair in [(8, 9), (9, 0), (12, 0)]] == [
        None
    ] * 3
    assert missing_for_triton((8, 0), interpreted=True) is None
    assert "not on a CUDA GPU" in str(missing_for_triton(None, interpreted=False))


def test_a_cpu_needs_no_triton():
    # Triton is no dependency of torch's CPU wheels: nothing may import it before it is chosen.
    code = (
        "import sys, torch; from cotree.kernels import fp8; "
        "fp8.quantize_tiles(torch.ones(1, 1), scales='pow2'); print('triton' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_log_probabilities_need_no_e4m3():
    assert missing_for_triton((8, 0), interpreted=False, has_e4m3=False) is None
    assert "7.5 is too old" in str(missing_for_triton((7, 5), interpreted=False, has_e4m3=False))
