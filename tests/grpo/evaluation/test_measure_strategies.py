"""Tests for grpo/evaluation/measure.py: strategies, from the command line and against a server."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_server import FakeServer, Reply, Seen, chat_completion, serving

from cotree.grpo.cli import main

NUM_PROBLEMS = 4


def hasty(seen: Seen) -> Reply:
    """Errs in two of three completions: the seed decides; a wrong sum is a false line."""
    text = seen.body["messages"][-1]["content"]
    left, right = map(int, re.findall(r"\d+", text)[:2])
    total = left + right + seen.body["seed"] % 3
    return chat_completion({"content": rf"{left} + {right} = {total}. So \boxed{{{total}}}"})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    rows = [{"question": f"{n} + 10?", "answer": f"#### {n + 10}"} for n in range(NUM_PROBLEMS)]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COTREE_DEBUG", raising=False)
    with serving() as fake:
        fake.respond = hasty
        yield fake


def evaluate(server: FakeServer, *more: str) -> int:
    where = ("--data", ".", "--server", server.url, "--output", "out")
    return main(["evaluate", "tiny", *where, "--benchmarks", "gsm8k", *more])


def test_a_strategy_selects_and_is_part_of_what_was_measured(server: FakeServer):
    how = ("--sampling", "policy", "--strategy", "resample:20")
    assert evaluate(server, *how) == 0
    results = json.loads(Path("out/results.json").read_text())
    found = results["cotree"]["gsm8k"]
    assert found["avg@k"]["value"] == 1.0  # twenty tries, and every mistake is refuted
    assert len(server.seen) > NUM_PROBLEMS
    assert found["total_tokens"] == 3 * len(server.seen)  # the server counts 3 a completion
    parts = results["configs"]["gsm8k"]["metadata"]["parts"]
    assert parts["sampler"]["strategy"] == "resample:20"
    assert "equal_tokens" not in results
    assert "each selected by resample:20" in Path("out/report.html").read_text()


def test_resuming_with_another_strategy_is_refused(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
):
    assert evaluate(server, "--sampling", "policy", "--strategy", "majority:2") == 0
    assert evaluate(server, "--sampling", "policy", "--strategy", "majority:3", "--resume") == 2
    assert "sampler.strategy" in capsys.readouterr().err


def test_a_strategy_over_greedy_completions_is_refused(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
):
    assert evaluate(server, "--strategy", "majority:4") == 2
    assert "at temperature 0 its completions are all the same" in capsys.readouterr().err
    assert server.seen == []


def test_four_samples_and_more_get_a_table_at_equal_tokens(server: FakeServer):
    assert evaluate(server, "--sampling", "policy", "-k", "4") == 0
    results = json.loads(Path("out/results.json").read_text())
    rows = results["equal_tokens"]["gsm8k"]["rows"]
    assert [(row["strategy"], row["multiple"]) for row in rows] == [
        (name, multiple)
        for multiple in (1, 2)
        for name in ("first", "majority", "vetoed-majority", "resample")
    ]
    first = rows[0]["accuracy"]["value"]
    assert first == pytest.approx(results["cotree"]["gsm8k"]["avg@k"]["value"])
    assert rows[6]["accuracy"]["value"] == pytest.approx(rows[6]["oracle"])  # the veto is perfect
    assert "gsm8k: strategies at equal generated tokens" in Path("out/report.html").read_text()
