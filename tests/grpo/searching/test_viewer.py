"""Tests for grpo/searching/viewer.py: what is in the page, and that a model's text is only text."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path

from pages import elements

from cotree.grpo.searching import viewer
from cotree.grpo.searching.viewer import MOST_RECORDS, source_hash, write_viewer
from cotree.rewards.types import Verdict
from cotree.search.tree import ROOT, Tree
from cotree.search.tree_json import Choice, SearchRecord
from cotree.search.types import Job, Reply, Step

NASTY = '</script><script>alert("x")</script><!--<script><img src=x onerror=alert(1)>\x00\x1b'


def step(text: str, end: str = "boundary", verdict: Verdict = Verdict.UNCHECKED) -> Step:
    reason = f"why {text}" if verdict is not Verdict.UNCHECKED else ""
    return Step((ord(text[0]), len(text)), (-0.5, -1.5), text, end, verdict, reason)


def searched(search: int = 0, question: str = "How many?", word: str = "one") -> SearchRecord:
    """A chosen completion of two steps, a refuted one, and a revision of that.

    0 -> 1 -> 2 (chosen);  0 -> 3 (refuted) -> 4 -> 5 (revision)
    """
    tree = Tree()
    good, bad = step(f"{word}\n", verdict=Verdict.VERIFIED), step("two\n", verdict=Verdict.REFUTED)
    tree.grow(Job(0, ROOT, 0, "rollout"), Reply(0, (good, step("so 7", "stop")), "7", 1.0))
    tree.grow(Job(1, ROOT, 1, "rollout"), Reply(1, (bad, step("so 8", "length")), None, 0.0))
    tree.grow(Job(2, 4, 0, "revise"), Reply(2, (step("anew", "stop"),), "9", 0.5))
    tree[1].visits, tree[1].value_sum, tree[1].prior, tree[1].count = 4, 3.0, 0.25, 2
    return SearchRecord(
        search=search,
        problem_id=f"toy/{search}",
        question=question,
        seed=5,
        strategy="puct",
        tree=tree,
        best=2,
        history=(Choice(0, None), Choice(4, 2), Choice(8, 2), Choice(10, 5), Choice(12, 2)),
        tokens={"spent": 12, "prompt_tokens": 40},
    )


def is_seven(record: SearchRecord) -> bool | None:
    return record.best is not None and record.tree[record.best].answer == "7"


def written(folder: Path, *records: SearchRecord, **options: object) -> str:
    target = folder / "trees.html"
    settings = {"title": "A search", "facts": {"Model": "tiny"}, "correct": is_seven} | options
    write_viewer(target, records, **settings)
    return target.read_text()


def text_of(page: str) -> str:
    body = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def scripts_of(page: str) -> tuple[str, str]:
    """The records and the program."""
    found = re.findall(r"<script[^>]*>(.*?)</script>", page, flags=re.DOTALL)
    assert len(found) == 2
    return found[0], found[1]


def shown(page: str) -> list[dict]:
    return json.loads(scripts_of(page)[0])


# --- what the page knows


def test_the_page_knows_each_search(tmp_path: Path):
    (found,) = shown(written(tmp_path, searched(3)))
    nodes = found.pop("nodes")
    assert found == {
        "search": 3,
        "id": "toy/3",
        "question": "How many?",
        "seed": 5,
        "strategy": "puct",
        "correct": True,
        "best": 2,
        "spent": 12,  # five steps of two tokens, the first drawn twice
        "ledger": {"spent": 12, "prompt_tokens": 40},
        "history": [[0, None], [4, 2], [10, 5], [12, 2]],  # where it changed
    }
    assert len(nodes) == 6


def test_the_page_knows_each_node(tmp_path: Path):
    nodes = shown(written(tmp_path, searched()))[0]["nodes"]
    assert nodes[0] == {"parent": -1, "visits": 0}
    assert nodes[1] == {
        "parent": 0,
        "visits": 4,
        "value": 0.75,  # 3 / 4
        "prior": 0.25,
        "count": 2,
        "text": "one\n",
        "tokens": 2,
        "logprob": -1.0,  # (-0.5 - 1.5) / 2
        "verdict": "verified",
        "reason": "why one\n",
    }
    assert nodes[2]["answer"] == "7"
    assert (nodes[2]["end"], nodes[4]["end"], nodes[3].get("end")) == ("stop", "length", None)
    assert [node.get("refuted", False) for node in nodes] == [False] * 3 + [True] * 2 + [False]
    assert [node.get("restarts", False) for node in nodes] == [False] * 5 + [True]


def test_the_header_has_the_facts_and_counts(tmp_path: Path):
    wrong, unknown = replace(searched(1), best=5), replace(searched(2), best=None)
    page = written(
        tmp_path,
        *(searched(), wrong, unknown),
        correct=lambda record: None if record.best is None else is_seven(record),
    )
    text = text_of(page)
    assert "A search Model tiny Searches 3: 1 right, 1 wrong, 1 not graded" in text
    assert [found["correct"] for found in shown(page)] == [True, False, None]
    ungraded = text_of(written(tmp_path, searched(), correct=lambda _: None))
    assert "Searches 1 The trees" in ungraded


def test_the_page_has_the_first_searches_and_says_so(tmp_path: Path):
    many = [searched(i) for i in range(MOST_RECORDS + 1)]
    page = written(tmp_path, *many)
    assert [found["search"] for found in shown(page)] == list(range(100))
    assert "the first 100 of 101 searches" in text_of(page)
    assert "101: 101 right" in text_of(page)
    assert "the first" not in text_of(written(tmp_path, *many[:-1])).replace("The first", "")


def test_a_page_stays_small_enough_to_open(tmp_path: Path):
    # The second search passes the limit, the third is left out.
    long = [searched(i, word="x" * (viewer.MOST_CHARACTERS // 2)) for i in range(3)]
    page = written(tmp_path, *long)
    assert len(shown(page)) == 2
    assert "the first 2 of 3 searches" in text_of(page)


def test_a_page_without_searches_says_so(tmp_path: Path):
    page = written(tmp_path)
    assert shown(page) == []
    assert "There is no search to show." in text_of(page)


# --- what a model wrote


def test_nothing_a_model_wrote_becomes_markup(tmp_path: Path):
    record = searched(question=NASTY, word=NASTY)
    record.tree[2].answer = NASTY
    record = replace(record, problem_id=NASTY, strategy=NASTY, tokens={NASTY: 1})
    page = written(tmp_path, record, title=NASTY, facts={NASTY: NASTY})
    tags = [tag for tag, _ in elements(page)]
    assert (tags.count("script"), tags.count("img")) == (2, 0)
    (found,) = shown(page)
    assert found["question"] == found["nodes"][2]["answer"] == NASTY
    assert found["nodes"][1]["text"] == f"{NASTY}\n"
    assert "<" not in scripts_of(page)[0]


def test_a_lone_surrogate_does_not_lose_the_page(tmp_path: Path):
    page = written(tmp_path, searched(word="half \ud83d"), title="half \ud83d")
    assert shown(page)[0]["nodes"][1]["text"] == "half \ud83d\n"


def test_the_program_writes_text_and_never_markup(tmp_path: Path):
    program = scripts_of(written(tmp_path, searched()))[1]
    assert "textContent" in program
    for name in ("HTML", "document.write", "eval", "Function(", "setTimeout", "javascript:"):
        assert name not in program.replace("createHTMLDocument", "")


def test_the_page_loads_nothing_and_runs_one_script(tmp_path: Path):
    page = written(tmp_path, searched())
    tags = elements(page)
    (policy,) = [found["content"] for _, found in tags if "http-equiv" in found]
    assert policy == (
        "default-src 'none'; style-src 'unsafe-inline'; "
        f"script-src '{source_hash(scripts_of(page)[1])}'; base-uri 'none'; form-action 'none'"
    )
    for tag, attributes in tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
    addresses = set(re.findall(r"https?:[^\"']*|url\([^)]*\)|@import", page))
    assert addresses == {"http://www.w3.org/2000/svg", "url(#hatching)"}


def test_the_hash_of_a_script_is_that_of_the_standard():
    # The example of the standard; also: printf "alert('Hello, world.');" |
    # openssl dgst -sha256 -binary | base64
    expected = "sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng="
    assert source_hash("alert('Hello, world.');") == expected


def test_ids_are_unique_and_labels_lead_somewhere(tmp_path: Path):
    page = written(tmp_path, searched())
    tags = elements(page)
    ids = [found["id"] for _, found in tags if "id" in found]
    assert len(ids) == len(set(ids))
    assert all(found["aria-labelledby"] in ids for _, found in tags if "aria-labelledby" in found)
    # The program finds elements by id.
    assert set(re.findall(r'find\("([a-z-]+)"\)', scripts_of(page)[1])) <= set(ids)
