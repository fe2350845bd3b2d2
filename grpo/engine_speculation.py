"""Speculative decoding in a vLLM engine: who drafts, how it went, and a drafter's live weights.

A drafter proposes the next few tokens; the policy computes them all at once, keeps those that its
own distribution accepts and draws the first other one itself (Leviathan et al. 2022,
arXiv:2211.17192). What is sampled has the policy's distribution, and the reported log-probabilities
are the policy's.

Drafts are the drafter's likeliest tokens. Drawn ones would be accepted more often, but vLLM 0.32
draws them with the engine's one generator: a completion would depend on the others in its batch.

Loads no vLLM until a worker calls: the driver imports this file too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from cotree.grpo.config_generator import (
    DraftModelSpeculation,
    NgramSpeculation,
    Speculation,
)
from cotree.grpo.mtp import is_mtp_weight, with_copies

VllmObject: TypeAlias = Any
"""vLLM's objects are untyped."""

_COUNTERS = {
    "vllm:spec_decode_num_drafts": "drafts",
    "vllm:spec_decode_num_draft_tokens": "drafted_tokens",
    "vllm:spec_decode_num_accepted_tokens": "accepted_tokens",
    "vllm:num_preemptions": "preemptions",
}


class PreemptedDraftsError(RuntimeError):
    """Completions depend on the other requests in the engine, so a run could not be repeated."""


def speculative_options(speculation: Speculation | None, *, revision: str | None) -> dict[str, Any]:
    """Keyword arguments of `vllm.LLM`, besides those of `grpo.engine_options`.

    Args:
        speculation: who drafts; None gives no arguments.
        revision: of the policy's checkpoint, whose own module `mtp` loads.
    """
    if speculation is None:
        return {}
    settings: dict[str, Any] = {
        "method": speculation.type,
        "num_speculative_tokens": speculation.tokens,
        "rejection_sample_method": "standard",
        "draft_sample_method": "greedy",
    }
    if isinstance(speculation, NgramSpeculation):
        settings |= {
            "prompt_lookup_max": speculation.longest,
            "prompt_lookup_min": speculation.shortest,
        }
    elif isinstance(speculation, DraftModelSpeculation):
        settings["model"] = speculation.path
    elif revision is not None:
        settings["revision"] = revision
    # vLLM counts drafts together with its other statistics only.
    return {"speculative_config": settings, "disable_log_stats": False}


def speculation_stats(llm: VllmObject) -> dict[str, float]:
    """Totals of an engine with a drafter since its start.

    Returns:
        `drafts`, `drafted_tokens` and `accepted_tokens`: a draft is accepted for
        accepted_tokens / drafts tokens on average, and gives one more that the policy draws.
        `preemptions`: requests that lost their place in the key-value cache to others.
    """
    found = dict.fromkeys(_COUNTERS.values(), 0.0)
    for metric in llm.get_metrics():
        if metric.name in _COUNTERS:
            found[_COUNTERS[metric.name]] += float(metric.value)
    return found


def check_preemptions(llm: VllmObject, *, before: float) -> None:
    """Refuses what was sampled while requests were preempted.

    A preempted request loses the draft under way, and with it the place in its random numbers:
    its completion is as likely as any, but another one than its seed gives without the others.

    Args:
        llm: an engine with a drafter.
        before: `preemptions` of `speculation_stats` before the sampling.

    Raises:
        PreemptedDraftsError: there were preemptions since.
    """
    count = speculation_stats(llm)["preemptions"] - before
    if count:
        raise PreemptedDraftsError(
            f"the key-value cache was too small: {count:.0f} times, a request was taken out and "
            "computed again, which under generator.speculation changes what its seed gives. Raise "
            "generator.kv_cache_bytes, lower generator.max_num_seqs, or drop generator.speculation."
        )


# --- inside the engine's process -------------------------------------------------------------


def mend_cpu_sampler() -> None:
    """Has the rejection sampler of vLLM 0.32 divide by the temperature on a CPU.

    Its `expand_kernel` converts its output to int64 and fills the copy: temperature, top-p and
    top-k of each drafted token are then whatever memory held, and both the tokens sampled and
    their log-probabilities are wrong (greedy requests do not get there).
    """
    from vllm.v1.sample import rejection_sampler  # noqa: PLC0415 (see above)

    rejection_sampler.expand_batch_to_tokens = _expanded


def _expanded(
    x: Tensor, cu_num_tokens: Tensor, num_tokens: int, replace_from: int = 0, replace_to: int = 0
) -> Tensor:
    """[num_tokens] each request's value, once for each of its drafted tokens."""
    counts = cu_num_tokens.diff(prepend=cu_num_tokens.new_zeros(1))
    replaced = torch.where(x == replace_from, torch.full_like(x, replace_to), x)
    return replaced.repeat_interleave(counts, output_size=num_tokens)


# --- inside the worker -----------------------------------------------------------------------


def mtp_drafter(model_runner: VllmObject) -> nn.Module | None:
    """The live multi-token prediction module of a vLLM worker, if that is what drafts there."""
    settings = model_runner.speculative_config
    return model_runner.drafter.model if settings and settings.method == "mtp" else None


def load_drafter(model_runner: VllmObject, tensors: Mapping[str, Tensor]) -> None:
    """Replaces a drafting module's live weights, after the policy's were replaced.

    Args:
        model_runner: of a worker with a `mtp_drafter`.
        tensors: the policy's and the module's, by checkpoint name. Of the embedding and the head
            the drafter has no copies of its own: vLLM gives it the policy's layers.
    """
    from vllm.config import set_current_vllm_config  # noqa: PLC0415 (see above)
    from vllm.model_executor.model_loader.reload.inplace import (  # noqa: PLC0415
        reload_weights,
    )

    drafter = mtp_drafter(model_runner)
    assert drafter is not None, "asked for an engine that drafts with another"
    layers: int = model_runner.model_config.hf_config.num_hidden_layers
    # The layers that it shares are part of its tree: left out, they would be reported as missing.
    complete = with_copies(tensors, layers=layers)
    own = {name: value for name, value in complete.items() if is_mtp_weight(name, layers=layers)}
    with set_current_vllm_config(model_runner.vllm_config):
        reload_weights(
            model_runner.vllm_config,
            drafter,
            weights_iterator=iter(own.items()),
            weights_path=None,
            is_checkpoint_format=True,
        )


def drafter_digests(digests: Mapping[str, str]) -> dict[str, str]:
    """A drafting module's digests by checkpoint name, of those by vLLM's.

    Embedding and head are left out: they are the policy's own layers, proven with it.
    """
    return {
        name.replace(".mtp_block.", "."): digest
        for name, digest in digests.items()
        if not name.startswith(("model.embed_tokens.", "lm_head."))
    }
