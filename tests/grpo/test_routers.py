"""Tests for grpo/routers.py, on tiny mixtures of experts."""

import ast
import math
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
from tiny_experts import write_deepseek_v3, write_qwen3_moe
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
from cotree.grpo.policy import policy_logprobs
from cotree.grpo.routers import OPTIONS_BY_CLASS, Routers
from cotree.grpo.types import Batch

BATCH = random_batch(0, vocab=99)
REAL = torch.arange(BATCH.token_ids.shape[1]) < BATCH.lengths[:, None]
NAMES = ("qwen3_moe", "deepseek_v3")
SIZES = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {name: tmp_path_factory.mktemp(name) for name in NAMES}
    write_qwen3_moe(found["qwen3_moe"], num_experts=8)
    write_deepseek_v3(found["deepseek_v3"], num_hidden_layers=3)
    return found


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest, folders: dict[str, Path]) -> PreTrainedModel:
    """Two layers of 8 experts, 2 a token."""
    return load_model(str(folders[request.param]), dtype="float32").train()


def _gates(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module).__name__ in OPTIONS_BY_CLASS]


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[list[torch.Tensor]]]:
    """The experts [N, k] that each router chooses inside the `with`, by forward."""
    seen: list[list[torch.Tensor]] = [[] for _ in _gates(model)]
    hooks = [
        gate.register_forward_hook(lambda _m, _i, output, ids=ids: ids.append(output[2]))
        for gate, ids in zip(_gates(model), seen, strict=True)
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def _scores(model: nn.Module, batch: Batch, *, packing: bool = False) -> torch.Tensor:
    return policy_logprobs(model, batch, temperature=1.0, packing=packing)[0]


def _own_routes(model: nn.Module) -> torch.Tensor:
    """[B, S, layers, k] int16: where the model sends the tokens by itself; -1 of padding."""
    with torch.no_grad(), _recorded(model) as seen:
        _scores(model, BATCH)
    routes = torch.stack([ids[0] for ids in seen], 1).view(*BATCH.token_ids.shape, len(seen), -1)
    return routes.masked_fill(~REAL[..., None, None], -1).to(torch.int16)


def _other_routes(model: nn.Module) -> torch.Tensor:
    """Random ones."""
    random = torch.Generator().manual_seed(0)
    shape = (*BATCH.token_ids.shape, len(_gates(model)), 8)
    chosen = torch.rand(shape, generator=random).argsort(-1)[..., :2]
    return chosen.masked_fill(~REAL[..., None, None], -1).to(torch.int16)


def _grads(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


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
    gate = _gates(model)[0]
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
    _scores(model, BATCH).sum().backward()
    plain_scores, plain = _scores(model, BATCH), _grads(model)
    with routers.replaying(batch):
        scores = _scores(model, batch)
        scores.sum().backward()
    assert torch.equal(scores, plain_scores)
    assert all(torch.equal(grad, plain[name]) for name, grad in _grads(model).items())


def test_replayed_tokens_go_where_they_are_sent_and_gradients_reach_the_routers(model):
    routers = Routers(model, balance_coef=0.0)
    routes = _other_routes(model)
    plain = _scores(model, BATCH)
    batch = replace(BATCH, routes=routes)
    with routers.replaying(batch), _recorded(model) as seen:
        scores = _scores(model, batch)
        scores.sum().backward()
    assert not torch.allclose(scores, plain, atol=1e-3)
    for layer, (ids,) in enumerate(seen):
        assert torch.equal(ids.view(*REAL.shape, 2)[REAL], routes[:, :, layer][REAL].long())
    for gate in _gates(model):
        assert float(gate.weight.grad.abs().max()) > 1e-6
    # After the `with` the model chooses again.
    assert torch.equal(_scores(model, BATCH), plain)


def test_tokens_without_a_route_choose_themselves(model):
    routers = Routers(model, balance_coef=0.0)
    routes = _other_routes(model)
    free = torch.arange(REAL.shape[1]) % 2 == 0
    routes[:, free] = -1
    batch = replace(BATCH, routes=routes)
    with routers.replaying(batch), torch.no_grad(), _recorded(model) as seen:
        _scores(model, batch)
    # The first layer sees the same hidden states with and without: its free tokens choose alike.
    own = _own_routes(model)[:, :, 0]
    ids = seen[0][0].view(*REAL.shape, 2)
    assert torch.equal(ids[:, free][REAL[:, free]], own[:, free][REAL[:, free]].long())
    assert torch.equal(ids[:, ~free][REAL[:, ~free]], routes[:, ~free, 0][REAL[:, ~free]].long())


def test_replay_is_the_same_padded_and_packed(model):
    routers = Routers(model, balance_coef=0.0)
    batch = replace(BATCH, routes=_other_routes(model))
    with routers.replaying(batch):
        padded, packed = (_scores(model, batch, packing=packing) for packing in (False, True))
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)


def test_replay_and_balance_have_the_same_gradient_with_gradient_checkpointing(model):
    # In backward every layer is computed again, which has to come out at the same experts.
    routers = Routers(model, balance_coef=0.5)
    batch = replace(BATCH, routes=_other_routes(model))
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with routers.replaying(batch):
            scores = _scores(model, batch)
            (scores.sum() / batch.num_tokens + routers.balance_loss(batch)).backward()
        found.append(_grads(model))
    assert all(torch.equal(grad, found[1][name]) for name, grad in found[0].items())


def test_replayed_loads_are_counted(model):
    routers, loads = Routers(model, balance_coef=0.0), ExpertLoads(model, rate=0.0)
    batch = replace(BATCH, routes=_other_routes(model))
    with routers.replaying(batch), loads.counting(batch):
        _scores(model, batch)
    for layer, counts in enumerate(loads.loads().values()):
        chosen = batch.routes[:, :, layer][REAL].flatten().long()
        assert counts.tolist() == torch.bincount(chosen, minlength=8).tolist()


def test_replay_works_inside_adapters(model):
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["o_proj"]))
    routers = Routers(adapted, balance_coef=0.0)
    batch = replace(BATCH, routes=_other_routes(adapted))
    with routers.replaying(batch), _recorded(adapted) as seen:
        _scores(adapted, batch)
    assert torch.equal(seen[0][0].view(*REAL.shape, 2)[REAL], batch.routes[:, :, 0][REAL].long())


def test_routes_of_another_model_are_refused(model):
    routers = Routers(model, balance_coef=0.0)
    routes = _other_routes(model)
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
        _scores(model, wrong)


def test_a_forward_of_another_batch_is_refused(model):
    routers = Routers(model, balance_coef=0.0)
    batch = replace(BATCH, routes=_other_routes(model))
    with routers.replaying(batch), pytest.raises(ValueError, match="the batch of that forward"):
        _scores(model, random_batch(1, rows=3))


# --- balance loss ----------------------------------------------------------------------------


def _balance(model: nn.Module, routers: Routers, batch: Batch, *, packing: bool = False):
    with routers.replaying(batch):
        _scores(model, batch, packing=packing)
        return routers.balance_loss(batch)


def _by_definition(model: nn.Module, batch: Batch, coef: float) -> float:
    """Every row alone and without padding; eq. 17-20 with the paper's sums."""
    inputs: list[list[torch.Tensor]] = [[] for _ in _gates(model)]
    hooks = [
        gate.register_forward_pre_hook(lambda _m, given, into=into: into.append(given[0]))
        for gate, into in zip(_gates(model), inputs, strict=True)
    ]
    total = 0.0
    for row, length in enumerate(batch.lengths.tolist()):
        for into in inputs:
            into.clear()
        with torch.no_grad():
            model(batch.token_ids[row : row + 1, :length])
        share = int(batch.mask[row].sum()) / batch.num_tokens
        for gate, (hidden,) in zip(_gates(model), inputs, strict=True):
            logits = hidden.reshape(-1, 64) @ gate.weight.detach().T
            biased = hasattr(gate, "e_score_correction_bias")
            scores = logits.sigmoid() if biased else logits.softmax(-1)
            for expert in range(8):
                best = [row_scores.argsort(descending=True)[:2].tolist() for row_scores in scores]
                frequency = 8 / (2 * length) * sum(expert in chosen for chosen in best)
                mean = float((scores[:, expert] / scores.sum(1)).mean())
                total += coef * share * frequency * mean
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize("packing", [False, True])
def test_the_balance_loss_is_that_of_the_paper(model, packing: bool):
    routers = Routers(model, balance_coef=0.5)
    mask = BATCH.mask.clone()
    mask[2] = False
    batch = replace(BATCH, mask=mask)
    loss = _balance(model, routers, batch, packing=packing)
    assert float(loss.detach()) == pytest.approx(_by_definition(model, batch, 0.5), rel=1e-5)


def test_the_balance_loss_does_not_depend_on_how_a_step_is_cut(model):
    routers = Routers(model, balance_coef=0.5)
    whole = _balance(model, routers, BATCH)
    whole.backward()
    expected = _grads(model)
    total = 0.0
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        fields = ("token_ids", "lengths", "mask", "behavior_logprobs", "advantages", "weights")
        part = replace(BATCH, **{name: getattr(BATCH, name)[rows] for name in fields})
        loss = _balance(model, routers, part)
        loss.backward()
        total += float(loss.detach())
    assert total == pytest.approx(float(whole.detach()), rel=1e-5)
    for name, grad in _grads(model).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-3, atol=1e-6)


def test_a_forward_without_gradients_is_not_the_trained_one(model):
    routers = Routers(model, balance_coef=0.5)
    with routers.replaying(BATCH):
        _scores(model, BATCH)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)
            _scores(model, BATCH)  # such as a reference policy, in the same modules
            for parameter in model.parameters():
                parameter.div_(2)
        loss = routers.balance_loss(BATCH)
    assert float(loss.detach()) == float(_balance(model, routers, BATCH).detach())


def test_gradients_of_the_balance_loss_even_out_the_load(model):
    routers = Routers(model, balance_coef=1.0)
    optimizer = torch.optim.SGD([gate.weight for gate in _gates(model)], lr=0.02)
    losses = []
    for _ in range(20):
        loss = _balance(model, routers, BATCH)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.01
    assert math.isfinite(losses[-1])


def test_without_a_coefficient_there_is_no_balance_loss(model):
    assert _balance(model, Routers(model, balance_coef=0.0), BATCH) is None


def test_a_balance_loss_without_a_trained_forward_is_an_error(model):
    routers = Routers(model, balance_coef=0.5)
    _scores(model, BATCH)
    with pytest.raises(ValueError, match="no trained forward was seen"):
        routers.balance_loss(BATCH)
    with routers.replaying(BATCH):
        with torch.no_grad():
            _scores(model, BATCH)
        with pytest.raises(ValueError, match="no trained forward was seen"):
            routers.balance_loss(BATCH)


# --- models without known routers ------------------------------------------------------------


def test_a_model_without_routers_is_refused_where_it_matters(tiny_model: Path):
    dense = load_model(str(tiny_model), dtype="float32")
    routers = Routers(dense, balance_coef=0.0)
    assert (routers.num_layers, routers.top_k) == (0, 0)
    with routers.replaying(BATCH):
        _scores(dense, BATCH)
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
