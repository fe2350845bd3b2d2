"""Tests for kernels/triton_matmul.py, in Triton's interpreter; test_fp8_gpu.py has the GPU's."""

from interpreter import run_interpreted


def test_the_product_is_that_of_the_dequantised_matrices():
    run_interpreted("matmul_interpreted.py")
