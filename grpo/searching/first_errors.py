"""The first wrong steps of a run's wrong completions, as JSONL: to train reward models on.

The model that was searched with rolls prefixes of a completion out, and the rollouts are graded
with the references. So the labels are for training problems, and must never reach what selects
answers of the same ones.

A line a completion: `question`, `steps` (texts), `first_error` (number of a step from 0; null where
no rollout from the question itself was right, so that no step can be blamed), `values` (of prefixes
that were rolled out, shortest first: objects of `steps`, their number, `soft`, `hard`, `n` and
`standard_error`), `node` (in which the completion ends), and the origin, as in `exports`.

What engines returned is in FILE.events before anything is made of it: a label that is asked for
again costs no token that an engine returned before.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cotree.grpo import config
from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.engine_sampler import PromptEncoder, longest_prompt
from cotree.grpo.evaluation.engine_setup import generator_settings, running_engines
from cotree.grpo.evaluation.fingerprint import differing_parts, digest, model_identity
from cotree.grpo.evaluation.job import all_parts, make_jobs
from cotree.grpo.evaluation.journal import EvaluationFolder
from cotree.grpo.evaluation.records import Drawn
from cotree.grpo.evaluation.scoring import Scorer
from cotree.grpo.generator_session import GeneratorSession
from cotree.grpo.run_folder import refuse_lost_after_job
from cotree.grpo.searching.backend import EngineBackend, Start
from cotree.grpo.searching.exports import origin_row, value_row, write_rows
from cotree.grpo.searching.finished import FinishedRun
from cotree.grpo.searching.sampler import text_decoder
from cotree.grpo.seeds import derive
from cotree.grpo.tokens import load_tokenizer
from cotree.grpo.types import PromptTokens
from cotree.search.driver import drive
from cotree.search.event_log import EventLog
from cotree.search.export import GradedSearch, Origin
from cotree.search.first_errors import Ending, FirstErrors, most_rollouts
from cotree.search.ledger import Limits
from cotree.search.running import Decode, RunningSearch
from cotree.search.step_rule import StepRule, step_rule_named
from cotree.search.strategy import Question
from cotree.search.tree_json import SearchRecord
from cotree.search.types import Backend, Judgement, State, Step


class WrongCompletion(NamedTuple):
    """A completion that the policy ended, with a wrong answer."""

    record: SearchRecord
    """Of the search that has it."""
    node: int
    """In which it ends."""

    @property
    def steps(self) -> list[Step]:
        return self.record.tree.completion(self.node)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPlan:
    """Of which completions first errors are searched for, and how."""

    per_problem: int
    """Completions a problem, at most."""
    limit: int | None
    """Problems, at most; those come first that are first in the run."""
    samples: int
    """Rollouts from a prefix."""
    budget_tokens: int | None
    """Generated tokens of one completion's label, hard. None: as many as it could take."""
    max_tokens: int
    """Of a completion, prefix included; those of the run."""
    rule: StepRule
    """The run's."""
    slots: int
    """Requests that the engines run at once."""
    seed: int
    """The run's."""
    model: Mapping[str, object]
    """What tells it from others; see `model_identity`."""

    def __post_init__(self) -> None:
        for name in ("per_problem", "limit", "samples"):
            number = getattr(self, name)
            if number is not None and number < 1:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} {number} leaves nothing to label; give 1 or more.")
        if self.budget_tokens is not None and self.budget_tokens < self.max_tokens:
            raise ConfigError(
                f"--budget-tokens {self.budget_tokens} is too little for one rollout: this run's "
                f"completions have up to {self.max_tokens} tokens. Give as many, or drop it."
            )

    @property
    def concurrency(self) -> int:
        """Completions under way at once."""
        return max(1, self.slots // self.samples)

    def seed_of(self, wrong: WrongCompletion) -> int:
        """Of its rollouts: with the search's own, one could be drawn as the completion was."""
        key = wrong.record.tree[wrong.node].key
        return derive(self.seed, "first error", wrong.record.problem_id, wrong.record.seed, *key)

    def number_of(self, wrong: WrongCompletion) -> int:
        """Names its rollouts in the log, by all that they depend on.

        So a log serves whatever is labelled next, and never answers for another model or tree.
        """
        place = (wrong.record.digest, wrong.node, self.samples)
        return derive(self.seed_of(wrong), digest(dict(self.model)), *place)

    def limits(self, wrong: WrongCompletion) -> Limits:
        """All rollouts of a prefix at once."""
        enough = most_rollouts(len(wrong.steps), self.samples) * self.max_tokens
        budget = enough if self.budget_tokens is None else self.budget_tokens
        return Limits(budget, self.max_tokens, width=self.samples)


@dataclass(frozen=True, slots=True)
class Labelled:
    """What became of the completions."""

    rows: Sequence[Mapping[str, object]]
    """Of those whose first error was found, and of hopeless ones."""
    endings: Mapping[Ending, int]
    num_tokens: int
    """Generated."""


# --- choosing --------------------------------------------------------------------------------


def wrong_completions(searches: Sequence[GradedSearch], plan: LabelPlan) -> list[WrongCompletion]:
    """The first wrong completions of each problem, over all its searches, with distinct texts.

    Those that were cut are none of them: they had no answer yet. Nor are revisions: they follow
    another prompt.

    Args:
        searches: of one run.
        plan: how many.

    Returns:
        By problem, in the order of the run.
    """
    found: dict[str, dict[str, WrongCompletion]] = {}
    for search in searches:
        tree = search.record.tree
        for end in tree.leaves():
            if not end.is_finished or search.correct.get(end.id) is not False:
                continue
            if any(tree[node].restarts for node in tree.path(end.id)):
                continue
            texts = found.setdefault(search.record.problem_id, {})
            if len(texts) < plan.per_problem:
                texts.setdefault(tree.text(end.id).strip(), WrongCompletion(search.record, end.id))
    return [wrong for texts in list(found.values())[: plan.limit] for wrong in texts.values()]


# --- labelling -------------------------------------------------------------------------------


class _NoJudge:
    """Of rollouts that only references judge."""

    def judge(self, states: Sequence[State]) -> list[Judgement]:
        return [Judgement((), None, 0.0) for _ in states]


def labelled(
    wrong: Sequence[WrongCompletion],
    backend: Backend,
    plan: LabelPlan,
    *,
    is_right: Callable[[str, str], bool | None],
    decode: Decode,
    policy: str,
    log: EventLog,
) -> Labelled:
    """Searches for the first errors of completions, many at once.

    Args:
        wrong: distinct ones.
        backend: knows a completion's searches by `plan.number_of` it.
        plan: how.
        is_right: (problem's id, text of a completion) -> outcome; None: it could not be graded.
        decode: of the model; special tokens are skipped.
        policy: name of the model, for the rows.
        log: what it has is not generated again.

    Returns:
        Rows in the order of `wrong`.

    Raises:
        EventLogError: the log is damaged.
    """
    by_number = {plan.number_of(one): one for one in wrong}
    labellers: dict[int, FirstErrors] = {}

    def search(number: int) -> RunningSearch:
        one = by_number[number]
        id_ = one.record.problem_id
        labellers[number] = labeller = FirstErrors(
            one.steps, samples=plan.samples, is_right=lambda text: is_right(id_, text)
        )
        question, limits = Question(id_, one.record.question), plan.limits(one)
        return RunningSearch(
            number, question, labeller, limits=limits, rule=plan.rule, decode=decode
        )

    rows: dict[int, Mapping[str, object]] = {}
    endings: Counter[Ending] = Counter()
    num_tokens = 0
    searches = map(search, by_number)
    for over in drive(searches, backend, _NoJudge(), concurrency=plan.concurrency, log=log):
        labeller = labellers.pop(over.number)
        endings[labeller.ending] += 1
        num_tokens += over.ledger.spent
        if labeller.ending in ("found", "hopeless"):
            rows[over.number] = _row(by_number[over.number], labeller, policy)
    return Labelled([rows[number] for number in by_number if number in rows], endings, num_tokens)


def _row(wrong: WrongCompletion, labeller: FirstErrors, policy: str) -> dict[str, object]:
    record = wrong.record
    origin = Origin(record.problem_id, record.search, record.seed, record.strategy, record.digest)
    return {
        "question": record.question,
        "steps": [step.text for step in wrong.steps],
        "first_error": labeller.first_error,
        "values": [
            {"steps": num_steps, **value_row(value)}
            for num_steps, value in sorted(labeller.values.items())
        ],
        "node": wrong.node,
        **origin_row(origin, policy),
    }


# --- a run -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Policy:
    """The model that a run was searched with, and what it was asked."""

    prompts: Mapping[str, PromptTokens]
    """By the problem's id."""
    decode: Decode
    engines: config.Generator


def label_first_errors(
    run: FinishedRun,
    path: Path,
    *,
    samples: int,
    per_problem: int,
    budget_tokens: int | None,
    limit: int | None,
) -> Labelled:
    """Writes the first errors of a run's wrong completions, found with engines of its model.

    Engines start only if there is something to label. After a kill, or with more to label, it goes
    on with what is in the log beside the file.

    Args:
        run: of training problems.
        path: the file; it is written whole, at the end.
        samples: rollouts from a prefix.
        per_problem: completions a problem, at most; see `wrong_completions`.
        budget_tokens: of one completion, hard; None: as many as it could take.
        limit: problems, at most.

    Raises:
        ConfigError: a number is out of range, or model, prompts or data are not the run's any more.
        EventLogError: the log is damaged.
        GradingFailedError: too many completions could not be graded.
        GeneratorDiedError: an engine died a second time.
    """
    refuse_lost_after_job(path, "--output ")
    measured, engines = run.settings.benchmarks, run.settings.engines
    plan = LabelPlan(
        per_problem=per_problem,
        limit=limit,
        samples=samples,
        budget_tokens=budget_tokens,
        max_tokens=measured.max_tokens,
        rule=step_rule_named(run.settings.search.steps),
        slots=engines.max_num_seqs * engines.replicas,
        seed=measured.seed,
        model=model_identity(run.model, engines.revision),
    )
    policy = _policy(run, plan)
    found = Labelled((), {}, 0)
    with run.scorer() as scorer:
        if wrong := wrong_completions(run.graded(scorer), plan):
            path.parent.mkdir(parents=True, exist_ok=True)
            with EventLog(path.with_name(f"{path.name}.events")) as log:
                found = _labelled(run, policy, plan, wrong, scorer, log)
    write_rows(path, found.rows)
    return found


def _labelled(
    run: FinishedRun,
    policy: _Policy,
    plan: LabelPlan,
    wrong: Sequence[WrongCompletion],
    scorer: Scorer,
    log: EventLog,
) -> Labelled:
    def is_right(problem_id: str, text: str) -> bool | None:
        drawn = Drawn(text, 0, "stop")  # grading does not look at the number of tokens
        (sample,) = scorer.score(
            run.problems[problem_id], [drawn], prompt_opens_thinking=run.prompt_opens_thinking
        )
        return sample.correct

    if log.num_read:
        sys.stderr.write(f"{log.num_read:,} answers of engines are in the log\n")
    with _backend(run, policy, plan, wrong) as backend:
        return labelled(
            wrong, backend, plan, is_right=is_right, decode=policy.decode, policy=run.model, log=log
        )


def _policy(run: FinishedRun, plan: LabelPlan) -> _Policy:
    """The model, unless it or its prompts are others by now."""
    measured, engines = run.settings.benchmarks, run.settings.engines
    tokenizer = load_tokenizer(run.model, revision=engines.revision)
    encoder = PromptEncoder(tokenizer)
    jobs = make_jobs(measured, has_template=encoder.template is not None)
    (job,) = [job for job in jobs if job.name == run.benchmark.name]
    saved = json.loads(EvaluationFolder(run.root).plan.read_text(encoding="utf-8"))
    kept = saved["benchmarks"][job.name]
    now = all_parts(job, engine={}, template=encoder.template)
    names = ("data", "prompt", "template")
    changed = differing_parts(
        {"model": saved["model"]} | {name: kept[name] for name in names},
        {"model": plan.model} | {name: now[name] for name in names},
    )
    if changed:
        listed = "\n".join(
            f"  {key}: {was!r} then, {is_!r} now" for key, (was, is_) in changed.items()
        )
        raise ConfigError(
            f"{run.root} was searched with another model or other prompts:\n{listed}\nSet these "
            "back: rollouts of another policy say nothing about its completions."
        )
    return _Policy(
        prompts={ask.id: encoder.token_ids(ask.prompt) for ask in job.asks},
        decode=text_decoder(tokenizer),
        engines=generator_settings(
            run.model,
            engines,
            prompt_tokens=longest_prompt([job], encoder),
            max_tokens=measured.max_tokens,
            tokens_beside=-(-plan.concurrency // engines.replicas) * measured.max_tokens,
        ),
    )


@contextmanager
def _backend(
    run: FinishedRun, policy: _Policy, plan: LabelPlan, wrong: Sequence[WrongCompletion]
) -> Generator[EngineBackend]:
    """Engines that know the prompts of these completions."""
    measured = run.settings.benchmarks
    ids = {plan.number_of(one): (one.record.problem_id, plan.seed_of(one)) for one in wrong}
    starts = {number: Start(policy.prompts[id_], seed, id_) for number, (id_, seed) in ids.items()}

    def no_revision(number: int, draft: str) -> PromptTokens:
        raise AssertionError(f"labelling {number} revises nothing, and {draft!r} was given")

    running = running_engines(
        run.model, policy.engines, revision=run.settings.engines.revision, seed=measured.seed
    )
    with running as group:
        session = GeneratorSession(
            group, temperature=measured.temperature, top_p=measured.top_p, min_version=0
        )
        with closing(session):
            yield EngineBackend(session, starts.__getitem__, no_revision)
