"""Tests for grpo/evaluation/server_setup.py."""

import pytest
from fake_server import Reply, serving

from cotree.grpo.config_evaluation import Benchmarks, Server
from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.server_sampler import ServerError
from cotree.grpo.evaluation.server_setup import prepare_server

SETTINGS = Benchmarks(names=("countdown", "arithmetic"), limit=3)


def test_what_is_measured_does_not_depend_on_the_address_or_the_model():
    parts = []
    for name in ("tiny", "large"):
        with serving() as fake:
            fake.models = Reply(200, {"data": [{"id": name, "owned_by": "us"}]})
            ready = prepare_server(name, settings=SETTINGS, server=Server(url=fake.url))
            assert ready.identity == {"model": name, "root": None}
            parts.append(ready.parts)
    assert parts[0] == parts[1]
    assert parts[0]["countdown"]["engine"] == {"engine": "server"}


def test_each_prompt_keeps_its_own_way():
    with serving() as fake:
        ready = prepare_server("tiny", settings=SETTINGS, server=Server(url=fake.url))
    countdown, arithmetic = ready.jobs
    assert countdown.asks[0].prompt[0].role == "user"
    assert isinstance(arithmetic.asks[0].prompt, str)


def test_a_model_that_the_server_lacks_is_named_before_anything_is_asked():
    with serving() as fake, pytest.raises(ServerError, match="tiny"):
        prepare_server("other", settings=SETTINGS, server=Server(url=fake.url))


def test_an_address_that_is_none_is_a_setting_to_correct():
    with pytest.raises(ConfigError, match="ftp"):
        prepare_server("tiny", settings=SETTINGS, server=Server(url="ftp://host"))
