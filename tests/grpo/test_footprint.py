"""Tests for grpo/footprint.py: sizes by formula equal sizes of real models."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cotree.grpo.config_model import NewDeepseekModel, NewModel
from cotree.grpo.footprint import (
    ModelSize,
    cache_bytes_per_token,
    model_size,
    new_model_active_parameters,
    new_model_parameters,
    run_bytes,
    safetensors_parameters,
)
from cotree.grpo.run_folder import load_pipeline

TEXT = """
output_dir = "runs/x"
model = { type = "pretrained", path = "owner/name" }
task = { type = "arithmetic" }
[train]
num_steps = 3
optimizer = { learning_rate = 1e-4 }
"""


def test_the_formula_counts_what_transformers_builds():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    model = NewModel(type="new", layers=3, width=64, heads=4, kv_heads=2, mlp_width=96)
    built = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=32,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            tie_word_embeddings=True,
        )
    )
    assert new_model_parameters(model) == sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize(
    "fields",
    [{}, {"query_rank": 24, "shared_experts": 2, "groups": 2}, {"dense_layers": 0, "width": 96}],
    ids=str,
)
def test_a_deepseeks_formula_counts_what_transformers_builds(tmp_path: Path, fields: dict):
    from cotree.grpo.models import create_model, load_model

    model = NewDeepseekModel(type="new_deepseek_v3", layers=3, value_dim=40, **fields)
    create_model(model, tmp_path, alphabet="01", seed=0)
    built = load_model(str(tmp_path), dtype="float32")
    assert new_model_parameters(model) == sum(p.numel() for p in built.parameters())
    # The file also holds one bias for each of 8 experts in every layer that has some.
    saved = safetensors_parameters(tmp_path / "model.safetensors")
    assert saved - new_model_parameters(model) == 8 * (3 - model.dense_layers)


def test_a_token_is_computed_without_the_experts_it_is_not_sent_to():
    model = NewDeepseekModel(type="new_deepseek_v3", layers=3, width=64, expert_width=10)
    # 2 layers with 8 experts of which 2 work, each of 3 matrices of 64 x 10.
    idle = new_model_parameters(model) - new_model_active_parameters(model)
    assert idle == 2 * (8 - 2) * 3 * 64 * 10


def test_a_new_model_of_either_kind_has_a_size(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_text(TEXT)
    for model in (NewModel(type="new"), NewDeepseekModel(type="new_deepseek_v3")):
        pipeline = load_pipeline(path, []).model_copy(update={"model": model})
        assert model_size(pipeline).parameters == new_model_parameters(model)


def test_a_checkpoint_is_counted_from_its_header(tmp_path: Path):
    tensors = {"a": torch.zeros(3, 5), "b": torch.zeros(7, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt"})
    assert safetensors_parameters(tmp_path / "m.safetensors") == 22  # 15 + 7


def test_memory_grows_by_the_bytes_a_parameter_takes(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_text(TEXT)

    def per_parameter(*overrides: str) -> float:
        pipeline = load_pipeline(path, list(overrides))
        needed = [run_bytes(pipeline, ModelSize(n)) for n in (0, 1_000_000)]
        return (needed[1] - needed[0]) / 1_000_000

    assert per_parameter() == 16 + 2  # learner; engine in bfloat16
    assert per_parameter("generator.dtype=float32") == 16 + 4
    assert per_parameter("generator.replicas=3") == 16 + 3 * 2
    assert per_parameter("learner.processes=2") == 2 * 16 + 2  # ddp: a copy each
    assert per_parameter("learner.processes=2", "learner.sharding=fsdp2") == 16 + 2
    assert per_parameter("train.kl.coef=0.1") == 16 + 4 + 2  # and the frozen reference
    assert per_parameter("learner.lora.rank=4") == 4 + 2


def test_an_unknown_size_gives_no_estimate(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_text(TEXT)
    assert run_bytes(load_pipeline(path, []), ModelSize(None)) is None


def test_sizes_are_written_as_people_say_them():
    assert str(ModelSize(1_580_000)) == "1.58 M parameters"
    assert str(ModelSize(7_000_000_000)) == "7 B parameters"
    assert str(ModelSize(None)) == "size unknown before it is downloaded"


def test_a_tokens_cache_is_keys_and_values_of_every_layer():
    # 2 (keys, values) * 30 layers * 3 heads * 64 * 2 bytes = 23,040.
    grouped = {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}
    assert cache_bytes_per_token({**grouped, "num_hidden_layers": 30}, dtype="bfloat16") == 23_040
    # Without grouped heads all 4 count, and head_dim, where given, is not hidden_size / heads.
    plain = {"num_attention_heads": 4, "hidden_size": 64, "head_dim": 32, "num_hidden_layers": 1}
    assert cache_bytes_per_token(plain, dtype="float32") == 2 * 4 * 32 * 4


def test_latent_attention_caches_one_latent_and_one_key_for_all_heads():
    # (512 + 64) * 61 layers * 2 bytes: DeepSeek-V3's 70,272 bytes a token.
    deepseek = {
        "model_type": "deepseek_v3",
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "head_dim": 64,
        "hidden_size": 7168,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "num_hidden_layers": 61,
    }
    assert cache_bytes_per_token(deepseek, dtype="bfloat16") == 70_272
    # An architecture whose latents vLLM expands stores whole keys and values.
    expanded = {**deepseek, "model_type": "minicpm3"}
    assert cache_bytes_per_token(expanded, dtype="float32") == 2 * 61 * 128 * 64 * 4
