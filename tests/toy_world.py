"""A world of reasoning that can be computed: what strategies and the driver are tested on.

A completion takes `depth` steps of three tokens each, and ends in an answer of two. A step is good
with the problem's probability p, and one bad step makes the answer wrong. The checker refutes bad
steps with probability `recall` and good ones with probability `false_alarm`. So V*(state) is known:
p ** (steps left) after good steps, 0 after a bad one.

What follows a state is a pure function of the state, the key and the problem, as of an engine.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cotree.rewards.types import StepScore, Verdict
from cotree.search.strategy import Question
from cotree.search.tree_strategy import TreeStrategy
from cotree.search.types import Continuation, Job, Judgement, Reply, Request, State, Step

GOOD, BAD, END_OF_LINE, RIGHT, WRONG, END = range(6)
FIRST_NONCE = 10
NUM_NONCES = 10_000
_TEXTS = {GOOD: "good ", BAD: "bad ", END_OF_LINE: "\n", RIGHT: "right", WRONG: "wrong", END: ""}
STEP_TOKENS = 3
ANSWER_TOKENS = 2


def decode(token_ids: Sequence[int]) -> str:
    """The text of tokens; a nonce makes steps distinct."""
    return "".join(_TEXTS.get(token, f"#{token - FIRST_NONCE}") for token in token_ids)


@dataclass(frozen=True)
class ToyWorld:
    """One kind of problem; it has as many as it is asked for."""

    depth: int = 8
    recall: float = 0.95
    false_alarm: float = 0.01
    terminal_is_verified: bool = True
    """The judge gives a wrong answer the score 0, as where answers can be checked."""
    num_nonces: int = NUM_NONCES
    """Few of them make samples repeat."""

    def question(self, number: int) -> Question:
        return Question(f"toy/{number}", f"problem {number}")

    def p(self, question: Question) -> float:
        """Probability of a good step, uniform over problems in 0.5..0.9."""
        return random.Random(f"p {question.id}").uniform(0.5, 0.9)

    def value(self, question: Question, prefix: Sequence[int]) -> float:
        """V* of the state: the probability that a completion of it is right."""
        steps = prefix.count(END_OF_LINE)
        return 0.0 if BAD in prefix else self.p(question) ** (self.depth - steps)

    def tokens_after(
        self, question: Question, prefix: Sequence[int], key: Sequence[int], seed: int, *, one: bool
    ) -> tuple[int, ...]:
        """The continuation: one step, or all up to the end."""
        rng = random.Random(repr((question.id, tuple(prefix), tuple(key), seed)))
        tokens: list[int] = []
        steps = prefix.count(END_OF_LINE)
        while steps < self.depth:
            kind = GOOD if rng.random() < self.p(question) else BAD
            tokens += [kind, FIRST_NONCE + rng.randrange(self.num_nonces), END_OF_LINE]
            steps += 1
            if one:
                return tuple(tokens)
        right = BAD not in (*prefix, *tokens)
        return (*tokens, RIGHT if right else WRONG, END)

    def judge(self, states: Sequence[State]) -> list[Judgement]:
        return [self._judged(state) for state in states]

    def _judged(self, state: State) -> Judgement:
        scores: list[StepScore] = []
        at = 0
        for line in state.text.splitlines(keepends=True):
            if line.endswith("\n"):
                chance = random.Random(f"{state.question.id} {line}").random()
                flagged = chance < (self.recall if line.startswith("bad") else self.false_alarm)
                verdict = Verdict.REFUTED if flagged else Verdict.UNCHECKED
                scores.append(StepScore((at, at + len(line)), -1.0 * flagged, verdict, "toy"))
            at += len(line)
        refuted = any(score.verdict is Verdict.REFUTED for score in scores)
        answer = None
        if state.is_finished:
            answer = "right" if state.text.endswith("right") else "wrong"
        wrong = self.terminal_is_verified and answer == "wrong"
        return Judgement(tuple(scores), answer, 0.0 if refuted or wrong else 1.0)


# --- without the driver ----------------------------------------------------------------------


def reply_to(
    world: ToyWorld, question: Question, strategy: TreeStrategy, job: Job, *, seed: int
) -> Reply:
    """What the driver would tell about a job."""
    tree = strategy.tree
    prefix = () if job.kind == "revise" else tree.token_ids(job.node)
    key = (*tree[job.node].key, job.draw)
    tokens = world.tokens_after(question, prefix, key, seed, one=job.kind == "step")
    steps: list[Step] = []
    text = decode(prefix)
    while tokens:
        size = tokens.index(END_OF_LINE) + 1 if END_OF_LINE in tokens else len(tokens)
        ids, tokens = tokens[:size], tokens[size:]
        text += decode(ids)
        end = "stop" if ids[-1] == END else "boundary"
        (judged,) = world.judge([State(question, text, end == "stop")])
        start = len(text) - len(decode(ids))
        verdicts = [one.verdict for one in judged.steps if one.span[0] >= start]
        verdict = Verdict.REFUTED if Verdict.REFUTED in verdicts else Verdict.UNCHECKED
        steps.append(Step(ids, (-0.5,) * len(ids), decode(ids), end, verdict))
        if verdict is Verdict.REFUTED and job.stops_when_refuted:
            break
    (judged,) = world.judge([State(question, text, steps[-1].end == "stop")])
    return Reply(job.number, tuple(steps), judged.answer, judged.score)


def play(
    world: ToyWorld,
    strategy: TreeStrategy,
    *,
    number: int,
    budget: int,
    batch: int = 1,
    seed: int = 0,
    order: Callable[[list[Job]], list[Job]] = lambda jobs: jobs,
) -> int:
    """Runs a strategy on a problem until the next batch could exceed the budget, or it is done.

    Args:
        world: of the problem.
        strategy: fresh.
        number: of the problem.
        budget: tokens.
        batch: jobs asked for at once, all told before the next are asked for.
        seed: of the sampling.
        order: in which a batch is told.

    Returns:
        Tokens spent.
    """
    question, spent = world.question(number), 0
    most = STEP_TOKENS * world.depth + ANSWER_TOKENS
    while spent + batch * most <= budget and (jobs := strategy.ask(batch)):
        replies = {job.number: reply_to(world, question, strategy, job, seed=seed) for job in jobs}
        for job in order(jobs):
            strategy.tell(replies[job.number])
            spent += replies[job.number].num_tokens
    return spent


def is_solved(strategy: TreeStrategy) -> bool:
    """Whether what the strategy prefers is the right answer."""
    best = strategy.best()
    return best is not None and strategy.tree[best].answer == "right"


# --- for the driver --------------------------------------------------------------------------


class ToyBackend:
    """Engines of a toy world, which answer in an order that a seed decides."""

    def __init__(
        self, world: ToyWorld, questions: Sequence[Question], seeds: Sequence[int]
    ) -> None:
        self.world = world
        self.num_tokens = 0
        self.requests: list[Request] = []
        self._searches = list(zip(questions, seeds, strict=True))
        self._waiting: list[Request] = []
        self._order = random.Random(0)
        self._at_once: int | None = None

    def shuffled(self, seed: int, at_once: int) -> ToyBackend:
        """Answers `at_once` requests an exchange, in a random order; by default all, in order."""
        self._order, self._at_once = random.Random(seed), at_once
        return self

    def exchange(self, requests: Sequence[Request]) -> list[Continuation]:
        self.requests += requests
        self._waiting += requests
        if self._at_once is None:
            ready, self._waiting = self._waiting, []
        else:
            self._order.shuffle(self._waiting)
            ready, self._waiting = (
                self._waiting[: self._at_once],
                self._waiting[self._at_once :],
            )
        return [self._answer(request) for request in ready]

    def _answer(self, request: Request) -> Continuation:
        question, seed = self._searches[request.search]
        tokens = self.world.tokens_after(
            question, request.prefix, request.key, seed, one=bool(request.stops)
        )
        end = "text" if tokens[-1] == END_OF_LINE else "stop"
        if len(tokens) > request.max_tokens:
            tokens, end = tokens[: request.max_tokens], "length"
        self.num_tokens += len(tokens)
        return Continuation(request.name, tokens, (-0.5,) * len(tokens), end)
