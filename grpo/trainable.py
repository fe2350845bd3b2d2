"""What a learner process is built from: the trainable model, its adapters, its optimizer."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from cotree.grpo import config
from cotree.grpo.attention import use_float32_attention
from cotree.grpo.config_algorithm import Dtype, Optimizer
from cotree.grpo.config_distill import ResidentTeacher
from cotree.grpo.config_learner import phases_of
from cotree.grpo.fp8_layers import Fp8Layers, fp8_layers
from cotree.grpo.models import load_config, load_model, refuse_quantized_experts
from cotree.grpo.mtp_files import load_model_with_mtp
from cotree.grpo.objective import Objective, Taught, policy_part
from cotree.grpo.policy import Policy
from cotree.grpo.routers import Routers
from cotree.grpo.seeds import derive
from cotree.grpo.sharding import wrap
from cotree.grpo.taught_policy import ResidentModel, TaughtPolicy


@dataclass(frozen=True)
class LearnerSpec:
    """Everything a learner process is built from; plain data."""

    model_path: str
    """The model that training starts from, and the reference policy of the KL penalty."""
    learner: config.Learner
    optimizer: Optimizer
    total_updates: int
    """Optimizer updates of the whole run (steps * updates_per_step); the schedule's length."""
    objective: Objective
    seed: int
    """Of the adapters' initial weights; full training has nothing random."""
    engine_dtype: Dtype = "bfloat16"
    revision: str | None = None
    teacher: ResidentTeacher | None = None
    """A model that every process of the learner holds beside the one that it trains."""
    vocabulary_order: tuple[int, ...] | None = None
    """Of a `TaughtBatch` whose teacher has another tokenizer; None is the vocabulary's own."""
    drafts: bool = False
    """The engines draft with the model's multi-token prediction module, and want its weights."""


def use_deterministic_kernels(*, threads: int) -> None:
    """Sets the process up to repeat its results bit for bit, with so many OpenMP threads."""
    torch.set_num_threads(threads)
    on_gpu = torch.cuda.is_available()
    # Some CUDA kernels have no deterministic version; a CPU has them all.
    torch.use_deterministic_algorithms(mode=True, warn_only=on_gpu)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def starting_model(spec: LearnerSpec, *, with_mtp: bool = False) -> PreTrainedModel:
    """The model that training starts from, float32; also the reference policy."""
    # Before it is loaded: transformers forgets then that it was quantised.
    refuse_quantized_experts(load_config(spec.model_path, revision=spec.revision))
    load = load_model_with_mtp if with_mtp else load_model
    model = load(spec.model_path, dtype=torch.float32, revision=spec.revision)
    types = {phase.precision.type for phase in phases_of(spec.learner.precision)}
    if types != {"float32"} and not torch.cuda.is_available():
        use_float32_attention(model)
    return model


def trainable_model(spec: LearnerSpec) -> tuple[PreTrainedModel | PeftModel, Fp8Layers]:
    """The starting model without dropout, with adapters when asked for, and what can be in FP8.

    Dropout would make the log-probabilities of training differ from those that were sampled.
    """
    model = starting_model(spec, with_mtp=spec.learner.mtp is not None)
    layers = fp8_layers(model, spec.learner.precision)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # pyright: ignore[reportArgumentType]
    if spec.learner.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    lora = spec.learner.lora
    if lora is None:
        return model, layers
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=cast(int, lora.alpha),
        target_modules=targets,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with _seeded(derive(spec.seed, "lora")):
        return cast(PeftModel, get_peft_model(model, settings)), layers


def trained_policy(
    spec: LearnerSpec, model: PreTrainedModel | PeftModel, teacher: ResidentModel | None
) -> Policy | TaughtPolicy:
    """The model as the module that training calls: with a teacher, where the objective has one."""
    packing = spec.learner.packing
    if not isinstance(spec.objective, Taught):
        return Policy(model, packing=packing, mtp=spec.learner.mtp)
    order = None
    if spec.vocabulary_order is not None:
        order = torch.tensor(spec.vocabulary_order, dtype=torch.int64)
    return TaughtPolicy(
        model,
        packing=packing,
        divergence=spec.objective.divergence,
        teacher=teacher,
        order=order,
        mtp=spec.learner.mtp,
    )


@dataclass(frozen=True)
class Reference:
    """A frozen policy that computes as the trained one does, so that a divergence begins at 0."""

    policy: nn.Module
    routers: Routers
    """They follow a batch's recorded routes."""
    layers: Fp8Layers
    """They follow the arithmetic of an update."""


def reference_policy(spec: LearnerSpec, accelerator: Accelerator) -> Reference | None:
    """A frozen copy of the starting model, where a KL penalty needs one.

    With LoRA there is none: the model without its adapters is the reference.
    """
    train = policy_part(spec.objective)
    if train is None or train.kl is None or spec.learner.lora is not None:
        return None
    model = starting_model(spec).requires_grad_(requires_grad=False)
    layers = fp8_layers(model, spec.learner.precision)
    routers = Routers(model, balance_coef=0.0)
    # DDP has nothing to reduce here, so only FSDP2 wraps it, to shard its memory.
    policy = Policy(model.eval(), packing=spec.learner.packing)
    if spec.learner.sharding == "ddp":
        return Reference(policy.to(accelerator.device), routers, layers)
    return Reference(wrap(policy, accelerator, spec.learner.sharding), routers, layers)


def resident_teacher(spec: LearnerSpec, device: torch.device) -> ResidentModel | None:
    """The teacher that this process holds, if any."""
    if spec.teacher is None:
        return None
    dtype = cast(torch.dtype, getattr(torch, spec.teacher.dtype))
    network = load_model(spec.teacher.path, dtype=dtype, revision=spec.teacher.revision)
    cast(nn.Module, network).to(device)
    return ResidentModel(network, packing=spec.learner.packing)


def check_shared_prefixes(spec: LearnerSpec) -> None:
    """Raises ValueError where prefixes are to be shared under an objective that cannot."""
    if not spec.learner.share_prefixes:
        return
    if isinstance(spec.objective, Taught):
        raise ValueError(
            "learner.share_prefixes does not know a teacher's divergence; set it to false, or "
            'choose distill.type = "traces" or distill.signal.type = "advantage", which need none.'
        )
    if spec.objective != "sft":
        spec.objective.check_shared_prefixes()


def adamw(parameters: list[nn.Parameter], optimizer: Optimizer) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, as norms and biases have no scale to keep small."""
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": optimizer.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=optimizer.learning_rate,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.eps,
        fused=True,
    )
