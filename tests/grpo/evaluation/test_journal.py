"""Tests for grpo/evaluation/journal.py: what a kill leaves, and what may be continued."""

from pathlib import Path

import pytest
from evaluated import CUT, RIGHT, WRONG, record

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.journal import EvaluationFolder, Journal, read_records

PLAN = {"model": {"model": "m"}, "seed": 0, "benchmarks": {"gsm8k": {"prompt": {"style": "boxed"}}}}


def test_a_journal_gives_back_what_was_appended(tmp_path: Path):
    path = tmp_path / "samples_gsm8k.jsonl"
    records = [record(3, RIGHT, CUT), record(0, WRONG, RIGHT)]
    journal = Journal(path)
    for one in records:
        journal.append(one)
    journal.close()
    assert Journal(path).finished == {3: records[0], 0: records[1]}
    assert read_records(path) == records


def test_every_way_to_be_cut_short_loses_at_most_the_last_problem(tmp_path: Path):
    path = tmp_path / "samples_gsm8k.jsonl"
    journal = Journal(path)
    journal.append(record(0, RIGHT))
    first = path.stat().st_size
    journal.append(record(1, WRONG))
    journal.close()
    whole = path.read_bytes()
    for length in range(first, len(whole)):  # a kill in the middle of the second line
        path.write_bytes(whole[:length])
        resumed = Journal(path)
        assert set(resumed.finished) == {0}
        resumed.append(record(1, WRONG))
        resumed.close()
        assert path.read_bytes() == whole


def test_a_damaged_line_is_named(tmp_path: Path):
    path = tmp_path / "samples_gsm8k.jsonl"
    journal = Journal(path)
    journal.append(record(0, RIGHT))
    journal.close()
    path.write_text(path.read_text() + '{"doc_id": 1}\n')
    with pytest.raises(ConfigError, match=r"samples_gsm8k\.jsonl, line 2: "):
        Journal(path)


def test_a_problem_that_is_there_twice_is_refused(tmp_path: Path):
    path = tmp_path / "samples_gsm8k.jsonl"
    journal = Journal(path)
    journal.append(record(0, RIGHT))
    journal.close()
    path.write_text(path.read_text() * 2)
    with pytest.raises(ConfigError, match="line 2: problem 'p0' is there twice"):
        Journal(path)


def test_a_folder_that_holds_an_evaluation_asks_for_resume(tmp_path: Path):
    with EvaluationFolder(tmp_path) as folder:
        folder.begin(PLAN, resume=False)
        with pytest.raises(ConfigError, match="already holds an evaluation"):
            folder.begin(PLAN, resume=False)
        folder.begin(PLAN, resume=True)


def test_resuming_under_other_settings_names_what_differs(tmp_path: Path):
    with EvaluationFolder(tmp_path) as folder:
        folder.begin(PLAN, resume=False)
        other = {**PLAN, "seed": 1, "benchmarks": {"gsm8k": {"prompt": {"style": "bare"}}}}
        with pytest.raises(ConfigError) as caught:
            folder.begin(other, resume=True)
    assert "benchmarks.gsm8k.prompt.style: 'boxed' there, 'bare' now" in str(caught.value)
    assert "seed: 0 there, 1 now" in str(caught.value)


def test_an_evaluation_is_continued_on_its_own_benchmarks_only(tmp_path: Path):
    # Results are written whole: those of a benchmark that is not named would be lost.
    both = {**PLAN, "benchmarks": {**PLAN["benchmarks"], "math500": {}}}
    with EvaluationFolder(tmp_path) as folder:
        folder.begin(PLAN, resume=False)
        with pytest.raises(ConfigError, match="is an evaluation on gsm8k, not on gsm8k, math500"):
            folder.begin(both, resume=True)


def test_samples_without_a_plan_are_not_taken_over(tmp_path: Path):
    (tmp_path / "samples_gsm8k.jsonl").write_text("")
    with (
        EvaluationFolder(tmp_path) as folder,
        pytest.raises(ConfigError, match=r"samples_gsm8k\.jsonl but no plan\.json"),
    ):
        folder.begin(PLAN, resume=True)


def test_two_processes_cannot_write_to_one_folder(tmp_path: Path):
    with (
        EvaluationFolder(tmp_path),
        pytest.raises(ConfigError, match="another evaluation is writing"),
        EvaluationFolder(tmp_path),
    ):
        pass
    with EvaluationFolder(tmp_path):  # free again
        pass


GRADED = {**PLAN, "benchmarks": {"gsm8k": {"grader": {"sources": "old"}, "seed": 1}}}


def with_parts(**parts: object) -> dict[str, object]:
    return {**PLAN, "benchmarks": {"gsm8k": {**GRADED["benchmarks"]["gsm8k"], **parts}}}


def test_other_graders_are_refused_unless_everything_is_graded_again(tmp_path: Path):
    other = with_parts(grader={"sources": "new"})
    with EvaluationFolder(tmp_path) as folder:
        folder.begin(GRADED, resume=False)
        with pytest.raises(ConfigError, match="--regrade grades the samples again"):
            folder.begin(other, resume=True)
        saved = folder.plan.read_text()
        folder.begin(other, resume=True, regrade=True)
        assert folder.plan.read_text() == saved, "a kill now must not make old verdicts new ones"
        with pytest.raises(ConfigError, match="seed: 1 there, 2 now"):
            folder.begin(with_parts(grader={"sources": "new"}, seed=2), resume=True, regrade=True)


def test_grading_again_without_a_reason_is_refused(tmp_path: Path):
    with EvaluationFolder(tmp_path) as folder:
        with pytest.raises(ConfigError, match="holds no evaluation to grade again"):
            folder.begin(GRADED, resume=True, regrade=True)
        folder.begin(GRADED, resume=False)
        with pytest.raises(ConfigError, match="--regrade has no effect"):
            folder.begin(GRADED, resume=True, regrade=True)


def test_records_are_replaced_whole_and_can_be_added_to(tmp_path: Path):
    path = tmp_path / "samples_gsm8k.jsonl"
    journal = Journal(path)
    journal.append(record(0, RIGHT))
    journal.append(record(1, RIGHT))
    journal.replace([record(0, WRONG), record(1, RIGHT)])
    journal.append(record(2, CUT))
    journal.close()
    assert read_records(path) == [record(0, WRONG), record(1, RIGHT), record(2, CUT)]
