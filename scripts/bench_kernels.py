#!/usr/bin/env python
"""Our kernels beside torch, torchao, transformers and Liger: errors and times, one pass each.

    python scripts/bench_kernels.py --json kernels.json
    python scripts/bench_kernels.py --only linear experts --repetitions 9

linear   one linear layer, forward and backward: bfloat16, FP8 in blocks, torchao's two FP8 recipes
experts  a Qwen3-MoE layer's experts: transformers' eager, batched and grouped ones, and ours,
         in bfloat16 and in FP8
loss     GRPO's loss from hidden states: plain logits, Liger's chunked loss, and ours

Errors are relative 2-norms against float64 (of `loss`: of the loss itself), of the output and of
both gradients together. Times are medians over interleaved repetitions. What is not installed here
is left out and named: pip install torchao liger-kernel.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeForCausalLM

from cotree.grpo.expert_layers import use_grouped_experts, use_scales
from cotree.kernels.fp8 import block_linear
from cotree.kernels.token_logprobs import token_logprobs

Pass = Callable[[], tuple[Tensor, ...]]
"""Output and gradients of one forward and backward pass."""


@dataclass(frozen=True)
class Row:
    """One implementation."""

    section: str
    path: str
    shape: str
    output_error: float
    grad_error: float
    milliseconds: float
    slowest: float
    fastest: float


def main() -> None:
    arguments = parsed()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(arguments.threads)
    sections = {"linear": linear, "experts": experts, "loss": loss}
    rows: list[Row] = []
    for name in arguments.only or sections:
        shape, exact, paths = sections[name](device)
        rows += measured(name, shape, exact, paths, repetitions=arguments.repetitions)
    print(f"\n{machine(device)}, {arguments.threads} threads, torch {torch.__version__}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=["linear", "experts", "loss"])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


# --- what is measured ------------------------------------------------------------------------


def linear(device: str) -> tuple[str, tuple[Tensor, ...], dict[str, Pass]]:
    tokens, width = (2048, 1024) if device == "cpu" else (8192, 4096)
    x = random(tokens, width, device=device, seed=0).bfloat16().requires_grad_()
    weight = (random(width, width, device=device, seed=1) / width**0.5).requires_grad_()
    grad = random(tokens, width, device=device, seed=2).bfloat16()

    def of(product: Callable[[Tensor, Tensor], Tensor]) -> Pass:
        def run() -> tuple[Tensor, ...]:
            with torch.autocast(device, torch.bfloat16):
                output = product(x, weight)
            return output, *torch.autograd.grad(output, [x, weight], grad)

        return run

    double = [value.detach().double().requires_grad_() for value in (x, weight)]
    output = functional.linear(*double)
    exact = (output, *torch.autograd.grad(output, double, grad.double()))
    paths = {
        "bfloat16": of(functional.linear),
        "cotree fp8_block": of(lambda a, b: block_linear(a, b, None, scales="pow2")),
        "cotree fp8_block, float32 scales": of(
            lambda a, b: block_linear(a, b, None, scales="float32")
        ),
    }
    if installed("torchao"):
        for recipe in ("tensorwise", "rowwise"):
            layer = torchao_layer(recipe, width, device)
            paths[f"torchao {recipe}"] = of(layer)
    return f"{tokens} x {width} x {width}", exact, paths


def torchao_layer(recipe: str, width: int, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    from torchao.float8.config import Float8LinearConfig
    from torchao.float8.float8_linear import Float8Linear, matmul_with_hp_or_float8_args

    settings = Float8LinearConfig.from_recipe_name(recipe)
    layer = Float8Linear(width, width, bias=False, config=settings, device=device)

    def product(x: Tensor, weight: Tensor) -> Tensor:
        return matmul_with_hp_or_float8_args.apply(x, weight.t(), layer.linear_mm_config, settings)

    return product


def experts(device: str) -> tuple[str, tuple[Tensor, ...], dict[str, Pass]]:
    tokens, width, inner, count = (4096, 256, 256, 16) if device == "cpu" else (8192, 2048, 768, 64)
    config = Qwen3MoeConfig(
        vocab_size=32, hidden_size=width, moe_intermediate_size=inner, num_experts=count,
        num_experts_per_tok=4, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        head_dim=32, intermediate_size=64, norm_topk_prob=True, mlp_only_layers=[],
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(config).to(device)
    module = model.model.layers[0].mlp.experts
    x = random(tokens, width, device=device, seed=0)
    scores = random(tokens, count, device=device, seed=1).softmax(-1)
    weights, ids = scores.topk(4, -1)
    grad = random(tokens, width, device=device, seed=2)
    parameters = list(module.parameters())

    def of(choose: Callable[[], object], dtype: torch.dtype) -> Pass:
        def run() -> tuple[Tensor, ...]:
            choose()
            hidden = x.to(dtype).requires_grad_()
            with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
                output = module(hidden, ids, weights.to(dtype))
            grads = torch.autograd.grad(output, [hidden, *parameters], grad.to(output.dtype))
            return output, *grads

        return run

    def theirs(name: str) -> Callable[[], object]:
        return lambda: model.set_experts_implementation(name)

    def ours(scales: str | None) -> Callable[[], object]:
        def choose() -> None:
            (found,) = use_grouped_experts(model)
            use_scales(found, scales)

        return choose

    model.double()
    exact = of(theirs("eager"), torch.float64)()
    model.float()
    parameters = list(module.parameters())
    paths = {
        "transformers eager": of(theirs("eager"), torch.bfloat16),
        "transformers grouped_mm": of(theirs("grouped_mm"), torch.bfloat16),
        "cotree grouped": of(ours(None), torch.bfloat16),
        "cotree grouped fp8_block": of(ours("pow2"), torch.bfloat16),
    }
    return f"{tokens} tokens, {count} experts of {width} x {inner}, 4 each", exact, paths


def loss(device: str) -> tuple[str, tuple[Tensor, ...], dict[str, Pass]]:
    sizes = {"cpu": (8, 128, 256, 32_768), "cuda": (16, 512, 2048, 151_936)}
    rows, length, width, vocabulary = sizes[device]
    hidden = random(rows, length, width, device=device, seed=0).requires_grad_()
    weight = (random(vocabulary, width, device=device, seed=1) / width**0.5).requires_grad_()
    advantages = random(rows, device=device, seed=2)
    generator = torch.Generator(device).manual_seed(3)
    targets = torch.randint(vocabulary, (rows, length), generator=generator, device=device)

    def surrogate(logprobs: Tensor) -> Tensor:
        """GRPO's first update of a step: the ratio is 1, its gradient is that of logprobs."""
        ratio = (logprobs - logprobs.detach()).exp()
        return -(ratio * advantages[:, None]).sum() / targets.numel()

    def graded(value: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return value, *torch.autograd.grad(value, inputs)

    def plain(h: Tensor, w: Tensor) -> Tensor:
        return torch.log_softmax(h @ w.T, -1).gather(-1, targets[..., None])[..., 0]

    def ours() -> tuple[Tensor, ...]:
        logprobs, _ = token_logprobs(
            hidden.flatten(0, 1), weight, targets.flatten(), bias=None, temperature=1.0,
            chunk_tokens=128,
        )  # fmt: skip
        return graded(surrogate(logprobs.view(rows, length)), [hidden, weight])

    double = [value.detach().double().requires_grad_() for value in (hidden, weight)]
    exact = graded(surrogate(plain(*double)), double)
    paths: dict[str, Pass] = {
        "plain logits": lambda: graded(surrogate(plain(hidden, weight)), [hidden, weight]),
        "cotree token_logprobs": ours,
    }
    if installed("liger_kernel"):
        from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

        liger = LigerFusedLinearGRPOLoss(
            beta=0.0, compiled=False, use_ref_model=False, chunk_size=1, loss_type="bnpo"
        )
        mask = torch.ones_like(targets)
        paths["liger chunked GRPO loss"] = lambda: graded(
            liger(hidden, weight, targets, mask, advantages)[0], [hidden, weight]
        )
    return f"{rows} x {length} tokens, D {width}, V {vocabulary}", exact, paths


# --- how -------------------------------------------------------------------------------------


def measured(
    section: str, shape: str, exact: Sequence[Tensor], paths: dict[str, Pass], *, repetitions: int
) -> list[Row]:
    print(f"\n{section}: {shape}")
    print(f"{'':<34}{'output':>10}{'gradients':>11}{'ms':>10}{'fastest':>10}{'slowest':>10}")
    errors = {name: tuple(errors_of(run(), exact)) for name, run in paths.items()}
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(repetitions):
        for name, run in paths.items():
            seconds[name].append(timed(run))
    rows: list[Row] = []
    for name, times in seconds.items():
        numbers = [1000 * value for value in (statistics.median(times), max(times), min(times))]
        rows.append(Row(section, name, shape, *errors[name], *numbers))
        output, grads = errors[name]
        ms, slowest, fastest = numbers
        print(f"{name:<34}{output:>10.2e}{grads:>11.2e}{ms:>10.2f}{fastest:>10.2f}{slowest:>10.2f}")
    return rows


def timed(run: Pass) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def errors_of(found: Sequence[Tensor], exact: Sequence[Tensor]) -> list[float]:
    """Of the output, and of the gradients together."""
    parts = [(found[:1], exact[:1]), (found[1:], exact[1:])]
    return [
        (sum(square(a.double() - b) for a, b in zip(one, other, strict=True))
         / sum(square(b) for b in other)) ** 0.5
        for one, other in parts
    ]  # fmt: skip


def square(values: Tensor) -> float:
    return float(values.detach().square().sum())


def random(*shape: int, device: str, seed: int) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(*shape, generator=generator, device=device)


def installed(name: str) -> bool:
    found = importlib.util.find_spec(name) is not None
    if not found:
        print(f"{name} is not installed; its rows are left out.")
    return found


def machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
