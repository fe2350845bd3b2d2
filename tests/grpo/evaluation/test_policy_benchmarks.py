"""Tests for grpo/evaluation/policy.py: what is refused before an engine is started."""

from pathlib import Path

import pytest

from cotree.grpo import config
from cotree.grpo.config_evaluation import Benchmarks
from cotree.grpo.config_file import ConfigError
from cotree.grpo.config_generator import MtpSpeculation
from cotree.grpo.evaluation.engine_sampler import PromptEncoder, longest_prompt
from cotree.grpo.evaluation.job import make_jobs
from cotree.grpo.evaluation.policy import PolicyBenchmarks
from cotree.grpo.tokens import load_tokenizer

SETTINGS = Benchmarks(names=("arithmetic",), limit=5, max_tokens=32)


@pytest.mark.parametrize(
    ("speculation", "spare"), [(None, 0), (MtpSpeculation(type="mtp", tokens=3), 6)]
)
def test_the_longest_prompt_fits_with_its_completion_and_two_drafts(
    tiny_model: Path, speculation: MtpSpeculation | None, spare: int
):
    tokenizer = load_tokenizer(str(tiny_model), revision=None)
    longest = longest_prompt(make_jobs(SETTINGS, has_template=False), PromptEncoder(tokenizer))
    fits = config.Generator(max_model_len=longest + 32 + spare, speculation=speculation)
    PolicyBenchmarks(SETTINGS, fits, tokenizer)
    short = fits.model_copy(update={"max_model_len": longest + 32 + spare - 1})
    says = f"longest prompt has {longest} tokens, .* and {spare} for drafts, it exceeds generator"
    with pytest.raises(ConfigError, match=says):
        PolicyBenchmarks(SETTINGS, short, tokenizer)
