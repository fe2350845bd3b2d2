"""Tests for grpo/weights.py: what is sent, its digests and the comparison."""

import pickle

import pytest
import torch

from cotree.grpo.weights import Canary, WeightSyncError, digest, make_update, prove


def named() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(3, 4, generator=generator) for name in ("a.weight", "b.weight")}


def test_an_update_is_a_copy_that_later_training_does_not_touch():
    tensors = named()
    update = make_update(tensors.items(), version=3, dtype=torch.float32)
    before = update.tensors["a.weight"].clone()
    tensors["a.weight"].add_(1.0)
    assert update.version == 3
    assert torch.equal(update.tensors["a.weight"], before)
    assert update.digests["a.weight"] == digest(before)


@pytest.mark.parametrize("change", ["value", "dtype", "shape"])
def test_a_digest_sees_value_dtype_and_shape(change: str):
    tensor = torch.zeros(2, 6)
    other = {"value": tensor + 1e-7, "dtype": tensor.to(torch.int32), "shape": tensor.view(3, 4)}
    assert digest(tensor) != digest(other[change])


def test_a_digest_does_not_depend_on_the_strides():
    tensor = torch.randn(3, 5)
    assert digest(tensor.t().contiguous().t()) == digest(tensor)
    assert digest(torch.zeros(0)) == digest(torch.zeros(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_negative_zero_and_subnormals_are_sent_as_zero(dtype: torch.dtype):
    tensor = torch.tensor([-0.0, 1e-39, -1e-39, 1.5])
    update = make_update([("w", tensor)], version=0, dtype=dtype)
    assert update.digests["w"] == digest(torch.tensor([0.0, 0.0, 0.0, 1.5], dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_update_survives_the_way_to_another_process(dtype: torch.dtype):
    update = make_update(named().items(), version=1, dtype=dtype)
    arrived = pickle.loads(pickle.dumps(update, protocol=5))
    assert arrived.version == update.version
    assert {name: digest(t) for name, t in arrived.tensors.items()} == update.digests
    assert arrived.digests == update.digests


def test_a_routers_bias_travels_in_float32_to_an_engine_of_bfloat16():
    # 0.501 has no bfloat16: its neighbours are 0.5 and 0.50390625.
    bias = torch.tensor([0.501, -0.0])
    names = ("model.layers.1.mlp.gate.e_score_correction_bias", "model.layers.1.mlp.gate.weight")
    update = make_update([(name, bias) for name in names], version=0, dtype=torch.bfloat16)
    assert [t.dtype for t in update.tensors.values()] == [torch.float32, torch.bfloat16]
    assert update.digests[names[0]] == digest(torch.tensor([0.501, 0.0]))
    arrived = pickle.loads(pickle.dumps(update, protocol=5))
    assert arrived.tensors[names[0]].tolist() == update.tensors[names[0]].tolist()


def test_a_diverged_weight_is_not_sent():
    with pytest.raises(ValueError, match=r"'w' of policy v4 is not finite.*learning rate"):
        make_update([("w", torch.tensor([1.0, float("nan")]))], version=4, dtype=torch.bfloat16)


def test_a_repeated_name_is_refused():
    with pytest.raises(ValueError, match="'w' comes twice"):
        make_update([("w", torch.zeros(1)), ("w", torch.ones(1))], version=0, dtype=torch.float32)


def test_equal_digests_prove():
    prove({"a": "1", "b": "2"}, {"b": "2", "a": "1"})


@pytest.mark.parametrize(
    ("live", "message"),
    [
        ({"a": "1", "b": "x", "c": "x"}, "2 of 3 tensors differ from what was sent, first 'b'"),
        ({"a": "1", "b": "2"}, "1 of 3 tensors were sent but are not in the engine, first 'c'"),
        (
            {"a": "1", "b": "2", "c": "3", "d": "4"},
            "1 of 4 tensors are in the engine but were not sent, first 'd'",
        ),
    ],
)
def test_a_failed_proof_names_the_tensor(live: dict[str, str], message: str):
    with pytest.raises(WeightSyncError, match=message):
        prove({"a": "1", "b": "2", "c": "3"}, live)


def test_a_canary_has_one_logprob_for_each_token_but_the_first():
    with pytest.raises(ValueError, match="3 tokens and 3 log-probabilities"):
        Canary((1, 2, 3), (-1.0, -1.0, -1.0))
