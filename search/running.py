"""One search under way: what it asks engines for, and how what they return becomes replies.

    requests() -> engine -> accept() -> judge -> judged() -> deliver() -> strategy

Replies are told in the order in which jobs were asked, whatever finishes first, and tokens are
settled in that order too. So the tree depends neither on the batch nor on the machine's speed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from cotree.rewards.types import StepScore, Verdict
from cotree.search.ledger import Ledger, Limits
from cotree.search.segments import token_ends
from cotree.search.step_rule import StepRule
from cotree.search.strategy import Question
from cotree.search.tree_json import Choice
from cotree.search.tree_strategy import TreeStrategy
from cotree.search.types import Continuation, Job, Judgement, Reply, Request, State, Step, StepEnd

Decode = Callable[[list[int]], str]


@dataclass(slots=True)
class _Work:
    """A job under way."""

    job: Job
    prefix: tuple[int, ...]
    """Of the completion, before the job."""
    key: tuple[int, ...]
    max_tokens: int
    draft: str | None
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    parts: int = 0
    text: str = ""
    """Of the completion so far, prefix included."""
    ends: Sequence[int] = ()
    """Characters complete after each of its tokens."""
    end: StepEnd | None = None
    """How the job ended; None: it goes on, if the judge agrees."""


class RunningSearch:
    """A strategy at work on one problem, within its limits."""

    def __init__(
        self,
        number: int,
        question: Question,
        strategy: TreeStrategy,
        *,
        limits: Limits,
        rule: StepRule,
        decode: Decode,
    ) -> None:
        """Starts nothing.

        Args:
            number: names the search in its run.
            question: of the problem.
            strategy: fresh.
            limits: budget, length and width.
            rule: where steps end.
            decode: tokens to text, special ones skipped.
        """
        self.number = number
        self.question = question
        self.strategy = strategy
        self.ledger = Ledger(limits.budget_tokens)
        self.history: list[Choice] = []
        self._limits = limits
        self._rule = rule
        self._decode = decode
        self._works: dict[int, _Work] = {}
        self._outbox: list[Request] = []
        self._held: Job | None = None
        self._is_out_of_budget = False
        self._ready: dict[int, Reply] = {}
        self._next_told = 0

    @property
    def is_over(self) -> bool:
        """Nothing is under way and nothing will be."""
        if self._works or self._held is not None:
            return False
        return self.strategy.is_done or self._is_out_of_budget

    def requests(self) -> list[Request]:
        """What engines should do now: further parts of jobs, and new jobs within the limits."""
        if not self._works:
            self._fill()
        sent, self._outbox = self._outbox, []
        return sent

    def accept(self, found: Continuation) -> bool:
        """Takes what an engine returned; whether the job now has to be judged.

        If not, its next part is among the `requests`.
        """
        _, number, part = found.name
        work = self._works[number]
        assert part == work.parts - 1, f"part {part} of job {number}; {work.parts - 1} is awaited"
        self.ledger.requests += 1
        self.ledger.prompt_tokens += found.num_prompt_tokens
        self.ledger.cached_tokens += found.num_cached_tokens
        work.token_ids += found.token_ids
        work.logprobs += found.logprobs
        tokens = [*work.prefix, *work.token_ids]
        work.text, work.ends = self._decode(tokens), token_ends(tokens, self._decode)
        if found.end == "stop":
            work.end = "stop"
            return True
        if len(work.token_ids) >= work.max_tokens:
            is_step = work.job.kind == "step" and len(work.token_ids) == self._rule.max_tokens
            work.end = "boundary" if is_step else "length"
            return True
        cuts = self._rule.cuts(work.text, work.ends, self._last_cut(work))
        if not cuts:
            self._continue(work)
            return False
        if work.job.kind == "step":
            work.end = "boundary"
        return True

    def state(self, number: int) -> State:
        """What is to be judged of a job."""
        work = self._works[number]
        return State(self.question, work.text, work.end == "stop")

    def judged(self, number: int, judgement: Judgement) -> None:
        """Takes the verdict on a job: it is complete now, or goes on with its next part."""
        work = self._works[number]
        if work.end is None:
            if not any(one.verdict is Verdict.REFUTED for one in judgement.steps):
                self._continue(work)
                return
            work.end = "boundary"
        self._ready[number] = self._reply(work, judgement)

    def deliver(self) -> None:
        """Tells the strategy what is complete, in the order in which it asked.

        After each reply it may ask again at once: if several replies were told first, what it asks
        would depend on how many happened to be there.
        """
        while (reply := self._ready.pop(self._next_told, None)) is not None:
            self._next_told += 1
            del self._works[reply.number]
            self.ledger.settle(reply.number, reply.num_tokens)
            self.strategy.tell(reply)
            best = self.strategy.best()
            if not self.history or self.history[-1].node != best:
                self.history.append(Choice(self.ledger.spent, best))
            self._fill()

    # --- jobs ------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Starts jobs as far as width and budget allow."""
        while len(self._works) < self._limits.width and (job := self._next_job()) is not None:
            if not self._start(job):
                break

    def _next_job(self) -> Job | None:
        if self._held is not None:
            return self._held
        if self.ledger.free < 1:
            self._is_out_of_budget = not self._works
        if self.ledger.free < 1 or self._is_out_of_budget:
            return None
        asked = self.strategy.ask(1)
        return asked[0] if asked else None

    def _start(self, job: Job) -> bool:
        """Reserves the job's tokens and queues its first request; False: it has to wait.

        A job that could need more than is free waits for what is under way to be settled; when
        nothing is, it gets what is left, or is given up if it must be whole.
        """
        tree = self.strategy.tree
        revises = job.kind == "revise"
        prefix = () if revises else tree.token_ids(job.node)
        needed = self._limits.max_tokens - len(prefix)
        if job.kind == "step" and self._rule.max_tokens is not None:
            needed = min(needed, self._rule.max_tokens)
        assert needed > 0, f"job {job.number} continues a completion of {len(prefix)} tokens"
        granted = min(needed, self.ledger.free)
        if granted < needed and self._works:
            self._held = job
            return False
        self._held = None
        if granted < (needed if job.is_whole else 1):
            self.strategy.drop(job.number)
            self._is_out_of_budget = True
            return False
        self.ledger.reserve(job.number, granted)
        key = (*tree[job.node].key, job.draw)
        draft = tree.text(job.node) if revises else None
        work = self._works[job.number] = _Work(job, prefix, key, granted, draft)
        self._continue(work)
        return True

    def _continue(self, work: _Work) -> None:
        stepwise = work.job.kind == "step" or work.job.stops_when_refuted
        rest = work.max_tokens - len(work.token_ids)
        if stepwise and self._rule.max_tokens is not None:
            rest = min(rest, self._rule.max_tokens)
        self._outbox.append(
            Request(
                search=self.number,
                job=work.job.number,
                part=work.parts,
                prefix=(*work.prefix, *work.token_ids),
                key=(*work.key, work.parts),
                max_tokens=rest,
                stops=self._rule.stops if stepwise else (),
                draft=work.draft,
            )
        )
        work.parts += 1

    def _last_cut(self, work: _Work) -> int:
        """The token with which the step that is being written begins."""
        first = len(work.prefix)
        if work.job.kind == "step":
            return first
        before = self._rule.cuts(work.text, work.ends[:-1], first)
        return before[-1] if before else first

    def _reply(self, work: _Work, judgement: Judgement) -> Reply:
        assert work.end is not None
        if work.end == "boundary" and len(work.ends) >= self._limits.max_tokens:
            work.end = "length"
        first, total = len(work.prefix), len(work.ends)
        cuts = [cut for cut in self._rule.cuts(work.text, work.ends, first) if cut < total]
        bounds = [first, *cuts, total]
        spans = list(pairwise(bounds))
        steps = [
            _step(work, span, "boundary" if span[1] < total else work.end, judgement.steps)
            for span in spans
        ]
        # What was cut answers nothing, however well it began.
        score = 0.0 if work.end == "length" else judgement.score
        return Reply(work.job.number, tuple(steps), judgement.answer, score)


def _step(work: _Work, span: tuple[int, int], end: StepEnd, verdicts: Sequence[StepScore]) -> Step:
    """The step of the tokens [first, stop) of the completion, with the worst verdict on it."""
    first, stop = span
    start = work.ends[first - 1] if first else 0
    offset = len(work.prefix)
    # A verdict belongs to the step in which its span ends: there it became true.
    mine = [one for one in verdicts if start < one.span[1] <= work.ends[stop - 1]]
    found = min(mine, key=lambda one: _ORDER[one.verdict], default=None)
    return Step(
        token_ids=tuple(work.token_ids[first - offset : stop - offset]),
        logprobs=tuple(work.logprobs[first - offset : stop - offset]),
        text=work.text[start : work.ends[stop - 1]],
        end=end,
        verdict=found.verdict if found else Verdict.UNCHECKED,
        reason=found.reason if found else "",
    )


_ORDER = {Verdict.REFUTED: 0, Verdict.VERIFIED: 1, Verdict.UNCHECKED: 2}
