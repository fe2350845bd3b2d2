"""What training in FP8 would cost a model in accuracy: by layer, in its loss, and over some steps.

Everything runs through the learner that trains, on a CPU as on a GPU.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from transformers.utils import logging

from cotree.grpo import arithmetic
from cotree.grpo.config import ArithmeticTask, BFloat16, Learner
from cotree.grpo.config_algorithm import Optimizer
from cotree.grpo.config_learner import FixedPrecision, Fp8Block, Fp8Scaled
from cotree.grpo.config_traces import GeneratedTraces
from cotree.grpo.evaluation.intervals import student_t_quantile
from cotree.grpo.evaluation.records import Estimate
from cotree.grpo.learner import Learner as TrainingLearner
from cotree.grpo.models import encode_checked
from cotree.grpo.policy import policy_logprobs, to_device
from cotree.grpo.precision_preview.layer_errors import LayerErrors, LayerProbe
from cotree.grpo.routers import Routers
from cotree.grpo.rows import records, text_of
from cotree.grpo.seeds import derive
from cotree.grpo.supervised import Example, sft_batch
from cotree.grpo.tokens import load_tokenizer
from cotree.grpo.trainable import LearnerSpec, trainable_model
from cotree.grpo.types import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LOSS_GAP_BOUND = 0.0025
"""DeepSeek-V3 stayed below this relative gap over a whole training. arXiv:2412.19437, sec. 3.3."""


@dataclass(frozen=True, slots=True)
class LossGap:
    """A loss in bfloat16 and in the low precision, nats a token."""

    bfloat16: float
    low: float

    @property
    def relative(self) -> float:
        """(low - bfloat16) / bfloat16."""
        return (self.low - self.bfloat16) / self.bfloat16


@dataclass(frozen=True, slots=True)
class Preview:
    """What was measured."""

    tokens: int
    """In the pass that the layers and the first loss were measured on."""
    layers: tuple[LayerErrors, ...]
    loss: LossGap
    """Of the model as it is."""
    trained: tuple[LossGap, ...]
    """Of each run: mean over the last half of the steps that were trained in either precision."""
    largest_step_gap: float | None
    """The largest relative gap of a single step's loss in any run, without its sign."""

    def estimate(self) -> Estimate | None:
        """Mean of the runs' relative gaps, as `mean_gap` has it; from two runs on."""
        return mean_gap(self.trained) if len(self.trained) > 1 else None


def mean_gap(gaps: Sequence[LossGap]) -> Estimate:
    """Mean of the relative gaps of two runs or more, and its 95 % interval (Student's t)."""
    relative = [gap.relative for gap in gaps]
    half = student_t_quantile(len(gaps) - 1) * stdev(relative) / math.sqrt(len(gaps))
    return Estimate(fmean(relative), fmean(relative) - half, fmean(relative) + half)


def preview(
    model: str,
    texts: Sequence[tuple[int, ...]],
    *,
    precision: Fp8Block | Fp8Scaled,
    tokens: int,
    steps: int,
    learning_rate: float,
    runs: int,
    tell: Callable[[str], None],
) -> Preview:
    """Measures a model on texts.

    Args:
        model: path or hub name.
        texts: token ids, two or more each.
        precision: what to compare with bfloat16.
        tokens: of one batch, about.
        steps: optimizer steps to train in either precision; 0 trains nothing.
        learning_rate: of AdamW.
        runs: how often to train; all but the first shuffle the texts, each in its own order. One
            run's gap says little: rounding sends the weights another way, for better or worse.
        tell: called with a line about what comes next.

    Raises:
        ValueError: there are not enough texts for one batch, or for runs that differ.
    """
    logging.disable_progress_bar()
    batches = text_batches(texts, tokens=tokens, count=max(1, steps))
    if runs > 1 and len(batches) == 1:
        raise ValueError(
            f"{runs} runs need two steps and texts for two batches of {tokens} tokens, or they "
            "would not differ and their interval would say nothing; give more --texts, fewer "
            "--tokens, or one run."
        )
    tokens_seen = int(batches[0].lengths.sum())
    tell(f"layers: one pass over {tokens_seen} tokens")
    layers, loss = _layers_and_loss(model, batches[0], precision)
    trained: list[LossGap] = []
    largest: list[float] = []
    for run in range(runs if steps else 0):
        if run:
            shuffled = random.Random(derive(run, "preview order")).sample(texts, len(texts))
            batches = text_batches(shuffled, tokens=tokens, count=steps)
        curves: list[list[float]] = []
        for arithmetic_type in (BFloat16(), precision):
            tell(f"training, run {run + 1} of {runs}: {steps} steps in {arithmetic_type.type}")
            curves.append(
                training_losses(
                    model, batches, arithmetic_type, steps=steps, learning_rate=learning_rate
                )
            )
        trained.append(late_gap(*curves))
        largest.append(max(abs(low - high) / high for high, low in zip(*curves, strict=True)))
    return Preview(tokens_seen, layers, loss, tuple(trained), max(largest, default=None))


def _layers_and_loss(
    path: str, batch: Batch, precision: Fp8Block | Fp8Scaled
) -> tuple[tuple[LayerErrors, ...], LossGap]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, layers = trainable_model(_spec(path, precision, steps=1, learning_rate=1.0))
    cast(nn.Module, model).to(device)
    Routers(model, balance_coef=0.0)
    batch = to_device(batch, device)

    def loss() -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            logprobs, _ = policy_logprobs(model, batch, temperature=1.0, packing=False)
        return -(logprobs * batch.weights).sum()

    layers.use(precision)
    with torch.no_grad():
        low = float(loss())
    layers.use(BFloat16())
    probe = LayerProbe(layers)
    high = loss()
    high.backward()
    probe.close()
    model.zero_grad()
    return tuple(probe.errors(precision)), LossGap(float(high.detach()), low)


def late_gap(bfloat16: Sequence[float], low: Sequence[float]) -> LossGap:
    """Of two curves of losses: their means over the later half of the steps."""
    return LossGap(*(fmean(curve[len(curve) // 2 :]) for curve in (bfloat16, low)))


def training_losses(
    path: str,
    batches: Sequence[Batch],
    precision: FixedPrecision,
    *,
    steps: int,
    learning_rate: float,
) -> list[float]:
    """The loss of each step, nats a token, from a model as it is, through the batches in turn."""
    learner = TrainingLearner(_spec(path, precision, steps=steps, learning_rate=learning_rate))
    return [learner.step(batches[step % len(batches)])["loss"] for step in range(steps)]


def _spec(path: str, precision: FixedPrecision, *, steps: int, learning_rate: float) -> LearnerSpec:
    return LearnerSpec(
        model_path=path,
        learner=Learner(precision=precision, threads=torch.get_num_threads()),
        optimizer=Optimizer(learning_rate=learning_rate, warmup_steps=min(10, steps // 4)),
        total_updates=steps,
        objective="sft",
        seed=0,
    )


def text_batches(texts: Sequence[tuple[int, ...]], *, tokens: int, count: int) -> list[Batch]:
    """Up to `count` batches of about `tokens` tokens, in the order of the texts.

    Raises:
        ValueError: there is no text.
    """
    batches: list[Batch] = []
    rest = iter(texts)
    while len(batches) < count:
        rows: list[Example] = []
        size = 0
        while size < tokens and (ids := next(rest, None)) is not None:
            rows.append(Example(ids[:1], ids[1:]))
            size += len(ids)
        if size < tokens and batches:
            break
        if not rows:
            raise ValueError("there is no text of two tokens or more; give others with --texts.")
        batches.append(sft_batch(rows))
    return batches


# --- texts -----------------------------------------------------------------------------------


def texts_of(
    path: str, source: Path | None, *, longest: int, count: int = 4096
) -> list[tuple[int, ...]]:
    """Texts as the model's tokens, cut at `longest`; without a source, worked arithmetic.

    Args:
        path: of the model.
        source: a .jsonl or .parquet file with a field `text`, or any other file, a text a line.
        longest: tokens.
        count: texts at most.
    """
    tokenizer = load_tokenizer(path, revision=None)
    found = islice(_written(source, count) if source else _solutions(count), count)
    encoded = (_encoded(tokenizer, text)[:longest] for text in found)
    return [ids for ids in encoded if len(ids) >= 2]


def _encoded(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[int, ...]:
    return tuple(encode_checked(tokenizer, text))


def _written(source: Path, count: int) -> list[str]:
    if source.suffix in (".jsonl", ".parquet"):
        rows = islice(records(str(source)), count)
        return [text_of(row, "text", f"{source}, row {number}") for number, row in rows]
    lines = source.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip()]


def _solutions(count: int) -> list[str]:
    task, traces = ArithmeticTask(type="arithmetic"), GeneratedTraces(type="generated")
    rng = random.Random(derive(0, "preview"))
    found = arithmetic.questions(task, "train", count=count)
    return [
        f"{question.text}\n"
        + arithmetic.worked_solution(question.text, traces, largest=task.largest, rng=rng)
        for question in found
    ]
