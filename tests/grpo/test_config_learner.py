"""Tests for grpo/config_learner.py: what is refused, and what a precision is made of."""

import pytest
from pydantic import ValidationError

from cotree.grpo.config_learner import Learner, phases_of

FLOAT32 = {"type": "float32"}


def learner(**settings: object) -> Learner:
    return Learner.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lora": {}, "expert_bias_rate": 0.1}, "would move the base model"),
        ({"lora": {}, "mtp": {}}, "learner.mtp trains a part of the base model"),
        ({"packing": True, "share_prefixes": True}, "learner.packing has no effect"),
        ({"sharding": "fsdp2"}, "no effect with learner.processes = 1"),
        ({"share_prefixes": True, "mtp": {}}, "learner.mtp reads whole sequences"),
        (
            {"share_prefixes": True, "sequence_balance_coef": 1e-4},
            "learner.sequence_balance_coef reads whole sequences",
        ),
        ({"precision": {"type": "fp4"}}, "fp8_block"),
        ({"precision": {"type": "bfloat16", "scales": "pow2"}}, "Extra inputs"),
        ({"precision": {"type": "float16", "initial_scale": 0.5}}, "greater than or equal to 1"),
        ({"precision": {"type": "float16", "initial_scale": 2.0**25}}, "less than or equal to"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], says: str):
    with pytest.raises(ValidationError, match=says):
        learner(**settings)


@pytest.mark.parametrize("starts", [(), (0,), (1, 2), (0, 5, 5), (0, 7, 3)])
def test_phases_begin_at_the_first_update_and_follow_each_other(starts: tuple[int, ...]):
    phases = [{"first_update": start, "precision": FLOAT32} for start in starts]
    with pytest.raises(ValidationError, match="give two or more, the first at 0"):
        learner(precision={"type": "schedule", "phases": phases})


def test_a_phase_that_changes_nothing_is_refused():
    phases = [{"first_update": start, "precision": FLOAT32} for start in (0, 5)]
    with pytest.raises(ValidationError, match="from update 5 on changes nothing: it is float32"):
        learner(precision={"type": "schedule", "phases": phases})


def test_a_schedule_cannot_hold_a_schedule():
    inner = {"type": "schedule", "phases": []}
    with pytest.raises(ValidationError, match="schedule"):
        learner(precision={"type": "schedule", "phases": [{"first_update": 0, "precision": inner}]})


def test_a_fixed_precision_is_one_phase():
    (phase,) = phases_of(learner().precision)
    assert (phase.first_update, phase.precision.type) == (0, "bfloat16")
