"""Tests for the log of grpo/distilling/candidates.py: what a kill leaves, what may be continued."""

from pathlib import Path

import pytest
from teacher_texts import CUT, REFUTED, RIGHT, UNGRADED, WRONG, numbered, problem

from cotree.grpo.config import RewardTerm
from cotree.grpo.config_distill import Keep, SampledTraces
from cotree.grpo.config_file import ConfigError
from cotree.grpo.distilling.candidates import CandidateLog, asked_problems, samples_about

SETTINGS = SampledTraces(type="teacher", samples=2)
PROBLEMS = [problem(index) for index in range(3)]
TEACHER = {"model": "big", "prompt": {"template": "{question}", "chat": True}}


def about(settings: SampledTraces = SETTINGS, **changes: object) -> dict[str, object]:
    parts = {"teacher": TEACHER, "rewards": [RewardTerm(name="answer")], "seed": 0}
    return samples_about(settings, PROBLEMS, **(parts | changes))


def refusal(folder: Path, other: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        CandidateLog(folder, other)
    return str(caught.value)


def test_a_log_gives_back_what_was_appended(tmp_path: Path):
    spelled = UNGRADED.__class__("p1", 0, "é\u2028\n∑", 3, "stop", (5, 6), 1.0, True, False, None)
    finished = {"p2": numbered("p2", RIGHT, CUT), "p1": (spelled, *numbered("p1", UNGRADED)[1:])}
    with CandidateLog(tmp_path / "new", about()) as log:
        for problem_id, candidates in finished.items():
            log.append(problem_id, candidates)
    with CandidateLog(tmp_path / "new", about()) as again:
        assert again.finished == finished
        assert again.remaining(PROBLEMS) == [PROBLEMS[0]]


def test_every_way_to_be_cut_short_loses_at_most_the_last_problem(tmp_path: Path):
    with CandidateLog(tmp_path, about()) as log:
        log.append("p0", numbered("p0", RIGHT, WRONG))
        first = log.path.stat().st_size
        log.append("p1", numbered("p1", REFUTED, CUT))
    whole = log.path.read_bytes()
    for length in {*range(0, len(whole), 19), first - 1, first, first + 1, len(whole) - 1}:
        log.path.write_bytes(whole[:length])
        with CandidateLog(tmp_path, about()) as resumed:
            assert set(resumed.finished) == ({"p0"} if length >= first else set())
            for index, candidates in enumerate([(RIGHT, WRONG), (REFUTED, CUT)]):
                if f"p{index}" not in resumed.finished:
                    resumed.append(f"p{index}", numbered(f"p{index}", *candidates))
        assert log.path.read_bytes() == whole


def test_resuming_under_other_settings_names_what_differs(tmp_path: Path):
    CandidateLog(tmp_path, about()).__exit__()
    hotter = SETTINGS.model_copy(update={"temperature": 0.5})
    said = refusal(tmp_path, about(hotter, teacher=TEACHER | {"model": "bigger"}))
    assert "sampling.temperature: 1.0 there, 0.5 now" in said
    assert "teacher.model: 'big' there, 'bigger' now" in said
    assert "seed" not in said
    assert "seed: 0 there, 1 now" in refusal(tmp_path, about(seed=1))
    rewards = [RewardTerm(name="answer", options={"strict": True})]
    assert "rewards.answer.options.strict: None there, True now" in refusal(
        tmp_path, about(rewards=rewards)
    )


def test_other_problems_are_other_samples(tmp_path: Path):
    CandidateLog(tmp_path, about()).__exit__()
    parts = {"teacher": TEACHER, "rewards": [RewardTerm(name="answer")], "seed": 0}
    fewer = samples_about(SETTINGS, PROBLEMS[:2], **parts)
    assert "problems.number: 3 there, 2 now" in refusal(tmp_path, fewer)


def test_another_rejection_is_not_another_sample(tmp_path: Path):
    # Rejection runs on what is there: to try others must not cost the teacher a token.
    stricter = SETTINGS.model_copy(update={"keep": Keep(per_problem=2, pass_rate=(0.0, 0.5))})
    with CandidateLog(tmp_path, about()) as log:
        log.append("p0", numbered("p0", RIGHT, WRONG))
    with CandidateLog(tmp_path, about(stricter)) as again:
        assert set(again.finished) == {"p0"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "JSONDecodeError"),
        ('{"doc_id": 1}', "KeyError"),
        ('{"id": "p1", "candidates": [{"text": "a"}]}', "Field required"),
        ('{"id": "p0", "candidates": []}', "'p0' is there twice"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, reason: str):
    with CandidateLog(tmp_path, about()) as log:
        log.append("p0", numbered("p0", RIGHT, WRONG))
    log.path.write_text(f"{log.path.read_text()}{line}\n")
    said = refusal(tmp_path, about())
    assert "candidates.jsonl, line 3" in said
    assert reason in said


def test_a_file_of_something_else_is_not_taken_over(tmp_path: Path):
    (tmp_path / "candidates.jsonl").write_text('{"id": "p0", "candidates": []}\n')
    assert "does not begin with what its candidates are about" in refusal(tmp_path, about())


def test_the_first_problems_are_asked_and_more_than_there_are_is_an_error():
    assert asked_problems(PROBLEMS, SETTINGS) == PROBLEMS
    some = SETTINGS.model_copy(update={"num_problems": 2})
    assert asked_problems(PROBLEMS, some) == PROBLEMS[:2]
    many = SETTINGS.model_copy(update={"num_problems": 4})
    with pytest.raises(ConfigError, match="num_problems = 4, and there are 3 train problems"):
        asked_problems(PROBLEMS, many)
