"""Tests for kernels/cuda_quantize.py that need no GPU: what it refuses."""

import pytest
import torch

from cotree.kernels.cuda_quantize import quantize_tiles


def test_operands_on_the_cpu_are_refused():
    with pytest.raises(RuntimeError, match="the operands are on cpu"):
        quantize_tiles(torch.ones(2, 128))


@pytest.mark.parametrize(
    "values", [torch.ones(128), torch.ones(2, 2, 128), torch.ones(2, 128, dtype=torch.float64)]
)
def test_what_is_no_matrix_of_a_known_dtype_is_refused(values: torch.Tensor):
    with pytest.raises(ValueError, match=r"needs \[M, K\] in float32, bfloat16 or float16"):
        quantize_tiles(values)
