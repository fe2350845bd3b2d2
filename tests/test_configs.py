"""Every configuration that is shipped loads, passes `cotree check` and says what it was run on."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from cotree.grpo.run_folder import load_pipeline

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
each_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)


def restated_defaults(settings: BaseModel, prefix: str = "") -> Iterator[str]:
    """Keys that a file sets to the value they have anyway; tags of unions do not count."""
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        key = f"{prefix}{name}"
        children = value if isinstance(value, tuple) else (value,)
        nested = [child for child in children if isinstance(child, BaseModel)]
        for child in nested:
            yield from restated_defaults(child, f"{key}.")
        default = type(settings).model_fields[name].get_default(call_default_factory=True)
        if not nested and name != "type" and value == default:
            yield key


def test_there_are_configs():
    small, large = {"quickstart", "countdown"}, {"qwen2.5_1.5b_gsm8k", "qwen2.5_7b_math"}
    assert small | large | {"olmoe_1b_7b_gsm8k"} <= {path.stem for path in CONFIGS}


@each_config
def test_config_sets_nothing_to_its_default(config: Path):
    assert list(restated_defaults(load_pipeline(config, overrides=[]))) == []


def test_a_restated_default_would_be_found(tmp_path: Path):
    # Guards the test above: group_size = 8 is the default, 9 is not.
    file = tmp_path / "x.toml"
    lines = (ROOT / "configs" / "qwen2.5_1.5b_gsm8k.toml").read_text()
    file.write_text(lines.replace("max_tokens = 768\n", "max_tokens = 768\ngroup_size = 8\n", 1))
    pipeline = load_pipeline(file, overrides=[])
    assert list(restated_defaults(pipeline)) == ["train.rollout.group_size"]


@each_config
def test_config_passes_cotree_check(config: Path):
    # From the root, as a user would run it: rewards named by path are relative to it.
    command = [sys.executable, "-m", "cotree.grpo.cli", "check", str(config.relative_to(ROOT))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f'output_dir = "runs/{config.stem}"' in done.stdout


@each_config
def test_config_opens_with_hardware_time_and_result(config: Path):
    head: list[str] = []
    for line in config.read_text().splitlines():
        if not line.startswith("#"):
            break
        head.append(line)
    for word in ("hardware", "time", "result"):
        assert any(word in line.lower() for line in head), (
            f"{config.name} does not open with its {word}"
        )
