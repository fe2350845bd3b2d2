"""Configuration of evaluations: of a run's policy while it trains, and of any model."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from cotree.grpo.config_algorithm import Dtype, PositiveFloat, PositiveInt, Strict


class Preset(NamedTuple):
    """Sampling as published for a kind of model."""

    temperature: float
    top_p: float
    max_tokens: int


PRESETS = {
    # Qwen2.5-Math's harness: greedy, 2,048 tokens, for instruct and base models.
    "greedy": Preset(0.0, 1.0, 2048),
    # DeepSeek-R1's model card: temperature 0.6, top-p 0.95, 32,768 tokens, for reasoning models.
    "r1": Preset(0.6, 0.95, 32_768),
    # The policy's own distribution, as training samples it.
    "policy": Preset(1.0, 1.0, 2048),
}


class Benchmarks(Strict):
    """Everything that decides an evaluation's figures, besides the model."""

    names: Annotated[tuple[str, ...], Field(min_length=1)]
    """Installed names, `module:Class` or `path/file.py:Class`."""
    data: str | None = None
    """Folder with one file a benchmark; left out, the hub."""
    limit: PositiveInt | None = None
    """Problems a benchmark: a random subset, the same for every model; left out, all."""
    subset_seed: Annotated[int, Field(ge=0)] = 0
    prompt: str | None = None
    """A prompt style, or a text with `{question}` in it; left out, each benchmark's own."""
    system: str | None = None
    """System turn, instead of the style's own."""
    examples: Annotated[int, Field(ge=0)] | None = None
    """Worked examples before the question; left out, the style's number."""
    chat: bool | None = None
    """Write prompts with the model's chat template; left out, as the style says where there is a
    template."""
    samples: PositiveInt = 1
    """Completions a problem (k)."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: PositiveInt = 2048
    """Of one completion."""
    strategy: str | None = None
    """Test-time compute: `majority:8` draws 8 completions for each sample and keeps one; see
    `search.strategies`. Left out, a sample is one completion."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Sampling seeds are derived from it, the problem and the sample: the same for every model."""
    grading_workers: PositiveInt = 1
    grading_timeout_seconds: PositiveFloat = 5.0
    max_failed_frac: Annotated[float, Field(ge=0, le=1)] = 0.2
    """More samples than this share that could not be graded end the evaluation."""

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Benchmarks:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"{self.samples} samples at temperature 0 are the same completion each time. Take "
                "one sample, or set a temperature (of the policy: 1; of reasoning models: 0.6)."
            )
        if self.temperature == 0 and self.top_p != 1:
            raise ValueError(
                f"top_p = {self.top_p:g} has no effect at temperature 0; drop it or raise the "
                "temperature."
            )
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"benchmarks repeat: {', '.join(self.names)}.")
        if self.limit is None and self.subset_seed:
            raise ValueError("subset_seed has no effect without a limit; set a limit or drop it.")
        if self.system is not None and self.chat is False:
            raise ValueError("a system turn has no effect without chat; drop one of the two.")
        return self


class Evaluate(Strict):
    """Held-back problems, sampled from the policy, and benchmarks beside them."""

    num_problems: PositiveInt = 500
    samples: PositiveInt = 1
    """Completions per problem."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: PositiveInt = 256
    benchmarks: Benchmarks | None = None
    """Measured whenever the held-back problems are, in the same way as by `cotree evaluate MODEL`;
    their settings are their own."""

    @model_validator(mode="after")
    def _greedy_needs_one_sample(self) -> Evaluate:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                "evaluate.temperature = 0 gives the same completion each time; set samples = 1."
            )
        return self


class Engines(Strict):
    """The engines of an evaluation. None of this changes what a figure means, but for `dtype`."""

    replicas: PositiveInt = 1
    dtype: Dtype = "bfloat16"
    threads: PositiveInt | None = None
    """OpenMP threads of one replica on a CPU; left out, all cores but one, divided by the replicas.
    With one thread, samples are the same bit for bit whatever is in the batch."""
    max_num_seqs: PositiveInt = 128
    """Completions decoded at once by one replica."""
    kv_cache_bytes: Annotated[int, Field(ge=1 << 20)] | None = None
    """Key-value cache of one replica; left out, as much as `max_num_seqs` completions need, within
    the free memory."""
    revision: str | None = None
    """Hub commit or tag of the model."""


class Server(Strict):
    """An OpenAI-compatible server that holds the model."""

    url: str
    concurrency: PositiveInt = 32
    """Requests in flight at once."""
    timeout_seconds: PositiveFloat = 600.0
    """Of one request, its wait in the server's queue included."""


class ModelEvaluation(Strict):
    """`cotree evaluate MODEL`: what is measured, and where the model runs."""

    benchmarks: Benchmarks
    engines: Engines = Engines()
    server: Server | None = None

    @model_validator(mode="after")
    def _engines_have_an_effect(self) -> ModelEvaluation:
        if self.server is not None and self.engines.model_fields_set:
            given = ", ".join(sorted(self.engines.model_fields_set))
            raise ValueError(f"{given} of our own engines have no effect with a server; drop them.")
        return self
