#!/usr/bin/env python
"""What training in FP8 costs a tiny language model: the gap of its loss to bfloat16's, over seeds.

    python scripts/measure_fp8_loss.py --seeds 12 --steps 240

A Qwen3 of 2 layers and width 256 learns Python's standard library, a character a token. Every seed
has weights and an order of texts of its own, which its runs share:

    fp8_block, fp8_block with float32 scales, float32
    nudged     bfloat16 again, every weight changed by about 1e-4 of itself: what chance does alone

Printed is the mean over seeds of the relative gap over the later half of the steps, its 95 %
interval (Student's t), and the least and the largest of a seed. It runs on a GPU where there is
one; on two cores a seed takes ten minutes.
"""

import argparse
import json
import random
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cotree.grpo.config_learner import BFloat16, FixedPrecision, Float32, Fp8Block
from cotree.grpo.config_model import NewModel
from cotree.grpo.models import create_model, encode_checked
from cotree.grpo.precision_preview.preview import (
    LossGap,
    late_gap,
    mean_gap,
    text_batches,
    training_losses,
)
from cotree.grpo.tokens import load_tokenizer
from cotree.grpo.types import Batch

SIZES = NewModel(type="new", layers=2, width=256, heads=4, kv_heads=4, head_dim=64, mlp_width=768)
ALPHABET = ("\n", *map(chr, range(32, 127)))
KNOWN = frozenset(ALPHABET)
CHARACTERS = 256
"""Of a text."""
TOKENS = 2048
"""Of a step."""
NUDGE = 1e-4
ARMS: dict[str, FixedPrecision] = {
    "bfloat16": BFloat16(),
    "fp8_block": Fp8Block(),
    "fp8_block, float32 scales": Fp8Block(scales="float32"),
    "float32": Float32(),
    "nudged": BFloat16(),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="two or more")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--json", type=Path, help="file for every seed's losses")
    arguments = parser.parse_args()
    if arguments.seeds < 2 or arguments.steps < 2:
        parser.error(
            f"--seeds {arguments.seeds} --steps {arguments.steps}: an interval needs two seeds, a "
            "later half two steps."
        )
    curves = [
        measured(seed, steps=arguments.steps, learning_rate=arguments.learning_rate)
        for seed in range(arguments.seeds)
    ]
    if arguments.json:
        arguments.json.write_text(json.dumps(curves))
    for name in list(ARMS)[1:]:
        print(line(name, [late_gap(found["bfloat16"], found[name]) for found in curves]))


def measured(seed: int, *, steps: int, learning_rate: float) -> dict[str, list[float]]:
    """Losses of every step, by arm."""
    with tempfile.TemporaryDirectory() as folder:
        plain, nudged = Path(folder) / "plain", Path(folder) / "nudged"
        for path in (plain, nudged):
            create_model(SIZES, path, alphabet=ALPHABET, seed=seed)
        nudge(nudged / "model.safetensors", seed=seed)
        tokenizer = load_tokenizer(str(plain), revision=None)
        chosen = texts(seed, count=steps * TOKENS // CHARACTERS + 50)
        encoded = [tuple(encode_checked(tokenizer, text)) for text in chosen]
        batches = step_batches(encoded, steps=steps)
        found: dict[str, list[float]] = {}
        for name, precision in ARMS.items():
            model = str(nudged if name == "nudged" else plain)
            found[name] = training_losses(
                model, batches, precision, steps=steps, learning_rate=learning_rate
            )
            print(f"seed {seed}, {name}: {found[name][-1]:.4f} nats at the end", flush=True)
        return found


def step_batches(encoded: Sequence[tuple[int, ...]], *, steps: int) -> list[Batch]:
    """A batch for every step; no text is learned twice."""
    batches = text_batches(encoded, tokens=TOKENS, count=steps)
    if len(batches) < steps:
        raise SystemExit(f"--steps {steps}: the texts last for {len(batches)}; take fewer.")
    return batches


def texts(seed: int, *, count: int) -> list[str]:
    """Pieces of the standard library's sources, in the seed's order."""
    pieces: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        source = path.read_text(encoding="utf-8", errors="ignore")
        kept = "".join(character for character in source if character in KNOWN)
        starts = range(0, len(kept) - CHARACTERS, CHARACTERS)
        pieces += [kept[start : start + CHARACTERS] for start in starts]
    random.Random(seed).shuffle(pieces)
    return pieces[:count]


def nudge(weights: Path, *, seed: int) -> None:
    """Changes every weight of a file by about `NUDGE` of itself."""
    generator = torch.Generator().manual_seed(seed)
    changed = {
        name: tensor * (1 + NUDGE * torch.randn(tensor.shape, generator=generator))
        for name, tensor in load_file(weights).items()
    }
    save_file(changed, weights, metadata={"format": "pt"})


def line(name: str, gaps: Sequence[LossGap]) -> str:
    """An arm's row of the result."""
    value, low, high = mean_gap(gaps)
    least, most = min(gap.relative for gap in gaps), max(gap.relative for gap in gaps)
    interval, single = f"{low:+.2%} to {high:+.2%}", f"{least:+.2%} to {most:+.2%}"
    return f"{name}: {value:+.2%} ({interval}), of single seeds {single}"


if __name__ == "__main__":
    main()
