"""The disagreements of an audit as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from cotree.rewards.audit import VERDICTS, SecondOpinion, agreement, disagreement_share
from cotree.rewards.extract import extract


def write_audit_page(
    target: Path, opinions: Sequence[SecondOpinion], *, against: str, source: Path
) -> None:
    """Writes the agreement table and every disagreement, completions in full.

    Args:
        target: the file; replaced when it exists.
        opinions: all samples, those with equal verdicts too.
        against: name of the second grader.
        source: where the samples come from.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("audit.html.jinja").render(
        against=against,
        source=str(source),
        verdicts=VERDICTS,
        counts=agreement(opinions),
        total=len(opinions),
        share=disagreement_share(opinions),
        rows=[
            {
                "sample": row.sample,
                "answer": extract(row.sample.completion).answer,
                "verdict": row.verdict,
                "reason": row.second.reason,
            }
            for row in opinions
            if row.disagrees
        ],
    )
    # Completions are a model's: a lone surrogate in one must not lose the page.
    target.write_text(page, encoding="utf-8", errors="backslashreplace")
