"""Tests for grpo/exporting/expert_layout.py."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_experts
from tiny_models import write_tiny_model

from cotree.grpo.exporting.expert_layout import ExpertLayout, by_layer, read_layout, with_layout

LAYERS = ("model.layers.1.mlp", "model.layers.2.mlp")


def layout(**changes: int) -> ExpertLayout:
    sizes = {"num_experts": 8, "per_token": 2, "groups": 2, "groups_per_token": 1} | changes
    return ExpertLayout(**sizes, layers=LAYERS, has_bias=True)


def test_layouts_are_read_from_checkpoints(tmp_path: Path):
    tiny_experts.write_qwen3_moe(tmp_path / "qwen")
    layers = ("model.layers.0.mlp", "model.layers.1.mlp")
    assert read_layout(tmp_path / "qwen") == ExpertLayout(4, 2, 1, 1, layers, has_bias=False)

    tiny_experts.write_deepseek_v3(tmp_path / "deepseek")
    assert read_layout(tmp_path / "deepseek") == ExpertLayout(
        8, 2, 2, 1, ("model.layers.1.mlp",), has_bias=True
    )


def test_layers_behind_the_models_own_are_those_of_a_prediction_module(tmp_path: Path):
    # Of 3 layers, the first dense, config.json calls the last one a module.
    tiny_experts.write_deepseek_v3(tmp_path, num_hidden_layers=3)
    assert read_layout(tmp_path).mtp_layers == ()
    config = json.loads((tmp_path / "config.json").read_text()) | {"num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_layout(tmp_path)
    assert found.layers == LAYERS
    assert found.mtp_layers == LAYERS[1:]
    sizes = {"num_experts": 16, "per_token": 2, "groups": 2, "groups_per_token": 1}
    assert found.resized(**sizes).mtp_layers == LAYERS[1:]


def test_layers_are_in_the_order_of_their_numbers(tmp_path: Path):
    tiny_experts.write_qwen3_moe(tmp_path, num_hidden_layers=11)
    assert read_layout(tmp_path).layers == tuple(f"model.layers.{i}.mlp" for i in range(11))


def test_a_model_without_experts_is_refused(tmp_path: Path):
    write_tiny_model(tmp_path, seed=0, vocab_size=128)
    with pytest.raises(ValueError, match="is a 'qwen3'; experts can be added to"):
        read_layout(tmp_path)


def test_a_configuration_that_contradicts_the_tensors_is_refused(tmp_path: Path):
    tiny_experts.write_deepseek_v3(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"n_routed_experts": 6}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"says 6 experts; model\.layers\.1\.mlp has 8"):
        read_layout(tmp_path)


@pytest.mark.parametrize(
    ("num_experts", "per_token", "message"),
    [
        (7, 2, "multiple of 2"),
        (2, 1, "leave one in each of 2 groups"),
        (4, 3, "only 2 that it may use"),
    ],
)
def test_what_a_router_cannot_route_is_refused(num_experts: int, per_token: int, message: str):
    with pytest.raises(ValueError, match=message):
        layout().resized(num_experts=num_experts, per_token=per_token, groups=2, groups_per_token=1)


@pytest.mark.parametrize("name", ["num_experts", "num_local_experts", "n_routed_experts"])
def test_numbers_are_written_under_the_names_that_a_configuration_has(name: str):
    config = {name: 8, "num_experts_per_tok": 2, "hidden_size": 64}
    larger = layout(num_experts=16, per_token=4)
    assert with_layout(config, larger) == {name: 16, "num_experts_per_tok": 4, "hidden_size": 64}


def test_groups_that_are_null_stay_null():
    config = {"n_routed_experts": 8, "n_group": None, "topk_group": 1}
    changed = with_layout(config, layout(num_experts=6))
    assert changed == {"n_routed_experts": 6, "n_group": None, "topk_group": 1}


def test_loads_are_found_behind_what_wrappers_put_in_front():
    counts = {
        "model.layers.1.mlp.gate": [1] * 8,
        "base_model.model.model.layers.2.mlp.gate": [2] * 8,
    }
    assert by_layer(layout(), counts) == {LAYERS[0]: [1] * 8, LAYERS[1]: [2] * 8}


def test_a_module_that_was_not_trained_gets_the_loads_of_the_last_layer_before_it():
    first, last, module = (f"model.layers.{i}.mlp" for i in (1, 2, 3))
    with_module = replace(layout(), layers=(first, last, module), mtp_layers=(module,))
    counts = {f"{first}.gate": [1] * 8, f"{last}.gate": [2] * 8}
    assert by_layer(with_module, counts) == {first: [1] * 8, last: [2] * 8, module: [2] * 8}

    counts[f"{module}.gate"] = [3] * 8  # a trained one has its own
    assert by_layer(with_module, counts)[module] == [3] * 8


def test_a_module_has_no_loads_where_no_layer_before_it_has_experts():
    alone = replace(layout(), layers=LAYERS[:1], mtp_layers=LAYERS[:1])
    with pytest.raises(ValueError, match="the loads need one entry for router"):
        by_layer(alone, {})


@pytest.mark.parametrize("count", [0, float("nan")])
def test_loads_of_no_token_are_refused(count: float):
    counts = {"model.layers.1.mlp.gate": [1] * 8, "model.layers.2.mlp.gate": [count] * 8}
    with pytest.raises(ValueError, match=r"router model\.layers\.2\.mlp\.gate .* nothing was c"):
        by_layer(layout(), counts)


@pytest.mark.parametrize(
    "counts",
    [
        {"model.layers.1.mlp.gate": [1] * 8},
        {"model.layers.1.mlp.gate": [1] * 8, "model.layers.2.mlp.gate": [1] * 7},
        {f"{w}model.layers.{i}.mlp.gate": [1] * 8 for w in ("", "module.") for i in (1, 2)},
    ],
    ids=["a layer is missing", "a number is missing", "a layer is there twice"],
)
def test_loads_that_do_not_fit_are_refused(counts: dict[str, list[float]]):
    with pytest.raises(ValueError, match="the loads need one entry for router"):
        by_layer(layout(), counts)
