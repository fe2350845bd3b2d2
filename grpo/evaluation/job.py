"""One benchmark as it will be run: its problems, their prompts and seeds, and its fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cotree.rewards
import cotree.search
from cotree.grpo.config_evaluation import Benchmarks
from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation import scoring
from cotree.grpo.evaluation.benchmark import (
    GENERATED,
    Benchmark,
    BenchmarkData,
    benchmark_named,
    load_benchmark,
    load_examples,
)
from cotree.grpo.evaluation.fingerprint import digest, package_digest
from cotree.grpo.evaluation.prompting import PromptStyle, plain_text, style_named, turns
from cotree.grpo.evaluation.records import Ask, Prompt
from cotree.grpo.seeds import derive
from cotree.rewards.registry import Term, bound, located
from cotree.search.strategies import NamedStrategy, strategy_named


@dataclass(frozen=True, slots=True)
class Job:
    """What to sample and how to grade it."""

    benchmark: Benchmark
    data: BenchmarkData
    strict_rule: str | None
    """Extraction rule of the format that the prompt asks for."""
    stop: tuple[str, ...]
    asks: tuple[Ask, ...]
    parts: Mapping[str, object]
    """The fingerprint's parts that do not depend on the engine."""
    strategy: NamedStrategy | None = None
    """Selects among several completions for each sample; None: a sample is one completion."""

    @property
    def name(self) -> str:
        return self.benchmark.name


def make_job(name: str, settings: Benchmarks, *, has_template: bool) -> Job:
    """Loads a benchmark and writes its prompts.

    Args:
        name: of the benchmark.
        settings: of the evaluation.
        has_template: whether the model can answer a chat.

    Raises:
        ConfigError: the benchmark, the prompt style, the data or the strategy cannot be found or
            used.
    """
    benchmark = benchmark_named(name)
    _check_step_reward(benchmark)
    strategy = _strategy(benchmark, settings)
    style, is_chat = _style(benchmark, settings, has_template=has_template)
    folder = None if settings.data is None else Path(settings.data)
    data = load_benchmark(benchmark, folder, limit=settings.limit, subset_seed=settings.subset_seed)
    examples = load_examples(benchmark, folder, style.num_examples)
    prompts: list[Prompt] = [
        (turns if is_chat else plain_text)(style, problem.question, examples)
        for problem in data.problems
    ]
    asks = tuple(
        Ask(index, problem.id, prompt, _seeds(settings, problem.id))
        for index, (problem, prompt) in enumerate(zip(data.problems, prompts, strict=True))
    )
    strict_rule = style.strict_rule or (benchmark.example_rule if style.num_examples else None)
    parts = {
        "benchmark": {"name": benchmark.name, "version": benchmark.version},
        "data": data.identity(),
        "prompt": {
            "style": style.name,
            "chat": is_chat,
            "examples": style.num_examples,
            "digest": digest([[ask.id, ask.prompt] for ask in asks]),
        },
        "sampler": {
            "samples": settings.samples,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_tokens,
            "stop": list(style.stop),
            "strategy": settings.strategy,
            "strategy_sources": package_digest(cotree.search) if strategy else None,
        },
        "grader": {
            "lenient": _grader(benchmark.term(None)),
            "strict": None if strict_rule is None else _grader(benchmark.term(strict_rule)),
            "sources": package_digest(cotree.rewards),
            "scoring": digest(Path(scoring.__file__).read_text(encoding="utf-8")),
        },
    }
    return Job(benchmark, data, strict_rule, style.stop, asks, parts, strategy)


def make_jobs(settings: Benchmarks, *, has_template: bool) -> list[Job]:
    """The settings' benchmarks, loaded.

    Raises:
        ConfigError: see `make_job`; or two of them have one name, or `data` is read by none.
    """
    jobs = [make_job(name, settings, has_template=has_template) for name in settings.names]
    names = [job.name for job in jobs]
    if len(set(names)) != len(names):
        raise ConfigError(f"two of the benchmarks have one name: {', '.join(names)}; rename one.")
    if settings.data is not None and all(job.data.source == GENERATED for job in jobs):
        raise ConfigError(
            f"data = {settings.data!r} has no effect: {', '.join(names)} are generated, and it has "
            "no file of that name. Drop it."
        )
    return jobs


def all_parts(job: Job, *, engine: Mapping[str, object], template: str | None) -> dict[str, object]:
    """The job's fingerprint with what the engine adds.

    Args:
        job: its prompts say whether the template was used.
        engine: `Sampler.describe()`.
        template: the model's chat template, where this side writes chats with it.
    """
    is_chat = any(not isinstance(ask.prompt, str) for ask in job.asks)
    used = digest(template) if is_chat and template is not None else None
    return {**job.parts, "engine": dict(engine), "template": used}


def _grader(term: Term | None) -> dict[str, object] | None:
    """What tells a grader from others, besides the sources of this project's own."""
    if term is None:
        return None
    source = located(term, Path.cwd()).source
    text = None if source is None else digest(source.text)
    return {"reward": term.name, "options": dict(term.options), "file": text}


def _style(
    benchmark: Benchmark, settings: Benchmarks, *, has_template: bool
) -> tuple[PromptStyle, bool]:
    """The prompt style with the settings' changes, and whether it is written as a chat."""
    style = style_named(settings.prompt or benchmark.prompt)
    if settings.system is not None:
        style = replace(style, system=settings.system)
    if settings.examples is not None:
        style = replace(style, num_examples=settings.examples)
    if settings.chat and not has_template:
        raise ConfigError("--chat needs a chat template, and the model's tokenizer has none.")
    is_chat = (style.chat if settings.chat is None else settings.chat) and has_template
    return style, is_chat


def _seeds(settings: Benchmarks, problem_id: str) -> tuple[int, ...]:
    return tuple(derive(settings.seed, "evaluate", problem_id, i) for i in range(settings.samples))


def _check_step_reward(benchmark: Benchmark) -> None:
    """Raises unless it is there: an evaluation may need it only when all is sampled."""
    try:
        if benchmark.step_reward is not None:
            bound(Term(benchmark.step_reward))
    except (ValueError, ImportError) as error:
        raise ConfigError(f"benchmark {benchmark.name}, step_reward: {error}") from error


def _strategy(benchmark: Benchmark, settings: Benchmarks) -> NamedStrategy | None:
    """The settings' strategy, if it can be used here."""
    if settings.strategy is None:
        return None
    try:
        strategy = strategy_named(settings.strategy)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if settings.temperature == 0 and strategy.size > 1:
        raise ConfigError(
            f"strategy {strategy.name}: at temperature 0 its completions are all the same. Set a "
            "temperature (of the policy: 1; of reasoning models: 0.6)."
        )
    if strategy.kind.needs_verdicts and benchmark.step_reward is None:
        raise ConfigError(
            f"strategy {strategy.name}: benchmark {benchmark.name} names no step_reward that could "
            "refute a step. Use first or majority:N, or set its step_reward."
        )
    return strategy
