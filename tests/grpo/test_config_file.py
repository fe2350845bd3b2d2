"""Tests for grpo/config_file.py: what people type, and what they are told when it is wrong."""

from pathlib import Path

import pytest

from cotree.grpo.config import Pipeline
from cotree.grpo.config_file import ConfigError, differing_keys, dump_toml, load_pipeline

TEXT = """
[model]
type = "new"
[task]
type = "arithmetic"
[sft]
num_steps = 5
traces = { type = "generated" }
optimizer = { learning_rate = 1e-3 }
[train]
num_steps = 3
optimizer = { learning_rate = 1e-4, schedule = "cosine" }
[[rewards]]
name = "answer"
[[rewards]]
name = "my_reward.py:f"
weight = 0.5
options = { "odd key" = 'tab\\t "quote" é \\ backslash' }
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TEXT)
    return path


def message(config: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_pipeline(config, list(overrides))
    return str(caught.value)


def test_output_dir_defaults_to_the_name_of_the_file(config: Path):
    assert load_pipeline(config, []).output_dir == "runs/tiny"
    assert load_pipeline(config, ["output_dir=elsewhere"]).output_dir == "elsewhere"


def test_overrides_are_toml_values_and_else_strings(config: Path):
    overrides = [
        "seed=7",
        "train.kl.coef=1e-3",
        "rewards.1.weight=2",
        'prompt.template="{question}"',
    ]
    overrides += ["output_dir=runs/with space = sign", "task.operands=[2, 4]"]
    pipeline = load_pipeline(config, overrides)
    assert pipeline.seed == 7
    assert pipeline.train is not None
    assert pipeline.train.kl is not None
    assert pipeline.train.kl.coef == 1e-3
    assert pipeline.rewards[1].weight == 2.0
    assert pipeline.prompt.template == "{question}"
    assert pipeline.output_dir == "runs/with space = sign"
    assert pipeline.task.operands == (2, 4)


def test_a_later_override_wins(config: Path):
    assert load_pipeline(config, ["seed=1", "seed=2"]).seed == 2


def test_an_override_cannot_smuggle_in_a_second_key(config: Path):
    # As TOML, `value = 1\nseed = 9` has two keys; taken whole it is a string, which is no seed.
    assert "must be a valid integer" in message(config, "seed=1\nseed = 9")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.num_step=3", "train.num_step: unknown key; did you mean train.num_steps?"),
        ("train.learning_rate=1", "did you mean train.optimizer.learning_rate?"),
        (
            "train.optimizer.learning_rate=-1",
            "train.optimizer.learning_rate: must be greater than 0, got -1 "
            "(--set train.optimizer.learning_rate)",
        ),
        ("train.loss.clip_high=2", "set train.loss.type to one of cispo, grpo, gspo, reinforce"),
        ("train.loss.type=gspoo", "train.loss.type: must be one of 'grpo', 'gspo'"),
        ("model.head_dim=16", "model.head_dim: must be greater than or equal to 32, got 16"),
        ("train.rollout.group_size=1", "--set train.rollout.group_size"),
        ("rewards.5.name=x", "rewards is a list of 2"),
        ("seed.x=1", "seed: must be a valid integer"),
        ("output_dir", "write it as key=value"),
        ("=1", "write it as key=value"),
    ],
)
def test_a_wrong_override_names_its_key_and_what_to_do(config: Path, override: str, expected: str):
    assert expected in message(config, override)


def test_a_wrong_value_in_the_file_names_the_file(config: Path):
    config.write_text(TEXT.replace("1e-4", "-1.0"))
    expected = f"train.optimizer.learning_rate: must be greater than 0, got -1.0 ({config})"
    assert message(config) == expected


def test_every_problem_is_reported_at_once(config: Path):
    lines = message(config, "sede=1", "train.num_steps=0").splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("train.num_steps:")
    assert lines[1].startswith("sede: unknown key; did you mean seed?")


def test_a_key_inside_a_chosen_loss_is_named_without_pydantic_tags(config: Path):
    told = message(config, "train.loss.type=gspo", "train.loss.clip_hi=1")
    assert told.startswith("train.loss.clip_hi: unknown key; did you mean train.loss.clip_high")


def test_a_missing_file_names_its_near_miss(config: Path):
    with pytest.raises(ConfigError, match=r"no such file; did you mean .*tiny\.toml"):
        load_pipeline(config.with_name("tinny.toml"), [])


def test_broken_toml_names_the_file_and_the_line(config: Path):
    config.write_text("[model\n")
    assert message(config).startswith(f"{config}: not valid TOML:")
    assert "line 1" in message(config)


def test_the_resolved_configuration_loads_to_the_same_pipeline(config: Path, tmp_path: Path):
    pipeline = load_pipeline(config, [])
    dumped = tmp_path / "dumped.toml"
    dumped.write_text(dump_toml(pipeline))
    again = load_pipeline(dumped, [])
    assert again == pipeline
    assert dump_toml(again) == dumped.read_text()  # a fixed point: a resume writes the same file


def test_defaults_are_written_down_but_for_those_without_effect(config: Path):
    dumped = dump_toml(load_pipeline(config, []))
    assert "group_size = 8" in dumped
    assert dumped.count("final_frac") == 1  # under cosine (train), not under constant (sft)
    assert "sharding" not in dumped  # refused with one process


def test_a_key_given_by_the_user_is_kept_even_where_it_equals_the_default(config: Path):
    overrides = ["learner.processes=2", "learner.sharding=ddp"]
    assert 'sharding = "ddp"' in dump_toml(load_pipeline(config, overrides))


def test_differing_keys_show_both_sides_and_what_is_absent(config: Path):
    old = load_pipeline(config, [])
    new = load_pipeline(config, ["seed=3", "train.kl.coef=0.5"])
    assert differing_keys(old, new) == {
        "seed": ("0", "3"),
        "train.kl.coef": ("unset", "0.5"),
        "train.kl.estimator": ("unset", '"k3"'),
    }
    assert differing_keys(old, old) == {}


def test_every_section_of_the_schema_survives_a_round_trip(tmp_path: Path):
    # Each optional section and each member of each union at least once.
    text = """
        output_dir = "o"
        trackers = []
        [model]
        type = "pretrained"
        path = "m"
        revision = "abc"
        [task]
        type = "rows"
        train = "a.jsonl"
        test = "b.jsonl"
        answer_after = "####"
        [learner]
        lora = { rank = 4, targets = ["q_proj", "v_proj"] }
        [train]
        num_steps = 1
        loss = { type = "cispo" }
        correction = { type = "sequence_mask" }
        kl = { coef = 0.1, estimator = "k2" }
        dynamic_sampling = {}
        overlong = { buffer_tokens = 8 }
        optimizer = { learning_rate = 1e-6 }
    """
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text(text)
    pipeline = load_pipeline(first, [])
    second.write_text(dump_toml(pipeline))
    assert load_pipeline(second, []) == pipeline
    assert isinstance(pipeline, Pipeline)
    assert pipeline.learner.lora is not None
    assert pipeline.learner.lora.targets == ("q_proj", "v_proj")
