"""A checkpoint, benchmarks and a strategy, ready to be searched; faults are found beforehand."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from cotree.grpo.config_file import ConfigError
from cotree.grpo.config_search import ModelSearch
from cotree.grpo.evaluation.engine_sampler import (
    PromptEncoder,
    engine_description,
    longest_prompt,
)
from cotree.grpo.evaluation.engine_setup import generator_settings, running_engines
from cotree.grpo.evaluation.fingerprint import model_identity
from cotree.grpo.evaluation.job import Job, all_parts, make_jobs
from cotree.grpo.evaluation.measure import Prepared
from cotree.grpo.evaluation.records import Sampler
from cotree.grpo.generator_session import GeneratorSession
from cotree.grpo.searching.judge import BenchmarkJudge
from cotree.grpo.searching.revision import revision_prompt
from cotree.grpo.searching.sampler import SearchFiles, SearchPlan, SearchSampler, texts_of
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
    tokenizer = load_tokenizer(model, revision=engines.revision)
    encoder = PromptEncoder(tokenizer)
    jobs = make_jobs(measured, has_template=encoder.template is not None)
    for job in jobs:
        _refuse_unfit(job, plan.strategy, search.value)
    prompt_tokens = longest_prompt(jobs, encoder)
    if "revise" in plan.strategy.kinds:
        prompt_tokens = _longest_revision(jobs, encoder) + measured.max_tokens
    generator = generator_settings(
        model,
        engines,
        prompt_tokens=prompt_tokens,
        max_tokens=measured.max_tokens,
        tokens_beside=-(-plan.concurrency // engines.replicas) * search.budget_tokens,
    )
    description = engine_description(engines.dtype)

    def decoded(token_ids: list[int]) -> str:
        text = tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str), type(text)
        return text

    @contextmanager
    def open_sampler() -> Generator[Callable[[Job], Sampler]]:
        with running_engines(
            model, generator, revision=engines.revision, seed=measured.seed
        ) as group:

            def sampler_of(job: Job) -> Sampler:
                return SearchSampler(
                    plan,
                    _questions(job),
                    SearchFiles.of(root, job.name),
                    encoder=encoder,
                    decode=texts_of(decoded),
                    open_session=lambda: GeneratorSession(
                        group,
                        temperature=measured.temperature,
                        top_p=measured.top_p,
                        min_version=0,
                    ),
                    open_judge=lambda opens: BenchmarkJudge(
                        job.benchmark, measured, value=search.value, prompt_opens_thinking=opens
                    ),
                    description=description,
                )

            yield sampler_of

    searched = {
        "strategy": plan.strategy.name,
        "budget_tokens": search.budget_tokens,
        "width": search.width,
        "steps": search.steps,
        "value": search.value,
    }
    return Prepared(
        model=model,
        identity=model_identity(model, engines.revision),
        jobs=jobs,
        parts={
            job.name: all_parts(job, engine=description, template=encoder.template)
            | {"search": searched}
            for job in jobs
        },
        open_sampler=open_sampler,
        draws_single_completions=False,
    )


def _plan(settings: ModelSearch) -> SearchPlan:
    search, engines = settings.search, settings.engines
    try:
        strategy = tree_strategy_named(search.strategy)
        rule = step_rule_named(search.steps)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    slots = engines.max_num_seqs * engines.replicas
    return SearchPlan(
        strategy=strategy,
        limits=Limits(search.budget_tokens, settings.benchmarks.max_tokens, search.width),
        rule=rule,
        concurrency=search.concurrency or max(1, slots // search.width),
    )


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


def _longest_revision(jobs: list[Job], encoder: PromptEncoder) -> int:
    """Tokens of the longest prompt that asks for a revision, its draft not counted."""
    try:
        return max(
            len(encoder.token_ids(revision_prompt(ask.prompt, "")))
            for job in jobs
            for ask in job.asks
        )
    except ValueError as error:
        raise ConfigError(
            f"the strategy asks the model to revise its drafts, and {error} Use another strategy."
        ) from error


def _questions(job: Job) -> dict[int, Question]:
    return {
        index: Question(problem.id, problem.question)
        for index, problem in enumerate(job.data.problems)
    }
