"""Tests for grpo/models.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_experts import write_deepseek_v3, write_qwen3_moe
from tiny_models import write_tiny_model
from transformers import AutoTokenizer

from cotree.grpo.config_model import NewModel
from cotree.grpo.exporting.fp8_checkpoint import write_fp8_checkpoint
from cotree.grpo.models import (
    character_tokenizer,
    create_model,
    encode_checked,
    load_config,
    load_model,
    refuse_quantized_experts,
)

ALPHABET = (*"0123456789+-*()= \n", "<think>", "</think>", r"\boxed{", "}")
SIZES = NewModel(type="new", layers=2, width=64, heads=2, kv_heads=1, mlp_width=96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("new_model")
    create_model(SIZES, path, alphabet=ALPHABET, seed=5)
    return path


@given(st.lists(st.sampled_from(ALPHABET), max_size=40).map("".join))
def test_every_text_over_the_alphabet_survives_a_round_trip(text: str):
    tokenizer = character_tokenizer(ALPHABET, max_positions=64)
    assert tokenizer.decode(encode_checked(tokenizer, text)) == text


def test_a_tag_is_one_token_and_a_saved_tokenizer_keeps_it_so(folder: Path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "<think>\n2+3*4\n</think>\n\\boxed{14}"
    ids = encode_checked(tokenizer, text)
    # <think> \n 2 + 3 * 4 \n </think> \n \boxed{ 1 4 }
    assert len(ids) == 14
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


@pytest.mark.parametrize(("text", "piece"), [("2+a", "'a'"), ("1<eos>", "'<'"), ("<thin", "'<'")])
def test_text_outside_the_alphabet_is_an_error_that_names_it(folder: Path, text: str, piece: str):
    with pytest.raises(ValueError, match=f"no token for {piece}"):
        encode_checked(AutoTokenizer.from_pretrained(folder), text)


def test_an_unknown_token_of_an_ordinary_tokenizer_is_an_error(tiny_model: Path):
    with pytest.raises(ValueError, match="no token for 'é'"):
        encode_checked(AutoTokenizer.from_pretrained(tiny_model), "1\u00e9")


def test_every_embedding_row_has_a_token_and_their_number_is_even(folder: Path):
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        load_model(str(folder), dtype="float32"),
    )
    rows = model.get_input_embeddings().weight.shape[0]
    assert rows == len(tokenizer) == 32  # 22 of the alphabet and 2 specials, up to 32
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (model.config.eos_token_id, model.config.pad_token_id) == (1, 0)


def test_the_seed_alone_decides_the_weights(folder: Path, tmp_path: Path):
    torch.manual_seed(123)  # must not matter
    before = torch.random.get_rng_state()
    create_model(SIZES, tmp_path / "same", alphabet=ALPHABET, seed=5)
    create_model(SIZES, tmp_path / "other", alphabet=ALPHABET, seed=6)
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = (folder / "model.safetensors").read_bytes()
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == weights
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != weights


@pytest.mark.parametrize("alphabet", [("a", "a"), ("a", ""), ("a", "<eos>")])
def test_an_ambiguous_alphabet_is_refused(alphabet: tuple[str, ...]):
    with pytest.raises(ValueError, match="distinct, non-empty"):
        character_tokenizer(alphabet, max_positions=8)


def test_a_missing_model_is_an_error_that_says_what_to_do(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="run the stage that makes it"):
        load_model(str(tmp_path / "nothing"), dtype="float32")
    with pytest.raises(FileNotFoundError, match="run the stage that makes it"):
        load_config(str(tmp_path / "nothing"))


@pytest.mark.parametrize("write", [write_qwen3_moe, write_deepseek_v3])
def test_a_mixture_of_quantized_experts_is_not_trained(tmp_path: Path, write: Callable[..., None]):
    source, target = tmp_path / "model", tmp_path / "fp8"
    write(source)
    refuse_quantized_experts(load_config(str(source)))
    write_fp8_checkpoint(source, target, scales="pow2")
    with pytest.raises(ValueError, match=rf"'{target}' is a mixture .* could not be saved\. Start"):
        refuse_quantized_experts(load_config(str(target)))


def test_a_quantized_model_without_experts_is_trained(tmp_path: Path):
    source, target = tmp_path / "model", tmp_path / "fp8"
    write_tiny_model(source, seed=0, vocab_size=128)
    write_fp8_checkpoint(source, target, scales="pow2")
    config = load_config(str(target))
    assert config.quantization_config["quant_method"] == "fp8"
    refuse_quantized_experts(config)
