"""The routers of a transformers model: in float32, along recorded routes, with a balance loss.

Rollout routing replay makes training send every token to the experts that the engine sent it to:
two programs round differently, and a token whose scores are close goes elsewhere for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cotree.grpo.mtp import mtp_modules
from cotree.grpo.types import Batch
from cotree.kernels.routing import Routed, route, sequence_balance_loss


def _biased_groups(router: Any) -> dict[str, Any]:  # noqa: ANN401 (every architecture has its own class)
    return {
        "scoring": "sigmoid",
        "groups": router.num_group,
        "groups_per_token": router.topk_group,
        "bias": router.e_score_correction_bias,
        "normalize": router.norm_topk_prob,
        "scaling": router.routed_scaling_factor,
    }


def _softmax(router: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"scoring": "softmax", "normalize": router.norm_topk_prob, "scaling": 1.0}


def _normalized_softmax(_router: object) -> dict[str, Any]:
    return {"scoring": "softmax", "normalize": True, "scaling": 1.0}


OPTIONS_BY_CLASS: dict[str, Callable[[Any], dict[str, Any]]] = {
    **dict.fromkeys(
        (
            *("DeepseekV3TopkRouter", "DeepseekV32TopkRouter", "Dots1TopkRouter"),
            *("Glm4MoeTopkRouter", "Glm4MoeLiteTopkRouter", "GlmMoeDsaTopkRouter"),
            *("KimiLinearTopkRouter", "MiMoV2FlashTopkRouter", "SolarOpenTopkRouter"),
        ),
        _biased_groups,
    ),
    **dict.fromkeys(
        (
            *("Qwen2MoeTopKRouter", "Qwen3MoeTopKRouter", "Qwen3NextTopKRouter"),
            *("OlmoeTopKRouter", "FlexOlmoTopKRouter"),
        ),
        _softmax,
    ),
    **dict.fromkeys(("MixtralTopKRouter", "MiniMaxTopKRouter"), _normalized_softmax),
}
"""How the routers that are known route: the options of `kernels.routing.route`, by class name. The
classes of each kind have the same forward in transformers, to the letter."""


class Routers:
    """Routes a model's tokens in float32, and by a batch's recorded routes where it has some.

    transformers' routers follow autocast, in which close scores of Qwen3-MoE come out equal; here
    they do not. What a router returns is as before, its weights in float32.
    """

    def __init__(self, model: nn.Module, *, balance_coef: float) -> None:
        """Replaces the forward of every router it knows, in place. Others stay as they are.

        So does that of a multi-token prediction module: no engine records its choices.

        Args:
            model: with adapters or without, wrapped for several processes later or not at all.
            balance_coef: of the sequence-wise balance loss (alpha); 0 leaves it out.

        Raises:
            ValueError: a coefficient above 0 for a model without routers, or with unknown ones.
        """
        self._balance_coef = balance_coef
        self._routers: list[Any] = []
        self._unknown: list[str] = []
        self._batch: Batch | None = None
        self._scores: dict[int, Tensor] | None = None
        """By layer, of the forward that is trained; None outside of one."""
        apart = mtp_modules(model)
        for module in model.modules():
            name = type(module).__name__
            if module in apart:
                continue
            if name in OPTIONS_BY_CLASS:
                self._replace_forward(module, OPTIONS_BY_CLASS[name])
            elif name.endswith("Router"):
                self._unknown.append(name)
        if balance_coef > 0:
            self._check(f"learner.sequence_balance_coef = {balance_coef:g}", "Set it to 0.")

    @property
    def num_layers(self) -> int:
        """Layers with experts whose routers are known."""
        return len(self._routers)

    @property
    def top_k(self) -> int:
        """Experts of a token in one layer; 0 of a model without."""
        return int(self._routers[0].top_k) if self._routers else 0

    @contextmanager
    def replaying(self, batch: Batch) -> Generator[None]:
        """Sends the batch's tokens along `batch.routes` in every forward inside the `with`.

        Without routes every token goes where the model wants. Keep `backward` inside: gradient
        checkpointing repeats the forward there, and has to come out at the same experts. Forwards
        without gradient, such as of a reference policy, may run inside as well.

        Args:
            batch: what the forwards compute; laid out in [B, S] or packed end to end.

        Raises:
            ValueError: there are routes, and the model has no routers, other ones, or unknown ones.
        """
        if batch.routes is not None:
            self._check("train.rollout.replay_routes", "Leave it out.")
            expected = (*batch.token_ids.shape, self.num_layers, self.top_k)
            if batch.routes.shape != expected:
                raise ValueError(
                    f"batch.routes is {tuple(batch.routes.shape)}, but the model routes "
                    f"[B, S, layers, k] = {expected}; were they recorded by another model?"
                )
        self._batch = batch
        self._scores = {} if self._balance_coef > 0 else None
        try:
            yield
        finally:
            self._batch = self._scores = None

    def balance_loss(self, batch: Batch) -> Tensor | None:
        """The batch's part of the step's balance loss, for the forward before it in the `with`.

            sum over layers and rows of alpha * share * sum_i f_i P_i
            share = trained tokens of the row / trained tokens of the step

        A row is one sequence, prompt and completion. A row's load is counted over its real tokens,
        by the k largest scores as in the paper: what the live router prefers, without the bias and
        the groups, and not what was replayed. With the shares, parts of a step add up to it however
        it is cut; a row without a trained token adds nothing.

        Call it before `backward`, in which gradient checkpointing computes scores again.

        Returns:
            A scalar with a gradient; None where the coefficient is 0.

        Raises:
            ValueError: no forward with gradients ran since `replaying` began.

        Source: DeepSeek-AI 2024, arXiv:2412.19437, eq. 17-20.
        """
        if self._balance_coef == 0:
            return None
        if self._scores is None or len(self._scores) < self.num_layers:
            raise ValueError(
                "no trained forward was seen to balance; run one, with gradients, inside "
                "Routers.replaying, and call balance_loss once, before backward."
            )
        scores, self._scores = self._scores, None
        rows = torch.arange(len(batch.lengths), device=batch.lengths.device)
        sequence_BS = torch.where(_real(batch), rows[:, None], -1)
        weights_B = self._balance_coef * batch.mask.sum(1) / batch.num_tokens
        losses = [
            sequence_balance_loss(
                scores_NE,
                scores_NE.detach().topk(self.top_k, dim=-1).indices,
                _of_tokens(sequence_BS, batch, len(scores_NE)),
                weights_B,
            )
            for scores_NE in scores.values()
        ]
        return torch.stack(losses).sum()

    def _replace_forward(
        self,
        module: Any,  # noqa: ANN401
        options: Callable[[Any], dict[str, Any]],
    ) -> None:
        layer = len(self._routers)
        self._routers.append(module)

        def forward(hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            hidden_ND = hidden_states.reshape(-1, hidden_states.shape[-1])
            dtype = torch.promote_types(hidden_ND.dtype, torch.float32)
            with torch.autocast(hidden_ND.device.type, enabled=False):
                logits = functional.linear(hidden_ND.to(dtype), module.weight.to(dtype))
                routed = route(
                    logits,
                    top_k=module.top_k,
                    forced=self._forced(layer, len(hidden_ND)),
                    **options(module),
                )
            self._record(layer, routed)
            return logits, routed.weights, routed.ids

        module.forward = forward

    def _forced(self, layer: int, num_tokens: int) -> Tensor | None:
        """[N, k] experts of one layer."""
        if self._batch is None or self._batch.routes is None:
            return None
        return _of_tokens(self._batch.routes[:, :, layer], self._batch, num_tokens)

    def _record(self, layer: int, routed: Routed) -> None:
        if self._scores is not None and torch.is_grad_enabled():
            self._scores[layer] = routed.scores

    def _check(self, setting: str, remedy: str) -> None:
        """Raises where the setting would have no effect, or on a part of the model alone."""
        if self._unknown:
            raise ValueError(
                f"{setting} does not know the routers of this model ({self._unknown[0]}); known: "
                f"{', '.join(OPTIONS_BY_CLASS)}. {remedy}"
            )
        if not self._routers:
            raise ValueError(f"{setting} has no effect: the model has no routers. {remedy}")


def _real(batch: Batch) -> Tensor:
    """[B, S] bool: True on a row's tokens, False on padding."""
    columns = torch.arange(batch.token_ids.shape[1], device=batch.lengths.device)
    return columns < batch.lengths[:, None]


def _of_tokens(values: Tensor, batch: Batch, num_tokens: int) -> Tensor:
    """[N, ...]: [B, S, ...] values of the tokens that a router saw, padded or packed."""
    if num_tokens == values.shape[0] * values.shape[1]:
        return values.flatten(0, 1)
    packed = values[_real(batch)]
    if num_tokens != len(packed):
        raise ValueError(
            f"a router saw {num_tokens} tokens, but the batch has {len(packed)} in "
            f"{tuple(batch.token_ids.shape)} places; give `replaying` the batch of that forward."
        )
    return packed
