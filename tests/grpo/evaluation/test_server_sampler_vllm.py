"""Tests for grpo/evaluation/server_sampler.py against vLLM, served by scripts/serve_cpu.sh."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from cotree.grpo.evaluation.records import Ask, Turn
from cotree.grpo.evaluation.server_sampler import ServerError, ServerSampler

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
KEY = "a-key-of-the-test"
START_SECONDS, END_SECONDS = 240.0, 30.0
PROMPTS = ("1+1=", "2*3=", "the quick brown fox jumps over the lazy dog and back, ")
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the server ended: {log.read_text()[-3000:]}"
        try:
            with urlopen(f"{url}/health", timeout=5):
                return
        except (URLError, TimeoutError):
            time.sleep(0.5)
    pytest.fail(f"no answer within {START_SECONDS:g} s: {log.read_text()[-3000:]}")


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def end(server: subprocess.Popen[bytes]) -> None:
    """Ends the server's process group; by force what does not end in time."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + END_SECONDS
        if not group_is_gone(server.pid):
            os.killpg(server.pid, number)
        while time.monotonic() < deadline:
            server.poll()  # reaps it, or its group would stay
            if group_is_gone(server.pid):
                return
            time.sleep(0.1)
    pytest.fail(f"process group {server.pid} is still there")


@pytest.fixture(scope="module")
def url(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    template, log = folder / "chat.jinja", folder / "log"
    template.write_text(TEMPLATE)
    port = unused_port()
    command = ["nice", str(ROOT / "scripts/serve_cpu.sh"), str(tiny_model), str(port)]
    command += ["--max-model-len", "256", "--dtype", "float32", "--chat-template", str(template)]
    environment = os.environ | {
        "COTREE_VENV": sys.prefix,
        "COTREE_SERVER_KEY": KEY,
        "COTREE_KV_CACHE": "64M",
        "OMP_NUM_THREADS": "1",
    }
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        end(server)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def sampler_of(url: str, **settings: Any) -> ServerSampler:
    return ServerSampler(url, **({"max_tokens": 48, "temperature": 1.0} | settings))


def asks(*seeds: int) -> list[Ask]:
    return [Ask(i, f"p{i}", prompt, seeds) for i, prompt in enumerate(PROMPTS)]


def greedy(model_path: Path, prompt: str, max_tokens: int) -> str:
    """What transformers continues `prompt` with."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path)
    tokens = tokenizer(prompt, return_tensors="pt").input_ids
    output = model.generate(tokens, max_new_tokens=max_tokens, do_sample=False)
    return tokenizer.decode(output[0, tokens.shape[1] :], skip_special_tokens=True)


def test_the_server_tells_model_and_context(url: str, tiny_model: Path):
    sampler = sampler_of(url)
    assert sampler.model == str(tiny_model)
    assert sampler.describe()["served"] == {
        "owned_by": "vllm",
        "root": str(tiny_model),
        "max_model_len": 256,
    }


def test_a_seed_gives_the_same_completion_in_any_company(url: str):
    together = dict(sampler_of(url).sample(asks(1, 2, 2)))
    alone = dict(sampler_of(url, concurrency=1).sample(asks(2)[::-1]))
    assert sorted(together) == [0, 1, 2]
    for index, (first, second, third) in together.items():
        assert second == third == alone[index][0]
        assert first.text != second.text


def test_without_temperature_it_continues_as_transformers_does(url: str, tiny_model: Path):
    drawn = dict(sampler_of(url, temperature=0.0, max_tokens=24).sample(asks(0)))
    for index, prompt in enumerate(PROMPTS):
        assert drawn[index][0].text == greedy(tiny_model, prompt, 24)


def test_tokens_are_counted_and_the_limit_is_told_from_an_end(url: str):
    # One token a character, one more that ends it, and some that are no text (<pad>, <unk>).
    drawn = dict(sampler_of(url, max_tokens=96).sample(asks(*range(24))))
    samples = [sample for group in drawn.values() for sample in group]
    assert {sample.stop_reason for sample in samples} == {"stop", "length"}
    for sample in samples:
        if sample.stop_reason == "length":
            assert len(sample.text) <= sample.num_tokens == 96
        else:
            assert len(sample.text) < sample.num_tokens <= 96


def test_a_stop_string_ends_a_completion_and_is_left_out(url: str):
    whole = dict(sampler_of(url).sample(asks(3)))[0][0]
    mark = whole.text[10]
    cut = dict(sampler_of(url, stop=(mark,)).sample(asks(3)))[0][0]
    assert cut.text == whole.text[: whole.text.index(mark)]
    assert cut.stop_reason == "stop"


def test_a_chat_is_the_servers_template_and_then_a_completion(url: str):
    turns = (Turn("system", "be brief"), Turn("user", "1+1?"))
    text = "system: be brief\nuser: 1+1?\nassistant: "
    sampler = sampler_of(url)
    chat = dict(sampler.sample([Ask(0, "p0", turns, (5, 6))]))[0]
    assert chat == dict(sampler.sample([Ask(0, "p0", text, (5, 6))]))[0]


def test_a_prompt_that_leaves_no_room_ends_the_evaluation(url: str):
    # Longer than the context, it is refused; else the server shortens the limit on its own.
    with pytest.raises(ServerError, match=r"problem 'long': .* answered 400: .*256"):
        list(sampler_of(url).sample([Ask(0, "long", "x" * 257, (1,))]))
    with pytest.raises(ServerError, match=r"problem 'long': .* after 6 tokens .* = 48"):
        list(sampler_of(url).sample([Ask(0, "long", "x" * 250, tuple(range(16)))]))


def test_another_key_is_refused(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    with pytest.raises(ServerError, match=r"answered 401: .*OPENAI_API_KEY"):
        sampler_of(url)


def test_another_model_is_refused_with_the_one_that_is_there(url: str, tiny_model: Path):
    with pytest.raises(ServerError, match=f"does not offer 'gpt'; it offers '{tiny_model}'"):
        sampler_of(url, model="gpt")
