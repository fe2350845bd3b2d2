"""What travels from the learner to the generators, and the proof that it arrived.

Torch only: no ray, no vllm. `make_update` is the learner's half, `prove` the generator's.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOAT32_SUFFIXES = (".e_score_correction_bias",)
"""Ends of the names of tensors that are float32 whatever the engine's dtype is.

The bias on a router's choice of experts: vLLM and transformers hold it so. In bfloat16 a bias of
0.5 would not see the steps of 0.001 that balance the experts, and other experts would be chosen.
"""


class WeightSyncError(RuntimeError):
    """The live engine does not compute with the weights it was sent. The run must stop."""


@dataclass(frozen=True)
class WeightUpdate:
    """One policy version's weights, as the engine should hold them."""

    version: int
    """Optimizer steps taken; 0 is the model the run started from."""
    tensors: dict[str, Tensor]
    """CPU tensors in `carried_dtype` by their Hugging Face checkpoint name. A tied `lm_head` is
    omitted, as in a checkpoint."""
    digests: dict[str, str]
    """`digest` of each tensor, taken by the learner."""

    def __reduce__(self) -> tuple[Any, ...]:
        # As numpy arrays the bytes travel out of band: Ray puts them in shared memory and every
        # replica on a node maps the same copy. Torch's own pickling copies them in and out.
        arrays = {name: (_as_array(t), t.dtype) for name, t in self.tensors.items()}
        return _restore, (self.version, arrays, self.digests)


@dataclass(frozen=True)
class Canary:
    """A sequence and the learner's log-probabilities of it."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Of `token_ids[1:]`, each given the tokens before it, at temperature 1, in nats."""

    def __post_init__(self) -> None:
        if len(self.token_ids) < 2 or len(self.logprobs) != len(self.token_ids) - 1:
            raise ValueError(
                f"a canary needs 2 or more tokens and one log-probability fewer; got "
                f"{len(self.token_ids)} tokens and {len(self.logprobs)} log-probabilities."
            )


@dataclass(frozen=True)
class SyncProof:
    """What was checked when a replica took over a policy version."""

    version: int
    tensors: int
    """Tensors read back from the live engine whose digests equal the learner's."""
    canary_mean_gap_nats: float
    """Mean distance between the engine's and the learner's log-probability of a canary token."""
    canary_max_gap_nats: float
    """Of the worst token. An unlikely one has a large logit and, in bfloat16, a large rounding."""
    seconds: float


def carried_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """In which dtype the weight `name` travels to an engine of `dtype`, and is digested."""
    return torch.float32 if name.endswith(FLOAT32_SUFFIXES) else dtype


def make_update(
    named: Iterable[tuple[str, Tensor]], *, version: int, dtype: torch.dtype
) -> WeightUpdate:
    """Returns the update that carries `named` in the engine's dtype (see `carried_dtype`).

    Values below the dtype's smallest normal number (1.2e-38 for both), and -0.0, become +0.0:
    matrix kernels flush them, so no engine could prove to hold them.

    Args:
        named: Hugging Face checkpoint names and tensors, on any device.
        version: optimizer steps taken.
        dtype: the engine's dtype.

    Raises:
        ValueError: a name repeats or a weight is not finite after the conversion.
    """
    tensors: dict[str, Tensor] = {}
    smallest = torch.finfo(dtype).tiny
    for name, tensor in named:
        if name in tensors:
            raise ValueError(f"weight {name!r} comes twice; each tensor must have its own name.")
        # A copy, always: the optimizer goes on changing the learner's own tensor in place.
        value = tensor.detach().to("cpu", carried_dtype(name, dtype), copy=True).contiguous()
        if not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"weight {name!r} of policy v{version} is not finite in {value.dtype}: the last "
                "update diverged. Lower the learning rate or max_grad_norm and resume from a "
                "checkpoint."
            )
        tensors[name] = value.masked_fill_(value.abs() < smallest, 0.0)
    return WeightUpdate(version, tensors, {name: digest(t) for name, t in tensors.items()})


def digest(tensor: Tensor) -> str:
    """SHA-256 (hex) over the dtype, the shape and the bytes in row-major order."""
    value = tensor.detach().cpu().contiguous()
    hashed = hashlib.sha256(f"{value.dtype} {tuple(value.shape)} ".encode())
    hashed.update(_as_array(value).reshape(-1).view(np.uint8).data)
    return hashed.hexdigest()


def prove(expected: Mapping[str, str], live: Mapping[str, str]) -> None:
    """Compares the digests of what was sent with those of what the engine computes with.

    Raises:
        WeightSyncError: a tensor differs, was not sent, or is not in the engine.
    """
    problems = {
        "differ from what was sent": sorted(
            name for name in expected.keys() & live.keys() if expected[name] != live[name]
        ),
        "are in the engine but were not sent": sorted(live.keys() - expected.keys()),
        "were sent but are not in the engine": sorted(expected.keys() - live.keys()),
    }
    found = [
        f"{len(names)} of {len(expected.keys() | live.keys())} tensors {what}, first {names[0]!r}"
        for what, names in problems.items()
        if names
    ]
    if found:
        raise WeightSyncError(
            f"weight sync failed its proof: {'; '.join(found)}. Nothing was sampled with these "
            "weights. Check that learner and engine load the same architecture and the tested "
            "vllm version (`cotree doctor`), then resume from the last checkpoint."
        )


def _as_array(tensor: Tensor) -> np.ndarray[Any, Any]:
    # numpy has no bfloat16: two-byte integers carry the bits.
    value = tensor.contiguous()
    return (value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy()


def _restore(
    version: int,
    arrays: dict[str, tuple[np.ndarray[Any, Any], torch.dtype]],
    digests: dict[str, str],
) -> WeightUpdate:
    with warnings.catch_warnings():
        # Shared memory is read-only; the engine copies out of these tensors and never writes.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensors = {
            name: torch.from_numpy(array).view(dtype) for name, (array, dtype) in arrays.items()
        }
    return WeightUpdate(version, tensors, digests)
