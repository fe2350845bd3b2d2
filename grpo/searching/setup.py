"""A checkpoint, benchmarks and a strategy, ready to be searched; faults are found beforehand."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cotree.search
from cotree.grpo.config_evaluation import Benchmarks
from cotree.grpo.config_file import ConfigError
from cotree.grpo.config_search import ModelSearch, Search
from cotree.grpo.evaluation.engine_sampler import (
    PromptEncoder,
    engine_description,
    longest_prompt,
)
from cotree.grpo.evaluation.engine_setup import generator_settings, running_engines
from cotree.grpo.evaluation.fingerprint import model_identity, package_digest
from cotree.grpo.evaluation.job import Job, all_parts, make_jobs
from cotree.grpo.evaluation.measure import Prepared
from cotree.grpo.evaluation.records import Sampler
from cotree.grpo.generator import GeneratorGroup
from cotree.grpo.generator_session import GeneratorSession
from cotree.grpo.searching.backend import Session
from cotree.grpo.searching.judge import BenchmarkJudge
from cotree.grpo.searching.revision import revision_prompt
from cotree.grpo.searching.sampler import SearchFiles, SearchPlan, SearchSampler, text_decoder
from cotree.grpo.tokens import load_tokenizer
from cotree.search.ledger import Limits
from cotree.search.step_rule import step_rule_named
from cotree.search.strategy import Question
from cotree.search.trees.registry import NamedTreeStrategy, tree_strategy_named


def prepare_searches(model: str, settings: ModelSearch, root: Path) -> Prepared:
    """Reads the tokenizer, the benchmarks and the model's sizes; starts nothing.

    Args:
        model: folder or hub name.
        settings: what to search, how, and on which engines.
        root: folder of the run.

    Raises:
        ConfigError: the strategy, a benchmark or the model cannot be used with the others.
        FileNotFoundError: there is no such model.
    """
    measured, search, engines = settings.benchmarks, settings.search, settings.engines
    plan = _plan(settings)
    encoder = PromptEncoder(load_tokenizer(model, revision=engines.revision))
    jobs = make_jobs(measured, has_template=encoder.template is not None)
    for job in jobs:
        _refuse_unfit(job, plan.strategy, search.value)
    generator = generator_settings(
        model,
        engines,
        prompt_tokens=_longest_prompt(jobs, encoder, plan, measured),
        max_tokens=measured.max_tokens,
        tokens_beside=-(-plan.concurrency // engines.replicas) * search.budget_tokens,
    )

    @contextmanager
    def open_sampler() -> Generator[Callable[[Job], Sampler]]:
        running = running_engines(model, generator, revision=engines.revision, seed=measured.seed)
        with running as group:
            yield lambda job: search_sampler(
                job,
                settings,
                SearchFiles.of(root, job.name),
                encoder=encoder,
                open_session=lambda: session_with(group, measured),
            )

    return Prepared(
        model=model,
        identity=model_identity(model, engines.revision),
        jobs=jobs,
        parts={
            job.name: all_parts(
                job, engine=engine_description(engines.dtype), template=encoder.template
            )
            | {"search": _searched(search, plan)}
            for job in jobs
        },
        open_sampler=open_sampler,
        draws_single_completions=False,
    )


def search_sampler(
    job: Job,
    settings: ModelSearch,
    files: SearchFiles,
    *,
    encoder: PromptEncoder,
    open_session: Callable[[], Session],
) -> SearchSampler:
    """The sampler of one benchmark's searches.

    Args:
        job: of the benchmark.
        settings: how to search.
        files: where the searches are kept.
        encoder: of the model.
        open_session: begins an exchange with whatever generates.

    Raises:
        ConfigError: there is no such strategy or step rule.
    """
    measured = settings.benchmarks
    return SearchSampler(
        _plan(settings),
        _questions(job),
        files,
        encoder=encoder,
        decode=text_decoder(encoder.tokenizer),
        open_session=open_session,
        open_judge=lambda opens: BenchmarkJudge(
            job.benchmark,
            measured,
            value=settings.search.value,
            prompt_opens_thinking=opens,
        ),
        description=engine_description(settings.engines.dtype),
    )


def session_with(group: GeneratorGroup, measured: Benchmarks) -> GeneratorSession:
    """An exchange with engines, sampling as the settings say."""
    return GeneratorSession(
        group, temperature=measured.temperature, top_p=measured.top_p, min_version=0
    )


def _plan(settings: ModelSearch) -> SearchPlan:
    search, engines = settings.search, settings.engines
    try:
        strategy = tree_strategy_named(search.strategy)
        rule = step_rule_named(search.steps)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    # Twice what the engines decode at once: requests join a turn or two after they were made, and
    # meanwhile others fill the batch.
    slots = 2 * engines.max_num_seqs * engines.replicas
    return SearchPlan(
        strategy=strategy,
        limits=Limits(search.budget_tokens, settings.benchmarks.max_tokens, search.width),
        rule=rule,
        concurrency=search.concurrency or max(1, slots // search.width),
    )


def _searched(search: Search, plan: SearchPlan) -> Mapping[str, object]:
    """The fingerprint's part: what decides a tree, besides what decides single completions."""
    return search.model_dump(exclude={"concurrency"}) | {
        "strategy": plan.strategy.name,
        "sources": package_digest(cotree.search),
    }


def _refuse_unfit(job: Job, strategy: NamedTreeStrategy, value: str | None) -> None:
    if strategy.needs_verdicts and job.benchmark.step_reward is None and value is None:
        raise ConfigError(
            f"strategy {strategy.name}: benchmark {job.name} names no step_reward that could "
            "refute a step, and there is no --value. Use majority, or set one of them."
        )
    if job.stop:
        raise ConfigError(
            f"benchmark {job.name}: its prompt style ends completions at {job.stop}, which a "
            "search does not know. Use another --prompt, such as boxed."
        )


def _longest_prompt(
    jobs: list[Job], encoder: PromptEncoder, plan: SearchPlan, measured: Benchmarks
) -> int:
    """Tokens of the longest prompt, or of the longest one that asks for a revision."""
    if "revise" not in plan.strategy.kinds:
        return longest_prompt(jobs, encoder)
    prompts = [revision_prompt(ask.prompt, "") for job in jobs for ask in job.asks]
    try:
        longest = max(len(encoder.token_ids(prompt)) for prompt in prompts)
    except ValueError as error:
        raise ConfigError(
            f"the strategy asks the model to revise its drafts, and {error} Use another strategy."
        ) from error
    return longest + measured.max_tokens


def _questions(job: Job) -> dict[int, Question]:
    return {
        index: Question(problem.id, problem.question)
        for index, problem in enumerate(job.data.problems)
    }
