"""Tests for grpo/engine_options.py: what an engine is told, by device and model."""

import json
from pathlib import Path
from typing import Any

import pytest

from cotree.grpo import config
from cotree.grpo.engine_options import engine_environment, engine_options, has_latent_attention


def options(*, cuda: bool, latent_attention: bool = False, **settings: Any) -> dict[str, Any]:
    generator = config.Generator(**settings)
    return engine_options(generator, cuda=cuda, latent_attention=latent_attention)


def is_latent(folder: Path, found: dict[str, Any]) -> bool:
    (folder / "config.json").write_text(json.dumps(found))
    return has_latent_attention(str(folder), revision=None)


def test_a_checkpoint_says_whether_its_attention_is_latent(tmp_path: Path):
    deepseek = {"model_type": "deepseek_v3", "kv_lora_rank": 512, "q_lora_rank": None}
    assert is_latent(tmp_path, deepseek)
    assert is_latent(tmp_path, {"model_type": "kimi_vl", "text_config": deepseek})
    assert not is_latent(tmp_path, {"model_type": "qwen3", "num_key_value_heads": 2})
    assert not is_latent(tmp_path, {"model_type": "deepseek_v2", "kv_lora_rank": None})


def test_only_latent_attention_on_a_cpu_does_without_custom_kernels():
    told = {
        (cuda, latent): options(cuda=cuda, latent_attention=latent).get("compilation_config")
        for cuda in (False, True)
        for latent in (False, True)
    }
    assert told.pop((False, True)) == {"custom_ops": ["none"]}
    assert set(told.values()) == {None}


def test_a_cpu_takes_whole_prompts_of_any_length_that_it_may_have():
    assert options(cuda=False, max_model_len=512)["max_num_batched_tokens"] == 8192
    long = options(cuda=False, max_model_len=10_000)
    assert long["max_num_batched_tokens"] == long["max_model_len"] == 10_000
    assert long["enable_chunked_prefill"] is False
    assert "enable_chunked_prefill" not in options(cuda=True)


def test_threads_are_those_that_the_environment_names(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    on_cpu = engine_environment(threads=3, cuda=False)
    assert on_cpu["OMP_NUM_THREADS"] == "3"
    assert "TORCHDYNAMO_DISABLE" in on_cpu
    assert "TORCHDYNAMO_DISABLE" not in engine_environment(threads=3, cuda=True)
    assert "HF_HUB_OFFLINE" not in on_cpu
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert engine_environment(threads=3, cuda=False)["HF_HUB_OFFLINE"] == "1"
