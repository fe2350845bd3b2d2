"""Tests for kernels/cuda_matmul.py that need no GPU: what it refuses."""

import pytest
import torch

from cotree.kernels.cuda_matmul import matmul


def operands(m: int, n: int, k: int) -> dict[str, torch.Tensor]:
    """Zeros of the right shapes."""
    tiles = -(-k // 128)
    return {
        "a": torch.zeros(m, k, dtype=torch.float8_e4m3fn),
        "a_scales": torch.ones(m, tiles),
        "b": torch.zeros(n, k, dtype=torch.float8_e4m3fn),
        "b_scales": torch.ones(-(-n // 128), tiles),
    }


def test_operands_on_the_cpu_are_refused():
    with pytest.raises(RuntimeError, match="the operands are on cpu"):
        matmul(**operands(2, 3, 128), out_dtype=torch.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": torch.zeros(3, 64, dtype=torch.float8_e4m3fn)}, r"b \[N, K\]; got \(2, 128\)"),
        ({"a_scales": torch.ones(2, 2)}, r"needs scales \(2, 1\) and \(1, 1\); got \(2, 2\)"),
        ({"b_scales": torch.ones(3, 1)}, r"needs scales \(2, 1\) and \(1, 1\)"),
        ({"a": torch.zeros(2, 128)}, "needs float8_e4m3fn operands"),
        ({"a_scales": torch.ones(2, 1, dtype=torch.float64)}, "float32 scales"),
    ],
)
def test_operands_that_do_not_fit_are_refused(change: dict[str, torch.Tensor], message: str):
    with pytest.raises(ValueError, match=message):
        matmul(**{**operands(2, 3, 128), **change}, out_dtype=torch.float32)


def test_a_contraction_that_splits_a_copy_is_refused():
    # A copy into shared memory is 16 bytes, and starts at a multiple of 16.
    with pytest.raises(ValueError, match="K % 16 = 0"):
        matmul(**operands(2, 3, 120), out_dtype=torch.float32)


def test_another_result_dtype_is_refused():
    with pytest.raises(ValueError, match="float16 result"):
        matmul(**operands(2, 3, 128), out_dtype=torch.float64)
