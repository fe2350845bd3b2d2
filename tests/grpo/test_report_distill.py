"""Tests for grpo/report_distill.py: who taught whom, what was kept, and how well it went."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cotree.grpo.distilling.rejection import Rejection
from cotree.grpo.report_distill import (
    Bar,
    Distillation,
    completions_table,
    distill_charts,
    distill_facts,
    distill_status,
    distill_verdict,
    pass_rate_table,
    read_distillation,
)
from cotree.grpo.run_folder import RunFolder, load_pipeline

SPACE = "\N{NO-BREAK SPACE}"

HEAD = """
output_dir = "runs/x"
model = { type = "new" }
task = { type = "arithmetic" }
[sft]
num_steps = 5
traces = { type = "generated" }
optimizer = { learning_rate = 1e-3 }
[distill]
"""
TRACES = """
type = "traces"
num_steps = 3
optimizer = { learning_rate = 1e-3 }
teacher = { type = "engine", path = "TEACHER" }
corpus = { type = "teacher", num_problems = 7, samples = 2, temperature = 0.5 }
selection = { share = 0.25 }
"""
LOGITS = """
type = "logits"
num_steps = 3
optimizer = { learning_rate = 1e-3 }
teacher = { type = "resident", path = "TEACHER" }
corpus = { type = "generated" }
divergence = { kind = "jsd", temperature = 2.0 }
cross_entropy_coef = 0.5
"""
STORE = """
type = "logits"
num_steps = 3
optimizer = { learning_rate = 1e-3 }
store = "TEACHER"
corpus = { type = "rows", path = "texts.jsonl" }
selection = { by = "random" }
"""
ON_POLICY = """
type = "on_policy"
teacher = { type = "server", url = "http://host", tokenizer = "TEACHER", model = "wise" }
signal = { type = "advantage", coef = 2.0 }
reward_coef = 0.25
[distill.train]
num_steps = 9
prompts_per_step = 2
rollout = { group_size = 4 }
optimizer = { learning_rate = 1e-4 }
"""
DIVERGENCE = ON_POLICY.replace('"advantage", coef = 2.0', '"divergence"').replace("0.25", "0.0")


def distillation(folder: Path, text: str, **parts) -> Distillation:
    path = folder / "c.toml"
    path.write_text(HEAD + text.replace("TEACHER", str(folder / "teacher")))
    return Distillation(pipeline=load_pipeline(path, []), **parts)


def facts_of(folder: Path, text: str, **parts) -> dict[str, str]:
    return distill_facts(distillation(folder, text, **parts), model=folder / "model")


def accuracy(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "n": 500}


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A checkpoint of 1700 x 1000 parameters."""
    folder = tmp_path / "teacher"
    folder.mkdir()
    save_file({"w": np.zeros((1700, 1000), np.float16)}, folder / "model.safetensors")
    return folder


# --- the sentence ----------------------------------------------------------------------------


def test_the_share_that_is_kept_comes_with_both_intervals():
    # 0.724 / 0.76 = 0.9526.
    result = {
        "accuracy_teacher": accuracy(0.76, 0.72, 0.80),
        "accuracy_after": accuracy(0.724, 0.68, 0.76),
    }
    assert distill_verdict(Distillation(result=result)) == (
        f"The student keeps 95.3{SPACE}% of its teacher's accuracy on 500 held-back problems: "
        f"76.0{SPACE}% (72.0 to 80.0) → 72.4{SPACE}% (68.0 to 76.0). "
        "The 95 % intervals overlap, so this run alone does not show a difference."
    )


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({}, "No accuracy has been measured yet."),
        ({"accuracy_teacher": accuracy(0.5, 0.4, 0.6)}, "the student is to come"),
        ({"accuracy_after": accuracy(0.5, 0.4, 0.6)}, "its teacher was not evaluated"),
        (
            {
                "accuracy_teacher": accuracy(0.0, 0.0, 0.1),
                "accuracy_after": accuracy(0.5, 0.4, 0.6),
            },
            f"The teacher solves none of 500 held-back problems; the student 50.0{SPACE}%",
        ),
        (
            {
                "accuracy_before": accuracy(0.1, 0.0, 0.2),
                "accuracy_after": accuracy(0.5, 0.4, 0.6),
            },
            "held-back problems rose from",
        ),
    ],
)
def test_what_was_not_measured_is_not_claimed(result: dict, told: str):
    sentence = distill_verdict(Distillation(result=result))
    assert told in sentence
    assert "keeps" not in sentence


def test_a_loop_with_a_teacher_has_steps_of_its_own(tmp_path: Path):
    assert distill_status(Distillation()) == "distillation: no step of the student yet"
    found = distillation(tmp_path, ON_POLICY, rows=[{"step": 4}])
    assert distill_status(found) == "distillation unfinished: 4 of 9 steps"
    assert distill_status(replace(found, pipeline=None)) == "distillation: 4 steps"


# --- facts -----------------------------------------------------------------------------------


def test_the_student_is_measured_against_a_teacher_that_is_there(tmp_path: Path, teacher: Path):
    # The new model of the defaults has 1,581,504 parameters: 93.0 % of 1,700,000.
    facts = facts_of(tmp_path, TRACES)
    assert facts["Teacher"] == f"{teacher}, 1.7 M parameters, bfloat16 on engines"
    assert facts["Student"].endswith(f"1.58 M parameters: 93{SPACE}% of the teacher's")
    assert facts["Texts"] == (
        "the teacher's, 2 of each of 7 train problems at temperature 0.5; "
        f"the 25{SPACE}% of them of the highest value"
    )
    assert facts["Minimised"] == "cross-entropy of the next token, on the texts"


def test_a_teacher_that_is_elsewhere_has_no_size(tmp_path: Path):
    facts = facts_of(tmp_path, TRACES)
    assert facts["Teacher"] == f"{tmp_path / 'teacher'}, bfloat16 on engines"
    assert "of the teacher's" not in facts["Student"]


def test_what_is_minimised_is_told_with_its_weights(tmp_path: Path):
    told = facts_of(tmp_path, LOGITS)["Minimised"]
    assert told == (
        "the generalised Jensen-Shannon divergence of teacher p and student q with mix 0.5 at "
        "temperature 2 at each token of the texts + 0.5 x cross-entropy on the texts"
    )
    told = facts_of(tmp_path, ON_POLICY)["Minimised"]
    assert "2 x (log p - log q)" in told
    assert told.endswith("0.25 x the rewards' advantages")
    told = facts_of(tmp_path, DIVERGENCE)["Minimised"]
    assert told.startswith("1 x the reverse KL divergence KL(q || p)")
    assert told.endswith("no weight on the rewards")


def test_a_store_tells_whose_answers_it_has(tmp_path: Path, teacher: Path):
    about = {"teacher": {"model": str(teacher), "files": "0"}}
    # 6,000 tokens in 103,200 bytes: 17.2 bytes a token, as many MB a million tokens.
    totals = {
        "num_tokens": 6000,
        "num_bytes": 103_200,
        "mean_tail_mass": 0.0005,
        "max_tail_mass": 0.08,
    }
    facts = facts_of(tmp_path, STORE, logits={"about": about, "totals": totals})
    assert facts["Teacher"] == f"{teacher}, 1.7 M parameters; its answers were there"
    assert "(17.2 MB a million tokens)" in facts["Answers kept"]
    assert f"0.05{SPACE}% of the probability on average, 8{SPACE}% at most" in facts["Answers kept"]
    assert facts["Texts"].startswith("rows of texts.jsonl")
    assert facts["Texts"].endswith("drawn at random")
    about = {"teacher": {"server": "http://host", "model": None}}
    facts = facts_of(tmp_path, STORE, logits={"about": about})
    assert facts["Teacher"] == "the model on the server http://host; its answers were there"
    assert facts_of(tmp_path, STORE)["Teacher"] == "none in this run: the texts were there"


def test_texts_that_nobody_read_are_counted(tmp_path: Path):
    reading = {"same_tokenizer": False, "texts": 10, "read": 7, "refused": {"empty": 1, "long": 2}}
    told = facts_of(tmp_path, LOGITS, reading=reading)["Read by the teacher"]
    assert told == "7 of 10 texts, with another tokenizer; 1 refused: empty; 2 refused: long"
    rows = [{"step": 1, "distill/refused": 2.0}, {"step": 2, "distill/refused": 3.0}]
    assert facts_of(tmp_path, ON_POLICY, rows=rows)["Refused"].startswith("5 completions")
    rows = [row | {"distill/inside_frac": 0.1 * row["step"]} for row in rows]
    # The mean of 10 % and 20 %.
    told = facts_of(tmp_path, DIVERGENCE, rows=rows)["Refused"]
    assert told.endswith(f"15{SPACE}% of the tokens inside a teacher's token")


# --- tables ----------------------------------------------------------------------------------


def test_kept_and_dropped_completions_add_up():
    corpus = {
        "candidates": 40,
        "kept": 10,
        "dropped": {"cut": 0, "wrong": 25, "duplicate": 4, "of_tomorrow": 1},
    }
    assert completions_table(Distillation(corpus=corpus)) == [
        Bar("kept", 10, 0.25),
        Bar("wrong answer", 25, 0.625),
        Bar("same text as an earlier one", 4, 0.1),
        Bar("of_tomorrow", 1, 0.025),
    ]
    assert completions_table(Distillation()) == []


def test_every_reason_to_drop_a_completion_has_words():
    corpus = {"candidates": 9, "kept": 0, "dropped": {reason.value: 1 for reason in Rejection}}
    labels = [bar.label for bar in completions_table(Distillation(corpus=corpus))]
    assert not set(labels) & {reason.value for reason in Rejection}
    assert len(set(labels)) == len(Rejection) + 1


def test_few_pass_rates_are_listed_and_many_put_together():
    few = [{"rate": 0.0, "problems": 1}, {"rate": 0.5, "problems": 3}]
    assert pass_rate_table(Distillation(corpus={"pass_rates": few})) == [
        Bar(f"0{SPACE}%", 1, 0.25),
        Bar(f"50{SPACE}%", 3, 0.75),
    ]
    # 0, 1/32, ..., 1 with one problem each: tenths have 4 or 3 of them, the last one 1 as well.
    many = [{"rate": k / 32, "problems": 1} for k in range(33)]
    table = pass_rate_table(Distillation(corpus={"pass_rates": many}))
    assert [bar.count for bar in table] == [4, 3, 3, 3, 3, 4, 3, 3, 3, 4]
    assert table[0].label == f"0 to 10{SPACE}%"
    assert table[-1].label == f"90 to 100{SPACE}%"
    assert sum(bar.share for bar in table) == pytest.approx(1)


# --- curves and files ------------------------------------------------------------------------


def test_charts_are_those_that_were_measured(tmp_path: Path):
    rows = [{"step": s, "loss": 2.0, "entropy_nats": 1.0} for s in (1, 2)]
    found = distillation(tmp_path, TRACES, rows=rows)
    assert [chart.title for chart in distill_charts(found)] == ["Loss", "Entropy"]
    rows = [row | {"distill/divergence_nats": 0.5} for row in rows]
    assert distill_charts(replace(found, rows=rows))[0].title == "Divergence from the teacher"


def test_the_teacher_is_a_level_beside_the_students_accuracy(tmp_path: Path):
    result = {
        "accuracy_teacher": accuracy(0.8, 0.7, 0.9),
        "accuracy_after": accuracy(0.5, 0.4, 0.6),
        "steps": 2,
    }
    rows = [{"step": s, "loss": 2.0} for s in (1, 2)]
    (chart, _) = distill_charts(distillation(tmp_path, TRACES, rows=rows, result=result))
    assert chart.curves == {"teacher, held-back": [(1, 0.8), (2, 0.8)]}
    assert [(one.step, one.value) for one in chart.intervals] == [(2, 0.5)]


def test_a_loop_has_the_charts_of_reinforcement_too(tmp_path: Path):
    row = {"step": 1, "reward/mean": 0.5, "groups/kept": 1, "groups/constant": 1}
    row |= {"distill/reverse_kl_nats": 0.5, "distill/inside_frac": 0.1, "ungraded/timeout": 2}
    charts = {c.title: c for c in distill_charts(distillation(tmp_path, ON_POLICY, rows=[row]))}
    assert {"Divergence from the teacher", "Unread", "Reward"} <= set(charts)
    # 2 of 2 prompts x 4 completions.
    left_out = charts["Left out, cut short or unanswered"].curves
    assert left_out["could not be graded"] == [(1, 0.25)]
    # The same without the settings, but for what takes them.
    assert "Reward" in [chart.title for chart in distill_charts(Distillation(rows=[row]))]


def test_a_folder_is_read_as_far_as_it_is_there(tmp_path: Path):
    notes: list[str] = []
    assert not read_distillation(RunFolder(tmp_path), notes).begun
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "corpus.json").write_text(json.dumps({"kept": 3}))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    (tmp_path / "logits").mkdir()
    (tmp_path / "logits" / "logits.json").write_text('{"totals": {}}')
    found = read_distillation(RunFolder(tmp_path), notes)
    assert found.begun
    assert (found.corpus, found.rows) == ({"kept": 3}, [{"step": 1, "loss": 2.0}])
    assert found.logits == {"totals": {}}
    assert notes == []


def test_the_answers_of_another_run_are_read_from_there(tmp_path: Path):
    found = distillation(tmp_path, STORE)
    assert found.pipeline is not None
    RunFolder(tmp_path).config.write_text((tmp_path / "c.toml").read_text())
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "logits.json").write_text('{"totals": {"num_tokens": 0}}')
    notes: list[str] = []
    assert read_distillation(RunFolder(tmp_path), notes).logits["totals"] == {"num_tokens": 0}
