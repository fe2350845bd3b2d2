"""Tests for grpo/trainable.py: what a learner's process is built from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft import PeftModel
from random_batches import KL, OPTIMIZER, make_spec, random_batch, train_config
from taught_batches import frozen, full_logprobs, resident, write_teacher
from torch import nn

from cotree.grpo import config
from cotree.grpo.config_algorithm import GspoLoss
from cotree.grpo.config_distill import Divergence
from cotree.grpo.objective import Objective, Taught
from cotree.grpo.policy import Policy
from cotree.grpo.taught_policy import TaughtPolicy
from cotree.grpo.trainable import (
    LearnerSpec,
    adamw,
    check_shared_prefixes,
    reference_policy,
    resident_teacher,
    starting_model,
    trainable_model,
    trained_policy,
    use_deterministic_kernels,
)

CPU = torch.device("cpu")
TAUGHT = Taught(Divergence())
LORA = config.Lora(rank=2)


def spec(model: Path, objective: Objective, **learner: object) -> LearnerSpec:
    return replace(make_spec(model, **learner), objective=objective)


@pytest.fixture
def accelerator() -> Accelerator:
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=True)


def test_a_process_repeats_its_results_on_the_threads_it_was_given():
    use_deterministic_kernels(threads=1)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == 1


# --- the model -------------------------------------------------------------------------------


def test_training_starts_from_the_model_in_float32_without_dropout(tiny_model: Path):
    # Weights are those of the file; only the mode differs.
    model, _ = trainable_model(spec(tiny_model, "sft"))
    start = starting_model(spec(tiny_model, "sft"))
    assert model.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert all(torch.equal(value, start.state_dict()[n]) for n, value in model.state_dict().items())
    assert all(m.p == 0.0 for m in model.modules() if isinstance(m, nn.Dropout))
    assert all(layer.self_attn.attention_dropout == 0.0 for layer in model.model.layers)


def test_adapters_are_a_function_of_the_seed(tiny_model: Path):
    one, same, other = (
        trainable_model(replace(spec(tiny_model, "sft", lora=LORA), seed=seed))[0]
        for seed in (0, 0, 1)
    )
    assert isinstance(one, PeftModel)
    trained = {name for name, p in one.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 7 * 2  # A and B of seven matrices in each of two layers
    first, again, another = (model.state_dict() for model in (one, same, other))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], another[name]) for name in trained)


@pytest.mark.parametrize(
    ("objective", "kind"),
    [
        ("sft", Policy),
        (train_config(), Policy),
        (TAUGHT, TaughtPolicy),
        (Taught(Divergence(), train=train_config()), TaughtPolicy),
    ],
)
def test_the_objective_decides_whether_a_teacher_is_heard(tiny_model: Path, objective, kind):
    settings = spec(tiny_model, objective, packing=True)
    model = starting_model(settings)
    policy = trained_policy(settings, model, None)
    assert type(policy) is kind
    assert policy.model is model
    assert policy.packing


def test_the_order_of_the_vocabulary_reaches_the_policy_and_is_not_saved(tiny_model: Path):
    order = tuple(reversed(range(128)))
    settings = replace(spec(tiny_model, TAUGHT), vocabulary_order=order)
    policy = trained_policy(settings, starting_model(settings), None)
    buffers = dict(policy.named_buffers())
    assert buffers["_order"].tolist() == list(order)
    assert buffers["_order"].dtype == torch.int64
    assert "_order" not in policy.state_dict()


# --- the models beside it --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "learner", "exists"),
    [
        ("sft", {}, False),
        (train_config(), {}, False),
        (train_config(kl=KL), {}, True),
        (train_config(kl=KL), {"lora": LORA}, False),  # the model without its adapters is it
        (TAUGHT, {}, False),
        (Taught(Divergence(), train=train_config()), {}, False),
        (Taught(Divergence(), train=train_config(kl=KL)), {}, True),
    ],
)
def test_a_reference_is_held_only_where_a_penalty_needs_a_copy(
    tiny_model: Path, accelerator, objective, learner, exists: bool
):
    reference = reference_policy(spec(tiny_model, objective, **learner), accelerator)
    assert (reference is not None) == exists
    if reference is None:
        return
    policy = reference.policy
    assert isinstance(policy, Policy)
    assert not policy.model.training
    assert not any(p.requires_grad for p in policy.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resident_teacher_is_held_in_its_own_precision(tiny_model: Path, tmp_path, dtype: str):
    folder = write_teacher(tiny_model, tmp_path, seed=1, sharpness=2.0)
    settings = replace(spec(tiny_model, TAUGHT), teacher=resident(folder, dtype=dtype))
    teacher = resident_teacher(settings, CPU)
    assert teacher is not None
    batch = random_batch(0)
    assert teacher.states(batch).hidden.dtype == getattr(torch, dtype)
    full = full_logprobs(frozen(folder, dtype=dtype).float(), batch)
    own = full.gather(-1, batch.token_ids[..., None])[..., 0] * batch.mask
    close = {"float32": 1e-5, "bfloat16": 0.2}[dtype]
    got = teacher.logprobs(batch, temperature=1.0)
    torch.testing.assert_close(got, own, atol=close, rtol=0)


def test_without_a_teacher_none_is_held(tiny_model: Path):
    assert resident_teacher(spec(tiny_model, TAUGHT), CPU) is None


# --- shared prefixes -------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["sft", train_config()], ids=["sft", "train"])
def test_prefixes_may_be_shared_without_a_teacher(tiny_model: Path, objective):
    check_shared_prefixes(spec(tiny_model, objective, share_prefixes=True))


@pytest.mark.parametrize("train", [None, train_config()], ids=["alone", "with_train"])
def test_prefixes_cannot_be_shared_under_a_teacher(tiny_model: Path, train):
    objective = Taught(Divergence(), train=train)
    check_shared_prefixes(spec(tiny_model, objective))
    with pytest.raises(ValueError, match=r"does not know a teacher's divergence; set it to false"):
        check_shared_prefixes(spec(tiny_model, objective, share_prefixes=True))


def test_prefixes_cannot_be_shared_by_what_depends_on_whole_rollouts(tiny_model: Path):
    train = train_config(loss=GspoLoss(type="gspo"))
    check_shared_prefixes(spec(tiny_model, train))
    with pytest.raises(ValueError, match="depends on whole rollouts"):
        check_shared_prefixes(spec(tiny_model, train, share_prefixes=True))


# --- the optimizer ---------------------------------------------------------------------------


def test_matrices_decay_and_vectors_do_not():
    matrix, vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    optimizer = adamw([vector, matrix], OPTIMIZER.model_copy(update={"weight_decay": 0.1}))
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays == {id(matrix): 0.1, id(vector): 0.0}
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (1e-2, (0.9, 0.95), 1e-3)


def test_a_model_of_matrices_alone_has_one_group():
    # As adapters are; an empty group would be an error of the optimizer's own.
    assert len(adamw([nn.Parameter(torch.ones(2, 2))], OPTIMIZER).param_groups) == 1
