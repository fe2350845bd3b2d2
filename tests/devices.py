"""Where a test runs: on the CPU always, and on a GPU under `-m gpu` where there is one."""

import pytest
import torch

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(
            not torch.cuda.is_available(),
            reason="needs a CUDA device: torch.cuda.is_available() is False",
        ),
    ],
)
"""The parameter of a test that needs a GPU."""
DEVICES = ["cpu", CUDA]
"""The parameters of a test whose body is the same on both."""
