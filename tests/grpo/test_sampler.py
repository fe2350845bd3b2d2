"""Tests for grpo/sampler.py: what is refused before an actor is started."""

import json
from pathlib import Path

import pytest

from cotree.grpo.config import Pipeline
from cotree.grpo.config_file import ConfigError
from cotree.grpo.sampler import Sampler

PLUGIN = """
from cotree.rewards.types import checked_by
def check(problem):
    if not problem.reference.isdigit(): raise ValueError("not a number")
@checked_by(check)
def digits(completion, reference): return float(completion == reference)
def tested(completion, tests): return 1.0
"""


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("digits", r"1 of 2 problems cannot be graded:\n  rows/test/1, reference 'x': "),
        ("tested", r"needs 'tests', which is no option, and 2 of 2 problems have no such column"),
    ],
)
def test_unfit_rows_are_refused_before_anything_starts(
    tmp_path: Path, tiny_model: Path, function: str, says: str
):
    rows = [{"question": "1+1", "answer": answer} for answer in ("2", "x")]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "mine.py").write_text(PLUGIN)
    source = str(tmp_path / "rows.jsonl")
    pipeline = Pipeline.model_validate(
        {
            "output_dir": "unused",
            "model": {"type": "pretrained", "path": str(tiny_model)},
            "task": {"type": "rows", "train": source, "test": source},
            "rewards": [{"name": f"{tmp_path}/mine.py:{function}"}],
        }
    )
    with pytest.raises(ConfigError, match=says):
        Sampler(pipeline, str(tiny_model), gpu_share=0.0, record_routes=False)
