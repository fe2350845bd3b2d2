"""Tests for grpo/engine_options.py: an engine that records the experts of its tokens."""

import pytest

from cotree.grpo import config
from cotree.grpo.engine_options import engine_options


def test_recording_does_without_the_prefix_cache_alone():
    def options(*, record_routes: bool) -> dict[str, object]:
        return engine_options(
            config.Generator(), cuda=False, latent_attention=False, record_routes=record_routes
        )

    recording, plain = options(record_routes=True), options(record_routes=False)
    assert {key for key in plain if plain[key] != recording[key]} == {"enable_prefix_caching"}
    assert recording["enable_prefix_caching"] is False
    assert recording.keys() == plain.keys()


def test_recording_on_a_gpu_is_refused():
    with pytest.raises(ValueError, match=r"train\.rollout\.replay_routes records .* on a CPU"):
        engine_options(config.Generator(), cuda=True, latent_attention=False, record_routes=True)
