"""Tests for kernels/triton_quantize.py, in Triton's interpreter; test_fp8_gpu.py has the GPU's."""

from interpreter import run_interpreted


def test_the_quantisers_make_the_bytes_of_torch():
    run_interpreted("quantize_interpreted.py")
