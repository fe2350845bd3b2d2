"""Tests for kernels/triton_head.py, interpreted; test_triton_head_gpu.py has those of a GPU."""

from interpreter import run_interpreted


def test_statistics_and_gradients_are_those_of_float64():
    run_interpreted("head_interpreted.py")
