"""Tests for grpo/config_evaluation.py: settings without an effect are errors."""

import pytest
from pydantic import ValidationError

from cotree.grpo.config_evaluation import (
    PRESETS,
    Benchmarks,
    Engines,
    Evaluate,
    ModelEvaluation,
    Server,
)

GSM8K = Benchmarks(names=("gsm8k",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 4}, "4 samples at temperature 0 are the same completion"),
        ({"top_p": 0.9}, "top_p = 0.9 has no effect at temperature 0"),
        ({"names": ("gsm8k", "gsm8k")}, "benchmarks repeat: gsm8k, gsm8k"),
        ({"names": ()}, "at least 1 item"),
        ({"subset_seed": 1}, "subset_seed has no effect without a limit"),
        ({"system": "x", "chat": False}, "a system turn has no effect without chat"),
        ({"sample": 4}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_do_nothing_or_make_no_sense_are_refused(settings: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        Benchmarks(**({"names": ("gsm8k",)} | settings))


def test_every_preset_is_valid_with_several_samples_unless_it_is_greedy():
    for name, preset in PRESETS.items():
        samples = 1 if name == "greedy" else 4
        assert Benchmarks(names=("gsm8k",), samples=samples, **preset._asdict())


def test_engines_have_no_effect_beside_a_server():
    server = Server(url="http://localhost:8000")
    with pytest.raises(ValidationError, match="replicas of our own engines have no effect"):
        ModelEvaluation(benchmarks=GSM8K, engines=Engines(replicas=2), server=server)
    assert ModelEvaluation(benchmarks=GSM8K, server=server)


def test_greedy_held_back_problems_need_one_sample():
    with pytest.raises(ValidationError, match="set samples = 1"):
        Evaluate(temperature=0, samples=2)
