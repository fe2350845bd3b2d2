"""How far a layer's products in a low precision are from float32, on the inputs that it gets.

Each layer is run again on the input and on the output's gradient that one pass over real texts
gave it, so that the errors of layers do not pile up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cotree.grpo.config_learner import BFloat16, FixedPrecision, Float32, Fp8Block, Fp8Scaled
from cotree.grpo.fp8_layers import Fp8Layers
from cotree.kernels.fp8 import E4M3_MAX, quantize_blocks, quantize_tiles


@dataclass(frozen=True, slots=True)
class ProductErrors:
    """|computed - float32| / |float32|, in 2-norms over whole tensors."""

    output: float
    input_grad: float
    weight_grad: float
    """Of all parameters together."""


@dataclass(frozen=True, slots=True)
class LayerErrors:
    """One layer in two precisions, and what the lower one loses."""

    name: str
    low: ProductErrors
    bfloat16: ProductErrors
    input_underflow: float
    """Share of the values other than 0 that become 0 when they are quantised."""
    weight_underflow: float
    grad_underflow: float
    """Of the output's gradient."""


@dataclass(slots=True)
class _Seen:
    """What a layer got in one pass."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    grad: Tensor | None = None


class LayerProbe:
    """Keeps what every layer gets in one forward and backward pass, and measures it after that."""

    def __init__(self, layers: Fp8Layers) -> None:
        self._layers = layers
        self._seen: dict[str, _Seen] = {}
        self._handles = [
            self._watched(name, module)
            for name, module in {**layers.linears, **layers.experts}.items()
        ]

    def close(self) -> None:
        """Watches no longer. What was seen is kept."""
        for handle in self._handles:
            handle.remove()

    def errors(self, precision: Fp8Block | Fp8Scaled) -> list[LayerErrors]:
        """Of the layers that the last pass went through, in the order of the model.

        Args:
            precision: the one to measure beside bfloat16. Layers that it skips are left out.
        """
        names = [name for name, seen in self._seen.items() if seen.grad is not None]
        used = self._layers.used_by(precision)
        return [self._errors(name, precision) for name in names if name in used]

    def _watched(self, name: str, module: nn.Module) -> RemovableHandle:
        def watch(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not output.requires_grad:
                return
            seen = _Seen(module, tuple(value.detach() for value in inputs))
            self._seen[name] = seen

            def keep(grad: Tensor) -> None:
                seen.grad = grad.detach()

            output.register_hook(keep)

        return module.register_forward_hook(watch)

    def _errors(self, name: str, precision: Fp8Block | Fp8Scaled) -> LayerErrors:
        seen = self._seen[name]
        assert seen.grad is not None, "the caller looked"
        exact = self._products(seen, Float32())
        weights = [parameter.detach() for parameter in seen.module.parameters()]
        return LayerErrors(
            name,
            low=_product_errors(self._products(seen, precision), exact),
            bfloat16=_product_errors(self._products(seen, BFloat16()), exact),
            input_underflow=_underflow([_rows(seen.inputs[0])], precision, is_weight=False),
            weight_underflow=_underflow(
                [weight for weight in weights if weight.ndim >= 2], precision, is_weight=True
            ),
            grad_underflow=_underflow([_rows(seen.grad)], precision, is_weight=False),
        )

    def _products(self, seen: _Seen, precision: FixedPrecision) -> tuple[Tensor, ...]:
        """Output, the input's gradient and the parameters' in a precision, all float32."""
        assert seen.grad is not None, "the caller looked"
        self._layers.use(precision)
        first, *rest = seen.inputs
        parameters = list(seen.module.parameters())
        exact = isinstance(precision, Float32)
        device = first.device.type
        with torch.enable_grad(), torch.autocast(device, torch.bfloat16, enabled=not exact):
            values = (first.float() if exact else first).requires_grad_()
            rest = [
                value.float() if value.is_floating_point() and exact else value for value in rest
            ]
            output: Tensor = seen.module(values, *rest)
        grads = torch.autograd.grad(output, [values, *parameters], seen.grad.to(output.dtype))
        return tuple(value.detach().float() for value in (output, *grads))


def _product_errors(found: Sequence[Tensor], exact: Sequence[Tensor]) -> ProductErrors:
    return ProductErrors(
        _relative(found[:1], exact[:1]),
        _relative(found[1:2], exact[1:2]),
        _relative(found[2:], exact[2:]),
    )


def _relative(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """0 where both are zero: an expert that got no token has no gradient to lose."""
    error = sum(float((a - b).double().square().sum()) for a, b in zip(found, exact, strict=True))
    size = sum(float(b.double().square().sum()) for b in exact)
    return (error / size) ** 0.5 if size else 0.0


def _rows(values: Tensor) -> Tensor:
    return values.reshape(-1, values.shape[-1])


def _underflow(
    tensors: Sequence[Tensor], precision: Fp8Block | Fp8Scaled, *, is_weight: bool
) -> float:
    lost = kept = 0
    for values in tensors:
        quantized = _quantized(values, precision, is_weight=is_weight)
        present = values != 0
        lost += int((present & (quantized.float() == 0)).sum())
        kept += int(present.sum())
    return lost / kept if kept else 0.0


def _quantized(values: Tensor, precision: Fp8Block | Fp8Scaled, *, is_weight: bool) -> Tensor:
    if isinstance(precision, Fp8Block):
        quantize = quantize_blocks if is_weight else quantize_tiles
        return quantize(values, scales=precision.scales)[0]
    # torchao's: the largest value becomes the largest of e4m3.
    size = values.float().abs()
    amax = size.amax(-1, keepdim=True) if precision.type == "fp8_rowwise" else size.max()
    return (values.float() * (E4M3_MAX / amax.clamp(min=1e-12))).to(torch.float8_e4m3fn)
