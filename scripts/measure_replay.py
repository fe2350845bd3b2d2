#!/usr/bin/env python
"""How far engine and learner are apart on a mixture of experts, with and without router replay.

    python scripts/measure_replay.py qwen3_moe
    python scripts/measure_replay.py deepseek_v3 --completions 24
    python scripts/measure_replay.py runs/experts/model --tokens 200

MODEL is a folder, or a tiny model with random weights that is made on the spot. The project's
engine samples completions of random prompts in bfloat16 at temperature 1 and records the experts
of every token. The learner's forward pass, bfloat16 autocast over float32 weights, then scores
them twice: with the experts that it chooses itself, and with those of the engine
(`train.rollout.replay_routes`).

    max, p99, mean   of |log p_engine - log p_learner| over the completions' tokens, in nats
    k3               an estimate of KL(engine || learner) for a token, in nats
    flipped          choices (a token in a layer) in which the learner's experts are others

Both run in this process, one after the other; --json writes the figures to a file as well.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3MoeConfig

from cotree.grpo.collate import collate
from cotree.grpo.config import Generator as Settings
from cotree.grpo.config_algorithm import Advantage
from cotree.grpo.config_model import NewDeepseekModel
from cotree.grpo.engine import Generator, Sampling
from cotree.grpo.kl import k3
from cotree.grpo.models import character_tokenizer, load_model
from cotree.grpo.new_models import new_model_config
from cotree.grpo.policy import policy_logprobs
from cotree.grpo.routers import Routers
from cotree.grpo.types import Batch, Group, Problem, Rollout, SampleRequest
from cotree.rewards.types import Reward

KINDS = ("qwen3_moe", "deepseek_v3")
ALPHABET = [chr(code) for code in range(32, 127)]
MAX_POSITIONS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help=f"a folder, or {' or '.join(KINDS)}")
    parser.add_argument("--completions", type=int, default=24)
    parser.add_argument("--prompt-tokens", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64, help="of a completion, at most")
    parser.add_argument("--spread", type=float, default=4.0, help="random weights, times the usual")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(arguments.model)
        if arguments.model in KINDS:
            folder = Path(scratch)
            write_model(arguments.model, folder, spread=arguments.spread, seed=arguments.seed)
        batch = sampled(folder, arguments)
        model = load_model(str(folder), dtype=torch.float32)
    model.eval()
    assert batch.routes is not None, "recorded"
    known_BSl = (batch.routes >= 0).all(-1)
    routers = Routers(model, balance_coef=0.0)
    with choices_of(model) as chosen:
        own = scored(model, batch)
    choices = torch.stack(chosen, 1).view(batch.routes.shape)
    flipped_BSl = (batch.routes.sort(-1).values != choices.sort(-1).values).any(-1) & known_BSl
    with routers.replaying(batch):
        replayed = scored(model, batch)
    found = {
        "model": arguments.model,
        "completions": len(batch.lengths),
        "tokens": batch.num_tokens,
        "flipped": int(flipped_BSl.sum()),
        "choices": int(known_BSl.sum()),
        "own": gaps(batch, own),
        "replayed": gaps(batch, replayed),
    }
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def write_model(kind: str, folder: Path, *, spread: float, seed: int) -> None:
    """A tiny model with random weights: 8 experts in each of 3 layers, 2 for a token."""
    tokenizer = character_tokenizer(ALPHABET, max_positions=MAX_POSITIONS)
    if kind == "deepseek_v3":
        sizes = {"layers": 4, "groups": 4, "groups_per_token": 2, "scaling": 2.5}
        shape = NewDeepseekModel.model_validate({"type": "new_deepseek_v3", **sizes})
        config = new_model_config(shape, tokenizer)
    else:
        config = Qwen3MoeConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            moe_intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            num_experts=8,
            num_experts_per_tok=2,
            norm_topk_prob=True,
            max_position_embeddings=MAX_POSITIONS,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            dtype="float32",
        )
    config.initializer_range = spread * 0.02
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def sampled(folder: Path, arguments: argparse.Namespace) -> Batch:
    """A batch of completions, with their routes."""
    settings = Settings(
        max_model_len=arguments.prompt_tokens + arguments.tokens, kv_cache_bytes=256 << 20
    )
    engine = Generator(str(folder), generator=settings, seed=arguments.seed, record_routes=True)
    random = torch.Generator().manual_seed(arguments.seed)
    requests = [
        SampleRequest(
            Problem(id=f"prompt/{number}", prompt="", reference="", task="random"),
            tuple(torch.randint(2, 90, (arguments.prompt_tokens,), generator=random).tolist()),
            seeds=(1000 * arguments.seed + number,),
        )
        for number in range(arguments.completions)
    ]
    sampling = Sampling(max_tokens=arguments.tokens, temperature=1.0)
    groups = [
        Group(request.problem, request.prompt_ids, (Rollout(completion, Reward(0.0, "")),))
        for request, (completion,) in zip(
            requests, engine.sample(requests, sampling, min_version=0), strict=True
        )
    ]
    return collate(
        groups,
        advantage=Advantage(),
        first_term="",
        aggregation="token_mean",
        max_tokens=arguments.tokens,
        mask_truncated=False,
    )


@contextmanager
def choices_of(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """[tokens, k] of each layer with experts, as its router chooses in a forward pass."""
    chosen: list[Tensor] = []

    def note(_module: nn.Module, _inputs: object, answer: tuple[Tensor, Tensor, Tensor]) -> None:
        chosen.append(answer[2])

    routers = [module for name, module in model.named_modules() if name.endswith("mlp.gate")]
    hooks = [router.register_forward_hook(note) for router in routers]
    yield chosen
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def scored(model: PreTrainedModel, batch: Batch) -> Tensor:
    """[B, S] the learner's log-probabilities."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return policy_logprobs(model, batch, temperature=1.0, packing=False)[0]


def gaps(batch: Batch, logprobs: Tensor) -> dict[str, float]:
    """The engine's log-probabilities against the learner's."""
    engine, learner = batch.behavior_logprobs[batch.mask], logprobs[batch.mask]
    gap = (engine - learner).abs()
    return {
        "max": float(gap.max()),
        "p99": float(gap.quantile(0.99)),
        "mean": float(gap.mean()),
        "k3": float(k3(engine, learner).mean()),
    }


if __name__ == "__main__":
    main()
