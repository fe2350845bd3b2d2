"""Finished searches as one self-contained page: each problem's tree, to be opened step by step."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from cotree.grpo.page_templates import page_template
from cotree.search.tree import Node
from cotree.search.tree_json import SearchRecord

MOST_RECORDS = 100
"""Searches on a page; the first ones."""
MOST_CHARACTERS = 16_000_000
"""Of the steps of all of them together; a browser must still open the page."""


def write_viewer(
    target: Path,
    records: Sequence[SearchRecord],
    *,
    title: str,
    facts: Mapping[str, str],
    correct: Callable[[SearchRecord], bool | None],
) -> None:
    """Writes the page. It makes no request, and all that a model wrote is text to it.

    The page's address opens a search and its tree in a given way: `#problem=3&expand=all` is the
    third search with all steps, `#problem=3&node=17` shows a step of it.

    Args:
        target: the file; replaced when it exists.
        records: in the order of the page.
        title: of the page.
        facts: label -> text of the header.
        correct: whether what the search settled on is right; None where nobody knows.
    """
    shown = list(_fitting(records))
    marks = [correct(record) for record in records]
    page = page_template(Path(__file__).with_name("viewer.html.jinja")).render(
        title=title,
        facts=facts,
        total=len(records),
        num_shown=len(shown),
        num_right=marks.count(True),
        num_wrong=marks.count(False),
        records=_in_script(
            [_shown(record, mark) for record, mark in zip(shown, marks, strict=False)]
        ),
        source_hash=source_hash,
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )
    scratch = target.with_name(f"{target.name}.tmp")
    # Steps are a model's: a lone surrogate in one must not lose the page.
    scratch.write_text(page, encoding="utf-8", errors="backslashreplace")
    scratch.replace(target)


def source_hash(script: str) -> str:
    """The only script that the page's policy allows, as a source of `script-src`.

    Source: W3C, Content Security Policy Level 3, sec. 2.3.1, `hash-source`.
    """
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _fitting(records: Sequence[SearchRecord]) -> Iterator[SearchRecord]:
    characters = 0
    for record in records[:MOST_RECORDS]:
        yield record
        characters += sum(len(node.step.text) for node in record.tree.nodes if node.step)
        if characters > MOST_CHARACTERS:
            return


def _in_script(value: object) -> Markup:
    """JSON for a script element, which no text in it can end."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return Markup(text)


def _shown(record: SearchRecord, correct: bool | None) -> dict[str, object]:
    """What the page's script knows of a search."""
    tree = record.tree
    return {
        "search": record.search,
        "id": record.problem_id,
        "question": record.question,
        "seed": record.seed,
        "strategy": record.strategy,
        "correct": correct,
        "best": record.best,
        "spent": tree.num_tokens,
        "ledger": dict(record.tokens),
        "history": _changes(record),
        "nodes": [_node(node) for node in tree.nodes],
    }


def _changes(record: SearchRecord) -> list[list[int | None]]:
    """[tokens, node] wherever what the strategy preferred changed."""
    changes: list[list[int | None]] = []
    for one in record.history:
        if not changes or changes[-1][1] != one.node:
            changes.append([one.num_tokens, one.node])
    return changes


def _node(node: Node) -> dict[str, object]:
    """Without what is absent or as usual, which keeps a page of many nodes small."""
    step = node.step
    fields: dict[str, object] = {
        "parent": node.parent,
        "visits": node.visits,
        "value": node.value,
        "prior": node.prior,
        "score": node.score,
        "answer": node.answer,
        "count": node.count if node.count > 1 else None,
        "restarts": node.restarts or None,
        "refuted": node.is_refuted or None,
    }
    if step is not None:
        fields |= {
            "text": step.text,
            "tokens": len(step.token_ids),
            "logprob": sum(step.logprobs) / len(step.logprobs) if step.logprobs else None,
            "end": None if step.end == "boundary" else step.end,
            "verdict": step.verdict.value,
            "reason": step.reason or None,
        }
    return {name: value for name, value in fields.items() if value is not None}
