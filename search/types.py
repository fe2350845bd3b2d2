"""What moves between a tree search's strategy, its driver, its judge and its files. Plain data.

    strategy --Job--> driver --Request--> engine --Continuation--> driver --Reply--> strategy

Nothing here holds a reference answer, so neither strategies nor judges can see one.
Shape letters: N nodes of a tree, A children of a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from cotree.rewards.types import StepScore, Verdict
from cotree.search.strategy import Question

JobKind = Literal["step", "rollout", "revise"]
"""`step`: one reasoning step after the node. `rollout`: to the end of the completion. `revise`: a
new completion by someone who is shown the question and the one that ends in the node."""

StepEnd = Literal["boundary", "stop", "length"]
"""`boundary`: the step is complete and the completion may go on. `stop`: the policy ended the
completion. `length`: it was cut at a limit."""


@dataclass(frozen=True, slots=True)
class Step:
    """One reasoning step. Its token ids are the truth; nothing is ever tokenized again."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Nats, of the sampling distribution; one a token."""
    text: str
    """The characters that these tokens complete, after those of the steps before."""
    end: StepEnd
    verdict: Verdict = Verdict.UNCHECKED
    """Of the rules: refuted if they refute any part of it."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """Something to generate, as a strategy asks for it."""

    number: int
    """In its search, from 0, in the order of the asks."""
    node: int
    """The node that is continued, or whose completion is revised."""
    draw: int
    """Continuations of this node that were asked for before. The node's key and this number seed
    the sampling, so that a result depends on the place in the tree and on nothing else."""
    kind: JobKind
    stops_when_refuted: bool = False
    """Ends a rollout or a revision after its first refuted step; costs one request a step."""
    is_whole: bool = False
    """It is given up where the budget could cut it short: a cut completion would count as wrong."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a job."""

    number: int
    """The job's."""
    steps: tuple[Step, ...]
    """In order; at least one. All but the last end at a boundary."""
    answer: str | None
    """What the completion answers if it ended by itself and commits to an answer."""
    score: float
    """Of the state after the last step, in [0, 1]; see `Judgement.score`."""

    @property
    def num_tokens(self) -> int:
        """Generated for it."""
        return sum(len(step.token_ids) for step in self.steps)


# --- judging ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class State:
    """A completion, whole or as far as it goes, to be judged."""

    question: Question
    text: str
    is_finished: bool
    """The policy ended it."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What can be said about a state without knowing the right answer."""

    steps: tuple[StepScore, ...]
    """Verdicts on spans of the state's text."""
    answer: str | None
    """Of a finished state; None: it commits to none."""
    score: float
    """How promising it is, in [0, 1]. By rules alone: 0 where a step is refuted, and where a
    finished completion has no answer, else 1; a value model may say more."""


class Judge(Protocol):
    """Judges states: rules in a process that can be killed, or a value model."""

    def judge(self, states: Sequence[State]) -> list[Judgement]:
        """One judgement a state, in the order given. What cannot be judged is not refuted."""
        ...


# --- generating ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """One call of an engine."""

    search: int
    """The search's number in its run; with `job` and `part` it names the request."""
    job: int
    part: int
    """A job takes several requests where something acts between its steps."""
    prefix: tuple[int, ...]
    """Tokens of the completion so far."""
    key: tuple[int, ...]
    """Place in the tree, the draw and the part; with the search's own seed it seeds sampling."""
    max_tokens: int
    stops: tuple[str, ...]
    """Texts that end the continuation, which contains them. Empty: only the policy ends it."""
    draft: str | None = None
    """The completion to revise: it replaces the prompt, and `prefix` follows the new one."""

    @property
    def name(self) -> tuple[int, int, int]:
        return (self.search, self.job, self.part)


@dataclass(frozen=True, slots=True)
class Continuation:
    """What an engine returned for a request."""

    name: tuple[int, int, int]
    """The request's."""
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    end: Literal["text", "stop", "length"]
    """`text`: one of the request's stop texts. `stop`: end of sequence. `length`: `max_tokens`."""
    num_prompt_tokens: int = 0
    """Prompt and prefix."""
    num_cached_tokens: int = 0
    """Of these, read from the prefix cache."""
    policy_version: int = 0


class Backend(Protocol):
    """Something that generates: engines, a log of what they once said, or a test's pure function.

    A continuation depends on the search's prompt and seed, and on the request's prefix, key,
    limits and stop texts alone: not on what else is being generated.
    """

    def exchange(self, requests: Sequence[Request]) -> list[Continuation]:
        """Takes further requests and returns continuations of any earlier or new ones.

        Waits for some if any are under way, but may return none; never returns one twice.
        """
        ...
