"""Tests for grpo/evaluation/fingerprint.py."""

import os
from pathlib import Path

from cotree.grpo.evaluation.fingerprint import (
    differing_parts,
    digest,
    model_identity,
    sources_digest,
)


def test_a_digest_does_not_depend_on_the_order_of_keys_nor_on_tuples():
    assert digest({"a": 1, "b": (2, 3)}) == digest({"b": [2, 3], "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})


def test_differing_parts_are_named_by_their_path():
    old = {"sampler": {"temperature": 0.0, "stop": ()}, "data": {"checksum": "x"}}
    new = {"sampler": {"temperature": 0.6, "stop": []}, "data": {"checksum": "x"}, "template": "t"}
    assert differing_parts(old, new) == {
        "sampler.temperature": (0.0, 0.6),
        "template": (None, "t"),
    }
    assert differing_parts(old, old) == {}


def test_a_changed_source_is_another_measurement(tmp_path: Path):
    digests = []
    for name, line in (("first", "x = 1\n"), ("same", "x = 1\n"), ("other", "x = 2\n")):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "rules.py").write_text(line)
        digests.append(sources_digest(tmp_path / name))
    assert digests[0] == digests[1] != digests[2]


def test_a_checkpoint_that_was_overwritten_is_another_model(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1234")
    os.utime(weights, ns=(1, 1))
    before = model_identity(str(tmp_path), None)
    assert before == model_identity(str(tmp_path), None)
    os.utime(weights, ns=(2, 2))
    assert model_identity(str(tmp_path), None) != before
    os.utime(weights, ns=(1, 1))
    (tmp_path / "config.json").write_text("{ }")
    assert model_identity(str(tmp_path), None) != before


def test_a_hub_name_is_known_by_its_revision():
    assert model_identity("owner/name", "v1") == {"model": "owner/name", "revision": "v1"}
