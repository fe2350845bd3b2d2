"""Tests for grpo/checkpoint.py: recorded experts of groups that are not trained on yet."""

import base64
from dataclasses import replace
from pathlib import Path

from enumerable import group_of, rollout

from cotree.grpo.checkpoint import load_checkpoint, save_checkpoint
from cotree.grpo.types import Routes


def test_routes_of_pending_groups_survive_a_checkpoint(tmp_path: Path):
    # One completion with routes, of 3 tokens in one layer with 2 experts each, and one without.
    group = group_of("a", rollout(1.0, text="AB"), rollout(0.0, text="A"), prompt=(1, 2))
    first, second = group.rollouts
    ids = base64.b64encode(b"\x00\x00\x01\x00\xff\x7f\x02\x00\x03\x00\x04\x00").decode()
    recorded = replace(first.completion, routes=Routes(1, 2, ids))
    group = replace(group, rollouts=(replace(first, completion=recorded), second))
    folder = save_checkpoint(
        tmp_path, step=3, state={}, pending=[[group]], write_learner=lambda folder: None
    )
    assert load_checkpoint(folder, [group.problem])[1] == [[group]]
