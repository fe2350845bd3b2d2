"""`cotree search` from the command line, on a real engine: killed, resumed, compared, exported."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from smoke_pipeline import cotree, finish
from tiny_models import write_character_tokenizer, write_tiny_model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

NUM_PROBLEMS = 24
BUDGET = 300
COMMON = (
    "--task", "arithmetic", "--limit", str(NUM_PROBLEMS), "--budget-tokens", str(BUDGET),
    "--max-tokens", "40", "--steps", "tokens:8", "--threads", "1",
    "--set", "engines.max_num_seqs=8", "--set", "engines.dtype=float32",
)  # fmt: skip
PUCT = (*COMMON, "--strategy", "puct", "--width", "3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, and two searches with it, done without interruption."""
    folder = tmp_path_factory.mktemp("search")
    size = write_character_tokenizer(folder / "model")
    write_tiny_model(folder / "model", seed=0, vocab_size=-(-size // 32) * 32)
    finish(cotree(folder, "search", "model", *PUCT, "--output", "whole"), code=0)
    beam = (*COMMON, "--strategy", "beam:4", "--output", "beam")
    finish(cotree(folder, "search", "model", *beam), code=0)
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_no_search_spends_more_than_its_budget(folder: Path):
    for name in ("whole", "beam"):
        events = lines(folder / name / "events_arithmetic.jsonl")
        generated: dict[int, int] = {}
        for event in events:
            search = event["name"][0]
            generated[search] = generated.get(search, 0) + len(event["tokens"])
        records = {one["search"]: one for one in lines(folder / name / "trees_arithmetic.jsonl")}
        assert sorted(records) == list(range(NUM_PROBLEMS))
        for number, record in records.items():
            assert record["tokens"]["spent"] == generated[number] <= BUDGET
            kept = sum(
                len(n["step"]["token_ids"]) * n["count"] for n in record["tree"]["nodes"][1:]
            )
            assert kept + record["tokens"]["lost"] == generated[number]
    # Steps of eight tokens continue prefixes, which the engine has in its cache.
    assert any(event["cached"] > 0 for event in lines(folder / "beam" / "events_arithmetic.jsonl"))


def test_it_leaves_results_counts_and_a_page_of_trees(folder: Path):
    found = json.loads((folder / "whole" / "search.json").read_text())["benchmarks"]["arithmetic"]
    assert found["n"] == NUM_PROBLEMS
    assert found["search"]["searches"] == NUM_PROBLEMS
    assert found["search"]["tokens"]["spent"] <= NUM_PROBLEMS * BUDGET
    assert "puct" in (folder / "whole" / "trees_arithmetic.html").read_text()


def test_a_killed_search_ends_in_the_same_trees_and_pays_for_no_token_twice(folder: Path):
    output = folder / "killed"
    process = cotree(folder, "search", "model", *PUCT, "--output", "killed")
    events = output / "events_arithmetic.jsonl"
    deadline = time.monotonic() + 200
    while not events.exists() or events.read_bytes().count(b"\n") < 40:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing was generated in time"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = events.read_bytes()
    kept = before[: before.rfind(b"\n") + 1]
    whole = (folder / "whole" / "events_arithmetic.jsonl").read_bytes()
    assert kept.count(b"\n") < whole.count(b"\n"), "it was killed too late to show anything"

    resumed = ("--output", "killed", "--resume")
    told = finish(cotree(folder, "search", "model", *PUCT, *resumed), code=0)
    assert f"{kept.count(bytes([10])):,} answers of engines are in the log" in told
    assert events.read_bytes().startswith(kept)
    assert events.read_bytes().count(b"\n") == whole.count(b"\n")
    told = finish(cotree(folder, "tree", "diff", "whole", "killed"), code=0)
    assert f"{NUM_PROBLEMS} trees are equal" in told


def test_a_run_is_replayed_from_its_log_without_an_engine(folder: Path):
    told = finish(cotree(folder, "tree", "replay", "whole"), code=0)
    assert f"{NUM_PROBLEMS} trees are equal" in told
    assert "starting the engine" not in told
    shutil.copytree(folder / "whole", folder / "cut")
    events = folder / "cut" / "events_arithmetic.jsonl"
    events.write_text("".join(events.read_text().splitlines(keepends=True)[:-5]))
    told = finish(cotree(folder, "tree", "replay", "cut"), code=2)
    assert "the log lacks" in told


def test_other_settings_are_refused_in_a_used_folder(folder: Path):
    again = ("--output", "whole")
    assert "--resume" in finish(cotree(folder, "search", "model", *PUCT, *again), code=2)
    other = (*PUCT[:-1], "2", "--output", "whole", "--resume")
    assert "width" in finish(cotree(folder, "search", "model", *other), code=2)


def test_searches_are_compared_at_equal_tokens(folder: Path):
    told = finish(cotree(folder, "tree", "curves", "whole", "beam", "--output", "c.html"), code=0)
    assert "beam" in told
    assert (folder / "c.html").read_text().count("<svg") >= 1
    told = finish(cotree(folder, "tree", "diff", "whole", "beam"), code=1)
    assert "trees differ" in told


def test_what_is_found_is_exported(folder: Path):
    told = finish(
        cotree(
            folder, "tree", "export", "whole", "--traces", "t.jsonl", "--pairs", "p.jsonl",
            "--use-verdicts",
        ),
        code=0,
    )  # fmt: skip
    assert "t.jsonl: " in told
    assert (folder / "p.jsonl").exists()
    # The values of an adaptive search are biased, so they are no labels.
    told = finish(cotree(folder, "tree", "export", "whole", "--labels", "l.jsonl"), code=2)
    assert "puct" in told


def test_a_temperature_of_zero_leaves_nothing_to_search(folder: Path):
    told = finish(cotree(folder, "search", "model", *PUCT, "--temperature", "0"), code=2)
    assert "temperature 0" in told


def test_wrong_completions_are_labelled_and_no_token_is_paid_for_twice(folder: Path):
    asked = ("tree", "label", "whole", "--output", "e.jsonl", "--samples", "3", "--limit", "4")
    told = finish(cotree(folder, *asked), code=0)
    assert "e.jsonl: 4 completions" in told
    found, events = lines(folder / "e.jsonl"), folder / "e.jsonl.events"
    records = {one["search"]: one for one in lines(folder / "whole" / "trees_arithmetic.jsonl")}
    assert len({row["problem_id"] for row in found}) == 4
    for row in found:
        assert row["digest"] == records[row["search"]]["digest"]
        assert row["values"][0]["steps"] == 0
        assert {value["n"] for value in row["values"]} == {3}
        assert (row["first_error"] is None) == (not row["values"][0]["hard"])
    num_rollouts = 3 * sum(len(row["values"]) for row in found)
    generated = lines(events)
    assert len(generated) == num_rollouts
    drawn = {tuple(event["tokens"]) for event in generated}
    assert len(drawn) > num_rollouts / 2  # seeds differ

    before = (folder / "e.jsonl").read_bytes(), events.read_bytes()
    told = finish(cotree(folder, *asked), code=0)
    assert f"{num_rollouts} answers of engines are in the log" in told
    assert ((folder / "e.jsonl").read_bytes(), events.read_bytes()) == before
    told = finish(cotree(folder, *asked, "--budget-tokens", "39"), code=2)
    assert "--budget-tokens 39" in told
