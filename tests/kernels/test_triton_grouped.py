"""Tests for kernels/triton_grouped.py, interpreted; test_grouped_gpu.py has those of a GPU."""

from interpreter import run_interpreted


def test_products_are_those_of_the_dequantised_matrices_of_each_expert():
    run_interpreted("grouped_interpreted.py")
