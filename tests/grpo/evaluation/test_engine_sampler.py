"""Tests for grpo/evaluation/engine_sampler.py: prompts as tokens, room, and where text ends."""

from pathlib import Path

import pytest

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.engine_sampler import (
    PromptEncoder,
    before_stop,
    engine_description,
    room_for,
)
from cotree.grpo.evaluation.records import Turn
from cotree.grpo.tokens import load_tokenizer

TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def encoder(tiny_model: Path) -> PromptEncoder:
    return PromptEncoder(load_tokenizer(str(tiny_model), revision=None))


def test_a_model_without_a_template_has_none(encoder: PromptEncoder):
    assert encoder.template is None


def test_a_chat_is_written_in_the_models_own_template(tiny_model: Path):
    tokenizer = load_tokenizer(str(tiny_model), revision=None)
    tokenizer.chat_template = TEMPLATE
    encoder = PromptEncoder(tokenizer)
    chat = (Turn("system", "Be brief."), Turn("user", "2+2?"))
    assert encoder.template == TEMPLATE
    assert encoder.shown(chat) == "[system]Be brief.[user]2+2?[assistant]"
    assert tokenizer.decode(encoder.token_ids(chat)) == encoder.shown(chat)
    assert encoder.shown("2+2?") == "2+2?"


def test_a_prompt_the_tokenizer_cannot_write_is_refused(encoder: PromptEncoder):
    with pytest.raises(ValueError, match="no token for 'é'"):
        encoder.token_ids("é")


@pytest.mark.parametrize(
    ("text", "kept"),
    [("a\nQ: b Q: c", "a\n"), ("a", "a"), ("", ""), ("END then Q:", "")],
)
def test_text_ends_at_the_first_stop_text(text: str, kept: str):
    assert before_stop(text, ("Q:", "END")) == kept


def test_room_is_for_the_longest_prompt_and_a_whole_completion():
    # 100 + 200 = 300, and one more: 301 -> 320, the next multiple of 32.
    assert room_for(100, max_tokens=200, max_positions=None) == 320
    assert room_for(100, max_tokens=200, max_positions=310) == 310


def test_a_model_that_is_too_short_says_how_many_tokens_it_has_room_for():
    with pytest.raises(ConfigError, match="Set --max-tokens 412 or less"):
        room_for(100, max_tokens=2048, max_positions=512)
    with pytest.raises(ConfigError, match="longer context"):
        room_for(600, max_tokens=1, max_positions=512)


def test_the_engine_is_described_by_what_changes_its_samples():
    described = engine_description("float32")
    assert described["engine"] == "vllm"
    assert described["dtype"] == "float32"
    assert described["versions"]
