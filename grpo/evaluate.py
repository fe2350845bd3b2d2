"""Accuracy on held-back problems, with an interval."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from cotree.grpo.config import Evaluate
from cotree.grpo.evaluation.intervals import mean_interval
from cotree.grpo.evaluation.records import BenchmarkSummary
from cotree.grpo.evaluation.results import summary_json
from cotree.grpo.filter import is_correct
from cotree.grpo.generator import GeneratorGroup, Sampling
from cotree.grpo.grader import GraderGroup
from cotree.grpo.seeds import derive
from cotree.grpo.types import Group, Problem, PromptTokens, SampleRequest
from cotree.rewards.types import Reward


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A share of problems solved and its 95 % interval over problems."""

    value: float
    low: float
    high: float
    n: int
    """Problems."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One pass over the held-back problems."""

    accuracy: Accuracy
    groups: tuple[Group, ...]
    ungraded: int
    """Completions that could not be graded, or to which the first reward does not apply; they
    count neither way."""
    truncated_frac: float
    mean_tokens: float
    benchmarks: tuple[BenchmarkSummary, ...] = ()
    """Of `evaluate.benchmarks`, where there are any."""

    def summary(self) -> dict[str, object]:
        """The numbers without the samples, for JSON."""
        held_back = {
            "accuracy": asdict(self.accuracy),
            "ungraded": self.ungraded,
            "truncated": self.truncated_frac,
            "mean_tokens": self.mean_tokens,
        }
        return held_back | self.benchmarks_json()

    def benchmarks_json(self) -> dict[str, object]:
        """`benchmarks`: name -> its stable keys; nothing where none were measured."""
        found = {summary.benchmark: summary_json(summary) for summary in self.benchmarks}
        return {"benchmarks": found} if found else {}


def accuracy_interval(correct: Sequence[Sequence[bool]]) -> Accuracy:
    """Mean accuracy and its 95 % interval, clustered by problem; see `mean_interval`.

    Args:
        correct: for each problem, whether each of its graded samples was right; none empty.

    Raises:
        ValueError: there is no problem, or a problem has no graded sample.
    """
    if not correct or not all(correct):
        raise ValueError("accuracy_interval needs at least one graded sample for every problem.")
    return Accuracy(*mean_interval([fmean(row) for row in correct]), len(correct))


def evaluate(
    problems: Sequence[Problem],
    *,
    encode: Callable[[str], PromptTokens],
    generators: GeneratorGroup,
    graders: GraderGroup,
    settings: Evaluate,
    seed: int,
    min_version: int,
) -> Evaluation:
    """Samples and grades `settings.num_problems` problems, always the same ones.

    Seeds depend on the run seed, the problem and the sample only, so two policies meet the same
    random numbers (common random numbers: their difference has less noise than either).

    Raises:
        ValueError: the data set holds fewer problems than were asked for.
    """
    if settings.num_problems > len(problems):
        raise ValueError(
            f"evaluate.num_problems = {settings.num_problems}, but the test split has "
            f"{len(problems)} problems. Lower it."
        )
    chosen = problems[: settings.num_problems]
    requests = [
        SampleRequest(
            problem,
            encode(problem.prompt),
            tuple(derive(seed, "evaluate", problem.id, i) for i in range(settings.samples)),
        )
        for problem in chosen
    ]
    sampling = Sampling(settings.max_tokens, settings.temperature, settings.top_p)
    completions = generators.submit(requests, sampling, min_version=min_version).healed_result()
    groups = graders.grade(
        [(r.problem, r.prompt_ids, c) for r, c in zip(requests, completions, strict=True)]
    )
    return summarize(groups, first_term=graders.first_term)


def summarize(groups: Sequence[Group], *, first_term: str) -> Evaluation:
    """Accuracy over the graded completions of each problem; a problem without any is left out."""
    correct: list[list[bool]] = []
    ungraded = 0
    for group in groups:
        rewards = [
            r.reward
            for r in group.rollouts
            if isinstance(r.reward, Reward) and first_term in r.reward.breakdown
        ]
        ungraded += len(group.rollouts) - len(rewards)
        if rewards:
            correct.append([is_correct(reward, first_term=first_term) for reward in rewards])
    sampled = [rollout.completion for group in groups for rollout in group.rollouts]
    return Evaluation(
        accuracy=accuracy_interval(correct),
        groups=tuple(groups),
        ungraded=ungraded,
        truncated_frac=fmean(c.stop_reason == "length" for c in sampled),
        mean_tokens=fmean(len(c.token_ids) for c in sampled),
    )
