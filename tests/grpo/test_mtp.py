"""Tests for grpo/mtp.py: what the module computes, and which gradients leave it."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from ragged_batches import ragged_batch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.modeling_layers import MtpModel

from cotree.grpo.collate import micro_batches, rows_at
from cotree.grpo.config_learner import Mtp
from cotree.grpo.config_model import NewModel
from cotree.grpo.expert_balance import ExpertLoads
from cotree.grpo.models import create_model, load_model
from cotree.grpo.mtp import mtp_loss, mtp_module, turn_last_layer_into_mtp
from cotree.grpo.mtp_files import load_model_with_mtp
from cotree.grpo.policy import Policy, Scores, check_policy
from cotree.grpo.sharding import join, whole, wrap
from cotree.grpo.tree_packing import pack_trees
from cotree.grpo.types import Batch

PREFIX = "model.layers.3."
DETACHED, ATTACHED = Mtp(), Mtp(detached=False)
BATCH = ragged_batch(3, vocab=32)


@pytest.fixture
def model(mtp_model: Path) -> PreTrainedModel:
    """Four times the usual weights: the distributions are far from uniform."""
    network = load_model_with_mtp(str(mtp_model), dtype=torch.float32).train()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4.0)
        network.get_input_embeddings().weight[0] = 0.0
    return network


def _scores(model: PreTrainedModel, batch: Batch, mtp: Mtp, *, packing: bool = False) -> Scores:
    return Scores(*Policy(model, packing=packing, mtp=mtp)(batch, 1.0))


def _loss(scores: Scores, batch: Batch) -> torch.Tensor:
    assert scores.mtp_logprobs is not None
    return mtp_loss(scores.mtp_logprobs, batch.weights, weight=0.3)


def _gradients(model: PreTrainedModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def _reference_logprobs(
    model: PreTrainedModel, reference: MtpModel, row: torch.Tensor
) -> torch.Tensor:
    """[L, V] of transformers' own module with our weights; place i predicts token i + 2."""
    ours = dict(mtp_module(model).state_dict())
    theirs = reference.layers[0].state_dict()
    names = {name: name.removeprefix("mtp_block.") for name in theirs}
    names["post_norm.weight"] = "shared_head.norm.weight"
    assert set(names.values()) == ours.keys()
    reference.layers[0].load_state_dict({n: ours[name] for n, name in names.items()})
    hidden = model.model(input_ids=row[None, :-1]).last_hidden_state
    embeddings = model.get_input_embeddings()(row[None, 1:])
    positions = torch.arange(1, len(row))[None]  # transformers counts from 1; RoPE is relative
    length = len(row) - 1
    states = reference.layers[0](
        embeddings,
        hidden,
        position_embeddings=reference.rotary_emb(embeddings, position_ids=positions),
        attention_mask=torch.full((1, 1, length, length), -torch.inf).triu(1),
        position_ids=positions,
        past_key_values=None,
    )
    return model.get_output_embeddings()(states)[0].log_softmax(-1)


def test_the_module_computes_what_transformers_own_does(mtp_model: Path, model: PreTrainedModel):
    reference = MtpModel(load_model(str(mtp_model), dtype="float32"), 1)
    # The second token is padding, whose embedding is zero: vLLM, and so we, embed none at a row's
    # first place, transformers always does.
    ids = BATCH.token_ids.clone()
    ids[:, 1] = 0
    batch = replace(BATCH, token_ids=ids)
    scores = _scores(model, batch, DETACHED)
    with torch.no_grad():
        for row, length in enumerate(batch.lengths.tolist()):
            table = _reference_logprobs(model, reference, ids[row, :length])
            expected = table[torch.arange(2, length) - 2, ids[row, 2:length]]
            likeliest = table.argmax(-1)[: length - 2]
            for column in range(4, length):
                got = scores.mtp_logprobs[row, column]
                assert float(got) == pytest.approx(float(expected[column - 2]), abs=1e-5)
                hit = likeliest[column - 2] == ids[row, column]
                assert bool(scores.mtp_hits[row, column]) == bool(hit)
    assert scores.mtp_logprobs[batch.mask].std().item() > 0.2  # far from uniform


def test_an_untrained_token_and_a_rows_second_one_have_no_prediction(model: PreTrainedModel):
    columns = torch.arange(BATCH.token_ids.shape[1])
    mask = (columns >= 1) & (columns < BATCH.lengths[:, None]) & (columns != 6)
    scores = _scores(model, replace(BATCH, mask=mask), DETACHED)
    predicted = scores.mtp_logprobs != 0
    assert torch.equal(predicted, mask & (columns >= 2))
    assert torch.equal(scores.logprobs != 0, mask)


@pytest.mark.parametrize("mtp", [DETACHED, ATTACHED], ids=["detached", "attached"])
def test_both_layouts_give_the_same_numbers_and_gradients(model: PreTrainedModel, mtp: Mtp):
    padded, packed = (_scores(model, BATCH, mtp, packing=packing) for packing in (False, True))
    assert torch.allclose(padded.mtp_logprobs, packed.mtp_logprobs, atol=1e-5)
    assert torch.equal(padded.mtp_hits, packed.mtp_hits)
    ours = _gradients(model, _loss(padded, BATCH))
    theirs = _gradients(model, _loss(packed, BATCH))
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert torch.allclose(gradient, theirs[name], atol=1e-6), name


@pytest.mark.parametrize("packing", [False, True])
def test_no_row_sees_another(model: PreTrainedModel, packing: bool):
    scores = _scores(model, BATCH, DETACHED, packing=packing)
    for row in range(len(BATCH.lengths)):
        alone = _scores(model, rows_at(BATCH, torch.tensor([row])), DETACHED, packing=packing)
        width = alone.mtp_logprobs.shape[1]
        assert torch.allclose(scores.mtp_logprobs[row, :width], alone.mtp_logprobs[0], atol=1e-5)


def test_a_detached_modules_gradient_reaches_the_module_alone(model: PreTrainedModel):
    with_loss = _gradients(model, _loss(_scores(model, BATCH, DETACHED), BATCH))
    assert {n for n, g in with_loss.items() if g.any()} == {
        name for name, _ in model.named_parameters() if name.startswith(PREFIX)
    }


def test_a_detached_module_leaves_the_policys_gradient_bit_for_bit(model: PreTrainedModel):
    scores = _scores(model, BATCH, DETACHED)
    beside = _gradients(model, _loss(scores, BATCH) - (scores.logprobs * BATCH.weights).sum())
    logprobs, _ = Policy(model, packing=False)(BATCH, 1.0)
    assert torch.equal(scores.logprobs, logprobs)
    alone = _gradients(model, -(logprobs * BATCH.weights).sum())
    assert len(alone) > 20
    for name, gradient in alone.items():
        assert torch.equal(gradient, beside[name]), name


def test_an_attached_modules_gradient_reaches_trunk_embedding_and_head(model: PreTrainedModel):
    found = _gradients(model, _loss(_scores(model, BATCH, ATTACHED), BATCH))
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
        assert bool(found[name].any()), name
    assert bool(found["model.layers.0.self_attn.o_proj.weight"].any())
    assert bool(found[PREFIX + "eh_proj.weight"].any())


def test_micro_batches_add_up_to_the_steps_loss(model: PreTrainedModel):
    whole = _loss(_scores(model, BATCH, DETACHED), BATCH).item()
    pieces = micro_batches(BATCH, max_tokens=48)
    assert len(pieces) > 1
    parts = [_loss(_scores(model, piece, DETACHED), piece).item() for piece in pieces]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)


def test_the_loss_is_the_weighted_cross_entropy():
    logprobs = torch.tensor([[0.0, 0.0, -1.0, -2.0]])
    weights = torch.tensor([[0.0, 0.25, 0.25, 0.5]])
    # 0.3 * (0.25 * 1 + 0.5 * 2) = 0.375
    assert float(mtp_loss(logprobs, weights, weight=0.3)) == pytest.approx(0.375)


@pytest.mark.parametrize("packing", [False, True])
def test_the_policy_is_the_one_without_a_module(
    mtp_model: Path, model: PreTrainedModel, packing: bool
):
    plain = load_model(str(mtp_model), dtype=torch.float32)
    loaded = load_model_with_mtp(str(mtp_model), dtype=torch.float32)
    ids = BATCH.token_ids
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, loaded(ids).logits)
    check_policy(model, packing=packing, share_prefixes=False)


def test_a_forward_without_gradients_leaves_the_module_out(model: PreTrainedModel):
    with torch.no_grad():
        assert Scores(*Policy(model, packing=False, mtp=DETACHED)(BATCH, 1.0)).mtp_logprobs is None


def test_a_batch_in_which_nothing_is_trained_still_reaches_every_parameter(
    model: PreTrainedModel,
):
    # A process with fewer rows than the others computes one; DDP waits for all its gradients.
    empty = replace(BATCH, mask=torch.zeros_like(BATCH.mask))
    scores = _scores(model, empty, DETACHED)
    found = _gradients(model, _loss(scores, empty) - scores.logprobs.sum())
    assert found.keys() == {name for name, _ in model.named_parameters()}


def test_gradient_checkpointing_changes_nothing(model: PreTrainedModel):
    plain = _gradients(model, _loss(_scores(model, BATCH, ATTACHED), BATCH))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert mtp_module(model).gradient_checkpointing
    checkpointed = _gradients(model, _loss(_scores(model, BATCH, ATTACHED), BATCH))
    for name, gradient in plain.items():
        assert torch.equal(gradient, checkpointed[name]), name


def test_the_modules_experts_are_counted_with_the_others(model: PreTrainedModel):
    loads = ExpertLoads(model, rate=0.0)
    with loads.counting(BATCH):
        _scores(model, BATCH, DETACHED)
    counts = loads.loads()
    assert f"{PREFIX}mlp.gate" in counts
    # three experts a token
    assert {int(count.sum()) for count in counts.values()} == {3 * int(BATCH.lengths.sum())}


def test_trees_are_refused(model: PreTrainedModel):
    tree = pack_trees(BATCH, max_tokens=10_000, balance=1e9)
    with pytest.raises(ValueError, match="share_prefixes = false"):
        _scores(model, tree, DETACHED)


def test_an_architecture_without_a_known_module_is_refused(tmp_path: Path):
    create_model(
        NewModel(type="new", layers=1, width=32, heads=1, kv_heads=1),
        tmp_path,
        alphabet="ab",
        seed=0,
    )
    with pytest.raises(ValueError, match="'qwen3' is not known"):
        turn_last_layer_into_mtp(load_model(str(tmp_path), dtype="float32"))


# --- two processes ---------------------------------------------------------------------------


def _gradients_in_group(rank: int, out: Path, mtp_model: Path) -> None:
    """One of two processes with other rows each: a gradient under DDP and one under FSDP2."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(out / "store"), 2)
    join(store, host="127.0.0.1", rank=rank, world_size=2)
    accelerator = Accelerator(cpu=True)
    for sharding in ("ddp", "fsdp2"):
        network = load_model_with_mtp(str(mtp_model), dtype=torch.float32).train()
        wrapped = wrap(Policy(network, packing=False, mtp=ATTACHED), accelerator, sharding)
        batch = rows_at(BATCH, torch.tensor([[0, 1, 2], [3, 4]][rank]))
        scores = Scores(*wrapped(batch, 1.0))
        # averaged over the processes, and each token has its share of the whole
        loss = _loss(scores, batch) - (scores.logprobs * batch.weights).sum()
        (2.0 * loss).backward()
        found = {name: whole(p.grad) for name, p in network.named_parameters()}
        if rank == 0:
            save_file(found, out / f"{sharding}.safetensors")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(mtp_model: Path, tmp_path: Path):
    spawn = multiprocessing.get_context("spawn")
    group = [
        spawn.Process(target=_gradients_in_group, args=(rank, tmp_path, mtp_model))
        for rank in range(2)
    ]
    for process in group:
        process.start()
    for process in group:
        process.join(120)
    assert [process.exitcode for process in group] == [0, 0]
    alone = load_model_with_mtp(str(mtp_model), dtype=torch.float32).train()
    scores = _scores(alone, BATCH, ATTACHED)
    expected = _gradients(alone, _loss(scores, BATCH) - (scores.logprobs * BATCH.weights).sum())
    for sharding in ("ddp", "fsdp2"):
        found = load_file(tmp_path / f"{sharding}.safetensors")
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert torch.allclose(found[name], gradient, atol=1e-6), (sharding, name)
