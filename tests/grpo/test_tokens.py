"""Tests for grpo/tokens.py."""

from pathlib import Path

import pytest

from cotree.grpo.arithmetic import ALPHABET
from cotree.grpo.config_model import NewModel
from cotree.grpo.models import create_model
from cotree.grpo.tokens import load_tokenizer, prompt_encoder


@pytest.fixture(scope="module")
def encode(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("model")
    model = NewModel(type="new", layers=1, width=32, heads=1, kv_heads=1, mlp_width=32)
    create_model(model, folder, alphabet=ALPHABET, seed=0)
    tokenizer = load_tokenizer(str(folder), revision=None)
    encoder = prompt_encoder(tokenizer, chat=False)
    return lambda text: tokenizer.decode(encoder(text))


def test_a_prompt_survives_the_round_trip(encode):
    assert encode("(1+20)*3\n") == "(1+20)*3\n"


def test_an_unknown_character_is_named(encode):
    with pytest.raises(ValueError, match=r"no token for '\^'"):
        encode("2^3\n")


def test_an_empty_prompt_is_refused(encode):
    with pytest.raises(ValueError, match="no tokens"):
        encode("")


def test_a_missing_checkpoint_says_what_to_do(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"folder exists: False.*Correct the path"):
        load_tokenizer(str(tmp_path / "nothing"), revision=None)
