"""The learner: model and optimizer. `step(batch)` moves the weights, `weights()` hands them out.

`Learner` is one process of `world_size`; every process gets the whole batch and trains on its
share of the rows. `grpo.learner_group` runs it in Ray actors.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor

from cotree.grpo.collate import micro_batches, shard, split_rows, tensors_of
from cotree.grpo.config_algorithm import Train
from cotree.grpo.expert_balance import ExpertLoads
from cotree.grpo.learner_files import LearnerFiles
from cotree.grpo.learner_group import LearnerGroup
from cotree.grpo.mtp import mtp_loss
from cotree.grpo.objective import StepStatistics, micro_batch_loss, policy_part
from cotree.grpo.policy import Scores, attention_balance, check_policy, to_device
from cotree.grpo.precision import Arithmetic
from cotree.grpo.routers import Routers
from cotree.grpo.row_values import RowValue, row_values
from cotree.grpo.schedule import learning_rate
from cotree.grpo.sharding import gradient_sync, total_norm, wrap
from cotree.grpo.trainable import (
    LearnerSpec,
    adamw,
    check_shared_prefixes,
    reference_policy,
    resident_teacher,
    trainable_model,
    trained_policy,
    use_deterministic_kernels,
)
from cotree.grpo.tree_packing import pack_trees
from cotree.grpo.types import Batch, Stats
from cotree.grpo.weights import WeightUpdate, make_update

__all__ = ["Learner", "LearnerGroup", "LearnerSpec", "NonFiniteError"]


class NonFiniteError(RuntimeError):
    """The loss or the gradient is NaN or infinite. The optimizer did not move."""


class Learner:
    """One process of the learner. Its methods are collective: every process calls each alike."""

    def __init__(self, spec: LearnerSpec, *, rank: int = 0, world_size: int = 1) -> None:
        self._spec, self._rank, self._world_size = spec, rank, world_size
        self._train: Train | None = policy_part(spec.objective)
        check_shared_prefixes(spec)
        use_deterministic_kernels(threads=spec.learner.threads)
        # It places and wraps; the arithmetic is `grpo.precision`'s, which may change on the way.
        self._accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
        self._model, layers = trainable_model(spec)
        self._model.to(self._accelerator.device)
        self._arithmetic = Arithmetic(
            spec.learner.precision,
            layers,
            self._accelerator.device,
            total_updates=spec.total_updates,
        )
        self._routers = Routers(self._model, balance_coef=spec.learner.sequence_balance_coef)
        check_policy(
            self._model,
            packing=spec.learner.packing,
            share_prefixes=spec.learner.share_prefixes,
        )
        self._teacher = resident_teacher(spec, self._accelerator.device)
        policy = trained_policy(spec, self._model, self._teacher)
        self._policy = wrap(policy, self._accelerator, spec.learner.sharding)
        self._loads = ExpertLoads(self._model, rate=spec.learner.expert_bias_rate)
        self._reference = reference_policy(spec, self._accelerator)
        self._parameters = {
            name: parameter
            for name, parameter in self._model.named_parameters()
            if parameter.requires_grad
        }
        self._optimizer = adamw(list(self._parameters.values()), spec.optimizer)
        self._files = LearnerFiles(spec, self._model, self._parameters, self._optimizer, rank=rank)
        self._version = 0
        self._updates = 0

    # --- training ----------------------------------------------------------------------------

    def step(self, batch: Batch) -> Stats:
        """Trains on one step's rollouts and returns what was measured; the version grows by one.

        Raises:
            NonFiniteError: loss or gradient is NaN or infinite; the weights are as before the
                failed update.
        """
        started = time.perf_counter()
        measured = StepStatistics()
        minibatches = self._plan(batch)
        old_logprobs = [
            self._old_logprobs(pieces) if len(minibatches) > 1 else [None] * len(pieces)
            for pieces in minibatches
        ]
        updates = [
            self._update(pieces, old, measured)
            for pieces, old in zip(minibatches, old_logprobs, strict=True)
        ]
        self._version += 1
        stats = measured.reduced(world_size=self._world_size, device=self._accelerator.device)
        for name in sorted({name for update in updates for name in update}):
            # A skipped update has no loads of experts.
            found = [update[name] for update in updates if name in update]
            stats[name] = sum(found) / len(found)
        stats["learning_rate"] = updates[-1]["learning_rate"]
        stats["seconds"] = time.perf_counter() - started
        return stats

    def _plan(self, batch: Batch) -> list[list[Batch]]:
        """This process's micro-batches of each update, on its device.

        Every process gets the same number, or a collective operation would wait for ever; one
        with fewer rows makes up for it with rows that have no trained token.
        """
        parts = [batch]
        if self._train is not None and self._train.updates_per_step > 1:
            parts = split_rows(
                batch,
                self._train.updates_per_step,
                aggregation=self._train.loss.aggregation,
                max_tokens=self._train.rollout.max_tokens,
            )
        plan: list[list[Batch]] = []
        for part in parts:
            limit = self._spec.learner.micro_batch_tokens
            # After the minibatches were cut, which are the same with and without.
            rows = part
            if self._spec.learner.share_prefixes:
                balance = attention_balance(self._model)
                rows = pack_trees(part, max_tokens=limit, balance=balance)
            shares = [
                micro_batches(shard(rows, rank=rank, world_size=self._world_size), max_tokens=limit)
                for rank in range(self._world_size)
            ]
            count = max(len(share) for share in shares)
            if count == 0:
                raise ValueError("the batch has no rows; skip the step when nothing is left of it.")
            mine = shares[self._rank]
            mine = mine + [_untrained(part)] * (count - len(mine))
            plan.append([to_device(piece, self._accelerator.device) for piece in mine])
        return plan

    def _old_logprobs(self, pieces: list[Batch]) -> list[Tensor | None]:
        """Log-probabilities under the weights as they are before the step's first update."""
        found: list[Tensor | None] = []
        for piece in pieces:
            with torch.no_grad(), self._routers.replaying(piece):
                found.append(self._scores(piece)[0])
        return found

    def _update(
        self, pieces: list[Batch], old: Sequence[Tensor | None], measured: StepStatistics
    ) -> dict[str, float]:
        loss = self._backward(pieces, old, measured)
        rate = learning_rate(
            self._spec.optimizer, update=self._updates, total_updates=self._spec.total_updates
        )
        scales = self._arithmetic.unscale(list(self._parameters.values()), self._updates)
        norm = self._clip()
        measures = {"loss": loss, "grad_norm": norm, "learning_rate": rate, **scales}
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._optimizer.zero_grad()
            self._loads.clear()
            if math.isfinite(loss) and self._arithmetic.overflowed(self._updates):
                self._updates += 1
                del measures["grad_norm"]  # it has none
                return measures | {"precision/skipped": 1.0}
            raise NonFiniteError(
                f"loss = {loss}, gradient norm = {norm} in update {self._updates} "
                f"(policy v{self._version}); the optimizer did not move. Lower "
                f"optimizer.learning_rate (now {rate:.3g}) or raise warmup_steps, and resume from "
                "the last checkpoint; check rewards and log-probabilities for huge values"
                f"{self._arithmetic.hint(self._updates)}."
            )
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._arithmetic.passed(self._updates)
        self._updates += 1
        return measures | self._loads.update()

    def _clip(self) -> float:
        """Clips the gradients by their joint norm; returns it before that.

        A detached prediction module is clipped apart: its gradient would shrink the policy's.
        """
        mtp, limit = self._spec.learner.mtp, self._spec.optimizer.max_grad_norm
        apart = self._files.mtp_names() if mtp is not None and mtp.detached else set[str]()
        parts = [
            [value for name, value in self._parameters.items() if (name in apart) is wanted]
            for wanted in (False, True)
        ]
        norm, *others = [total_norm(part, max_norm=limit) for part in parts if part]
        return norm if all(map(math.isfinite, others)) else math.nan

    def _backward(
        self, pieces: list[Batch], old: Sequence[Tensor | None], measured: StepStatistics
    ) -> float:
        """Leaves the gradient of an update's loss, and returns that loss."""
        loss_sum = torch.zeros((), dtype=torch.float64, device=self._accelerator.device)
        for index, (piece, old_logprobs) in enumerate(zip(pieces, old, strict=True)):
            last = index == len(pieces) - 1
            with gradient_sync(self._policy, enabled=last), self._routers.replaying(piece):
                with self._loads.counting(piece):
                    scores = self._scores(piece)
                balance = self._routers.balance_loss(piece)
                loss, diagnostics = micro_batch_loss(
                    self._spec.objective,
                    piece,
                    logprobs=scores.logprobs,
                    old_logprobs=old_logprobs,
                    ref_logprobs=self._ref_logprobs(piece),
                    divergence=scores.divergence,
                )
                loss = loss if balance is None else loss + balance
                if scores.mtp_logprobs is not None and self._spec.learner.mtp is not None:
                    weight = self._spec.learner.mtp.weight
                    loss = loss + mtp_loss(scores.mtp_logprobs, piece.weights, weight=weight)
                # The processes' gradients are averaged, but each token's weight is its share of
                # the whole step, so they have to be summed.
                self._arithmetic.scaled(loss * self._world_size, self._updates).backward()
            loss_sum += loss.detach()
            measured.add(piece, scores.entropy, diagnostics)
            measured.add_drafts(piece, scores.mtp_logprobs, scores.mtp_hits)
        if self._world_size > 1:
            torch.distributed.all_reduce(loss_sum)
        return float(loss_sum)

    # --- log-probabilities -------------------------------------------------------------------

    def logprobs(
        self,
        token_ids: Sequence[Sequence[int]],
        first: Sequence[int],
        *,
        temperature: float = 1.0,
        of: Literal["policy", "teacher"] = "policy",
    ) -> list[list[float]]:
        """Log-probabilities of given tokens, in nats, computed as in training.

        Args:
            token_ids: sequences.
            first: per sequence, the index >= 1 of the first token wanted.
            temperature: divides the logits; 1 is what an engine's raw prompt log-probabilities
                and a `Canary` hold.
            of: the model asked; the resident teacher, where there is one.

        Returns:
            Per sequence, one number for each token from `first` on.
        """
        results: list[list[float]] = []
        for ids, start in zip(token_ids, first, strict=True):
            row = to_device(_one_row(ids, start), self._accelerator.device)
            with torch.no_grad():
                if of == "teacher":
                    assert self._teacher is not None, "the caller gave the spec a teacher"
                    scored = self._teacher.logprobs(row, temperature=temperature)
                else:
                    scored = self._scores(row, temperature=temperature)[0]
            results.append(scored[0, start:].tolist())
        return results

    def row_values(self, batch: Batch) -> list[RowValue]:
        """What each row would teach; see `grpo.row_values`. The weights stay as they are."""
        rows = to_device(batch, self._accelerator.device)
        return row_values(rows, lambda row: self._scores(row)[:2], list(self._parameters.values()))

    def _scores(self, piece: Batch, *, temperature: float | None = None) -> Scores:
        if temperature is None:
            temperature = self._train.rollout.temperature if self._train else 1.0
        with self._arithmetic.forward(self._updates):
            found = self._policy(piece, temperature)
        return Scores(*found)

    def _ref_logprobs(self, piece: Batch) -> Tensor | None:
        if self._train is None or self._train.kl is None:
            return None
        temperature = self._train.rollout.temperature
        with torch.no_grad(), self._arithmetic.forward(self._updates):
            if self._reference is not None:
                self._reference.layers.use(self._arithmetic.phase(self._updates).precision)
                with self._reference.routers.replaying(piece):
                    return self._reference.policy(piece, temperature)[0]
            assert isinstance(self._model, PeftModel), "reference_policy leaves only this one out"
            with self._model.disable_adapter():
                return self._policy(piece, temperature)[0]

    # --- weights and checkpoints -------------------------------------------------------------

    def policy_version(self) -> int:
        """Steps taken since the starting model."""
        return self._version

    def weights(self) -> WeightUpdate | None:
        """The policy's weights for the engines; None from every process but the first."""
        named = self._files.engine_weights()
        if self._rank != 0:
            return None
        dtype = cast(torch.dtype, getattr(torch, self._spec.engine_dtype))
        return make_update(named.items(), version=self._version, dtype=dtype)

    def save(self, folder: Path) -> None:
        """Writes everything `load` needs, and `folder/model`, a checkpoint that engines load."""
        counters = {"updates": self._updates, "policy_version": self._version}
        totals = {"expert_totals": self._loads.totals()}
        self._files.save(folder, counters | totals | {"loss_scales": self._arithmetic.state()})

    def save_model(self, folder: Path) -> None:
        """Writes the policy alone as a Hugging Face checkpoint: float32, adapters merged.

        Beside the weights of a mixture of experts, `expert_loads.json` has the tokens that each
        expert got over the whole run: `cotree experts` reads it.
        """
        self._files.save_model(folder)
        loads = self._loads.totals()
        if loads and self._rank == 0:
            (folder / "expert_loads.json").write_text(json.dumps(loads), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Restores what `save` wrote, bit for bit; any number of processes may do so.

        Raises:
            FileNotFoundError: the folder is not a learner's checkpoint.
            ValueError: it belongs to another model.
        """
        counters = self._files.load(folder)
        self._updates = int(counters["updates"])
        self._version = int(counters["policy_version"])
        self._arithmetic.restore(counters["loss_scales"])
        self._loads.restore(counters["expert_totals"])


def _one_row(token_ids: Sequence[int], first: int) -> Batch:
    """A sequence whose tokens from `first` on are asked about."""
    tokens = torch.tensor([list(token_ids)], dtype=torch.int64)
    mask = torch.arange(len(token_ids))[None] >= first
    zeros = torch.zeros(mask.shape)
    lengths = torch.tensor([len(token_ids)])
    return Batch(tokens, lengths, mask, zeros, zeros, zeros, len(token_ids) - first)


def _untrained(batch: Batch) -> Batch:
    """One two-token row of the batch with nothing to train on."""
    cut = {
        name: tensor[:1, :2] if tensor.ndim >= 2 else tensor[:1]
        for name, tensor in tensors_of(batch).items()
    }
    cut |= {
        "lengths": torch.tensor([2]),
        "mask": torch.zeros_like(cut["mask"]),
        "weights": torch.zeros_like(cut["weights"]),
    }
    return replace(batch, **cut)
