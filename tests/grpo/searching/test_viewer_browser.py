"""Tests for grpo/searching/viewer.py in a browser: what is seen, opened, searched, and never run."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cotree.grpo.searching.viewer import write_viewer
from cotree.rewards.types import Verdict
from cotree.search.tree import ROOT, Tree
from cotree.search.tree_json import Choice, SearchRecord
from cotree.search.types import Job, Reply, Step

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NASTY = "</script><script>document.body.dataset.owned=1</script><img src=x onerror=document.body.dataset.owned=1>"

pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason="no chromium on the PATH to look at the page with"
)


def step(text: str, end: str = "boundary", verdict: Verdict = Verdict.UNCHECKED) -> Step:
    return Step(tuple(text.encode()), (-0.5,) * len(text.encode()), text, end, verdict, "a reason")


def searched(search: int, word: str, question: str = "How many?") -> SearchRecord:
    """0 -> 1 -> 2 -> 3 (chosen);  1 -> 4 (refuted) -> 5;  0 -> 6."""
    tree = Tree()
    right = (step(f"{word} a\n"), step("b\n", verdict=Verdict.VERIFIED), step("c", "stop"))
    tree.grow(Job(0, ROOT, 0, "rollout"), Reply(0, right, word, 1.0))
    wrong = (step("d\n", verdict=Verdict.REFUTED), step("e", "length"))
    tree.grow(Job(1, 1, 0, "rollout"), Reply(1, wrong, None, 0.0))
    tree.grow(Job(2, ROOT, 1, "rollout"), Reply(2, (step("f", "stop"),), "8", 0.5))
    for node, visits, value_sum in ((0, 3, 1.5), (1, 2, 1.0), (3, 1, 1.0), (6, 1, 0.5)):
        tree[node].visits, tree[node].value_sum = visits, value_sum
    history = (Choice(0, None), Choice(9, 3))
    return SearchRecord(
        search, f"toy/{search}", question, 5, "puct", tree, 3, history, {"spent": 9}
    )


RECORDS = [
    searched(10, "apple"),
    searched(11, "pear", "How much?"),
    searched(12, NASTY, NASTY),
]
"""The second is wrong."""


@dataclass
class Seen:
    """A page after its script ran."""

    dom: str
    console: list[str]
    built: list[int]
    """Nodes that have elements, in the order of the page."""
    rows: list[int]
    """Of these, nodes that are not hidden."""
    states: dict[int, dict[str, str | None]]
    """Attributes of the built ones."""

    def value(self, name: str) -> str | None:
        found = re.search(rf'data-{name}="([^"]*)"', self.dom)
        return found[1] if found else None


class Items(HTMLParser):
    """Items of the tree, and whether a list around them is hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: list[bool] = []
        self.states: dict[int, dict[str, str | None]] = {}
        self.rows: list[int] = []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "ul":
            self.hidden.append("hidden" in found)
        elif found.get("role") == "treeitem":
            node = int(found["data-node"])
            self.states[node] = found
            if not any(self.hidden):
                self.rows.append(node)

    def handle_endtag(self, tag):
        if tag == "ul":
            self.hidden.pop()


class Browser:
    """Looks at one page, or at a copy of it that allows one script of the test's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.page = folder / "trees.html"
        write_viewer(
            self.page,
            RECORDS,
            title="A search",
            facts={},
            correct=lambda record: record.search != 11,
        )

    def look(self, fragment: str = "", page: Path | None = None) -> Seen:
        command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
        command += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
        command += ["--disable-component-update", f"--user-data-dir={self.folder / 'profile'}"]
        command += ["--enable-logging=stderr", "--dump-dom"]
        done = subprocess.run(
            [*command, (page or self.page).as_uri() + fragment],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        items = Items()
        items.feed(done.stdout)
        return Seen(
            done.stdout,
            [line for line in done.stderr.splitlines() if ":CONSOLE" in line],
            list(items.states),
            items.rows,
            items.states,
        )

    def after(self, script: str) -> dict:
        """What a script found out: it fills `found`, with `rows()` and `press(key)` to help it."""
        helpers = """
            const found = {};
            const $ = (id) => document.getElementById(id);
            const tree = $("tree");
            const rows = () => [...tree.querySelectorAll("[role=treeitem]")]
              .filter((item) => item.checkVisibility()).map((item) => Number(item.dataset.node));
            const at = () => Number(document.activeElement.dataset.node);
            const press = (...keys) => { for (const key of keys) document.activeElement
              .dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true })); return at(); };
            const row = (node) => $(`row-${node}`);
        """
        page = re.sub(r"<meta http-equiv[^>]*>", "", self.page.read_text())
        end = "; document.body.dataset.found = encodeURIComponent(JSON.stringify(found));"
        copy = self.folder / "copy.html"
        copy.write_text(
            page.replace("</body>", f"<script>{{{helpers}{script}{end}}}</script></body>")
        )
        seen = self.look(page=copy)
        assert seen.console == []
        quoted = seen.value("found")
        assert quoted is not None
        return json.loads(
            re.sub("%([0-9A-F]{2})", lambda hexadecimal: chr(int(hexadecimal[1], 16)), quoted)
        )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    yield Browser(tmp_path_factory.mktemp("browser"))


def test_the_path_to_the_chosen_answer_is_open_at_first(browser: Browser):
    seen = browser.look()
    assert seen.console == []
    # All of the path, and the siblings beside it; the refuted step is closed.
    assert seen.rows == [0, 1, 2, 3, 4, 6]
    assert seen.built == seen.rows  # what is closed has no elements yet
    assert {node for node, found in seen.states.items() if "on-path" in (found.get("class") or "")}
    assert {node: found.get("aria-expanded") for node, found in seen.states.items()} == {
        0: "true",
        1: "true",
        2: "true",
        3: None,
        4: "false",
        6: None,
    }
    assert [node for node, found in seen.states.items() if found["aria-selected"] == "true"] == [3]
    assert [int(found["aria-level"] or 0) for found in seen.states.values()] == [1, 2, 3, 4, 3, 2]
    assert seen.states[4]["class"] == "refuted"
    assert "★ chosen" in seen.dom
    assert "depth 4 ·" not in seen.dom
    assert "7 nodes · depth 3 · 2 finished · 1 cut · 1 refuted step" in seen.dom


def test_the_address_opens_a_problem_with_all_steps(browser: Browser):
    seen = browser.look("#problem=2&expand=all")
    assert seen.console == []
    assert seen.rows == [0, 1, 2, 3, 4, 5, 6]
    assert "pear a" in seen.dom.split('id="tree"')[1].split("</main>")[0]
    assert browser.look("#problem=2&expand=none").rows == [0, 1, 6]


def test_the_address_opens_a_step(browser: Browser):
    seen = browser.look("#problem=1&node=5")
    assert seen.rows == [0, 1, 2, 3, 4, 5, 6]
    assert seen.states[5]["aria-selected"] == "true"
    # An address that leads nowhere is none.
    assert browser.look("#problem=99&node=77&expand=?").rows == [0, 1, 2, 3, 4, 6]


def test_what_a_model_wrote_is_shown_and_not_run(browser: Browser):
    seen = browser.look("#problem=3&expand=all")
    assert seen.console == []
    assert seen.value("owned") is None
    assert "<img" not in seen.dom
    assert seen.dom.count("&lt;/script&gt;&lt;script&gt;document.body.dataset.owned=1") >= 4


def test_only_the_script_of_the_page_is_allowed(browser: Browser):
    # One more script in the page, and one changed: neither runs, and the console says why.
    copy = browser.folder / "changed.html"
    page = browser.page.read_text()
    more = "<script>document.body.dataset.owned=1</script></body>"
    copy.write_text(page.replace("</body>", more).replace('"use strict";', '"use strict"; '))
    seen = browser.look(page=copy)
    assert seen.rows == []
    assert seen.value("owned") is None
    assert len(seen.console) == 2
    assert all("Content Security Policy" in line for line in seen.console)


def test_buttons_and_clicks_open_and_close(browser: Browser):
    found = browser.after("""
        found.first = rows();
        $("expand-all").click(); found.all = rows();
        $("collapse-all").click(); found.none = rows();
        found.selected = tree.querySelector("[aria-selected=true]").dataset.node;
        $("show-best").click(); found.best = rows();
        row(4).click(); found.opened = rows(); row(4).click(); found.closed = rows();
        row(1).click(); found.parent = rows();
        $("box-5").dispatchEvent(new MouseEvent("click", { bubbles: true })); found.box = [at(), rows()];
    """)
    everything, best = [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 6]
    assert found == {
        "first": best,
        "all": everything,
        "none": [0, 1, 6],
        "selected": "1",  # the chosen one was; it is hidden in its first step
        "best": best,
        "opened": everything,
        "closed": best,
        "parent": [0, 1, 6],
        "box": [5, everything],
    }


def test_keys_move_open_and_close(browser: Browser):
    found = browser.after("""
        tree.querySelector("[tabindex='0']").focus();
        found.start = at();
        found.down = press("ArrowDown");
        found.right = [press("ArrowRight"), press("ArrowRight"), press("ArrowRight")];
        found.left = [press("ArrowLeft"), press("ArrowLeft"), press("ArrowLeft"), press("ArrowLeft")];
        found.closed = rows();
        found.enter = [press("Enter"), rows()];
        found.space = [press(" "), rows()];
        found.ends = [press("End"), press("ArrowDown"), press("Home"), press("ArrowUp"), press("ArrowLeft")];
        found.other = press("x");
        found.tabs = tree.querySelectorAll("[tabindex='0']").length;
        found.details = tree.querySelectorAll(".details").length;
    """)
    assert found == {
        "start": 3,
        "down": 4,
        "right": [4, 5, 5],  # open, to the child, nothing
        "left": [4, 4, 1, 1],  # to the parent, close, to the parent, close
        "closed": [0, 1, 6],
        "enter": [1, [0, 1, 2, 3, 4, 6]],
        "space": [1, [0, 1, 6]],
        "ends": [6, 6, 0, 0, 0],
        "other": 0,
        "tabs": 1,
        "details": 1,
    }


def test_problems_are_searched_and_chosen(browser: Browser):
    found = browser.after("""
        const listed = () => [...document.querySelectorAll("#problems li")].map((li) => !li.hidden);
        const type = (text) => { $("search").value = text; $("search").dispatchEvent(new Event("input")); };
        const pick = (name) => { $("only").value = name; $("only").dispatchEvent(new Event("change")); };
        type("how MUCH"); found.question = listed();
        type("toy/10"); found.id = listed();
        type("pear"); found.answer = listed();
        type("no such thing"); found.nothing = [listed(), $("none").hidden];
        type(""); pick("wrong"); found.wrong = listed();
        pick("right"); found.right = listed();
        pick("all"); found.all = [listed(), $("none").hidden];
        document.querySelectorAll("#problems button")[1].click();
        window.dispatchEvent(new HashChangeEvent("hashchange"));
        found.chosen = [$("name").textContent, $("verdict").textContent, location.hash];
        found.current = [...document.querySelectorAll("[aria-current=true] strong")].map((e) => e.textContent);
    """)
    assert found == {
        "question": [False, True, False],
        "id": [True, False, False],
        "answer": [False, True, False],
        "nothing": [[False] * 3, False],
        "wrong": [False, True, False],
        "right": [True, False, True],
        "all": [[True] * 3, True],
        "chosen": ["toy/11", "✗ wrong", "#problem=2"],
        "current": ["toy/11"],
    }


def test_the_text_of_a_step_is_kept_to_the_character(browser: Browser):
    found = browser.after("""
        found.text = row(1).querySelector(".text").textContent;
        found.styles = [".text", ".text > .tail"].map((one) => getComputedStyle(row(1).querySelector(one)).whiteSpaceCollapse);
        found.details = tree.querySelector(".details").textContent;
        found.reason = row(4).querySelector(".reason").textContent;
        found.marks = [1, 2, 4].map((node) => row(node).querySelector(".mark").getAttribute("aria-label"));
        found.value = [row(1).querySelector(".q").textContent, row(1).querySelector(".fill").style.width];
        found.unvisited = [row(2).querySelector(".q").textContent, row(2).querySelector(".bar").className];
    """)
    assert found["text"] == "apple a\n"
    assert found["styles"][0] == "preserve"
    assert "node 3 · depth 3" in found["details"]
    assert found["reason"] == "a reason"
    assert [mark.split()[0] for mark in found["marks"]] == ["unchecked:", "verified", "refuted"]
    assert found["value"] == ["Q 0.50", "50%"]  # 1 / 2
    assert found["unvisited"] == ["Q –", "bar empty"]
