"""Tests for grpo/checkpoint.py: recorded experts of groups that are not trained on yet."""

from dataclasses import replace
from pathlib import Path

from enumerable import group_of, rollout

from cotree.grpo.checkpoint import load_checkpoint, save_checkpoint
from cotree.grpo.types import Routes


def test_routes_of_pending_groups_survive_a_checkpoint(tmp_path: Path):
    # One completion with routes, as an engine writes them, and one without.
    group = group_of("a", rollout(1.0, text="AB"), rollout(0.0, text="A"), prompt=(1, 2))
    first, second = group.rollouts
    recorded = replace(first.completion, routes=Routes(1, 2, "AAABAAMA/38CAA=="))
    group = replace(group, rollouts=(replace(first, completion=recorded), second))
    folder = save_checkpoint(
        tmp_path, step=3, state={}, pending=[[group]], write_learner=lambda folder: None
    )
    assert load_checkpoint(folder, [group.problem])[1] == [[group]]
