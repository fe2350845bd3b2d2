"""Tests for grpo/engine.py and the worker inside it, on real vLLM engines in one actor.

Engines follow each other in the actor because vLLM takes ten seconds to import and one to start.
The actor is a process of its own because vLLM changes its process for good.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import reference_models as reference
import torch
from engine_host import AT_ONE, SETTINGS, Host, request, worst_gap
from safetensors.torch import load_file
from tiny_models import write_character_tokenizer

from cotree.grpo import config
from cotree.grpo.engine import Generator, Sampling, StaleGeneratorError
from cotree.grpo.types import SampleRequest
from cotree.grpo.weights import WeightSyncError, WeightUpdate, make_update


@pytest.fixture(scope="module")
def process(ray_cluster: None) -> Host:
    return Host()


@pytest.fixture
def host(process: Host, tiny_model: Path) -> Host:
    """An engine with the tiny model at policy version 0, perhaps with something cached."""
    if not process.pristine:
        process.start(tiny_model, SETTINGS)
        process.pristine = True
    return process


@pytest.fixture
def fresh(process: Host, tiny_model: Path) -> Host:
    """An engine with the tiny model that nothing else will use: load weights, break it."""
    process.start(tiny_model, SETTINGS)
    return process


# --- sampling --------------------------------------------------------------------------------


def test_a_seed_gives_the_same_completion_in_any_batch_order_and_cache_state(host: Host):
    requests = [request(n, length=40 + n, seeds=(n, n + 100, n + 200)) for n in range(12)]
    together = host.sample(requests)
    again = host.sample(requests)  # now every prompt is in the prefix cache
    reverse = host.sample(requests[::-1])[::-1]
    alone = [host.sample([replace(r, seeds=(seed,))])[0][0] for r in requests for seed in r.seeds]

    assert again == together
    assert reverse == together
    assert alone == [completion for group in together for completion in group]
    assert len({c.token_ids for group in together for c in group}) > 30  # seeds do matter


def test_a_stream_yields_each_request_once_and_the_same_completions(host: Host):
    requests = [request(n, length=20 + n, seeds=tuple(range(n + 1))) for n in range(6)]
    streamed = host(lambda g, r, s: list(g.stream(r, s, min_version=0)), requests, AT_ONE)
    assert sorted(index for index, _ in streamed) == list(range(6))
    assert dict(streamed) == dict(enumerate(host.sample(requests)))


def test_a_stream_left_early_leaves_nothing_in_the_engine(host: Host):
    def leave_early(generator: Any, requests: list[SampleRequest], sampling: Sampling) -> bool:
        stream = generator.stream(requests, sampling, min_version=0)
        next(stream)
        stream.close()
        return generator._llm.llm_engine.has_unfinished_requests()

    requests = [request(n, seeds=(n, n + 1)) for n in range(8)]
    assert host(leave_early, requests, AT_ONE) is False
    assert len(host.sample(requests)) == 8  # and it still works


def test_a_stop_text_ends_a_completion_that_contains_it(host: Host):
    free = host.sample([request(3)])[0][0]
    stop = free.text[5:7]
    (ended,) = host.sample([request(3)], replace(AT_ONE, stop=(stop,)))[0]
    assert ended.text == free.text[: free.text.index(stop) + 2]  # one token a character
    assert ended.stop_reason == "stop"
    assert ended.logprobs == free.logprobs[: len(ended.token_ids)]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_logprobs_are_of_the_sampling_distribution(
    host: Host, tiny_model: Path, temperature: float
):
    model = reference.load(tiny_model)
    asked = request(1, seeds=(3,))
    (completion,) = host.sample([asked], Sampling(max_tokens=24, temperature=temperature))[0]
    # Greedy samples report the distribution at temperature 1.
    assert worst_gap(model, asked, completion, temperature or 1.0) < 1e-4


def test_a_completion_holds_together(host: Host, tiny_model: Path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    groups = host.sample([request(n, seeds=tuple(range(20))) for n in range(3)])
    completions = [completion for group in groups for completion in group]
    assert {c.stop_reason for c in completions} == {"stop", "length"}
    for completion in completions:
        ids, text = completion.token_ids, completion.text
        assert text == tokenizer.decode(ids, skip_special_tokens=True)
        assert len(completion.logprobs) == len(completion.token_ends) == len(ids)
        assert completion.token_ends[-1] == len(text)
        assert (completion.stop_reason == "stop") == (ids[-1] == tokenizer.eos_token_id)
        assert tokenizer.eos_token_id not in ids[:-1]
        assert completion.stop_reason == "stop" or len(ids) == AT_ONE.max_tokens


def test_defaults_of_a_checkpoint_do_not_change_sampling(host: Host, tiny_model: Path, tmp_path):
    import json
    import shutil

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"top_k": 1, "temperature": 0.1}))
    asked = [request(1, seeds=tuple(range(8)))]
    plain = host.sample(asked)
    host.start(folder, SETTINGS)
    with_defaults = host.sample(asked)
    assert with_defaults == plain


def test_stop_tokens_of_the_checkpoint_end_a_completion(process: Host, tiny_model: Path, tmp_path):
    import json
    import shutil

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    file = folder / "generation_config.json"
    stops = [1, *range(20, 60)]  # 41 of 128 tokens: a completion of 24 tokens meets one
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": stops}))
    process.start(folder, SETTINGS)
    (group,) = process.sample([request(1, seeds=tuple(range(8)))])
    for completion in group:
        assert completion.stop_reason == "stop"
        assert completion.token_ids[-1] in stops
        assert not set(completion.token_ids[:-1]) & set(stops)


def test_seeds_work_when_prompts_exceed_one_engine_step(host: Host):
    # Chunked prefill with a per-request seed ends vLLM's CPU engine with "CPU Generator does not
    # use offset". 60 prompts of 200 tokens are more than max_num_batched_tokens = 8192.
    requests = [request(n, length=200) for n in range(60)]
    groups = host.sample(requests, Sampling(max_tokens=4, temperature=1.0))
    assert host.sample(requests[:1], Sampling(max_tokens=4, temperature=1.0)) == groups[:1]


def test_short_prompts_use_the_prefix_cache(fresh: Host):
    # 40 tokens hold one full block of 32; vLLM's default block of 128 would never be full.
    fresh.sample([request(1, length=40)])
    before = fresh(lambda g: g.stats())
    fresh.sample([request(1, length=40, seeds=(1, 2, 3))])
    after = fresh(lambda g: g.stats())
    assert before["cached_tokens"] == 0
    assert after["cached_tokens"] == 3 * 32
    assert after["prompt_tokens"] == 4 * 40


def test_an_engine_has_the_threads_it_was_given(host: Host):
    assert host(lambda _: torch.get_num_threads()) == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (request(5, length=240), r"'problem/5': its prompt of 240 tokens and max_tokens = 24"),
        (request(6, length=0), "'problem/6' has an empty prompt"),
        (request(7, seeds=(-1,)), "'problem/7': seeds must be 0 or more"),
    ],
)
def test_a_request_that_cannot_be_served_names_its_problem(
    host: Host, asked: SampleRequest, message: str
):
    with pytest.raises(ValueError, match=message):
        host.sample([request(1), asked])


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"temperature": 0.001}, {"top_p": 0.0}])
def test_sampling_refuses_what_the_engine_would_change(options: dict[str, float]):
    with pytest.raises(ValueError, match=next(iter(options))):
        Sampling(**({"max_tokens": 1, "temperature": 1.0} | options))


# --- weights ---------------------------------------------------------------------------------


def load(host: Host, update: WeightUpdate, model: Any):
    return host(lambda g, *a: g.load_weights(*a), update, reference.canary(model))


def test_after_a_sync_the_engine_computes_with_the_new_weights(fresh: Host, tiny_model: Path):
    asked = request(1, length=100)
    (old,) = fresh.sample([asked])[0]  # leaves three blocks of old keys and values in the cache
    model = reference.nudged(reference.load(tiny_model), seed=1)
    assert worst_gap(model, asked, old) > 0.05

    proof = load(fresh, reference.update(model, version=3), model)

    (new,) = fresh.sample([asked], version=3)[0]
    assert worst_gap(model, asked, new) < 1e-4
    assert new.policy_version == 3
    assert (proof.version, proof.tensors) == (3, 25)  # 24 of the checkpoint and the tied head
    assert proof.canary_max_gap_nats < 1e-4


def test_a_skipped_repack_of_the_tied_head_fails_the_proof(fresh: Host, tiny_model: Path):
    def without_repack(generator: Generator) -> None:
        worker = generator._llm.llm_engine.model_executor.driver_worker.worker
        worker.repack = lambda: None

    fresh(without_repack)
    model = reference.nudged(reference.load(tiny_model), seed=2)
    with pytest.raises(WeightSyncError, match=r"1 of 25 tensors differ.*'lm_head.weight'"):
        load(fresh, reference.update(model, version=1), model)
    assert fresh(lambda g: g.policy_version()) == -1
    with pytest.raises(StaleGeneratorError, match="proof failed"):
        fresh.sample([request(1)])


def test_a_tensor_changed_on_the_way_is_named(fresh: Host, tiny_model: Path):
    model = reference.nudged(reference.load(tiny_model), seed=3)
    update = reference.update(model, version=1)
    update.tensors["model.layers.1.self_attn.k_proj.weight"][3, 5] += 1e-3
    with pytest.raises(WeightSyncError, match=r"1 of 25 .*'model.layers.1.self_attn.k_proj"):
        load(fresh, update, model)


@pytest.mark.parametrize("also_its_digest", [True, False])
def test_a_missing_tensor_is_named(fresh: Host, tiny_model: Path, also_its_digest: bool):
    model = reference.nudged(reference.load(tiny_model), seed=4)
    update = reference.update(model, version=1)
    name = "model.layers.0.mlp.down_proj.weight"
    del update.tensors[name]
    if also_its_digest:
        del update.digests[name]
    with pytest.raises(WeightSyncError, match=f"1 of 25 tensors .*{name}"):
        load(fresh, update, model)


def test_a_prefix_cache_that_cannot_be_dropped_fails_the_proof(fresh: Host, tiny_model: Path):
    def with_a_running_request(generator: Generator, *args: Any) -> None:
        from vllm import SamplingParams

        prompt, params = {"prompt_token_ids": [5] * 40}, SamplingParams(max_tokens=50)
        generator._llm.llm_engine.add_request("left over", prompt, params)
        generator._llm.llm_engine.step()
        generator.load_weights(*args)

    model = reference.nudged(reference.load(tiny_model), seed=5)
    with pytest.raises(WeightSyncError, match="prefix cache"):
        fresh(with_a_running_request, reference.update(model, version=1), reference.canary(model))


def test_a_learner_that_computes_something_else_fails_the_canary(fresh: Host, tiny_model: Path):
    model = reference.load(tiny_model)
    update = reference.update(model, version=1)
    with pytest.raises(WeightSyncError, match="all 25 weights arrived, but"):
        load(fresh, update, reference.nudged(model, seed=6))


def test_weights_never_go_backwards(fresh: Host, tiny_model: Path):
    model = reference.load(tiny_model)
    load(fresh, reference.update(model, version=2), model)
    load(fresh, reference.update(model, version=2), model)  # again after a restart: allowed
    with pytest.raises(ValueError, match="refusing to replace policy v2 by the older v1"):
        load(fresh, reference.update(model, version=1), model)
    assert fresh(lambda g: g.policy_version()) == 2


def test_an_engine_older_than_the_caller_needs_does_not_sample(fresh: Host):
    with pytest.raises(StaleGeneratorError, match="holds v0, the caller needs policy v1"):
        fresh.sample([request(1)], version=1)


# --- other architectures ---------------------------------------------------------------------


def architecture(kind: str) -> Any:
    import transformers as hf

    shape = {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "initializer_range": 0.08,
        "eos_token_id": 1,
        "bos_token_id": None,
        "pad_token_id": 0,
    }
    experts = {"num_experts": 4, "num_experts_per_tok": 2}
    if kind == "llama":  # an output layer of its own
        return hf.LlamaForCausalLM(hf.LlamaConfig(**shape, tie_word_embeddings=False))
    if kind == "qwen2":  # biases
        return hf.Qwen2ForCausalLM(hf.Qwen2Config(**shape, tie_word_embeddings=True))
    if kind == "qwen3_moe":
        sizes = {"head_dim": 32, "moe_intermediate_size": 64, "norm_topk_prob": True}
        return hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**shape, **experts, **sizes))
    return hf.OlmoeForCausalLM(hf.OlmoeConfig(**shape, **experts))


@pytest.mark.parametrize("kind", ["qwen2", "llama", "qwen3_moe", "olmoe"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_architecture_proves_a_sync(process: Host, tmp_path: Path, kind: str, dtype):
    torch.manual_seed(0)
    model = architecture(kind)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    write_character_tokenizer(tmp_path)
    model.save_pretrained(tmp_path)
    # In bfloat16 a router's near tie can go to another expert, which moves a token by 0.5 nats.
    tolerance = 1e-3 if dtype == torch.float32 else 1.0
    settings = config.Generator(
        dtype=str(dtype).removeprefix("torch."),
        max_model_len=256,
        kv_cache_bytes=32 << 20,
        sync_tolerance_nats=tolerance,
    )
    process.start(tmp_path, settings)

    reference.nudged(model, seed=1).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")  # checkpoint names, experts one by one
    update = make_update(tensors.items(), version=1, dtype=dtype)

    assert load(process, update, model).version == 1

    broken = replace(update, tensors=dict(update.tensors), version=2)
    name = sorted(broken.tensors)[len(broken.tensors) // 2]
    broken.tensors[name] = broken.tensors[name] + 0.5
    with pytest.raises(WeightSyncError, match=name.replace(".", r"\.")):
        load(process, broken, model)
