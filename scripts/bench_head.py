#!/usr/bin/env python
"""Time and memory of a language-model head: forward and backward pass, with and without [N, V].

    python scripts/bench_head.py --json head.json
    python scripts/bench_head.py --device cpu --tokens 512 --widths 256 --repetitions 3
    python scripts/bench_head.py --paths naive token_logprobs --hidden float32 --frozen \
        --tokens 2048 --chunk-tokens 441 220 110

naive          logits of all tokens, log_softmax in float32: log-probabilities and entropy
plain          the same without the entropy, which half its memory is for
cross_entropy  logits of all tokens, torch's cross_entropy in float32: log-probabilities alone
linear_ce      torch's linear_cross_entropy, in chunks, where this torch has it: the same
token_logprobs kernels/token_logprobs.py: log-probabilities and entropy
divergence     kernels/chunked_head.py as a taught policy uses it: log-probabilities, entropy and
               forward_kl from a teacher's 64 likeliest tokens

Hidden states are bfloat16 unless said otherwise, the head float32 (master weights) or bfloat16;
both get a gradient, or with --frozen the hidden states alone.
Times are medians: by CUDA events on a GPU, by the clock on a CPU. "Peak" is memory over what was
there before the pass, gradients included; "work" is without the gradients, which any path needs.
On a GPU it is what torch allocated, on a CPU the process's resident size, whose peak Linux resets
on request. A path that does not fit is said to be out of memory.
"""

import argparse
import ctypes
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cotree.grpo.divergence import divergence, outcome_logprobs
from cotree.grpo.policy import CHUNK_LOGITS
from cotree.kernels.chunked_head import chunked_head
from cotree.kernels.token_logprobs import token_logprobs

TOP = 64
MIB = 1 << 20
HEADING = (
    f"{'N':>6} {'D':>5} {'hidden':>8} {'weights':>8} {'path':<14} {'chunk':>6} {'ms':>10} "
    f"{'peak MiB':>10} {'work MiB':>10}"
)


class Head(NamedTuple):
    """A head and its tokens, and a teacher's likeliest ones."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    first: Tensor
    teacher: Tensor


@dataclass(frozen=True)
class Row:
    """One path at one size; None where it did not fit."""

    path: str
    tokens: int
    width: int
    vocabulary: int
    hidden: str
    weights: str
    trained: bool
    chunk_tokens: int | None
    seconds: float | None
    peak_bytes: int | None
    work_bytes: int | None


def naive(head: Head) -> Tensor:
    logits = functional.linear(head.hidden, head.weight.to(head.hidden.dtype)).float()
    log_p = torch.log_softmax(logits, -1)
    chosen = log_p.gather(-1, head.targets[:, None])[:, 0]
    return (chosen - (log_p.exp() * log_p).sum(-1)).sum()


def plain(head: Head) -> Tensor:
    logits = functional.linear(head.hidden, head.weight.to(head.hidden.dtype)).float()
    return torch.log_softmax(logits, -1).gather(-1, head.targets[:, None]).sum()


def cross_entropy(head: Head) -> Tensor:
    logits = functional.linear(head.hidden, head.weight.to(head.hidden.dtype)).float()
    return functional.cross_entropy(logits, head.targets, reduction="sum")


def linear_ce(head: Head, *, chunk_tokens: int) -> Tensor:
    return functional.linear_cross_entropy(
        head.hidden,
        head.weight.to(head.hidden.dtype),
        head.targets,
        reduction="sum",
        options=torch.nn.LinearCrossEntropyOptions(batch_chunk_size=chunk_tokens),
    )


def chunked(head: Head, *, chunk_tokens: int) -> Tensor:
    options = {"bias": None, "temperature": 1.0, "chunk_tokens": chunk_tokens}
    logprobs, entropy = token_logprobs(head.hidden, head.weight, head.targets, **options)
    return (logprobs + entropy).sum()


def taught(head: Head, *, chunk_tokens: int) -> Tensor:
    def score(logits: Tensor, chunk: slice) -> tuple[Tensor, Tensor, Tensor]:
        log_p = torch.log_softmax(logits, -1)
        chosen = log_p.gather(-1, head.targets[chunk, None])[:, 0]
        entropy = -(log_p.exp() * log_p).sum(-1)
        first = head.first[chunk]
        student = outcome_logprobs(log_p, first, first + 1, order=None)
        nats = divergence("forward_kl", head.teacher[chunk], student, mix=0.5, temperature=1.0)
        return chosen, entropy, nats

    results = chunked_head(
        head.hidden, head.weight, bias=None, score=score, chunk_tokens=chunk_tokens
    )
    return torch.stack(results).sum()


def available_paths(chunk_tokens: int) -> dict[str, tuple[Callable[[Head], Tensor], int | None]]:
    """Name -> the pass and the tokens of its chunks, if it has any."""
    found: dict[str, tuple[Callable[[Head], Tensor], int | None]] = {
        "naive": (naive, None),
        "plain": (plain, None),
        "cross_entropy": (cross_entropy, None),
        "token_logprobs": (partial(chunked, chunk_tokens=chunk_tokens), chunk_tokens),
        "divergence": (partial(taught, chunk_tokens=chunk_tokens), chunk_tokens),
    }
    if hasattr(functional, "linear_cross_entropy"):
        found["linear_ce"] = (partial(linear_ce, chunk_tokens=chunk_tokens), chunk_tokens)
    return found


def inputs(
    device: str, *, tokens: int, width: int, vocabulary: int, dtypes: tuple[str, str], trained: bool
) -> Head:
    """Random ones; `dtypes` are the hidden states' and the weight's."""
    hidden_dtype, weight_dtype = (getattr(torch, name) for name in dtypes)
    generator = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator, device=device)
    weight = torch.randn(vocabulary, width, generator=generator, device=device) / width**0.5
    first = torch.randint(0, vocabulary // TOP, (tokens, TOP), generator=generator, device=device)
    teacher = torch.randn(tokens, TOP + 1, generator=generator, device=device)
    return Head(
        hidden.to(hidden_dtype).requires_grad_(),
        weight.to(weight_dtype).requires_grad_(trained),
        torch.randint(0, vocabulary, (tokens,), generator=generator, device=device),
        first + torch.arange(TOP, device=device) * (vocabulary // TOP),  # disjoint
        torch.log_softmax(teacher, -1),
    )


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def used(device: str) -> int:
    """Bytes in use now; the peak starts here."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # what the last pass freed is not in use
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def peak(device: str) -> int:
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return resident("VmHWM")


def leaves(head: Head) -> list[Tensor]:
    return [leaf for leaf in (head.hidden, head.weight) if leaf.requires_grad]


def one_pass(function: Callable[[Head], Tensor], head: Head) -> None:
    torch.autograd.grad(function(head), leaves(head))


def median_seconds(run: Callable[[], None], device: str, repetitions: int) -> float:
    found: list[float] = []
    for _ in range(repetitions):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end) / 1000)
        else:
            before = time.perf_counter()
            run()
            found.append(time.perf_counter() - before)
    return statistics.median(found)


def measured(
    function: Callable[[Head], Tensor], head: Head, device: str, repetitions: int
) -> tuple[float | None, int | None, int | None]:
    """Median seconds, peak and working bytes of a forward and a backward pass."""
    results = sum(leaf.nbytes for leaf in leaves(head))
    run = partial(one_pass, function, head)
    try:
        run()  # the matrix products' workspace, compiled kernels
        before = used(device)
        run()
        over = peak(device) - before
        return median_seconds(run, device, repetitions), over, over - results
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None, None, None


def shown(row: Row) -> str:
    size = (
        f"{row.tokens:>6} {row.width:>5} {row.hidden:>8} {row.weights:>8} {row.path:<14} "
        f"{row.chunk_tokens or '-':>6}"
    )
    if row.seconds is None or row.peak_bytes is None or row.work_bytes is None:
        return f"{size} out of memory"
    memory = f"{row.peak_bytes / MIB:>10.0f} {row.work_bytes / MIB:>10.0f}"
    return f"{size} {1000 * row.seconds:>10.2f} {memory}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU if there is one")
    parser.add_argument("--paths", nargs="+", choices=list(available_paths(1)), help="default: all")
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 16384], help="N")
    parser.add_argument("--widths", type=int, nargs="+", default=[1024, 4096], help="D")
    parser.add_argument("--vocabulary", type=int, default=151_936, help="V")
    dtypes = {"nargs": "+", "choices": ["float32", "bfloat16"]}
    parser.add_argument("--hidden", **dtypes, default=["bfloat16"])
    parser.add_argument("--weights", **dtypes, default=["float32", "bfloat16"])
    parser.add_argument("--frozen", action="store_true", help="the head gets no gradient")
    parser.add_argument(
        "--chunk-tokens", type=int, nargs="+", help="default: as the learner chooses them"
    )
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "CPU"
    chunks = given.chunk_tokens or [max(1, CHUNK_LOGITS // given.vocabulary)]
    print(f"{name}, torch {torch.__version__}, V = {given.vocabulary}, chunks of {chunks}")
    print(HEADING)
    rows: list[Row] = []
    for tokens, width, hidden, weights in itertools.product(
        given.tokens, given.widths, given.hidden, given.weights
    ):
        head = inputs(
            device,
            tokens=tokens,
            width=width,
            vocabulary=given.vocabulary,
            dtypes=(hidden, weights),
            trained=not given.frozen,
        )
        done: set[tuple[str, int | None]] = set()  # a path without chunks runs once
        for chunk_tokens in chunks:
            for path, (function, chunk) in available_paths(chunk_tokens).items():
                if (path, chunk) in done or path not in (given.paths or [path]):
                    continue
                done.add((path, chunk))
                size = (tokens, width, given.vocabulary, hidden, weights, not given.frozen)
                got = measured(function, head, device, given.repetitions)
                rows.append(Row(path, *size, chunk, *got))
                print(shown(rows[-1]), flush=True)
    if given.json:
        report = {
            "device": name,
            "torch": str(torch.__version__),
            "repetitions": given.repetitions,
            "rows": [asdict(row) for row in rows],
        }
        given.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
