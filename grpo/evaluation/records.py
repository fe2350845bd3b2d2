"""What moves between the parts of an evaluation, and what its files hold. Plain data, no torch.

    Ask -> sampler -> Drawn -> grading -> Sample -> ProblemRecord -> summary -> BenchmarkSummary

An `Ask` has no reference in it: a sampler, which may be a tree search, cannot see the answer.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from cotree.grpo.types import StopReason


class Turn(NamedTuple):
    """One message of a chat."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


Prompt = str | tuple[Turn, ...]
"""Plain text to continue, or a chat to answer."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt and the seeds of the completions wanted for it, one completion per seed."""

    index: int
    """Position of the problem in its benchmark; the sampler answers under it."""
    id: str
    prompt: Prompt
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """One completion, or what one search returned, before grading."""

    text: str
    num_tokens: int
    """Generated for it: those of discarded branches too when a search made it."""
    stop_reason: StopReason


class Sampler(Protocol):
    """Draws completions: our engines, a server, or a search over either."""

    def describe(self) -> Mapping[str, object]:
        """What decides the distribution of the completions, besides the model's weights."""
        ...

    def shown(self, prompt: Prompt) -> str:
        """The prompt as text, as far as this side knows it."""
        ...

    def sample(self, asks: Sequence[Ask]) -> Generator[tuple[int, tuple[Drawn, ...]]]:
        """(`Ask.index`, its completions in the order of its seeds), as problems finish.

        Closing it early takes back what was asked and not yet answered.
        """
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One graded completion."""

    text: str
    """As sampled, thinking included."""
    answer: str | None
    """Extracted by the first rule that found one; None: the completion commits to no answer."""
    rule: str
    """The extraction rule, or `none`."""
    correct: bool | None
    """By the lenient rules; None: it could not be graded, and counts neither way."""
    strict: bool | None
    """Correct in the format that the prompt asked for; None as for `correct`, and where the
    benchmark's prompt asks for no format."""
    reason: str
    """What the grader said."""
    parse_error: bool
    """There is an answer, and it cannot be read."""
    num_tokens: int
    stop_reason: StopReason
    unfinished_thinking: bool
    """It began to think and never ended, so nothing in it is an answer."""


@dataclass(frozen=True, slots=True)
class ProblemRecord:
    """One problem and its graded samples: a line of `samples_BENCHMARK.jsonl`."""

    index: int
    id: str
    question: str
    prompt: str
    """The text the model saw; of a chat on a server, its turns with their roles."""
    reference: str
    samples: tuple[Sample, ...]


class Estimate(NamedTuple):
    """A mean over problems and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class BenchmarkSummary:
    """One benchmark's numbers. Shares are of 1, intervals 95 % over problems (clustered)."""

    benchmark: str
    version: int
    """Of the benchmark's definition in this project: prompts, references, grading."""
    n: int
    """Problems with at least one graded sample."""
    num_total: int
    """Problems the benchmark has; `n` is less for a subset."""
    k: int
    """Samples a problem."""
    ungraded: int
    """Samples that could not be graded."""
    avg: Estimate
    """avg@k: mean accuracy, lenient (= pass@1)."""
    run_error: float | None
    """Standard error of avg@k between runs on the same problems; None with one sample."""
    strict: Estimate | None
    """Accuracy in the asked format; None where the prompt asks for none."""
    pass_at: Mapping[int, Estimate]
    """k' -> unbiased pass@k', for k' = 1, 2, 4, … and k."""
    maj_at: Mapping[int, Estimate]
    """k' -> expected maj@k' over equivalence classes of answers, ties split evenly."""
    no_answer: float
    """Share of samples that commit to no answer."""
    parse_error: float
    truncated: float
    """Share of samples cut at the token limit."""
    unfinished_thinking: float
    mean_tokens: float
    """Generated tokens a sample."""
    total_tokens: int
    fingerprint: str
    """Digest of `parts`."""
    parts: Mapping[str, object] = field(default_factory=dict[str, object])
    """What was measured: prompt, template, sampler, grader, engine, data."""
