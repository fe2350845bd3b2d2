"""Tests for grpo/evaluation/measure.py: the whole way from the command line, against a server.

The engine's own way is in tests/test_evaluate_end_to_end.py.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_server import FakeServer, Reply, Seen, chat_completion, serving

from cotree.grpo.cli import main

NUM_PROBLEMS = 8


def adder(seen: Seen) -> Reply:
    """Adds, boxes the sum of even problems, says that of odd ones, and errs on the last."""
    text = seen.body["messages"][-1]["content"]
    left, right = map(int, re.findall(r"\d+", text)[:2])
    total = left + right + (left == NUM_PROBLEMS - 1)
    said = rf"So \boxed{{{total}}}" if left % 2 == 0 else f"The answer is {total}."
    return chat_completion({"content": said, "reasoning_content": "Adding."})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    rows = [{"question": f"{n} + 10?", "answer": f"#### {n + 10}"} for n in range(NUM_PROBLEMS)]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COTREE_DEBUG", raising=False)
    with serving() as fake:
        fake.respond = adder
        yield fake


def evaluate(server: FakeServer, *more: str, model: str = "tiny", output: str = "out") -> int:
    where = ("--data", ".", "--server", server.url, "--output", output)
    how = ("--benchmarks", "gsm8k", "--sampling", "policy", "-k", "4")
    return main(["evaluate", model, *where, *how, *more])


def test_results_samples_page_and_json_say_the_same(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
):
    assert evaluate(server, "--json", "--parquet") == 0
    found = json.loads(capsys.readouterr().out)["gsm8k"]
    # 7 of 8 right; 4 of them in a box.
    assert found["avg@k"]["value"] == pytest.approx(7 / 8)
    assert found["strict"]["value"] == pytest.approx(4 / 8)
    assert (found["n"], found["k"], found["no_answer"], found["truncated"]) == (8, 4, 0, 0)
    assert found["pass@k"] == found["maj@k"] == found["avg@k"]  # equal completions
    results = json.loads(Path("out/results.json").read_text())
    assert results["cotree"]["gsm8k"] == found
    assert results["results"]["gsm8k"]["exact_match,flexible-extract"] == pytest.approx(7 / 8)
    rows = [json.loads(s) for s in Path("out/samples_gsm8k.jsonl").read_text().splitlines()]
    assert {row["doc"]["id"] for row in rows} == {f"gsm8k/{n}" for n in range(NUM_PROBLEMS)}
    assert rows[0]["resps"][0][0].startswith("<think>\nAdding.\n</think>")
    assert "18" in Path("out/report.html").read_text()
    assert Path("out/samples.parquet").stat().st_size > 0
    assert len(server.seen) == 4 * NUM_PROBLEMS


def test_an_answer_that_never_came_is_no_wrong_one_and_resume_asks_for_it_alone(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
):
    def broken(seen: Seen) -> Reply:
        if "5 + 10" in seen.body["messages"][-1]["content"]:
            return Reply(400, {"error": {"message": "the context is too short"}})
        return adder(seen)

    server.respond = broken
    one_by_one = ("--set", "server.concurrency=1")
    assert evaluate(server, *one_by_one) == 1
    error = capsys.readouterr().err
    assert "gsm8k/5" in error
    assert "the context is too short" in error
    assert not Path("out/results.json").exists()
    before = Path("out/samples_gsm8k.jsonl").read_text()
    assert before.count("\n") == 5  # problems 0 to 4

    server.respond = adder
    asked = len(server.seen)
    assert evaluate(server, *one_by_one, "--resume") == 0
    assert len(server.seen) - asked == 4 * (NUM_PROBLEMS - 5)
    assert Path("out/samples_gsm8k.jsonl").read_text().startswith(before)
    found = json.loads(Path("out/results.json").read_text())["cotree"]["gsm8k"]
    assert found["avg@k"]["value"] == pytest.approx(7 / 8)


def test_a_finished_evaluation_asks_for_nothing(server: FakeServer):
    assert evaluate(server) == 0
    asked = len(server.seen)
    assert evaluate(server, "--resume") == 0
    assert len(server.seen) == asked


def test_a_full_disk_loses_no_finished_problem(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
):
    assert evaluate(server, "--limit", "3") == 0
    Path("out/results.json").unlink()
    journal = Path("out/samples_gsm8k.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][:-40])  # the last write was cut short
    assert evaluate(server, "--limit", "3", "--resume") == 0
    assert "gsm8k: 2 of 3 problems are finished" in capsys.readouterr().err
    assert json.loads(Path("out/results.json").read_text())["cotree"]["gsm8k"]["n"] == 3


def test_two_servers_of_one_model_are_one_measurement(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
):
    assert evaluate(server) == 0
    with serving() as other:
        other.respond = adder
        other.models = Reply(200, {"data": [{"id": "large", "owned_by": "them"}]})
        assert evaluate(other, model="large", output="other") == 0
    capsys.readouterr()
    assert main(["compare", "out", "other", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["paired"]["difference"], found["paired"]["num_better"]) == (0.0, 0)


BENCHMARK = """
from cotree.grpo.evaluation.benchmark import Benchmark
from cotree.rewards.registry import Term


class Yes(Benchmark):
    name = "yes"

    def problem(self, row, place, index):
        return self.posed(index, row["question"], "yes")

    def term(self, strict_rule):
        return None if strict_rule else Term("grade.py:grade")
"""


def test_changed_graders_grade_the_same_samples_again(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
):
    Path("ours.py").write_text(BENCHMARK)
    Path("grade.py").write_text("def grade(completion):\n    return 0.0\n")
    Path("yes.jsonl").write_text('{"question": "1 + 10?"}\n{"question": "2 + 10?"}\n')
    arguments = ["evaluate", "tiny", "--benchmarks", "ours.py:Yes", "--data", "."]
    arguments += ["--server", server.url, "--output", "yes"]
    assert main(arguments) == 0
    asked = len(server.seen)

    Path("grade.py").write_text("def grade(completion):\n    return float('12' in completion)\n")
    assert main([*arguments, "--resume"]) == 2
    assert "grader.lenient.file" in capsys.readouterr().err
    assert main([*arguments, "--regrade", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["yes"]
    assert (found["n"], found["avg@k"]["value"], found["strict"]) == (2, 0.5, None)
    assert len(server.seen) == asked, "samples were drawn again"
    assert main([*arguments, "--resume"]) == 0
