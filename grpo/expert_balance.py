"""Counts the tokens that a mixture of experts sends to each expert, and evens them out.

transformers carries a DeepSeek-V3 router's bias from checkpoint to checkpoint but never moves it;
this does, once for each optimizer update.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from cotree.grpo.sharding import assign, whole
from cotree.grpo.types import Batch
from cotree.kernels.expert_bias import max_violation, updated_bias

_BIAS = "e_score_correction_bias"


@dataclass(slots=True)
class _Router:
    """One layer's router and the tokens it sent to each of E experts since the last update."""

    name: str
    bias: Tensor | None
    """[E] on the choice of experts; None of a router without one, such as Qwen3's."""
    loads: Tensor
    """[E] int64."""
    total: Tensor
    """[E] int64, over all updates of this process and the others together."""


class ExpertLoads:
    """The experts' loads over one optimizer update, and the step of their biases that ends it.

    Attaches to every router of a transformers model, inside PEFT, DDP or FSDP2 as well. Counts
    only what runs within `counting`, so a forward that trains nothing (log-probabilities of old
    or reference policies) and one that gradient checkpointing repeats in `backward` are left out.
    """

    def __init__(self, model: nn.Module, *, rate: float) -> None:
        """Finds the routers.

        Args:
            model: on its device already.
            rate: how far an update moves an expert's bias; 0 leaves the biases and only counts.

        Raises:
            ValueError: a rate above 0 for a model without a bias to move.
        """
        self._rate = rate
        self._routers: list[_Router] = []
        self._counted: Tensor | None = None
        for name, module in model.named_modules():
            if _is_router(module):
                parent = model.get_submodule(name.rpartition(".")[0])
                self._attach(name, module, bias=_bias(module, parent))
        if rate > 0 and all(router.bias is None for router in self._routers):
            raise ValueError(
                f"learner.expert_bias_rate = {rate} has no effect: the model has no router with "
                f"an {_BIAS}, as DeepSeek-V3 and GLM-4 have. Set it to 0."
            )

    @contextmanager
    def counting(self, batch: Batch) -> Generator[None]:
        """Counts the batch's tokens in a forward of its rows inside the `with`.

        Every token of a row is counted, prompt and completion alike, as every one goes through
        the experts; a tree's shared tokens once. Padding is not, nor are rows in which nothing
        is trained: those fill up a process that has fewer rows than the others. Keep `backward`
        outside, or gradient checkpointing would count a second time.

        Args:
            batch: what the forward computes; laid out in [B, S] or packed end to end.
        """
        columns = torch.arange(batch.token_ids.shape[1], device=batch.lengths.device)
        real_BS = columns < batch.lengths[:, None]
        trained_B1 = batch.mask.any(1, keepdim=True)
        # 2: counts, 1: a real token of a row that does not count, 0: padding.
        self._counted = real_BS * (1 + trained_B1.to(torch.int64))
        try:
            yield
        finally:
            self._counted = None

    def update(self) -> dict[str, float]:
        """Ends an optimizer update: moves the biases, forgets the counts, and says what they were.

        Collective: every process calls it, and all get the same biases and the same answer.

        Returns:
            Nothing for a model without experts. Otherwise `experts/max_violation`, of the layer
            where the busiest expert is furthest above an even share (0 is even), and
            `experts/idle_frac`, the share of all layers' experts that got no token.

        Raises:
            ValueError: biases are to be moved and no token was counted.
        """
        if not self._routers:
            return {}
        loads = torch.cat([router.loads for router in self._routers])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(loads)
        by_router = loads.split([len(router.loads) for router in self._routers])
        self.clear()
        violations: list[float] = []
        idle: list[Tensor] = []
        for router, counts in zip(self._routers, by_router, strict=True):
            router.total += counts
            if router.bias is not None and self._rate > 0:
                if not bool(counts.any()):
                    raise ValueError(
                        f"router {router.name} saw no token since the last update, so its bias "
                        "cannot be moved; run the trained forward within ExpertLoads.counting."
                    )
                bias = whole(router.bias)
                assign(router.bias, updated_bias(bias, counts, rate=self._rate))
            if bool(counts.any()):
                violations.append(max_violation(counts))
                idle.append(counts == 0)
        if not violations:
            return {}
        return {
            "experts/max_violation": max(violations),
            "experts/idle_frac": float(torch.cat(idle).float().mean()),
        }

    def clear(self) -> None:
        """Forgets the counts, for an update that was given up."""
        for router in self._routers:
            router.loads = torch.zeros_like(router.loads)

    def loads(self) -> dict[str, Tensor]:
        """[E] tokens that this process sent to each expert since the last update, by router."""
        return {router.name: router.loads.clone() for router in self._routers}

    def totals(self) -> dict[str, list[int]]:
        """Tokens that all processes sent to each expert since the start, by router."""
        return {router.name: router.total.tolist() for router in self._routers}

    def restore(self, totals: Mapping[str, Sequence[int]]) -> None:
        """Goes on counting from `totals` of an earlier start."""
        for router in self._routers:
            router.total.copy_(torch.tensor(totals[router.name]))

    def _attach(self, name: str, module: nn.Module, *, bias: Tensor | None) -> None:
        num_experts = cast(int, module.num_experts) if bias is None else bias.numel()
        device = next(module.parameters()).device
        zeros = torch.zeros(num_experts, dtype=torch.int64, device=device)
        router = _Router(name, bias, loads=zeros, total=zeros.clone())
        self._routers.append(router)

        def count(_module: nn.Module, _inputs: object, output: object) -> None:
            ids_Nk = _expert_ids(output)
            if self._counted is not None and ids_Nk is not None:
                chosen = ids_Nk[_counted_tokens(self._counted, len(ids_Nk), name)]
                router.loads += torch.bincount(chosen.flatten(), minlength=num_experts)

        module.register_forward_hook(count)


def _is_router(module: nn.Module) -> bool:
    """Whether the module is what transformers calls a router: picks top_k of num_experts."""
    sizes = (getattr(module, name, None) for name in ("top_k", "num_experts"))
    return type(module).__name__.endswith("Router") and all(isinstance(n, int) for n in sizes)


def _bias(router: nn.Module, parent: nn.Module) -> Tensor | None:
    """The router's bias, which some architectures (MiniMax-M2) keep one module further up."""
    found = getattr(router, _BIAS, None)
    return found if found is not None else getattr(parent, _BIAS, None)


def _expert_ids(output: object) -> Tensor | None:
    """[N, k] ids of the chosen experts: the one integer tensor that a router returns.

    None of the few that return dense scores instead (Llama 4); those are not counted.
    """
    parts = output if isinstance(output, tuple) else (output,)
    ids = [
        part
        for part in parts
        if isinstance(part, Tensor) and part.dtype in (torch.int64, torch.int32)
    ]
    return ids[0] if len(ids) == 1 else None


def _counted_tokens(counted_BS: Tensor, num_tokens: int, name: str) -> Tensor:
    """[N] bool: which of the tokens that a router saw count."""
    if num_tokens == counted_BS.numel():
        return counted_BS.flatten() == 2
    real_N = counted_BS[counted_BS > 0]
    if num_tokens == len(real_N):
        return real_N == 2
    raise ValueError(
        f"router {name} saw {num_tokens} tokens, but the batch has {len(real_N)} in "
        f"{tuple(counted_BS.shape)} places; give `counting` the batch of that forward."
    )
