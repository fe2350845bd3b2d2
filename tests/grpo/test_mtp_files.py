"""Tests for grpo/mtp_files.py: a module through loading and saving, and carried untouched."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from deepseek_models import ALPHABET, TINY_MTP
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file

from cotree.grpo.models import create_model, load_model
from cotree.grpo.mtp import is_mtp_weight, mtp_module, with_copies
from cotree.grpo.mtp_files import load_model_with_mtp, stored_mtp
from cotree.grpo.weight_names import checkpoint_weights

COPIES = ("model.layers.3.embed_tokens.weight", "model.layers.3.shared_head.head.weight")


def _weights(mtp_model: Path) -> dict[str, torch.Tensor]:
    return {
        name: value
        for file in mtp_model.glob("*.safetensors")
        for name, value in load_file(file).items()
    }


def _changed(mtp_model: Path, target: Path, weights: dict[str, torch.Tensor]) -> str:
    """A copy of the checkpoint with other weights."""
    shutil.copytree(mtp_model, target)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


def _set_depth(mtp_model: str, depth: int) -> None:
    path = Path(mtp_model) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_nextn_predict_layers": depth}))


def test_a_new_model_has_the_names_that_engines_load(mtp_model: Path):
    weights = _weights(mtp_model)
    own = {name.removeprefix("model.layers.3.") for name in weights if ".layers.3." in name}
    assert {
        "enorm.weight",
        "hnorm.weight",
        "eh_proj.weight",
        "shared_head.norm.weight",
        "shared_head.head.weight",
        "embed_tokens.weight",
        "self_attn.o_proj.weight",
        "mlp.gate.e_score_correction_bias",
        "mlp.experts.7.up_proj.weight",
    } <= own
    assert weights["model.layers.3.eh_proj.weight"].shape == (32, 64)
    for copy, original in zip(COPIES, ("model.embed_tokens.weight", "lm_head.weight"), strict=True):
        assert torch.equal(weights[copy], weights[original])
    saved = json.loads((mtp_model / "config.json").read_text())
    assert (saved["num_hidden_layers"], saved["num_nextn_predict_layers"]) == (3, 1)


def test_the_seed_alone_decides_a_new_module(mtp_model: Path, tmp_path: Path):
    create_model(TINY_MTP, tmp_path / "same", alphabet=ALPHABET, seed=5)
    create_model(TINY_MTP, tmp_path / "other", alphabet=ALPHABET, seed=6)
    ours, same, other = (
        _weights(path) for path in (mtp_model, tmp_path / "same", tmp_path / "other")
    )
    assert all(torch.equal(same[name], value) for name, value in ours.items())
    for name in ("model.layers.3.eh_proj.weight", "model.layers.3.mlp.experts.0.up_proj.weight"):
        assert not torch.equal(other[name], ours[name])
        assert float(ours[name].std()) == pytest.approx(0.02, rel=0.1)


def test_loading_and_saving_is_bit_exact(mtp_model: Path):
    random = torch.Generator().manual_seed(0)
    network = load_model_with_mtp(str(mtp_model), dtype=torch.float32)
    named = with_copies(checkpoint_weights(network, network.state_dict()), layers=3)
    weights = _weights(mtp_model)
    assert named.keys() == weights.keys()
    assert all(torch.equal(named[name], value) for name, value in weights.items())
    assert network.config.num_hidden_layers == 3
    # every tensor of the module, experts and biases too, not only those that a seed leaves equal
    with torch.no_grad():
        for tensor in mtp_module(network).state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=random))
    changed = with_copies(checkpoint_weights(network, network.state_dict()), layers=3)
    assert not any(
        torch.equal(changed[name], value)
        for name, value in weights.items()
        if ".layers.3." in name and name not in COPIES
    )


def test_a_trained_module_survives_the_disk(mtp_model: Path, tmp_path: Path):
    random = torch.Generator().manual_seed(0)
    weights = _weights(mtp_model)
    trained = {name: torch.rand(value.shape, generator=random) for name, value in weights.items()}
    trained = with_copies({n: t for n, t in trained.items() if n not in COPIES}, layers=3)
    network = load_model_with_mtp(_changed(mtp_model, tmp_path / "a", trained), dtype=torch.float32)
    named = with_copies(checkpoint_weights(network, network.state_dict()), layers=3)
    assert named.keys() == trained.keys()
    assert all(torch.equal(named[name], value) for name, value in trained.items())


def test_a_sharded_checkpoint_is_read_like_a_single_file(mtp_model: Path, tmp_path: Path):
    shutil.copytree(mtp_model, tmp_path / "a")
    (tmp_path / "a/model.safetensors").unlink()
    save_torch_state_dict(_weights(mtp_model), tmp_path / "a", max_shard_size=40_000)
    assert len(list((tmp_path / "a").glob("*.safetensors"))) > 2
    sharded = load_model_with_mtp(str(tmp_path / "a"), dtype=torch.float32).state_dict()
    whole = load_model_with_mtp(str(mtp_model), dtype=torch.float32).state_dict()
    assert all(torch.equal(sharded[name], value) for name, value in whole.items())
    ours, theirs = stored_mtp(str(mtp_model)), stored_mtp(str(tmp_path / "a"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())


def test_what_is_carried_is_the_module_as_stored_without_the_copies(
    mtp_model: Path, tmp_path: Path
):
    weights = {name: value.bfloat16() for name, value in _weights(mtp_model).items()}
    carried = stored_mtp(_changed(mtp_model, tmp_path / "a", weights))
    assert carried.keys() == {name for name in weights if ".layers.3." in name} - {*COPIES}
    assert all(tensor.dtype == torch.bfloat16 for tensor in carried.values())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in carried.items())


def test_a_checkpoint_without_a_module_carries_nothing(tmp_path: Path):
    create_model(TINY_MTP.model_copy(update={"mtp_layers": 0}), tmp_path, alphabet=ALPHABET, seed=5)
    assert stored_mtp(str(tmp_path)) == {}
    # transformers writes 1 of its own accord for a module that it dropped
    _set_depth(str(tmp_path), 1)
    assert stored_mtp(str(tmp_path)) == {}
    with pytest.raises(ValueError, match=r"lacks \['model.layers.3.enorm.weight'"):
        load_model_with_mtp(str(tmp_path), dtype=torch.float32)


def test_a_quantized_module_is_not_carried(mtp_model: Path, tmp_path: Path):
    weights = _weights(mtp_model)
    name = "model.layers.3.self_attn.o_proj.weight"
    weights[name] = weights[name].to(torch.float8_e4m3fn)
    refused = "1 quantized multi-token prediction tensors.* Start from an unquantized checkpoint"
    with pytest.raises(ValueError, match=refused):
        stored_mtp(_changed(mtp_model, tmp_path / "a", weights))


def test_a_missing_weight_of_the_block_is_not_drawn_at_random(mtp_model: Path, tmp_path: Path):
    weights = _weights(mtp_model)
    del weights["model.layers.3.self_attn.o_proj.weight"]
    with pytest.raises(ValueError, match=r"no weights for \['model.layers.3"):
        load_model_with_mtp(_changed(mtp_model, tmp_path / "a", weights), dtype=torch.float32)


def test_two_modules_are_refused(mtp_model: Path, tmp_path: Path):
    path = _changed(mtp_model, tmp_path / "a", _weights(mtp_model))
    _set_depth(path, 2)
    with pytest.raises(ValueError, match="num_nextn_predict_layers = 2"):
        load_model_with_mtp(path, dtype=torch.float32)


def test_a_checkpoint_that_is_not_there_is_said_to_be_missing(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="cannot load a model"):
        load_model_with_mtp(str(tmp_path / "none"), dtype=torch.float32)


def test_copies_that_differ_are_told_and_not_used(
    mtp_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    weights = _weights(mtp_model)
    weights[COPIES[1]] = weights[COPIES[1]] + 1.0
    path = _changed(mtp_model, tmp_path / "a", weights)
    with caplog.at_level(logging.WARNING):
        network = load_model_with_mtp(path, dtype=torch.float32)
    (record,) = [r for r in caplog.records if r.name == "cotree.grpo.mtp_files"]
    assert record.getMessage().startswith(f"{COPIES[1]} differs from lm_head.weight")
    assert torch.equal(network.get_output_embeddings().weight, weights["lm_head.weight"])
    caplog.clear()
    load_model_with_mtp(str(mtp_model), dtype=torch.float32)
    assert not caplog.records


def test_loading_without_the_module_leaves_it_out(mtp_model: Path):
    network = load_model(str(mtp_model), dtype="float32")
    assert mtp_module(network) is None
    assert len(network.model.layers) == 3


def test_names_behind_the_last_layer_are_the_modules():
    names = (
        "model.layers.2.enorm.weight",
        "model.layers.3.enorm.weight",
        "model.layers.10.mlp.gate.weight",
        "lm_head.weight",
        "model.norm.weight",
    )
    found = [is_mtp_weight(name, layers=3) for name in names]
    assert found == [False, True, True, False, False]


def test_a_tied_head_is_copied_from_the_embedding():
    named = {
        "model.embed_tokens.weight": torch.ones(2, 2),
        "model.layers.1.enorm.weight": torch.ones(2),
    }
    found = with_copies(named, layers=1)
    assert torch.equal(found["model.layers.1.shared_head.head.weight"], torch.ones(2, 2))
    assert with_copies({"model.embed_tokens.weight": torch.ones(1)}, layers=1).keys() == {
        "model.embed_tokens.weight"
    }
