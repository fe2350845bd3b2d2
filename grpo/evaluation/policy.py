"""Benchmarks of a policy while it trains: the code of `cotree evaluate MODEL`, on lent engines."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from cotree.grpo import config
from cotree.grpo.config_evaluation import Benchmarks
from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.engine_sampler import (
    EngineSampler,
    PromptEncoder,
    engine_description,
    longest_prompt,
    sampling,
)
from cotree.grpo.evaluation.job import all_parts, make_jobs
from cotree.grpo.evaluation.records import BenchmarkSummary
from cotree.grpo.evaluation.runner import run_job
from cotree.grpo.evaluation.summary import summarize
from cotree.grpo.generator import GeneratorGroup


class PolicyBenchmarks:
    """A fixed set of problems, the same prompts and seeds at every step."""

    def __init__(
        self, settings: Benchmarks, generator: config.Generator, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        """Loads the benchmarks, before anything is started.

        Raises:
            ConfigError: one cannot be used, or does not fit into `generator.max_model_len`.
        """
        self._settings = settings
        self._dtype = generator.dtype
        self._encoder = PromptEncoder(tokenizer)
        self._jobs = make_jobs(settings, has_template=self._encoder.template is not None)
        longest = longest_prompt(self._jobs, self._encoder)
        spare = generator.spare_tokens
        if longest + settings.max_tokens + spare > generator.max_model_len:
            raise ConfigError(
                f"evaluate.benchmarks: the longest prompt has {longest} tokens, and with "
                f"max_tokens = {settings.max_tokens}, and {spare} for drafts, it exceeds "
                f"generator.max_model_len = {generator.max_model_len}. Raise max_model_len or "
                "lower max_tokens."
            )

    def measure(self, generators: GeneratorGroup, *, min_version: int) -> list[BenchmarkSummary]:
        """The benchmarks of the policy that the generators hold.

        Args:
            generators: idle; the policy's weights are in them.
            min_version: oldest weights to sample from.

        Raises:
            GradingFailedError: too many samples could not be graded.
        """
        summaries: list[BenchmarkSummary] = []
        for job in self._jobs:
            sampler = EngineSampler(
                generators,
                self._encoder,
                sampling(job, self._settings),
                dtype=self._dtype,
                min_version=min_version,
            )
            records = sorted(
                run_job(job, self._settings, sampler=sampler, finished=()),
                key=lambda record: record.index,
            )
            parts = all_parts(
                job, engine=engine_description(self._dtype), template=self._encoder.template
            )
            summaries.append(summarize(records, parts=parts, num_total=job.data.num_total))
        return summaries
