"""Tests for the sampling of grpo/distilling/candidates.py, with a teacher and graders of words."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from teacher_texts import Teacher, drawn, grade, problem

from cotree.grpo.config import Grading, RewardTerm
from cotree.grpo.config_distill import SampledTraces
from cotree.grpo.config_model import Prompt
from cotree.grpo.distilling.candidates import (
    Candidate,
    CandidateLog,
    DrawnTokens,
    engine_draw,
    sample_candidates,
    server_draw,
)
from cotree.grpo.engine_sampling import Sampling
from cotree.grpo.evaluation.records import Ask, Drawn, Turn
from cotree.grpo.grader import Grader, TooManyFailures
from cotree.grpo.reward_terms import reward_terms
from cotree.grpo.types import Completion, Group, Problem, SampleRequest
from cotree.rewards.types import Failure, Reward

SETTINGS = SampledTraces(type="teacher", samples=3)
ABOUT: dict[str, object] = {"teacher": "words"}


def sampled(
    folder: Path, problems: Sequence[Problem], teacher: Any, **changes: Any
) -> dict[str, tuple[Candidate, ...]]:
    options: dict[str, Any] = {"seed": 1, "grade": grade, "progress": lambda *_: None}
    settings = changes.pop("settings", SETTINGS)
    with CandidateLog(folder, ABOUT) as log:
        return sample_candidates(
            problems, settings, draw=teacher.draw, first_term="answer", log=log,
            **(options | changes),
        )  # fmt: skip


def ids(teacher: Teacher) -> list[str]:
    return [problem.id for problem, _ in teacher.asked]


def test_any_prefix_of_the_log_leads_to_the_same_candidates_and_draws_nothing_twice(tmp_path: Path):
    problems = [problem(index) for index in range(5)]
    whole = sampled(tmp_path, problems, Teacher())
    path = tmp_path / "candidates.jsonl"
    content = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
    lengths = {*range(0, len(content), 61), *ends, *(end - 1 for end in ends)}
    # Problems finish last to first: the line after the header is that of p4.
    order = [one.id for one in reversed(problems)]
    for length in lengths:
        path.write_bytes(content[:length])
        teacher = Teacher()
        assert sampled(tmp_path, problems, teacher) == whole
        there = max(0, sum(end <= length for end in ends) - 1)
        assert sorted(ids(teacher)) == sorted(order[there:])


def test_a_kill_loses_no_batch_that_was_graded(tmp_path: Path):
    # 130 problems are one wave; at most 64 are graded together, so 3 batches of 44, 44 and 42.
    problems = [problem(index) for index in range(130)]
    with pytest.raises(KeyboardInterrupt):
        sampled(tmp_path, problems, Teacher(lives=100))
    second = Teacher()
    resumed = sampled(tmp_path, problems, second)
    assert len(second.asked) == 130 - 88
    assert resumed == sampled(tmp_path / "at once", problems, Teacher())
    assert list(resumed) == [one.id for one in problems]


def test_a_teacher_is_asked_in_waves_of_one_size(tmp_path: Path):
    waves: list[int] = []

    class Counting(Teacher):
        def draw(self, requests: Any) -> Generator[tuple[int, tuple[DrawnTokens, ...]]]:
            waves.append(len(requests))
            return super().draw(requests)

    seen: list[tuple[int, int]] = []
    problems = [problem(index) for index in range(300)]  # two waves of at most 256
    sampled(tmp_path, problems, Counting(), progress=lambda done, total: seen.append((done, total)))
    assert waves == [150, 150]
    assert seen == [(done, 300) for done in (0, 50, 100, 150, 200, 250, 300)]
    sampled(tmp_path, problems, Counting(), progress=lambda done, total: seen.append((done, total)))
    assert waves == [150, 150], "everything is there"
    assert seen[-1] == (300, 300)


def test_a_seed_depends_on_nothing_but_its_problem_and_place(tmp_path: Path):
    problems = [problem(index) for index in range(4)]
    teachers = [Teacher() for _ in range(3)]
    sampled(tmp_path / "0", problems, teachers[0])
    more = SETTINGS.model_copy(update={"samples": 5})
    sampled(tmp_path / "1", problems[::-2], teachers[1], settings=more)
    sampled(tmp_path / "2", problems, teachers[2], seed=2)
    first, second, other = ({one.id: seeds for one, seeds in t.asked} for t in teachers)
    assert all(second[id_][:3] == first[id_] for id_ in ("p1", "p3"))
    every = [seed for found in (first, other) for seeds in found.values() for seed in seeds]
    assert len(set(every)) == 2 * 4 * 3, "problems, places and seeds all count"
    assert all(0 <= seed < 2**63 for seed in every)  # what servers take


def test_a_candidate_says_what_the_rewards_say(tmp_path: Path):
    class Four(Teacher):
        def draw(self, requests: Any) -> Generator[tuple[int, tuple[DrawnTokens, ...]]]:
            yield 0, tuple(drawn(seed) for seed in (4, 1, 2, 15))  # 15 is slow, and cut

    four = SETTINGS.model_copy(update={"samples": 4})
    right, wrong, refuted, slow = sampled(tmp_path, [problem(0)], Four(), settings=four)["p0"]
    assert right == Candidate("p0", 0, "right 4", 5, "stop", (4,), 1.5, True, False, None)
    assert wrong == Candidate("p0", 1, "wrong 1", 2, "stop", (1,), 0.5, False, False, None)
    assert refuted == Candidate("p0", 2, "refuted 2", 3, "stop", (2,), 1.5, True, True, None)
    why = "timeout: no reward within 5 s"
    assert slow == Candidate("p0", 3, "slow 15", 2, "length", (4,), None, None, False, why)


def test_a_failure_that_training_gives_a_value_is_no_wrong_answer(tmp_path: Path):
    def failing(asked: Any) -> list[Group]:
        failed = {"answer": Failure.CRASH}
        return [
            replace(
                group,
                rollouts=tuple(
                    replace(one, reward=Reward(0.0, "", {"answer": 0.0}, failed=failed))
                    for one in group.rollouts
                ),
            )
            for group in grade(asked)
        ]

    for one in sampled(tmp_path, [problem(0)], Teacher(), grade=failing)["p0"]:
        assert (one.right, one.reward, one.ungraded) == (None, None, "crash of answer")


def test_a_grader_that_gives_up_takes_back_what_the_teacher_was_asked(tmp_path: Path):
    def broken(asked: Any) -> list[Group]:
        raise TooManyFailures("all of them")

    teacher = Teacher()
    with pytest.raises(TooManyFailures):
        sampled(tmp_path, [problem(index) for index in range(100)], teacher, grade=broken)
    assert teacher.num_closed == 1


def test_the_rewards_of_a_pipeline_grade_texts_without_tokens(tmp_path: Path):
    class Boxes(Teacher):
        def draw(self, requests: Any) -> Generator[tuple[int, tuple[DrawnTokens, ...]]]:
            texts = (r"\boxed{42}", r"\boxed{17}", "no idea")
            yield 0, tuple(DrawnTokens(text, 3, "stop") for text in texts)

    grader = Grader(reward_terms([RewardTerm(name="answer")]), Grading())
    grader.start()
    try:
        found = sampled(tmp_path, [problem(0)], Boxes(), grade=grader.grade)["p0"]
    finally:
        grader.close()
    assert [one.right for one in found] == [True, False, False]


# The two kinds of teachers.


def test_an_engine_tells_tokens():
    class Engines:
        def stream(
            self, requests: Sequence[SampleRequest], sampling: Sampling, *, min_version: int
        ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
            assert (sampling, min_version) == (Sampling(8, 1.0), 0)
            for index, request in enumerate(requests):
                tokens = (*request.prompt_ids, *request.seeds)
                yield index, (Completion(tokens, (0.0,) * 3, "ab", (1, 2, 2), "stop", 0),)

    draw = engine_draw(
        cast(Any, Engines()), lambda one: (int(one.question[:-1]), 9), Sampling(8, 1.0)
    )
    assert list(draw([(problem(3), (5,)), (problem(4), (6,))])) == [
        (0, (DrawnTokens("ab", 3, "stop", (3, 9, 5)),)),
        (1, (DrawnTokens("ab", 3, "stop", (4, 9, 6)),)),
    ]


class Server:
    """Remembers what it is asked and whether it was let go."""

    def __init__(self) -> None:
        self.asks: list[Ask] = []
        self.is_closed = False

    def describe(self) -> dict[str, object]:
        return {"engine": "server"}

    def shown(self, prompt: str | tuple[Turn, ...]) -> str:
        return str(prompt)

    def sample(self, asks: Sequence[Ask]) -> Generator[tuple[int, tuple[Drawn, ...]]]:
        self.asks += asks
        try:
            for ask in reversed(asks):
                yield ask.index, tuple(Drawn(f"{ask.id}/{s}", 2, "stop") for s in ask.seeds)
        finally:
            self.is_closed = True


@pytest.mark.parametrize(
    ("prompt", "sent"),
    [
        (Prompt(template="{question} {x}\n"), "3? {x}\n"),
        (Prompt(template="Say {question}", chat=True), (Turn("user", "Say 3?"),)),
        (
            Prompt(template="{question}", chat=True, system="Be brief."),
            (Turn("system", "Be brief."), Turn("user", "3?")),
        ),
    ],
)
def test_a_server_is_sent_the_question_in_the_teachers_own_prompt(prompt: Prompt, sent: object):
    server = Server()
    found = list(server_draw(server, prompt)([(problem(7), (5,)), (problem(3), (6, 8))]))
    assert server.asks[1] == Ask(1, "p3", cast(Any, sent), (6, 8))
    assert found == [
        (1, (DrawnTokens("p3/6", 2, "stop"), DrawnTokens("p3/8", 2, "stop"))),
        (0, (DrawnTokens("p7/5", 2, "stop"),)),
    ]


def test_a_server_is_let_go_when_nobody_listens():
    server = Server()
    draw = server_draw(server, Prompt())([(problem(index), (index,)) for index in range(3)])
    next(draw)
    draw.close()
    assert server.is_closed
