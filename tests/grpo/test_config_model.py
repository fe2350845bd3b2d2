"""Tests for grpo/config_model.py: models that cannot be made, and prompts without a question."""

import pytest
from pydantic import TypeAdapter, ValidationError

from cotree.grpo.config_model import (
    Model,
    NewDeepseekModel,
    NewModel,
    NewNetwork,
    PretrainedModel,
    Prompt,
)

MODEL: TypeAdapter[Model] = TypeAdapter(Model)


def deepseek(**settings: object) -> NewDeepseekModel:
    return NewDeepseekModel.model_validate({"type": "new_deepseek_v3", **settings})


def test_the_type_chooses_the_model():
    kinds = {
        "new": NewModel,
        "new_deepseek_v3": NewDeepseekModel,
        "pretrained": PretrainedModel,
    }
    for name, kind in kinds.items():
        settings = {"type": name} | ({"path": "x"} if name == "pretrained" else {})
        assert type(MODEL.validate_python(settings)) is kind
        assert issubclass(kind, NewNetwork) == name.startswith("new")
    with pytest.raises(ValidationError, match="'new', 'new_deepseek_v3', 'pretrained'"):
        MODEL.validate_python({"type": "new_llama"})


@pytest.mark.parametrize(
    "settings",
    [
        {"type": "new", "experts": 8},
        {"type": "new_deepseek_v3", "head_dim": 32},
        {"type": "pretrained", "path": "x", "dtype": "float32"},
    ],
    ids=lambda settings: settings["type"],
)
def test_a_setting_of_another_model_is_refused(settings: dict[str, object]):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        MODEL.validate_python(settings)


def test_a_pretrained_model_needs_its_path():
    with pytest.raises(ValidationError, match="Field required"):
        MODEL.validate_python({"type": "pretrained"})


def test_the_engines_attention_bounds_the_width_of_a_head():
    with pytest.raises(ValidationError, match="greater than or equal to 32"):
        MODEL.validate_python({"type": "new", "head_dim": 16})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"layers": 2, "dense_layers": 2}, r"dense_layers = 2 of layers = 2 leave none with"),
        ({"experts": 8, "groups": 3}, r"experts = 8 must be a multiple of groups = 3"),
        ({"groups": 2, "groups_per_token": 3}, r"a token may use groups_per_token = 3"),
        # 8 experts in 4 groups of 2, of which a token may use one.
        (
            {"groups": 4, "experts_per_token": 3},
            r"experts_per_token = 3 exceeds the 2 experts in groups_per_token = 1 groups",
        ),
        ({"experts_per_token": 9}, r"experts_per_token = 9 exceeds the 8 experts"),
        (
            {"groups": 8, "groups_per_token": 8},
            r"a group is scored by its two best experts; give each two or more",
        ),
        ({"experts": 1}, "greater than or equal to 2"),
        ({"rope_dim": 3}, "multiple of 2"),
        ({"rope_dim": 0}, "greater than or equal to 2"),
        ({"scaling": 0}, "greater than 0"),
        ({"dense_layers": -1}, "greater than or equal to 0"),
        ({"query_rank": 0}, "greater than or equal to 1"),
        ({"expert": 8}, "Extra inputs are not permitted"),
    ],
)
def test_experts_that_cannot_be_routed_are_refused(settings: dict[str, object], says: str):
    with pytest.raises(ValidationError, match=says):
        deepseek(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dense_layers": 0},
        {"layers": 1, "dense_layers": 0},
        {"groups": 4, "groups_per_token": 2, "experts_per_token": 4},
        {"groups": 4, "experts_per_token": 2},
        {"experts_per_token": 8},
        {"query_rank": 48},
    ],
    ids=str,
)
def test_experts_that_can_be_routed_are_accepted(settings: dict[str, object]):
    model = deepseek(**settings)
    for name, value in settings.items():
        assert getattr(model, name) == value
    assert deepseek(**model.model_dump(exclude={"type"})) == model


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"template": "Solve it."}, r"prompt.template = 'Solve it.' has no \{question\} in it"),
        ({"system": "Be brief."}, "prompt.system has no effect without prompt.chat = true"),
        ({"templates": "{question}"}, "Extra inputs are not permitted"),
    ],
)
def test_a_prompt_without_its_question_or_an_idle_system_turn_is_refused(
    settings: dict[str, object], says: str
):
    with pytest.raises(ValidationError, match=says):
        Prompt.model_validate(settings)


def test_other_braces_of_a_template_are_kept():
    prompt = Prompt(template=r"{x} {question} \boxed{}", chat=True, system="Be brief.")
    assert prompt.template == r"{x} {question} \boxed{}"
