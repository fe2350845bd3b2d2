"""Tests for grpo/engine.py on an exported INT8 checkpoint, against the float model."""

from pathlib import Path

import pytest
import torch
from engine_host import SETTINGS, Host, request, worst_gap
from tiny_models import write_character_tokenizer, write_tiny_model
from transformers import AutoModelForCausalLM

from cotree.grpo.exporting.int8_checkpoint import write_int8_checkpoint


@pytest.mark.slow
def test_an_int8_engine_is_close_to_the_float_model(ray_cluster: None, tmp_path: Path):
    # With INT8 weights and activations log-probabilities are off, but by far less than those of
    # misread scales or of another model (over 1 nat).
    source, target = tmp_path / "float", tmp_path / "int8"
    write_tiny_model(source, seed=0, vocab_size=write_character_tokenizer(source))
    write_int8_checkpoint(source, target)
    host = Host()
    host.start(target, SETTINGS)
    asked = [request(number) for number in range(8)]

    groups = host.sample(asked)

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    gaps = [worst_gap(model, one, group[0]) for one, group in zip(asked, groups, strict=True)]
    assert 1e-4 < max(gaps) < 0.25
