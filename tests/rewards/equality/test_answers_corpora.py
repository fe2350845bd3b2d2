"""Bars on data sets that are not part of the project: set COTREE_DATA to the folder they lie in."""

import json
import os
import random
import statistics
import time
from pathlib import Path

import pytest

from cotree.rewards.equality.answers import Outcome, check_reference, compare
from cotree.rewards.equality.exact import rational
from cotree.rewards.equality.parser import parse
from cotree.rewards.equality.text import clean
from cotree.rewards.math_answer import math_equal
from cotree.rewards.types import Problem

PAIRS = 900


def rows(pattern: str) -> list[dict[str, object]]:
    folder = os.environ.get("COTREE_DATA")
    if not folder:
        pytest.skip("set COTREE_DATA to a folder that holds the data sets as .jsonl files")
    files = sorted(Path(folder).glob(pattern))
    assert files, f"no {pattern} in {folder}"
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def references(name: str) -> list[str]:
    if name == "gsm8k":
        found = [str(row["answer"]).rpartition("####")[2].strip() for row in rows("gsm8k/*.jsonl")]
    else:
        found = [str(row["answer"]) for row in rows("math500/test.jsonl")]
    return found


@pytest.mark.parametrize("name", ["gsm8k", "math500"])
def test_every_reference_equals_itself(name: str):
    for reference in references(name):
        check_reference(reference)
        assert math_equal(rf"\boxed{{{reference}}}", Problem("p", "", reference, "t")).value == 1.0


@pytest.mark.parametrize("name", ["gsm8k", "math500"])
def test_different_references_are_different(name: str):
    found = references(name)
    rng = random.Random(0)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < PAIRS:
        one, other = rng.choice(found), rng.choice(found)
        values = rational(parse(one)), rational(parse(other))
        if clean(one) != clean(other) and (None in values or values[0] != values[1]):
            pairs.append((one, other))
    equal = [pair for pair in pairs if compare(*pair).outcome is Outcome.EQUAL]
    # A unit may be dropped: 120 degrees and 120 are equal by the rules.
    assert [pair for pair in equal if r"\circ" not in "".join(pair)] == []


@pytest.fixture(scope="module")
def graded() -> list[tuple[dict[str, object], bool, float]]:
    found: list[tuple[dict[str, object], bool, float]] = []
    for row in rows("graders/public.jsonl"):
        answer = str(row["pred"])
        completion = rf"\boxed{{{answer}}}" if row["kind"] == "answer" else answer
        problem = Problem(str(row["id"]), "", str(row["gold"]), "t")
        start = time.perf_counter()
        value = math_equal(completion, problem, extraction="lenient").value
        found.append((row, value == 1.0, time.perf_counter() - start))
    return found


def test_public_cases_are_graded_as_people_grade_them(graded):
    clear = [(row, right) for row, right, _ in graded if not row["disputed"]]
    agree = [row["expected"] == right for row, right in clear]
    false_positives = [row["id"] for row, right in clear if right and not row["expected"]]
    assert sum(agree) / len(agree) >= 0.98
    assert len(false_positives) <= 0.01 * len(clear), false_positives


def test_no_public_case_takes_long(graded):
    assert max(seconds for _, _, seconds in graded) < 2.0
    assert statistics.median(seconds for _, _, seconds in graded) < 0.002
    calm = sorted(seconds for row, _, seconds in graded if "hang" not in str(row["tags"]))
    assert calm[int(0.99 * len(calm))] < 0.2
