"""Tests for grpo/config.py: settings that contradict each other or have no effect."""

import re

import pytest
from pydantic import ValidationError

from cotree.grpo.config import Grading, Pipeline, RewardTerm

BASE = {
    "output_dir": "unused",
    "model": {"type": "pretrained", "path": "unused"},
    "task": {"type": "arithmetic"},
}


def reward(**settings: object) -> RewardTerm:
    return RewardTerm.model_validate({"name": "judge", **settings})


def test_the_default_failure_of_a_reward_masks_the_rollout():
    term = reward()
    assert (term.executor, term.on_error, term.timeout_seconds) == ("process", "mask", None)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"on_error": "value"}, "on_error = \"value\" needs error_value for 'judge'"),
        ({"error_value": 0.0}, "error_value = 0 has no effect on 'judge' with on_error = \"mask\""),
        ({"on_error": "raise", "error_value": 1.0}, 'with on_error = "raise"'),
        ({"executor": "inline", "timeout_seconds": 2.0}, "timeout_seconds = 2 has no effect"),
        ({"executor": "thread"}, "'process', 'inline' or 'ray'"),
        ({"timeout_seconds": 0}, "greater than 0"),
    ],
)
def test_settings_of_a_reward_that_contradict_each_other_are_refused(
    settings: dict[str, object], says: str
):
    with pytest.raises(ValidationError, match=says):
        reward(**settings)


def test_settings_of_a_reward_that_go_together_are_accepted():
    assert reward(on_error="value", error_value=0.0).error_value == 0.0
    assert reward(executor="ray", timeout_seconds=2).timeout_seconds == 2.0


@pytest.mark.parametrize(
    ("executor", "name", "value", "refused"),
    [
        ("inline", "workers", 2, True),
        ("inline", "timeout_seconds", 1.0, True),
        ("ray", "memory_bytes", 1 << 20, True),
        ("ray", "timeout_seconds", 1.0, False),
        ("process", "workers", 2, False),
        ("inline", "max_failed_frac", 0.0, False),
    ],
)
def test_grading_settings_that_no_reward_uses_are_refused(
    executor: str, name: str, value: float, refused: bool
):
    settings = {
        **BASE,
        "rewards": [{"name": "judge", "executor": executor}],
        "grading": {name: value},
    }
    if refused:
        with pytest.raises(ValidationError, match=rf"grading.{name} = .* has no effect"):
            Pipeline.model_validate(settings)
    else:
        assert getattr(Pipeline.model_validate(settings).grading, name) == value


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([{"name": "answer"}], "no effect on a single reward"),
        ([{"name": "answer"}, {"name": "format", "weight": 0.5}], "weight = 0.5 of 'format' has"),
    ],
)
def test_a_product_of_one_reward_or_with_weights_is_refused(rewards: list[object], message: str):
    settings = {**BASE, "rewards": rewards, "grading": {"combination": "product"}}
    with pytest.raises(ValidationError, match=message):
        Pipeline.model_validate(settings)


def test_defaults_may_be_written_down_where_they_have_no_effect():
    # The saved configuration of a run holds them, and a resumed run loads it.
    settings = {
        **BASE,
        "rewards": [{"name": "judge", "executor": "inline"}],
        "grading": Grading().model_dump(),
    }
    assert Pipeline.model_validate(settings).grading == Grading()


COUNTDOWN = {
    "output_dir": "unused",
    "model": {"type": "new"},
    "task": {"type": "countdown"},
    "rewards": [{"name": "countdown"}],
}


def cold_start(**traces: object) -> dict[str, object]:
    return {
        "traces": {"type": "generated", **traces},
        "num_steps": 1,
        "optimizer": {"learning_rate": 1e-3},
    }


def test_a_new_model_can_be_made_for_either_generated_task():
    for task in ({"type": "arithmetic"}, {"type": "countdown"}):
        settings = {**COUNTDOWN, "task": task, "sft": cold_start(slip_frac=0.1)}
        assert Pipeline.model_validate(settings).task.type == task["type"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"task": {"type": "countdown", "numbers": [4, 3]}}, r"numbers = \[4, 3\] must be"),
        ({"task": {"type": "countdown", "numbers": [3, 6]}}, "trying everything"),
        ({"task": {"type": "countdown", "operands": [3, 4]}}, "operands"),
        (
            {"sft": cold_start(wrong_order_frac=0.5)},
            'wrong_order_frac = 0.5 has no effect with task.type = "countdown"; use wrong_choice',
        ),
        (
            {"task": {"type": "arithmetic"}, "sft": cold_start(wrong_choice_frac=0.1)},
            'wrong_choice_frac = 0.1 has no effect with task.type = "arithmetic"; use wrong_order',
        ),
        ({"task": {"type": "rows", "train": "a", "test": "b"}}, "for generated tasks alone"),
        (
            {
                "task": {"type": "rows", "train": "a", "test": "b"},
                "model": {"type": "pretrained", "path": "unused"},
            },
            'needs task.type = "arithmetic" or "countdown"',
        ),
    ],
)
def test_what_does_not_fit_the_task_is_refused(change: dict[str, object], says: str):
    with pytest.raises(ValidationError, match=says):
        Pipeline.model_validate({**COUNTDOWN, "sft": cold_start(), **change})


@pytest.mark.parametrize("rewards", [None, [{"name": "countdown"}, {"name": "math"}]])
def test_a_reward_that_a_copy_of_the_target_would_earn_is_refused(rewards: object):
    settings = {**COUNTDOWN, "sft": cold_start(), "rewards": rewards}
    if rewards is None:
        del settings["rewards"]  # the default is `answer`
    with pytest.raises(ValidationError, match=r'copy of the target.*name = "countdown"'):
        Pipeline.model_validate(settings)


# --- routes, drafts and prediction modules ---------------------------------------------------

SPECULATIONS = [
    {"type": "ngram"},
    {"type": "draft_model", "path": "small"},
    {"type": "mtp"},
]


def rollouts(stage: str, **rollout: object) -> dict[str, object]:
    """A pipeline whose stage samples so: `train`, or `distill` on the student's own rollouts."""
    train = {"num_steps": 1, "optimizer": {"learning_rate": 1e-4}, "rollout": rollout}
    if stage == "train":
        return {**BASE, "train": train}
    teacher = {"type": "resident", "path": "teacher"}
    signal = {"type": "advantage"}
    distill = {"type": "on_policy", "teacher": teacher, "train": train, "signal": signal}
    return {**BASE, "distill": distill}


@pytest.mark.parametrize("stage", ["train", "distill"])
@pytest.mark.parametrize("speculation", SPECULATIONS, ids=lambda one: one["type"])
def test_the_experts_of_drafted_tokens_are_not_recorded(stage: str, speculation: object):
    drafting = {"generator": {"speculation": speculation}}
    with pytest.raises(ValidationError, match=r"replay_routes would record the experts of drafted"):
        Pipeline.model_validate(rollouts(stage, replay_routes=True) | drafting)
    # Either alone is fine.
    assert Pipeline.model_validate(rollouts(stage) | drafting).generator.speculation is not None
    Pipeline.model_validate(rollouts(stage, replay_routes=True))


@pytest.mark.parametrize("stage", ["train", "distill"])
def test_rollouts_with_experts_of_their_own_share_no_prefixes(stage: str):
    shared = {"learner": {"share_prefixes": True}}
    says = "replay_routes gives each rollout's tokens their own experts.*share_prefixes"
    with pytest.raises(ValidationError, match=says):
        Pipeline.model_validate(rollouts(stage, replay_routes=True) | shared)
    assert Pipeline.model_validate(rollouts(stage) | shared).learner.share_prefixes
    Pipeline.model_validate(rollouts(stage, replay_routes=True))


@pytest.mark.parametrize(
    ("speculation", "spare"), [(None, 0), ({"type": "ngram", "tokens": 3}, 6), ({"type": "mtp"}, 2)]
)
def test_the_longest_completion_leaves_room_for_a_prompt_and_two_drafts(
    speculation: object, spare: int
):
    def pipeline(max_tokens: int) -> Pipeline:
        generator = {"max_model_len": 100, "speculation": speculation}
        evaluate = {"max_tokens": max_tokens}
        return Pipeline.model_validate({**BASE, "generator": generator, "evaluate": evaluate})

    assert pipeline(99 - spare).evaluate.max_tokens == 99 - spare  # a prompt of one token
    says = rf"evaluate.max_tokens = {100 - spare}, and {spare} for drafts, leave no room"
    with pytest.raises(ValidationError, match=says):
        pipeline(100 - spare)


NEEDS_A_MODULE = {
    "learner.mtp": {"learner": {"mtp": {}}},
    'generator.speculation.type = "mtp"': {"generator": {"speculation": {"type": "mtp"}}},
}
NEW = {**BASE, "sft": cold_start()}


@pytest.mark.parametrize("name", NEEDS_A_MODULE)
@pytest.mark.parametrize(
    "model", [{"type": "new"}, {"type": "new_deepseek_v3"}], ids=lambda one: one["type"]
)
def test_a_new_model_without_a_prediction_module_can_neither_train_one_nor_draft_with_it(
    model: dict[str, object], name: str
):
    with pytest.raises(ValidationError, match=re.escape(name) + ".*with mtp_layers = 1"):
        Pipeline.model_validate({**NEW, "model": model, **NEEDS_A_MODULE[name]})
    Pipeline.model_validate({**NEW, "model": model})


@pytest.mark.parametrize("name", NEEDS_A_MODULE)
@pytest.mark.parametrize(
    "model",
    [{"type": "new_deepseek_v3", "mtp_layers": 1}, {"type": "pretrained", "path": "unused"}],
    ids=lambda one: one["type"],
)
def test_a_model_with_a_module_or_one_whose_files_will_tell_is_accepted(
    model: dict[str, object], name: str
):
    # What a checkpoint has is found out when it is loaded; see grpo/mtp_files.py.
    settings = {**NEW, "model": model, **NEEDS_A_MODULE[name]}
    assert Pipeline.model_validate(settings).model.type == model["type"]


@pytest.mark.parametrize("speculation", SPECULATIONS[:2], ids=lambda one: one["type"])
def test_other_drafters_need_no_module(speculation: dict[str, object]):
    settings = {**NEW, "model": {"type": "new"}, "generator": {"speculation": speculation}}
    assert Pipeline.model_validate(settings).generator.speculation.type == speculation["type"]
