"""Tests for grpo/footprint.py: sizes by formula equal sizes of real models."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from cotree.grpo.config_model import NewModel
from cotree.grpo.footprint import (
    ModelSize,
    cache_bytes_per_token,
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
