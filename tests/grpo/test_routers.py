"""Tests for grpo/routers.py, on tiny mixtures of experts."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from random_batches import random_batch
from routed_batches import (
    BATCH,
    NAMES,
    REAL,
    gates,
    gradients,
    other_routes,
    scores_of,
    write_routed,
)
from torch import nn
from transformers import (
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from cotree.grpo.expert_balance import ExpertLoads
from cotree.grpo.models import load_model
from cotree.grpo.routers import OPTIONS_BY_CLASS, Routers

SIZES = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    write_routed(request.param, path)
    return path


@pytest.fixture
def model(folder: Path) -> PreTrainedModel:
    return load_model(str(folder), dtype="float32").train()


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[list[torch.Tensor]]]:
    """The experts [N, k] that each router chooses inside the `with`, by forward."""
    seen: list[list[torch.Tensor]] = [[] for _ in gates(model)]
    hooks = [
        gate.register_forward_hook(lambda _m, _i, output, ids=ids: ids.append(output[2]))
        for gate, ids in zip(gates(model), seen, strict=True)
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def _own_routes(model: nn.Module) -> torch.Tensor:
    """[B, S, layers, k] int16: where the model sends the tokens by itself; -1 of padding."""
    with torch.no_grad(), _recorded(model) as seen:
        scores_of(model, BATCH)
    routes = torch.stack([ids[0] for ids in seen], 1).view(*BATCH.token_ids.shape, len(seen), -1)
    return routes.masked_fill(~REAL[..., None, None], -1).to(torch.int16)


# --- which routers, and in what precision ----------------------------------------------------


def test_the_classes_of_each_kind_have_one_forward():
    # So what is tested below of one is true of all.
    (transformers,) = find_spec("transformers").submodule_search_locations
    forwards: dict[object, set[str]] = defaultdict(set)
    found = set()
    for path in Path(transformers, "models").glob("*/modeling_*.py"):
        text = path.read_text()
        if not any(f"class {name}(" in text for name in OPTIONS_BY_CLASS):
            continue
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and node.name in OPTIONS_BY_CLASS:
                (forward,) = (m for m in node.body if getattr(m, "name", None) == "forward")
                forwards[OPTIONS_BY_CLASS[node.name]].add(ast.unparse(forward))
                found.add(node.name)
    assert found == set(OPTIONS_BY_CLASS)
    assert [len(kinds) for kinds in forwards.values()] == [1, 1, 1]


def test_in_float32_every_bit_is_as_before(model):
    before = model(BATCH.token_ids).logits
    Routers(model, balance_coef=0.0)
    assert torch.equal(model(BATCH.token_ids).logits, before)


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        (
            MixtralForCausalLM,
            MixtralConfig(**SIZES, **HEADS, num_local_experts=4, num_experts_per_tok=2),
        ),
        (
            Glm4MoeForCausalLM,
            Glm4MoeConfig(
                **SIZES,
                **HEADS,
                head_dim=16,
                moe_intermediate_size=16,
                n_routed_experts=4,
                num_experts_per_tok=2,
                first_k_dense_replace=0,
            ),
        ),
    ],
)
def test_other_architectures_are_as_before_as_well(architecture, config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = architecture(config).float()
    before = network(BATCH.token_ids).logits
    routers = Routers(network, balance_coef=0.0)
    assert (routers.num_layers, routers.top_k) == (2, 2)
    assert torch.equal(network(BATCH.token_ids).logits, before)


def test_routers_compute_in_float32_under_autocast(model):
    Routers(model, balance_coef=0.0)
    gate = gates(model)[0]
    hidden = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(0))
    expected = gate(hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = gate(hidden)
    assert got[1].dtype == torch.float32
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(got, expected, strict=True))


# --- replay ----------------------------------------------------------------------------------


def test_replaying_a_models_own_choices_changes_no_bit(model):
    routers = Routers(model, balance_coef=0.0)
    assert (routers.num_layers, routers.top_k) == (2, 2)
    batch = replace(BATCH, routes=_own_routes(model))
    scores_of(model, BATCH).sum().backward()
    plain_scores, plain = scores_of(model, BATCH), gradients(model)
    with routers.replaying(batch):
        scores = scores_of(model, batch)
        scores.sum().backward()
    assert torch.equal(scores, plain_scores)
    assert all(torch.equal(grad, plain[name]) for name, grad in gradients(model).items())


def test_replayed_tokens_go_where_they_are_sent_and_gradients_reach_the_routers(model):
    routers = Routers(model, balance_coef=0.0)
    routes = other_routes(model)
    plain = scores_of(model, BATCH)
    batch = replace(BATCH, routes=routes)
    with routers.replaying(batch), _recorded(model) as seen:
        scores = scores_of(model, batch)
        scores.sum().backward()
    assert not torch.allclose(scores, plain, atol=1e-3)
    for layer, (ids,) in enumerate(seen):
        assert torch.equal(ids.view(*REAL.shape, 2)[REAL], routes[:, :, layer][REAL].long())
    for gate in gates(model):
        assert float(gate.weight.grad.abs().max()) > 1e-6
    # After the `with` the model chooses again.
    assert torch.equal(scores_of(model, BATCH), plain)


def test_tokens_without_a_route_choose_themselves(model):
    routers = Routers(model, balance_coef=0.0)
    routes = other_routes(model)
    free = torch.arange(REAL.shape[1]) % 2 == 0
    routes[:, free] = -1
    batch = replace(BATCH, routes=routes)
    with routers.replaying(batch), torch.no_grad(), _recorded(model) as seen:
        scores_of(model, batch)
    # The first layer sees the same hidden states with and without: its free tokens choose alike.
    own = _own_routes(model)[:, :, 0]
    ids = seen[0][0].view(*REAL.shape, 2)
    assert torch.equal(ids[:, free][REAL[:, free]], own[:, free][REAL[:, free]].long())
    assert torch.equal(ids[:, ~free][REAL[:, ~free]], routes[:, ~free, 0][REAL[:, ~free]].long())


def test_replay_is_the_same_padded_and_packed(model):
    routers = Routers(model, balance_coef=0.0)
    batch = replace(BATCH, routes=other_routes(model))
    with routers.replaying(batch):
        padded, packed = (scores_of(model, batch, packing=packing) for packing in (False, True))
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)


def test_replay_and_balance_have_the_same_gradient_with_gradient_checkpointing(model):
    # In backward every layer is computed again, which has to come out at the same experts.
    routers = Routers(model, balance_coef=0.5)
    batch = replace(BATCH, routes=other_routes(model))
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with routers.replaying(batch):
            scores = scores_of(model, batch)
            (scores.sum() / batch.num_tokens + routers.balance_loss(batch)).backward()
        found.append(gradients(model))
    assert all(torch.equal(grad, found[1][name]) for name, grad in found[0].items())


def test_replayed_loads_are_counted(model):
    routers, loads = Routers(model, balance_coef=0.0), ExpertLoads(model, rate=0.0)
    batch = replace(BATCH, routes=other_routes(model))
    with routers.replaying(batch), loads.counting(batch):
        scores_of(model, batch)
    for layer, counts in enumerate(loads.loads().values()):
        chosen = batch.routes[:, :, layer][REAL].flatten().long()
        assert counts.tolist() == torch.bincount(chosen, minlength=8).tolist()


def test_replay_works_inside_adapters(model):
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["o_proj"]))
    routers = Routers(adapted, balance_coef=0.0)
    batch = replace(BATCH, routes=other_routes(adapted))
    with routers.replaying(batch), _recorded(adapted) as seen:
        scores_of(adapted, batch)
    assert torch.equal(seen[0][0].view(*REAL.shape, 2)[REAL], batch.routes[:, :, 0][REAL].long())


def test_routes_of_another_model_are_refused(model):
    routers = Routers(model, balance_coef=0.0)
    routes = other_routes(model)
    with (
        pytest.raises(ValueError, match=r"\[B, S, layers, k\] = \(6, 24, 2, 2\)"),
        routers.replaying(replace(BATCH, routes=routes[:, :, :1])),
    ):
        pass
    routes[1, 3, 0] = 8
    wrong = replace(BATCH, routes=routes)
    with (
        routers.replaying(wrong),
        pytest.raises(ValueError, match="different experts of 0 to 7"),
    ):
        scores_of(model, wrong)


def test_a_forward_of_another_batch_is_refused(model):
    routers = Routers(model, balance_coef=0.0)
    batch = replace(BATCH, routes=other_routes(model))
    with routers.replaying(batch), pytest.raises(ValueError, match="the batch of that forward"):
        scores_of(model, random_batch(1, rows=3))


# --- models without known routers ------------------------------------------------------------


def test_a_model_without_routers_is_refused_where_it_matters(tiny_model: Path):
    dense = load_model(str(tiny_model), dtype="float32")
    routers = Routers(dense, balance_coef=0.0)
    assert (routers.num_layers, routers.top_k) == (0, 0)
    with routers.replaying(BATCH):
        scores_of(dense, BATCH)
    with (
        pytest.raises(ValueError, match=r"train\.rollout\.replay_routes has no effect"),
        routers.replaying(replace(BATCH, routes=torch.zeros(6, 24, 0, 0, dtype=torch.int16))),
    ):
        pass
    with pytest.raises(ValueError, match=r"learner\.sequence_balance_coef = 0\.1 has no effect"):
        Routers(dense, balance_coef=0.1)


def test_unknown_routers_are_left_alone_and_refused_where_it_matters():
    config = GptOssConfig(
        **SIZES,
        **HEADS,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        layer_types=["full_attention"] * 2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GptOssForCausalLM(config).float()
    before = network(BATCH.token_ids).logits
    routers = Routers(network, balance_coef=0.0)
    assert torch.equal(network(BATCH.token_ids).logits, before)
    with (
        pytest.raises(ValueError, match=r"does not know the routers .*GptOssTopKRouter"),
        routers.replaying(replace(BATCH, routes=torch.zeros(6, 24, 2, 2, dtype=torch.int16))),
    ):
        pass
    with pytest.raises(ValueError, match="GptOssTopKRouter"):
        Routers(network, balance_coef=0.1)
