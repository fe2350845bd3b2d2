"""Problems, a teacher that answers them as its seeds say, and graded completions."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

from cotree.grpo.distilling.candidates import Candidate, DrawnTokens, Request
from cotree.grpo.types import Completion, Group, Problem, PromptTokens, Rollout
from cotree.rewards.types import Failure, Reward, StepScore, Ungraded, Verdict

RIGHT = Candidate("p0", 0, "so 42", 9, "stop", (), 1.0, True, False, None)
WRONG = replace(RIGHT, text="so 17", reward=0.0, right=False)
CUT = replace(RIGHT, text="so", stop_reason="length", num_tokens=16, reward=0.0, right=False)
REFUTED = replace(RIGHT, text="1+1=3, so 42", refuted=True)
UNGRADED = replace(RIGHT, text="9^9^9", reward=None, right=None, ungraded="timeout: slow")


def problem(index: int) -> Problem:
    """Problem `p{index}`, whose answer is 42."""
    return Problem(f"p{index}", f"Q: {index}?\n", "42", "test", f"{index}?")


def numbered(problem_id: str, *candidates: Candidate) -> tuple[Candidate, ...]:
    """The candidates as samples 0, 1, … of one problem."""
    return tuple(
        replace(one, problem_id=problem_id, sample=sample) for sample, one in enumerate(candidates)
    )


class Teacher:
    """Draws texts that are a pure function of their seeds; problems finish last to first."""

    def __init__(self, *, lives: int | None = None) -> None:
        self.asked: list[Request] = []
        self.num_closed = 0
        self._lives = lives
        """Problems that it finishes before it is killed; None: all."""

    def draw(self, requests: Sequence[Request]) -> Generator[tuple[int, tuple[DrawnTokens, ...]]]:
        self.asked += requests
        try:
            for index in reversed(range(len(requests))):
                if self._lives is not None:
                    if not self._lives:
                        raise KeyboardInterrupt
                    self._lives -= 1
                yield index, tuple(drawn(seed) for seed in requests[index][1])
        finally:
            self.num_closed += 1


def drawn(seed: int) -> DrawnTokens:
    """A completion whose text says what a grader makes of it."""
    kind = ("right", "wrong", "refuted", "slow")[seed % 4]
    cut = seed % 5 == 0
    return DrawnTokens(f"{kind} {seed}", seed % 7 + 1, "length" if cut else "stop", (seed % 11,))


def grade(asked: Sequence[tuple[Problem, PromptTokens, Sequence[Completion]]]) -> list[Group]:
    """Groups whose rewards are what the texts say; the first term is called `answer`."""
    return [
        Group(problem, prompt_ids, tuple(Rollout(one, verdict(one.text)) for one in completions))
        for problem, prompt_ids, completions in asked
    ]


def verdict(text: str) -> Reward | Ungraded:
    kind = text.split()[0]
    if kind == "slow":
        return Ungraded(Failure.TIMEOUT, "no reward within 5 s")
    step = StepScore((0, 1), 0.0, Verdict.REFUTED if kind == "refuted" else Verdict.VERIFIED, "")
    value = 0.0 if kind == "wrong" else 1.0
    return Reward(0.5 + value, kind, {"answer": value}, (step,))
