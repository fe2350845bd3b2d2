"""Configuration of the learner: its arithmetic, its memory, its processes, its added losses."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cotree.grpo.config_algorithm import PositiveFloat, PositiveInt, Strict

# --- arithmetic ------------------------------------------------------------------------------


class Float32(Strict):
    """Everything in float32."""

    type: Literal["float32"] = "float32"


class BFloat16(Strict):
    """Autocast to bfloat16 over float32 master weights."""

    type: Literal["bfloat16"] = "bfloat16"


class Float16(Strict):
    """Autocast to float16 over float32 master weights, with dynamic loss scaling.

    float16 has more digits than bfloat16 and a smaller range: the loss is multiplied by a scale
    that halves when a gradient overflows (that update is skipped) and doubles after
    `growth_interval` updates without one. It is what GPUs without bfloat16 need; a CPU
    multiplies float16 matrices many times more slowly than bfloat16 ones.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, sec. 3.2.
    """

    type: Literal["float16"] = "float16"
    initial_scale: Annotated[float, Field(ge=1, le=2**24)] = 65536.0
    growth_interval: PositiveInt = 200
    """Updates."""


class Fp8Block(Strict):
    """DeepSeek-V3's FP8: every linear layer's three products in E4M3, the rest in bfloat16.

    Activations and their gradients are scaled by tiles of 1 x 128, weights by blocks of
    128 x 128; products are accumulated in float32. Embeddings, the output head, routers, norms
    and attention stay in bfloat16, master weights in float32. A CPU emulates it bit for bit where
    bytes are made; it is no faster there.

    Source: DeepSeek-AI 2024, arXiv:2412.19437, sec. 3.3.
    """

    type: Literal["fp8_block"] = "fp8_block"
    scales: Literal["pow2", "float32"] = "pow2"
    """Powers of two keep their bytes when a tensor is transposed and quantised again, and are what
    Blackwell multiplies by; DeepSeek-V3 used them for some tensors, V3.1 for all."""
    skip: tuple[str, ...] = ()
    """Linear layers that stay in bfloat16: ends of their names, such as `down_proj` or
    `layers.0.mlp.gate_proj`."""


class Fp8Scaled(Strict):
    """torchao's FP8 training: one scale for a whole tensor, or one for each of its rows.

    The routed experts of a mixture stay in bfloat16: torchao multiplies them on GPUs alone.
    """

    type: Literal["fp8_tensorwise", "fp8_rowwise"]
    skip: tuple[str, ...] = ()
    """As of `fp8_block`."""


FixedPrecision = Annotated[
    Float32 | BFloat16 | Float16 | Fp8Block | Fp8Scaled, Field(discriminator="type")
]


class PrecisionPhase(Strict):
    """The arithmetic from one update on, until the next phase."""

    first_update: Annotated[int, Field(ge=0)]
    """Of the optimizer, counted from 0 in each stage."""
    precision: FixedPrecision


class ScheduledPrecision(Strict):
    """Arithmetic that changes on the way: float32 while a run is young, less once it is steady."""

    type: Literal["schedule"] = "schedule"
    phases: tuple[PrecisionPhase, ...]

    @model_validator(mode="after")
    def _phases_are_in_order(self) -> ScheduledPrecision:
        starts = [phase.first_update for phase in self.phases]
        if len(starts) < 2 or starts[0] != 0 or sorted(set(starts)) != starts:
            raise ValueError(
                f"phases start at updates {starts}; give two or more, the first at 0 and each "
                "later than the one before."
            )
        for before, after in pairwise(self.phases):
            if before.precision == after.precision:
                raise ValueError(
                    f"the phase from update {after.first_update} on changes nothing: it is "
                    f"{after.precision.type} already. Drop it."
                )
        return self


Precision = Annotated[
    Float32 | BFloat16 | Float16 | Fp8Block | Fp8Scaled | ScheduledPrecision,
    Field(discriminator="type"),
]


def phases_of(precision: Precision) -> tuple[PrecisionPhase, ...]:
    """The phases of a schedule; of anything else, the one that it is."""
    if isinstance(precision, ScheduledPrecision):
        return precision.phases
    return (PrecisionPhase(first_update=0, precision=precision),)


# --- the learner -----------------------------------------------------------------------------


class Lora(Strict):
    """Low-rank adapters instead of full weights. Source: Hu et al. 2021, arXiv:2106.09685."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class Mtp(Strict):
    """Trains a model's multi-token prediction module beside it.

    Source: DeepSeek-AI 2024, arXiv:2412.19437, sec. 2.2.
    """

    weight: PositiveFloat = 0.3
    """Of its cross-entropy in the loss (lambda)."""
    detached: bool = True
    """Its gradient ends at the module, so that it drafts for the policy and never moves it. The
    paper's pre-training lets it through; under reinforcement that pulls on the policy."""


class Learner(Strict):
    """How one gradient is computed, for sft, train and distill alike."""

    precision: Precision = BFloat16()
    """The arithmetic of the products; master weights and gradients are float32 in all."""
    micro_batch_tokens: PositiveInt = 8192
    """Most tokens in one forward pass, padding included."""
    packing: bool = False
    """Concatenate sequences instead of padding them; each still attends to itself only."""
    share_prefixes: bool = False
    """Send tokens that rollouts of a prompt share (the prompt; in a rollout tree, the stem of a
    fork) through the model once, where that outweighs attention over all of a tree."""
    processes: PositiveInt = 1
    """Learner actors; gradients are summed over them."""
    sharding: Literal["ddp", "fsdp2"] = "ddp"
    """`fsdp2` shards weights and optimizer state over the processes."""
    gradient_checkpointing: bool = False
    threads: PositiveInt = 1
    """OpenMP threads of one process on a CPU."""
    lora: Lora | None = None
    expert_bias_rate: Annotated[float, Field(ge=0)] = 0.0
    """Mixture of experts with a bias on its scores: how far each update moves an expert's bias
    towards an even load (gamma). Source: Wang et al. 2024, arXiv:2408.15664. 0 leaves it."""
    sequence_balance_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the loss that evens out the experts' loads within each sequence (alpha; 1e-4 in
    DeepSeek-V3). Source: DeepSeek-AI 2024, arXiv:2412.19437, eq. 17-20. 0 leaves it out."""
    mtp: Mtp | None = None
    """Left out, a module that the checkpoint has is saved again as it is, untrained."""

    @model_validator(mode="after")
    def _packing_has_an_effect(self) -> Learner:
        if self.packing and self.share_prefixes:
            raise ValueError(
                "learner.packing has no effect with learner.share_prefixes, which lays rows out "
                "itself; drop one of them."
            )
        return self

    @model_validator(mode="after")
    def _biases_are_saved(self) -> Learner:
        if self.lora and self.expert_bias_rate:
            raise ValueError(
                f"learner.expert_bias_rate = {self.expert_bias_rate:g} would move the base model, "
                "which learner.lora keeps as it is and does not save; set one of them."
            )
        if self.lora and self.mtp:
            raise ValueError(
                "learner.mtp trains a part of the base model, which learner.lora keeps as it is "
                "and does not save; set one of them."
            )
        return self

    @model_validator(mode="after")
    def _sharding_has_an_effect(self) -> Learner:
        if self.processes == 1 and "sharding" in self.model_fields_set:
            raise ValueError(
                "learner.sharding has no effect with learner.processes = 1; "
                "raise processes or drop it."
            )
        return self

    @model_validator(mode="after")
    def _layout_is_known(self) -> Learner:
        needs = {"sequence_balance_coef": self.sequence_balance_coef, "mtp": self.mtp}
        for name, value in needs.items():
            if self.share_prefixes and value:
                raise ValueError(
                    f"learner.{name} reads whole sequences, which learner.share_prefixes takes "
                    "apart; drop one of them."
                )
        return self
