"""Test-time compute: a strategy of `search/` as the sampler, over engines or a server.

What one strategy asks for is drawn together with what all others ask for at that time, in one
call, so that the engines' batch stays full.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace

from cotree.grpo.config_evaluation import Benchmarks
from cotree.grpo.evaluation.candidates import StepJudge, drawn_candidates
from cotree.grpo.evaluation.job import Job
from cotree.grpo.evaluation.records import Ask, Drawn, Prompt, Sampler
from cotree.grpo.evaluation.scoring import START_OF_THINKING
from cotree.grpo.seeds import derive
from cotree.search.strategies import NamedStrategy
from cotree.search.strategy import Candidate, Question, Selection

Reader = Callable[[Ask, Sequence[Drawn]], Sequence[Candidate]]
"""Makes candidates of a problem's completions, in the order given, without its reference."""


class StrategySampler:
    """A `Sampler` whose completions are each selected by a strategy of their own.

    The completions of a run are seeded by the run's seed and their number in it, and a strategy is
    told all that it asked for in the order of the numbers. So what it selects depends neither on
    what else is in the batch, nor on what finishes first, nor on where an evaluation was resumed.
    """

    def __init__(self, base: Sampler, strategy: NamedStrategy, read: Reader) -> None:
        """Samples with a sampler that somebody else starts and stops.

        Args:
            base: draws the completions.
            strategy: makes one strategy for each seed of each problem.
            read: what a strategy is told about them.
        """
        self._base = base
        self._strategy = strategy
        self._read = read

    def describe(self) -> Mapping[str, object]:
        return {**self._base.describe(), "strategy": self._strategy.name}

    def shown(self, prompt: Prompt) -> str:
        return self._base.shown(prompt)

    def sample(self, asks: Sequence[Ask]) -> Generator[tuple[int, tuple[Drawn, ...]]]:
        """What was selected for each problem, as soon as all its strategies are done.

        `Drawn.num_tokens` counts all completions of a run, the discarded ones too.

        Raises:
            GradingFailedError: too many completions could not be judged.
            Exception: what the base sampler raises.
        """
        waiting = {ask.index: _Search(ask, self._strategy) for ask in asks}
        assert len(waiting) == len(asks), "two asks have one index"
        while waiting:
            round_asks = [search.next_ask() for search in waiting.values()]
            unanswered = set(waiting)
            with closing(self._base.sample(round_asks)) as stream:
                for index, drawn in stream:
                    unanswered.remove(index)
                    search = waiting[index]
                    search.tell(drawn, self._read(search.ask, drawn))
                    if search.is_done:
                        yield index, search.selected()
            assert not unanswered, f"no completions for {sorted(unanswered)}"
            waiting = {index: one for index, one in waiting.items() if not one.is_done}


class _Search:
    """The runs for one problem, one a seed."""

    def __init__(self, ask: Ask, strategy: NamedStrategy) -> None:
        self.ask = ask
        self._runs = [_Run(seed, strategy) for seed in ask.seeds]

    @property
    def is_done(self) -> bool:
        return all(run.wanted == 0 for run in self._runs)

    def next_ask(self) -> Ask:
        """All completions that the runs want now."""
        return replace(self.ask, seeds=tuple(seed for run in self._runs for seed in run.seeds()))

    def tell(self, drawn: Sequence[Drawn], candidates: Sequence[Candidate]) -> None:
        """Takes the completions of `next_ask`, in its order."""
        told = list(zip(drawn, candidates, strict=True))
        for run in self._runs:
            mine, told = told[: run.wanted], told[run.wanted :]
            run.tell(mine)
        assert not told, f"{len(told)} completions that nobody asked for"

    def selected(self) -> tuple[Drawn, ...]:
        return tuple(run.selected() for run in self._runs)


class _Run:
    """One strategy and what it was told."""

    def __init__(self, seed: int, strategy: NamedStrategy) -> None:
        self._seed = seed
        self._strategy = strategy()
        self._told: list[tuple[Drawn, Candidate]] = []
        self.wanted = self._strategy.ask()
        assert self.wanted > 0, strategy.name

    def seeds(self) -> list[int]:
        """One for each completion that it wants now, by the completion's number in the run."""
        first = len(self._told)
        numbers = range(first, first + self.wanted)
        return [derive(self._seed, "strategy", number) for number in numbers]

    def tell(self, told: Sequence[tuple[Drawn, Candidate]]) -> None:
        if told:
            self._told += told
            self._strategy.tell([candidate for _, candidate in told])
            self.wanted = self._strategy.ask()

    def selected(self) -> Drawn:
        selection = Selection(
            self._strategy.best(), sum(candidate.num_tokens for _, candidate in self._told)
        )
        # By identity: two completions may be equal in all that a strategy sees.
        chosen = next(drawn for drawn, one in self._told if one is selection.candidate)
        return replace(chosen, num_tokens=selection.num_tokens)


@contextmanager
def with_strategy(job: Job, settings: Benchmarks, base: Sampler) -> Generator[Sampler]:
    """The base sampler under the job's strategy; without one, the base sampler itself.

    Args:
        job: its references stay here.
        settings: how steps are judged, if the strategy looks at verdicts.
        base: samples the job's prompts.
    """
    strategy = job.strategy
    if strategy is None:
        yield base
        return
    benchmark = job.benchmark
    questions = {
        index: Question(problem.id, problem.question)
        for index, problem in enumerate(job.data.problems)
    }
    judging = (
        StepJudge(
            benchmark,
            workers=settings.grading_workers,
            timeout_seconds=settings.grading_timeout_seconds,
            max_failed_frac=settings.max_failed_frac,
        )
        if strategy.kind.needs_verdicts
        else nullcontext()
    )
    with judging as judge:

        def read(ask: Ask, drawn: Sequence[Drawn]) -> list[Candidate]:
            opens = base.shown(ask.prompt).rstrip().endswith(START_OF_THINKING)
            return drawn_candidates(
                drawn, questions[ask.index], benchmark, judge, prompt_opens_thinking=opens
            )

        yield StrategySampler(base, strategy, read)
