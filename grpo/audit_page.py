"""The disagreements of an audit as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cotree.grpo.page_templates import page_template
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
    page = page_template(Path(__file__).with_name("audit.html.jinja")).render(
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
