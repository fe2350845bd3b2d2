"""A teacher's completions of problems, graded, in a file that survives a kill.

`candidates.jsonl` has a first line, `about`, with what decides the samples, and then a line for
each finished problem: its id and its completions in the order of their seeds. A seed is a pure
function of (seed, problem id, sample index), so what a kill lost is drawn again as it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import TypeAdapter, ValidationError

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.fingerprint import differing_parts, digest
from cotree.grpo.evaluation.records import Ask, Drawn, Turn
from cotree.grpo.filter import is_correct
from cotree.grpo.seeds import derive
from cotree.grpo.types import (
    Completion,
    Group,
    Problem,
    PromptTokens,
    SampleRequest,
    StopReason,
    Ungraded,
)
from cotree.rewards.types import Reward, Verdict
from cotree.search.lines import drop_torn_line

if TYPE_CHECKING:
    from cotree.grpo.config import RewardTerm
    from cotree.grpo.config_distill import SampledTraces
    from cotree.grpo.config_model import Prompt
    from cotree.grpo.engine_sampling import Sampling
    from cotree.grpo.evaluation.records import Sampler
    from cotree.grpo.generator import GeneratorGroup

_Item = TypeVar("_Item")

_DRAWN_TOGETHER = 256
"""Problems handed to the teacher at once, which bounds what it has in flight."""
_GRADED_TOGETHER = 64
"""Problems graded and written at once, which bounds what a kill loses. Failures of a reward are
counted as a share of these: few problems would make one failure too many."""


@dataclass(frozen=True, slots=True)
class DrawnTokens(Drawn):
    """A completion before grading, with its tokens where the teacher tells them."""

    token_ids: PromptTokens = ()
    """Empty from a server."""


Request = tuple[Problem, tuple[int, ...]]
"""A problem and the seeds of the completions wanted for it."""

Draw = Callable[[Sequence[Request]], Generator[tuple[int, tuple[DrawnTokens, ...]]]]
"""(index of a request, its completions in the order of its seeds), as problems finish; each request
once. Closing it early takes back what was asked."""

Grade = Callable[[Sequence[tuple[Problem, PromptTokens, Sequence[Completion]]]], list[Group]]
"""As `grpo.grader.GraderGroup.grade`."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One completion of a teacher, and what the rewards say about it."""

    problem_id: str
    sample: int
    """Index among the problem's completions."""
    text: str
    num_tokens: int
    """By the teacher's tokenizer."""
    stop_reason: StopReason
    token_ids: PromptTokens
    """Empty from a server."""
    reward: float | None
    """None where it could not be graded, as for `right`."""
    right: bool | None
    """By the pipeline's first reward; see `grpo.filter.is_correct`."""
    refuted: bool
    """A reward refutes one of its steps."""
    ungraded: str | None
    """Why it has no reward; None: it has one."""


_ROWS = TypeAdapter(tuple[Candidate, ...])


# --- what is there already -------------------------------------------------------------------


def asked_problems(problems: Sequence[Problem], settings: SampledTraces) -> list[Problem]:
    """The problems that the teacher is asked: the first `num_problems`, or all.

    Raises:
        ConfigError: there are fewer than that.
    """
    wanted = settings.num_problems
    if wanted is not None and wanted > len(problems):
        raise ConfigError(
            f"distill.corpus.num_problems = {wanted}, and there are {len(problems)} train "
            "problems; lower it, or drop it to use them all."
        )
    return list(problems[:wanted])


def samples_about(
    settings: SampledTraces,
    problems: Sequence[Problem],
    *,
    teacher: Mapping[str, object],
    rewards: Sequence[RewardTerm],
    seed: int,
) -> dict[str, object]:
    """What decides the candidates; `settings.keep` does not, and may change without new samples.

    Args:
        settings: how the teacher is sampled.
        problems: those asked.
        teacher: who it is, and how a question is put to it.
        rewards: of the pipeline.
        seed: of the samples.
    """
    asked = [[one.id, one.question, one.prompt, one.reference] for one in problems]
    return {
        "teacher": dict(teacher),
        "sampling": settings.model_dump(include={"samples", "max_tokens", "temperature", "top_p"}),
        "seed": seed,
        "problems": {"number": len(asked), "digest": digest(asked)},
        "rewards": {term.name: term.model_dump(exclude={"name"}) for term in rewards},
    }


class CandidateLog:
    """The problems that are finished: a line each, appended when graded. A context manager."""

    def __init__(self, folder: Path, about: Mapping[str, object]) -> None:
        """Reads what is there. A last line that was cut short by a kill is dropped.

        Args:
            folder: of `candidates.jsonl`, which is made if it is not there.
            about: see `samples_about`.

        Raises:
            ConfigError: what is there was sampled under something else, or is damaged.
        """
        self.path = folder / "candidates.jsonl"
        self.finished: dict[str, tuple[Candidate, ...]] = {}
        """By problem id."""
        folder.mkdir(parents=True, exist_ok=True)
        is_begun = self.path.exists() and self._read(about)
        self._file = self.path.open("a", encoding="ascii")
        if not is_begun:
            self._write({"about": about})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file; what it holds stays."""
        self._file.close()

    def remaining(self, problems: Iterable[Problem]) -> list[Problem]:
        """The problems that are not finished, in their order."""
        return [problem for problem in problems if problem.id not in self.finished]

    def append(self, problem_id: str, candidates: Sequence[Candidate]) -> None:
        """Writes one finished problem; it is in the file when this returns."""
        assert problem_id not in self.finished, problem_id
        self._write({"id": problem_id, "candidates": [asdict(one) for one in candidates]})
        self.finished[problem_id] = tuple(candidates)

    def _write(self, line: Mapping[str, object]) -> None:
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def _read(self, about: Mapping[str, object]) -> bool:
        """Whether there was a whole first line, which says that all lines are of these samples."""
        drop_torn_line(self.path)
        with self.path.open(encoding="utf-8") as file:
            first = file.readline()
            if not first:
                return False
            self._refuse_other(first, about)
            for number, line in enumerate(file, start=2):
                problem_id, candidates = self._problem(line, number)
                if problem_id in self.finished:
                    raise ConfigError(
                        f"{self.path}, line {number}: problem {problem_id!r} is there twice; "
                        "delete one of the lines."
                    )
                self.finished[problem_id] = candidates
        return True

    def _problem(self, line: str, number: int) -> tuple[str, tuple[Candidate, ...]]:
        try:
            row: Any = json.loads(line)
            return str(row["id"]), _ROWS.validate_python(row["candidates"])
        except (ValueError, KeyError, TypeError) as error:
            said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
            raise ConfigError(
                f"{self.path}, line {number} is no problem with its candidates ({said}); delete "
                "the line, and the problem is sampled again."
            ) from error

    def _refuse_other(self, first: str, about: Mapping[str, object]) -> None:
        try:
            saved: Any = json.loads(first)["about"]
            changed = differing_parts(saved, about)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.path} does not begin with what its candidates are about ({error!r}); "
                "remove it, or choose another folder."
            ) from error
        if changed:
            listed = "\n".join(
                f"  {key}: {was!r} there, {now!r} now" for key, (was, now) in changed.items()
            )
            raise ConfigError(
                f"{self.path} holds candidates that were sampled under other settings:\n{listed}\n"
                "Set these back, remove the file, or choose another folder."
            )


# --- sampling and grading --------------------------------------------------------------------


def sample_candidates(
    problems: Sequence[Problem],
    settings: SampledTraces,
    *,
    seed: int,
    draw: Draw,
    grade: Grade,
    first_term: str,
    log: CandidateLog,
    progress: Callable[[int, int], None],
) -> dict[str, tuple[Candidate, ...]]:
    """The teacher's graded completions of each problem, by its id, in the problems' order.

    What the log has is not drawn again. The result is a pure function of what the log is about:
    it does not depend on where an earlier start was killed.

    Args:
        problems: those asked; see `asked_problems`.
        settings: how many completions each gets.
        seed: of the samples.
        draw: the teacher; see `engine_draw` and `server_draw`. It has the settings of a token.
        grade: the pipeline's rewards. They read texts alone.
        first_term: name of the reward that decides what is right.
        log: gets the problems as they finish.
        progress: called with the problems finished so far and their total, after each batch.

    Raises:
        TooManyFailures: rewards failed on a larger share of a batch than the pipeline allows; the
            batches before it are kept.
    """
    left = log.remaining(problems)
    finished = len(problems) - len(left)
    progress(finished, len(problems))
    for wave in _lists_of(iter(left), _even_size(len(left), _DRAWN_TOGETHER)):
        requests = [(problem, _seeds(seed, problem, settings.samples)) for problem in wave]
        size = _even_size(len(wave), _GRADED_TOGETHER)
        with closing(draw(requests)) as drawn:
            for batch in _lists_of(drawn, size):
                groups = grade(
                    [(wave[i], (), [_completion(one) for one in found]) for i, found in batch]
                )
                for group, (_, found) in zip(groups, batch, strict=True):
                    assert len(found) == settings.samples, group.problem.id
                    log.append(group.problem.id, _candidates(group, found, first_term))
                finished += len(batch)
                progress(finished, len(problems))
        missing = log.remaining(wave)
        assert not missing, f"the draw left out {[problem.id for problem in missing]}"
    return {problem.id: log.finished[problem.id] for problem in problems}


def engine_draw(
    generators: GeneratorGroup, encode: Callable[[Problem], PromptTokens], sampling: Sampling
) -> Draw:
    """Completions by engines of our own.

    Args:
        generators: hold the teacher.
        encode: a problem's prompt in the teacher's tokens.
        sampling: how tokens are drawn.
    """

    def draw(requests: Sequence[Request]) -> Generator[tuple[int, tuple[DrawnTokens, ...]]]:
        asked = [SampleRequest(problem, encode(problem), seeds) for problem, seeds in requests]
        for index, completions in generators.stream(asked, sampling, min_version=0):
            yield (
                index,
                tuple(
                    DrawnTokens(one.text, len(one.token_ids), one.stop_reason, one.token_ids)
                    for one in completions
                ),
            )

    return draw


def server_draw(sampler: Sampler, prompt: Prompt) -> Draw:
    """Completions by a server, which tells texts only.

    Args:
        sampler: asks the server; has the settings of a token.
        prompt: how a question is put to the teacher. A chat goes there as its turns, and the
            server's own template is applied; anything else as the text itself.
    """

    def draw(requests: Sequence[Request]) -> Generator[tuple[int, tuple[DrawnTokens, ...]]]:
        asks = [
            Ask(index, problem.id, _put(prompt, problem.question), seeds)
            for index, (problem, seeds) in enumerate(requests)
        ]
        with closing(sampler.sample(asks)) as answers:
            for index, found in answers:
                yield (
                    index,
                    tuple(DrawnTokens(one.text, one.num_tokens, one.stop_reason) for one in found),
                )

    return draw


def _put(prompt: Prompt, question: str) -> str | tuple[Turn, ...]:
    text = prompt.template.replace("{question}", question)
    if not prompt.chat:
        return text
    system = () if prompt.system is None else (Turn("system", prompt.system),)
    return (*system, Turn("user", text))


def _seeds(seed: int, problem: Problem, samples: int) -> tuple[int, ...]:
    return tuple(derive(seed, "distill", problem.id, sample) for sample in range(samples))


def _completion(drawn: Drawn) -> Completion:
    """As a grader sees it: it reads the text."""
    return Completion((), (), drawn.text, (), drawn.stop_reason, 0)


def _candidates(group: Group, drawn: Sequence[DrawnTokens], first_term: str) -> list[Candidate]:
    return [
        _candidate(group.problem.id, sample, one, rollout.reward, first_term)
        for sample, (one, rollout) in enumerate(zip(drawn, group.rollouts, strict=True))
    ]


def _candidate(
    problem_id: str, sample: int, drawn: DrawnTokens, reward: Reward | Ungraded, first_term: str
) -> Candidate:
    ungraded = _why_ungraded(reward)
    graded = reward if isinstance(reward, Reward) and ungraded is None else None
    return Candidate(
        problem_id=problem_id,
        sample=sample,
        text=drawn.text,
        num_tokens=drawn.num_tokens,
        stop_reason=drawn.stop_reason,
        token_ids=drawn.token_ids,
        reward=None if graded is None else graded.value,
        right=None if graded is None else is_correct(graded, first_term=first_term),
        refuted=graded is not None
        and any(step.verdict is Verdict.REFUTED for step in graded.steps),
        ungraded=ungraded,
    )


def _why_ungraded(reward: Reward | Ungraded) -> str | None:
    if isinstance(reward, Ungraded):
        return f"{reward.failure}: {reward.reason}"
    # In training such a failure counts as `error_value`; here nothing is known to be right.
    failed = ", ".join(f"{failure} of {name}" for name, failure in sorted(reward.failed.items()))
    return failed or None


def _even_size(number: int, most: int) -> int:
    """Size of parts of at most `most` that are as large as each other, but for the last."""
    return -(-number // max(1, -(-number // most)))


def _lists_of(items: Iterator[_Item], size: int) -> Iterator[list[_Item]]:
    while batch := list(islice(items, size)):
        yield batch
