"""Tree search as a sampler of evaluations: what it selects is graded like any completion."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from cotree.grpo.evaluation.engine_sampler import PromptEncoder
from cotree.grpo.evaluation.records import Ask, Drawn, Prompt
from cotree.grpo.evaluation.scoring import START_OF_THINKING
from cotree.grpo.result import write_json
from cotree.grpo.searching.backend import EngineBackend, Session, Start, ToldBackend
from cotree.grpo.searching.records import SearchFile
from cotree.grpo.searching.revision import revision_prompt
from cotree.grpo.types import PromptTokens
from cotree.search.driver import drive
from cotree.search.event_log import EventLog
from cotree.search.ledger import Limits
from cotree.search.running import Decode, RunningSearch
from cotree.search.step_rule import StepRule
from cotree.search.strategy import Question
from cotree.search.tree_json import SearchRecord
from cotree.search.trees.registry import NamedTreeStrategy
from cotree.search.types import Judge


class SearchPlan(NamedTuple):
    """How the problems of a benchmark are searched."""

    strategy: NamedTreeStrategy
    limits: Limits
    rule: StepRule
    concurrency: int
    """Searches under way at once."""


class SearchFiles(NamedTuple):
    """Where the searches of one benchmark are kept."""

    events: Path
    """What engines returned, as it came."""
    trees: Path
    """Finished searches."""
    speed: Path
    """What the last start generated, and in which time."""

    @classmethod
    def of(cls, root: Path, benchmark: str) -> SearchFiles:
        """The files in a folder, by the benchmark's name."""
        return cls(
            root / f"events_{benchmark}.jsonl",
            root / f"trees_{benchmark}.jsonl",
            root / f"speed_{benchmark}.json",
        )


class SearchSampler:
    """A `Sampler` whose completions are each selected by a search of its own.

    What engines return is in the event log before anything is made of it, and a finished search is
    in its file before its problem is reported. So a kill at any time costs no token that was
    returned by an engine.
    """

    def __init__(
        self,
        plan: SearchPlan,
        questions: Mapping[int, Question],
        files: SearchFiles,
        *,
        encoder: PromptEncoder,
        decode: Decode,
        open_session: Callable[[], Session],
        open_judge: Callable[[bool], AbstractContextManager[Judge]],
        description: Mapping[str, object],
    ) -> None:
        """Starts nothing.

        Args:
            plan: of the searches.
            questions: by the index of their asks; they have no references.
            files: of this benchmark.
            encoder: of the model.
            decode: of the model; special tokens are skipped.
            open_session: begins an exchange with the engines, which is ended here.
            open_judge: makes a judge, given whether the prompts open the thinking.
            description: of the engines.
        """
        self._plan = plan
        self._questions = questions
        self._files = files
        self._encoder = encoder
        self._decode = decode
        self._open_session = open_session
        self._open_judge = open_judge
        self._description = description

    def describe(self) -> Mapping[str, object]:
        return self._description

    def shown(self, prompt: Prompt) -> str:
        return self._encoder.shown(prompt)

    def sample(self, asks: Sequence[Ask]) -> Generator[tuple[int, tuple[Drawn, ...]]]:
        """The completions that searches selected, a problem as its last search is over.

        Raises:
            EventLogError: the log is of other searches.
            GeneratorDiedError: an engine died a second time.
            GradingFailedError: too many states could not be judged.
        """
        if not asks:
            return
        numbered = _numbered(asks)
        opens = self.shown(asks[0].prompt).rstrip().endswith(START_OF_THINKING)
        selected: dict[int, dict[int, Drawn]] = {ask.index: {} for ask in asks}
        started = time.perf_counter()
        with ExitStack() as stack:
            judge = stack.enter_context(self._open_judge(opens))
            log = stack.enter_context(EventLog(self._files.events))
            file = stack.enter_context(SearchFile(self._files.trees))
            session = self._open_session()
            stack.callback(session.close)
            before = session.stats()
            backend = ToldBackend(
                EngineBackend(session, *self._prompts(numbered)),
                most_tokens=len(numbered) * self._plan.limits.budget_tokens,
            )
            searches = (self._search(number, *numbered[number]) for number in sorted(numbered))
            if log.num_read:
                sys.stderr.write(f"{log.num_read:,} answers of engines are in the log\n")
            stream = drive(searches, backend, judge, concurrency=self._plan.concurrency, log=log)
            for search in stack.enter_context(closing(stream)):
                ask, seed = numbered[search.number]
                file.append(self._record(search, seed))
                found = selected[ask.index]
                found[seed] = self._drawn(search)
                if len(found) == len(ask.seeds):
                    yield ask.index, tuple(found[seed] for seed in ask.seeds)
            wall_seconds, after = time.perf_counter() - started, session.stats()
            used = {name: after[name] - before[name] for name in after}
            write_json(self._files.speed, {"wall_seconds": wall_seconds, "engines": used})

    def _prompts(
        self, numbered: Mapping[int, tuple[Ask, int]]
    ) -> tuple[Callable[[int], Start], Callable[[int, str], PromptTokens]]:
        encoded: dict[int, PromptTokens] = {}

        def start_of(number: int) -> Start:
            ask, seed = numbered[number]
            if ask.index not in encoded:
                encoded[ask.index] = self._encoder.token_ids(ask.prompt)
            return Start(encoded[ask.index], seed, ask.id)

        def revision_of(number: int, draft: str) -> PromptTokens:
            ask, _ = numbered[number]
            return self._encoder.token_ids(revision_prompt(ask.prompt, draft))

        return start_of, revision_of

    def _search(self, number: int, ask: Ask, seed: int) -> RunningSearch:
        return RunningSearch(
            number,
            self._questions[ask.index],
            self._plan.strategy.build(seed),
            limits=self._plan.limits,
            rule=self._plan.rule,
            decode=self._decode,
        )

    def _record(self, search: RunningSearch, seed: int) -> SearchRecord:
        return SearchRecord(
            search=search.number,
            problem_id=search.question.id,
            question=search.question.text,
            seed=seed,
            strategy=self._plan.strategy.name,
            tree=search.strategy.tree,
            best=search.strategy.best(),
            history=tuple(search.history),
            tokens=search.ledger.counts(),
        )

    def _drawn(self, search: RunningSearch) -> Drawn:
        """What the search selected, at the price of all of it; nothing answers nothing."""
        tree, best = search.strategy.tree, search.strategy.best()
        if best is None:
            return Drawn("", search.ledger.spent, "length")
        reason = "stop" if tree[best].is_finished else "length"
        return Drawn(tree.text(best), search.ledger.spent, reason)


def _numbered(asks: Sequence[Ask]) -> dict[int, tuple[Ask, int]]:
    """The searches by number: it does not depend on which of the problems are left to do."""
    return {
        ask.index * len(ask.seeds) + place: (ask, seed)
        for ask in asks
        for place, seed in enumerate(ask.seeds)
    }


def text_decoder(tokenizer: PreTrainedTokenizerFast) -> Decode:
    """Tokens to text, special ones skipped.

    Single tokens are remembered: a path is decoded token by token, again and again.
    """
    pieces: dict[int, str] = {}

    def text_of(token_ids: list[int]) -> str:
        text = tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str), type(text)
        return text

    def decode(token_ids: list[int]) -> str:
        if len(token_ids) != 1:
            return text_of(token_ids)
        token = token_ids[0]
        if token not in pieces:
            pieces[token] = text_of(token_ids)
        return pieces[token]

    return decode
