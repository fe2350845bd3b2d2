"""Tests for grpo/searching/viewer.py in a browser: what is seen, opened and never run."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from cotree.grpo.searching.viewer import write_viewer
from cotree.rewards.types import Verdict
from cotree.search.tree import ROOT, Tree
from cotree.search.tree_json import Choice, SearchRecord
from cotree.search.types import Job, Reply, Step

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OWNED = "document.body.dataset.owned=1"
NASTY = f"</script><script>{OWNED}</script><img src=x onerror={OWNED}>"

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
        """What a script found out: it fills `found`, with the functions here to help it."""
        helpers = """
            const found = {};
            const $ = (id) => document.getElementById(id);
            const all = (selector) => [...document.querySelectorAll(selector)];
            const rows = () => all("#tree [role=treeitem]")
              .filter((item) => item.checkVisibility()).map((item) => Number(item.dataset.node));
            const row = (node) => $(`row-${node}`);
            const part = (node, selector) => row(node).querySelector(selector);
            const at = () => Number(document.activeElement.dataset.node);
            const press = (...keys) => keys.map((key) => {
              const event = new KeyboardEvent("keydown", { key, bubbles: true });
              document.activeElement.dispatchEvent(event);
              return at();
            });
            const change = (id, value) => {
              $(id).value = value;
              for (const name of ["input", "change"]) $(id).dispatchEvent(new Event(name));
              return all("#problems li").map((item) => !item.hidden);
            };
            const moved = () => window.dispatchEvent(new HashChangeEvent("hashchange"));
            const visit = (address) => { location.hash = address; moved(); return rows(); };
        """
        page = re.sub(r"<meta http-equiv[^>]*>", "", self.page.read_text())
        end = "document.body.dataset.found = encodeURIComponent(JSON.stringify(found));"
        copy = self.folder / "copy.html"
        script = f"<script>{{{helpers}{script}{end}}}</script></body>"
        copy.write_text(page.replace("</body>", script))
        seen = self.look(page=copy)
        assert seen.console == []
        return json.loads(unquote(seen.value("found") or ""))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    return Browser(tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def played(browser: Browser) -> dict:
    """What one visit of the page found out, for several tests: starting a browser takes seconds."""
    return browser.after("".join(SCRIPTS))


# --- the page as it is


def test_the_path_to_the_chosen_answer_is_open_at_first(browser: Browser):
    seen = browser.look()
    assert seen.console == []
    # All of the path, and the siblings beside it; the refuted step is closed.
    assert seen.rows == BEST
    assert list(seen.states) == seen.rows  # what is closed has no elements yet
    on_path = [node for node, found in seen.states.items() if found.get("class") == "on-path"]
    assert on_path == [0, 1, 2, 3]
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
    assert seen.dom.count("★ chosen</span>") == 1
    assert "7 nodes · depth 3 · 2 finished · 1 cut · 1 refuted step ·" in seen.dom


def test_what_a_model_wrote_is_shown_and_not_run(browser: Browser):
    seen = browser.look("#problem=3&expand=all")
    assert seen.console == []
    assert seen.rows == EVERYTHING
    assert seen.value("owned") is None
    assert "<img" not in seen.dom
    assert seen.dom.count(f"&lt;/script&gt;&lt;script&gt;{OWNED}") >= 4


def test_only_the_script_of_the_page_is_allowed(browser: Browser):
    # One more script in the page, and one changed: neither runs, and the console says why.
    copy = browser.folder / "changed.html"
    page = browser.page.read_text()
    more = f"<script>{OWNED}</script></body>"
    copy.write_text(page.replace("</body>", more).replace('"use strict";', '"use strict"; '))
    seen = browser.look(page=copy)
    assert seen.rows == []
    assert seen.value("owned") is None
    assert len(seen.console) == 2
    assert all("Content Security Policy" in line for line in seen.console)


# --- one visit of the page: each part says what its script found

EVERYTHING, BEST, CLOSED = [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 6], [0, 1, 6]

SCRIPTS = [
    """
    found.addresses = ["#problem=2&expand=all", "#problem=2&expand=none", "#problem=1&node=5",
      "#problem=99&node=77&expand=?"].map((address) => [visit(address), $("name").textContent]);
    visit("#problem=1&node=5");
    found.step = [at(), document.activeElement.getAttribute("aria-selected")];
    """,
    """
    found.clicks = { first: visit("#problem=1") };
    $("expand-all").click(); found.clicks.all = rows();
    $("collapse-all").click(); found.clicks.none = rows();
    found.clicks.selected = all("[aria-selected=true]").map((item) => item.dataset.node);
    $("show-best").click(); found.clicks.best = rows();
    row(4).click(); found.clicks.opened = rows();
    row(4).click(); found.clicks.closed = rows();
    row(1).click(); found.clicks.parent = rows();
    $("box-5").dispatchEvent(new MouseEvent("click", { bubbles: true }));
    found.clicks.box = [at(), rows()];
    """,
    """
    visit("#problem=1");
    document.querySelector("#tree [tabindex='0']").focus();
    found.keys = { start: at(), down: press("ArrowDown") };
    found.keys.right = press("ArrowRight", "ArrowRight", "ArrowRight");
    found.keys.left = press("ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowLeft");
    found.keys.closed = rows();
    found.keys.enter = [press("Enter"), rows()];
    found.keys.space = [press(" "), rows()];
    found.keys.ends = press("End", "ArrowDown", "Home", "ArrowUp", "ArrowLeft");
    found.keys.other = press("x", "toString");
    found.keys.tabs = all("#tree [tabindex='0']").length;
    found.keys.details = all(".details").length;
    """,
    """
    found.search = Object.fromEntries(["how MUCH", "toy/10", "pear", "no such thing"].map(
      (text) => [text, [change("search", text), $("none").hidden]]));
    change("search", "");
    found.only = Object.fromEntries(["wrong", "right", "ungraded", "all"].map(
      (name) => [name, change("only", name)]));
    all("#problems button")[1].click(); moved();
    found.chosen = [$("name").textContent, $("verdict").textContent, location.hash,
      ...all("[aria-current=true] strong").map((name) => name.textContent)];
    """,
    """
    visit("#problem=1");
    found.words = {
      text: part(1, ".text").textContent,
      style: getComputedStyle(part(1, ".text")).whiteSpace,
      details: all(".details")[0].textContent,
      reason: part(4, ".reason").textContent,
      marks: [1, 2, 4].map((node) => part(node, ".mark").getAttribute("aria-label")),
      tooltip: part(2, ".mark").title,
      value: [part(1, ".q").textContent, part(1, ".fill").style.width],
      unvisited: [part(2, ".q").textContent, part(2, ".bar").className],
      changes: all("#changes li").map((item) => item.textContent),
      widths: [1, 6].map((node) => Math.round($(`box-${node}`).getAttribute("width"))),
    };
    """,
]


def test_an_address_opens_a_problem_and_a_step(played: dict):
    assert played["addresses"] == [
        [EVERYTHING, "toy/11"],
        [CLOSED, "toy/11"],
        [EVERYTHING, "toy/10"],  # its refuted step is opened to show the one after it
        [BEST, "toy/12"],  # there are fewer problems and steps, so: the last, as usual
    ]
    assert played["step"] == [5, "true"]


def test_buttons_and_clicks_open_and_close(played: dict):
    assert played["clicks"] == {
        "first": BEST,
        "all": EVERYTHING,
        "none": CLOSED,
        "selected": ["1"],  # the chosen one was; it is hidden in its first step
        "best": BEST,
        "opened": EVERYTHING,
        "closed": BEST,
        "parent": CLOSED,
        "box": [5, EVERYTHING],
    }


def test_keys_move_open_and_close(played: dict):
    assert played["keys"] == {
        "start": 3,
        "down": [4],
        "right": [4, 5, 5],  # open, to the child, nothing
        "left": [4, 4, 1, 1],  # to the parent, close, to the parent, close
        "closed": CLOSED,
        "enter": [[1], BEST],
        "space": [[1], CLOSED],
        "ends": [6, 6, 0, 0, 0],
        "other": [0, 0],
        "tabs": 1,
        "details": 1,
    }


def test_problems_are_searched_and_chosen(played: dict):
    assert played["search"] == {
        "how MUCH": [[False, True, False], True],
        "toy/10": [[True, False, False], True],
        "pear": [[False, True, False], True],  # its answer
        "no such thing": [[False] * 3, False],
    }
    assert played["only"] == {
        "wrong": [False, True, False],
        "right": [True, False, True],
        "ungraded": [False] * 3,
        "all": [True] * 3,
    }
    assert played["chosen"] == ["toy/11", "✗ wrong", "#problem=2", "toy/11"]


def test_a_row_has_the_text_to_the_character_and_what_is_known(played: dict):
    words = played["words"]
    assert (words["text"], words["style"]) == ("apple a\n", "pre-wrap")
    assert words["details"].startswith("node 3 · depth 3 · unchecked")
    assert words["reason"] == "a reason"
    assert [mark.split()[0] for mark in words["marks"]] == ["unchecked:", "verified", "refuted"]
    assert words["tooltip"] == "verified by a rule: a reason"
    assert words["value"] == ["Q 0.50", "50%"]  # 1 / 2
    assert words["unvisited"] == ["Q –", "bar empty"]
    assert words["changes"] == [
        "after 0 tokens: no completion yet",
        "after 9 tokens: apple node 3",
    ]
    assert words["widths"] == [667, 333]  # 2 and 1 of 3 visits
