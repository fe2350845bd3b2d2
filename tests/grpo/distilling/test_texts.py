"""Tests for grpo/distilling/texts.py: where a corpus comes from, and what is kept of samples."""

import json
from pathlib import Path

import pytest
from teacher_texts import Teacher, grade

from cotree.grpo.config import Pipeline
from cotree.grpo.config_distill import EngineTeacher, SampledTraces, ServerTeacher
from cotree.grpo.config_file import ConfigError
from cotree.grpo.config_traces import GeneratedTraces, RowTraces
from cotree.grpo.distilling.candidates import CandidateLog, sample_candidates, samples_about
from cotree.grpo.distilling.teachers import identity_of
from cotree.grpo.distilling.texts import TextFiles, corpus_rows
from cotree.grpo.problems import load_problems, trace_rows

PIPELINE = Pipeline.model_validate(
    {
        "output_dir": "unused",
        "model": {"type": "new"},
        "task": {"type": "arithmetic", "num_train": 12, "num_test": 4},
        "prompt": {"template": "Q: {question}\n"},
        "distill": {
            "type": "traces",
            "corpus": {"type": "generated"},
            "num_steps": 1,
            "optimizer": {"learning_rate": 1e-3},
        },
    }
)
SERVER = ServerTeacher(type="server", url="http://127.0.0.1:9")
SAMPLED = SampledTraces(type="teacher", samples=8)
PROBLEMS = load_problems(PIPELINE, "train", lambda question: question)


def sampled(folder: Path, *, lives: int | None = None) -> TextFiles:
    """The files of a corpus whose samples a teacher drew before; nothing else was done."""
    files = TextFiles(folder / "distill" / "corpus")
    about = samples_about(
        SAMPLED,
        PROBLEMS,
        teacher=identity_of(SERVER, PIPELINE.prompt),
        rewards=PIPELINE.rewards,
        seed=PIPELINE.seed,
    )
    with CandidateLog(files.folder, about) as log:
        sample_candidates(
            PROBLEMS,
            SAMPLED,
            seed=PIPELINE.seed,
            draw=Teacher(lives=lives).draw,
            grade=grade,
            first_term="answer",
            log=log,
            progress=lambda *_: None,
        )
    return files


def keeping(**keep: object) -> SampledTraces:
    return SampledTraces.model_validate(SAMPLED.model_dump() | {"keep": keep})


def test_the_files_of_a_corpus_are_in_the_stages_folder(tmp_path: Path):
    files = TextFiles(tmp_path / "distill" / "corpus")
    assert files.traces == tmp_path / "distill" / "corpus" / "traces.jsonl"
    assert files.summary == tmp_path / "distill" / "corpus" / "corpus.json"
    assert files.result == tmp_path / "distill" / "result.json"


def test_generated_texts_and_rows_need_no_teacher_and_write_nothing(tmp_path: Path):
    files = TextFiles(tmp_path / "corpus")
    generated = GeneratedTraces(type="generated")
    rows = corpus_rows(PIPELINE, generated, None, files)
    assert rows == trace_rows(PIPELINE, generated, lambda question: question)
    assert len(rows) == 12
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "1+2", "solution": "3"}) + "\n")
    (row,) = corpus_rows(PIPELINE, RowTraces(type="rows", path=str(path)), None, files)
    assert (row.question, row.solution) == ("1+2", "3")
    assert not files.folder.exists()


def test_samples_become_rows_whose_questions_carry_no_prompt(tmp_path: Path):
    # The student's own prompt is put around the question later, whatever the teacher was shown.
    files = sampled(tmp_path)
    rows = corpus_rows(PIPELINE, SAMPLED, SERVER, files)
    by_question = {problem.question: problem for problem in PROBLEMS}
    assert rows
    assert {row.question for row in rows} <= by_question.keys()
    assert all(row.prompt == row.question for row in rows)
    assert all(row.solution.startswith("right") for row in rows)
    written = [json.loads(line) for line in files.traces.read_text().splitlines()]
    assert [(row["question"], row["solution"]) for row in written] == [
        (row.question, row.solution) for row in rows
    ]
    summary = json.loads(files.summary.read_text())
    assert summary["candidates"] == summary["kept"] + sum(summary["dropped"].values()) == 12 * 8
    assert summary["kept"] == len(rows)


def test_other_rules_are_tried_on_the_samples_that_are_there(tmp_path: Path):
    files = sampled(tmp_path)
    strict = corpus_rows(PIPELINE, SAMPLED, SERVER, files)
    samples = (files.folder / "candidates.jsonl").read_bytes()
    lenient = corpus_rows(PIPELINE, keeping(right=False, per_problem=8), SERVER, files)
    assert len(lenient) > len(strict)
    assert {row.solution.split()[0] for row in lenient} == {"right", "wrong"}
    assert corpus_rows(PIPELINE, SAMPLED, SERVER, files) == strict
    assert (files.folder / "candidates.jsonl").read_bytes() == samples


def test_the_same_samples_give_the_same_bytes(tmp_path: Path):
    first, second = sampled(tmp_path / "a"), sampled(tmp_path / "b")
    for files in (first, second):
        corpus_rows(PIPELINE, SAMPLED, SERVER, files)
    assert first.traces.read_bytes() == second.traces.read_bytes()
    assert first.summary.read_bytes() == second.summary.read_bytes()


def test_a_corpus_of_nothing_is_an_error_after_it_was_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    files = sampled(tmp_path)
    with pytest.raises(ValueError, match=r"none of the teacher's completions was kept"):
        corpus_rows(PIPELINE, keeping(min_tokens=8), SERVER, files)  # drawn ones have 7 at most
    assert "kept 0 of the teacher's 96 completions" in capsys.readouterr().err
    assert json.loads(files.summary.read_text())["dropped"]["too_short"] > 0
    assert not files.traces.exists()


def test_samples_of_another_teacher_are_not_taken_over(tmp_path: Path):
    files = sampled(tmp_path)
    other = SERVER.model_copy(update={"model": "bigger"})
    with pytest.raises(ConfigError, match=r"teacher\.model: None there, 'bigger' now"):
        corpus_rows(PIPELINE, SAMPLED, other, files)


def test_a_teacher_that_is_not_there_leaves_no_folder_behind(tmp_path: Path):
    files = TextFiles(tmp_path / "corpus")
    nobody = EngineTeacher(type="engine", path=str(tmp_path / "nobody"))
    with pytest.raises(FileNotFoundError, match="cannot load a model from"):
        corpus_rows(PIPELINE, SAMPLED, nobody, files)
    assert not files.folder.exists()


def test_more_problems_than_there_are_is_an_error(tmp_path: Path):
    files = TextFiles(tmp_path / "corpus")
    many = SAMPLED.model_copy(update={"num_problems": 13})
    with pytest.raises(ConfigError, match="num_problems = 13, and there are 12 train problems"):
        corpus_rows(PIPELINE, many, SERVER, files)
    assert not files.folder.exists()
