"""Tests for grpo/exporting/experts.py: what of a model's function stays, and what does not."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_experts
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from cotree.grpo.exporting.expert_choice import added
from cotree.grpo.exporting.experts import RECORD, copy_experts, grow_experts, remove_experts
from cotree.grpo.exporting.fp8_checkpoint import write_fp8_checkpoint

ROUNDING = 2e-6
"""Of logits of size 1 whose sums have another order."""
WRITERS = [tiny_experts.write_qwen3_moe, tiny_experts.write_deepseek_v3]
GROW: dict[str, Any] = {"loads": None, "dormant": False, "noise": 0.0, "seed": 0}


def logits(folder: Path) -> torch.Tensor:
    """Of some 200 tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.randint(128, (4, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(ids).logits


def gap(one: Path, other: Path) -> float:
    return float((logits(one) - logits(other)).abs().max())


def chosen(folder: Path) -> dict[str, set[int]]:
    """Ids of the experts that some of the tokens of `logits` go to, by layer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found: dict[str, set[int]] = {}
    for name, module in model.named_modules():
        if name.endswith(".mlp.gate"):

            def note(_module: Any, _inputs: Any, output: Any, *, layer: str = name[:-5]) -> None:
                found[layer] = set(output[2].flatten().tolist())

            module.register_forward_hook(note)
    ids = torch.randint(128, (4, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(ids)
    return found


def starve(folder: Path, experts: dict[str, list[int]]) -> None:
    """Changes routers so that no token of `logits` goes to these experts."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for layer, ids in experts.items():
        bias = tensors.get(f"{layer}.gate.e_score_correction_bias")
        if bias is not None:
            bias[ids] = -3.0
        else:  # a score near 0, when two of the many others are above
            tensors[f"{layer}.gate.weight"][ids] *= 1e-3
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("changes", [{"norm_topk_prob": True}, {"norm_topk_prob": False}])
@pytest.mark.parametrize("write", WRITERS)
def test_experts_that_are_all_copied_are_the_same_function(tmp_path: Path, write, changes):
    write(tmp_path / "a", **changes)
    change = copy_experts(tmp_path / "a", tmp_path / "b", copies=3, noise=0.0, seed=0)
    assert (change.num_after, change.per_token) == (3 * change.num_before, 6)
    assert gap(tmp_path / "a", tmp_path / "b") < ROUNDING


def test_groups_are_copied_whole(tmp_path: Path):
    tiny_experts.write_deepseek_v3(tmp_path / "a")
    copy_experts(tmp_path / "a", tmp_path / "b", copies=2, noise=0.0, seed=0)
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    names = ("n_routed_experts", "num_experts_per_tok", "n_group", "topk_group")
    assert [config[name] for name in names] == [16, 4, 4, 2]


def test_some_copies_are_another_function_and_dormant_ones_are_not(tmp_path: Path):
    tiny_experts.write_deepseek_v3(tmp_path / "a")
    grow_experts(tmp_path / "a", tmp_path / "awake", num_experts=12, **GROW)
    grow_experts(tmp_path / "a", tmp_path / "dormant", num_experts=12, **GROW | {"dormant": True})
    assert gap(tmp_path / "a", tmp_path / "awake") > 0.01
    assert gap(tmp_path / "a", tmp_path / "dormant") < ROUNDING
    (sources,) = json.loads((tmp_path / "dormant" / RECORD).read_text())["sources"].values()
    (ids,) = chosen(tmp_path / "dormant").values()
    assert len(added(sources)) == 4
    assert not ids & set(added(sources))


def test_a_router_without_a_bias_has_no_dormant_experts(tmp_path: Path):
    tiny_experts.write_qwen3_moe(tmp_path / "a")
    with pytest.raises(ValueError, match="need routers with a bias"):
        grow_experts(tmp_path / "a", tmp_path / "b", num_experts=6, **GROW | {"dormant": True})


@pytest.mark.parametrize("dormant", [False, True])
def test_removing_the_copies_gives_back_every_byte(tmp_path: Path, dormant: bool):
    tiny_experts.write_deepseek_v3(tmp_path / "a")
    options = GROW | {"dormant": dormant, "noise": 0.1}
    change = grow_experts(tmp_path / "a", tmp_path / "b", num_experts=12, **options)
    copies = {layer: added(sources) for layer, sources in change.sources.items()}

    remove_experts(tmp_path / "b", tmp_path / "c", removed=copies)

    weights, config = "model.safetensors", "config.json"
    assert (tmp_path / "c" / weights).read_bytes() == (tmp_path / "a" / weights).read_bytes()
    before, after = (json.loads((tmp_path / name / config).read_text()) for name in "ac")
    assert before == after


@pytest.mark.parametrize(
    ("write", "changes"),
    zip(WRITERS, [{"num_experts": 32}, {"n_group": 1}], strict=True),
)
def test_removing_experts_that_no_token_chose_changes_nothing(tmp_path: Path, write, changes):
    write(tmp_path / "a", **changes)
    unused = {layer: [1] for layer in chosen(tmp_path / "a")}
    starve(tmp_path / "a", unused)
    assert all(1 not in ids for ids in chosen(tmp_path / "a").values())
    remove_experts(tmp_path / "a", tmp_path / "b", removed=unused)
    assert gap(tmp_path / "a", tmp_path / "b") < ROUNDING


def test_softmax_weights_that_are_not_normalized_change_even_then(tmp_path: Path):
    tiny_experts.write_qwen3_moe(tmp_path / "a", num_experts=32, norm_topk_prob=False)
    unused = {layer: [1] for layer in chosen(tmp_path / "a")}
    starve(tmp_path / "a", unused)
    assert all(1 not in ids for ids in chosen(tmp_path / "a").values())
    remove_experts(tmp_path / "a", tmp_path / "b", removed=unused)
    assert gap(tmp_path / "a", tmp_path / "b") > 10 * ROUNDING


def test_removing_experts_that_tokens_chose_changes_the_model(tmp_path: Path):
    tiny_experts.write_qwen3_moe(tmp_path / "a")
    removed = {layer: [min(ids)] for layer, ids in chosen(tmp_path / "a").items()}
    remove_experts(tmp_path / "a", tmp_path / "b", removed=removed)
    assert gap(tmp_path / "a", tmp_path / "b") > 0.01


def test_noise_is_on_the_copies_rows_alone_and_of_their_size(tmp_path: Path):
    tiny_experts.write_qwen3_moe(tmp_path / "a", hidden_size=2048, num_hidden_layers=1)
    options = GROW | {"noise": 0.5}
    grow_experts(tmp_path / "a", tmp_path / "b", num_experts=6, **options)
    grow_experts(tmp_path / "a", tmp_path / "c", num_experts=6, **options)
    grow_experts(tmp_path / "a", tmp_path / "d", num_experts=6, **options | {"seed": 1})
    before, once, again, other = (
        load_file(tmp_path / name / "model.safetensors")["model.layers.0.mlp.gate.weight"]
        for name in "abcd"
    )
    assert torch.equal(once[:4], before)
    assert torch.equal(once, again)
    assert not torch.equal(once[4:], other[4:])
    # 2048 draws have their standard deviation within 5 sigma = 5 / sqrt(2 * 2048) = 8 %.
    added_noise = (once[4:] - before[:2]).square().mean(1).sqrt()
    torch.testing.assert_close(
        added_noise, 0.5 * before[:2].square().mean(1).sqrt(), rtol=0.08, atol=0
    )
    with pytest.raises(ValueError, match="noise = nan"):
        grow_experts(
            tmp_path / "a", tmp_path / "e", num_experts=6, **GROW | {"noise": float("nan")}
        )


def test_a_block_quantized_checkpoint_keeps_its_bytes(tmp_path: Path):
    tiny_experts.write_qwen3_moe(tmp_path / "a")
    write_fp8_checkpoint(tmp_path / "a", tmp_path / "b", scales="pow2")
    removed = {f"model.layers.{layer}.mlp": [0] for layer in (0, 1)}
    remove_experts(tmp_path / "b", tmp_path / "one", removed=removed)
    remove_experts(tmp_path / "a", tmp_path / "c", removed=removed)
    write_fp8_checkpoint(tmp_path / "c", tmp_path / "two", scales="pow2")
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_too_few_experts_for_a_token_are_refused(tmp_path: Path):
    tiny_experts.write_qwen3_moe(tmp_path / "a")
    removed = {f"model.layers.{layer}.mlp": [0, 1, 2] for layer in (0, 1)}
    with pytest.raises(ValueError, match="sent to 2 experts, and 1 experts leave only 1"):
        remove_experts(tmp_path / "a", tmp_path / "b", removed=removed)
    assert not (tmp_path / "b").exists()
