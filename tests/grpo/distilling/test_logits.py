"""Tests for grpo/distilling/logits.py: what the teacher is asked, once, and what a step gets."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from readers import BPE, CHARACTERS, ended, random_scores, reader

from cotree.grpo.config_distill import LogitsDistill
from cotree.grpo.config_file import ConfigError
from cotree.grpo.distilling.logit_store import LogitStore, LogitStoreError, LogitWriter
from cotree.grpo.distilling.logits import (
    TaughtExample,
    ask_once,
    check_store,
    stored_batch,
    taught_examples,
)
from cotree.grpo.distilling.server_scorer import ServerError
from cotree.grpo.distilling.view import TeacherView
from cotree.grpo.supervised import Example, sft_batch
from cotree.grpo.token_scores import ScoreRequest, TokenScores

SIZE = len(CHARACTERS)
ABOUT = {"teacher": "big"}
QUESTIONS = [f"{number}+1\n" for number in range(12)]


def examples_of(tokenizer, *, solution: str = "{}") -> list[Example]:
    prompt = reader(tokenizer).prompt
    return [
        Example(prompt(question), ended(tokenizer, solution.format(number + 1)))
        for number, question in enumerate(QUESTIONS)
    ]


def same_view() -> TeacherView:
    return TeacherView(reader(CHARACTERS), reader(CHARACTERS), max_tokens=32)


def corpus() -> list[TaughtExample]:
    return taught_examples(QUESTIONS, examples_of(CHARACTERS), same_view())


class ScoringServer:
    """Answers as a server that scores texts does; every token has its own probability."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.lives: int | None = None
        """Texts that it scores before it fails; None: all."""
        self.url = ""

    def scores(self, tokens: list[int]) -> list[dict[str, dict[str, float]] | None]:
        found: list[dict[str, dict[str, float]] | None] = [None]
        for place in range(1, len(tokens)):
            likely = [(tokens[place - 1] + place + i) % SIZE for i in range(4)]
            values = {token: -0.5 - rank for rank, token in enumerate(likely)}
            values.setdefault(tokens[place], -6.0)
            ranked = sorted(values, key=values.__getitem__, reverse=True)
            found.append(
                {
                    str(token): {"logprob": values[token], "rank": ranked.index(token) + 1}
                    for token in (tokens[place], *(t for t in likely if t != tokens[place]))
                }
            )
        return found


def handler_of(server: ScoringServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send(200, {"data": [{"id": "tiny"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if server.lives is not None and len(server.asked) >= server.lives:
                self.send(400, {"error": {"message": "out of order"}})
                return
            server.asked.append(body["prompt"])
            scores = server.scores(body["prompt"])
            choice = {"index": 0, "text": "x", "finish_reason": "length", "prompt_logprobs": scores}
            self.send(200, {"choices": [choice], "usage": {"completion_tokens": 1}})

        def send(self, status: int, answer: object) -> None:
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScoringServer]:
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    found = ScoringServer()
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(found))
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
    thread.start()
    found.url = f"http://127.0.0.1:{listening.server_port}"
    yield found
    listening.shutdown()
    thread.join()
    listening.server_close()


def asking(server: ScoringServer) -> LogitsDistill:
    return LogitsDistill(
        type="logits",
        teacher={"type": "server", "url": server.url, "tokenizer": "t", "concurrency": 1},
        corpus={"type": "generated"},
        keep={"most": 4, "tail_mass": 0.0},
        num_steps=1,
        optimizer={"learning_rate": 1e-3},
    )


def asked_once(
    server: ScoringServer, folder: Path, examples: list[TaughtExample], **about: object
) -> LogitStore:
    return ask_once(examples, asking(server), folder, about=ABOUT | about, vocab_size=SIZE, seed=0)


def tokens_of(examples: list[TaughtExample]) -> list[list[int]]:
    return [[*one.request.prompt_ids, *one.request.token_ids] for one in examples]


# --- asking ---------------------------------------------------------------------------------------


def test_each_text_is_asked_about_once_and_its_answer_is_kept(
    server: ScoringServer, tmp_path: Path
):
    examples = corpus()
    store = asked_once(server, tmp_path, examples)
    assert server.asked == tokens_of(examples)
    assert len(store) == len(examples) == 12
    for number, one in enumerate(examples):
        assert store[number].request == one.request
        places = server.scores(tokens_of(examples)[number])[len(one.request.prompt_ids) :]
        for row, place in enumerate(places):
            assert place is not None
            kept = store[number].scores
            said = {int(token): value["logprob"] for token, value in place.items()}
            likely = sorted(said, key=said.__getitem__, reverse=True)[:4]
            assert kept.top_ids[row].tolist() == likely
            # The store rounds to a quantum of a nat.
            assert kept.top_logprobs[row].tolist() == pytest.approx(
                [said[token] for token in likely], abs=0.01
            )
    again = asked_once(server, tmp_path, examples)
    assert len(server.asked) == 12
    assert len(again) == 12


def test_a_start_that_failed_is_continued_where_the_store_ends(
    server: ScoringServer, tmp_path: Path
):
    examples = corpus()
    server.lives = 5
    with pytest.raises(ServerError, match="out of order"):
        asked_once(server, tmp_path / "torn", examples)
    server.lives = None
    torn = asked_once(server, tmp_path / "torn", examples)
    assert server.asked == tokens_of(examples)  # none of the first 5 again
    whole = asked_once(server, tmp_path / "whole", examples)
    for number in range(12):
        assert torn[number].request == whole[number].request
        assert torn[number].scores.top_ids.tolist() == whole[number].scores.top_ids.tolist()


def test_answers_to_other_questions_are_not_continued(server: ScoringServer, tmp_path: Path):
    asked_once(server, tmp_path, corpus())
    with pytest.raises(LogitStoreError, match=r"about\.texts: None there, 'others' now"):
        asked_once(server, tmp_path, corpus(), texts="others")
    assert len(server.asked) == 12


# --- what a store is good for ---------------------------------------------------------------------


def store_of(folder: Path, examples: list[TaughtExample], *, vocab_size: int = SIZE) -> LogitStore:
    with LogitWriter(folder, about=ABOUT, vocab_size=vocab_size) as writer:
        for number, one in enumerate(examples):
            scores = random_scores(one.request, vocab_size=vocab_size, seed=number)
            writer.add(one.request, _first(scores, 6))
        writer.finish()
    return LogitStore.open(folder)


def _first(scores: TokenScores, most: int) -> TokenScores:
    return TokenScores(scores.logprobs, scores.top_ids[:, :most], scores.top_logprobs[:, :most])


def test_a_store_of_the_same_corpus_is_accepted(tmp_path: Path):
    check_store(store_of(tmp_path, corpus()), corpus(), tmp_path)


def test_a_store_of_another_corpus_is_refused(tmp_path: Path):
    examples = corpus()
    store = store_of(tmp_path, examples)
    with pytest.raises(ConfigError, match="scores of 12 texts, and the corpus has 11"):
        check_store(store, examples[:11], tmp_path)
    swapped = [*examples[:4], examples[5], examples[4], *examples[6:]]
    with pytest.raises(ConfigError, match="text 4 of the corpus is not the one"):
        check_store(store, swapped, tmp_path)
    other_prompt = TeacherView(reader(CHARACTERS), reader(CHARACTERS, mark="Q"), max_tokens=32)
    put = taught_examples(QUESTIONS, examples_of(CHARACTERS), other_prompt)
    with pytest.raises(ConfigError, match="text 0 of the corpus is not the one"):
        check_store(store, put, tmp_path)


def test_a_batch_is_the_students_own_with_the_stored_opinions(tmp_path: Path):
    examples = corpus()
    store = store_of(tmp_path, examples)
    batch = stored_batch([11, 2], examples, store, same_view())
    plain = sft_batch([examples[11].example, examples[2].example])
    assert torch.equal(batch.token_ids, plain.token_ids)
    assert torch.equal(batch.weights, plain.weights)
    for row, index in enumerate((11, 2)):
        named = batch.outcome_first[row][batch.mask[row]].numpy()
        np.testing.assert_array_equal(named, store[index].scores.top_ids)
        said = batch.teacher_logprobs[row][batch.mask[row]].exp()
        np.testing.assert_allclose(said.sum(-1), 1.0, atol=1e-5)
    assert torch.isneginf(batch.teacher_logprobs[~batch.mask]).all()


def test_a_batch_of_another_text_than_was_scored_is_refused(tmp_path: Path):
    # check_store looks at 64 texts alone; every text is looked at when its turn comes.
    examples = corpus()
    store = store_of(tmp_path, examples)
    changed = [*examples[:-1], examples[0]]
    with pytest.raises(ConfigError, match="text 11 of the corpus is not the one"):
        stored_batch([3, 11], changed, store, same_view())


# --- what the teacher can read --------------------------------------------------------------------


def test_what_the_teacher_cannot_read_is_left_out_and_told(capsys: pytest.CaptureFixture[str]):
    view = TeacherView(reader(BPE), reader(CHARACTERS), max_tokens=32)
    examples = examples_of(BPE)
    examples[3] = Example(examples[3].prompt_ids, ended(BPE, "é"))
    examples[7] = Example(examples[7].prompt_ids, ended(BPE, "1" * 40))
    found = taught_examples(QUESTIONS, examples, view)
    assert [one.example for one in found] == [
        one for number, one in enumerate(examples) if number not in (3, 7)
    ]
    assert found[0].request == ScoreRequest(
        reader(CHARACTERS).prompt(QUESTIONS[0]), ended(CHARACTERS, "1")
    )
    said = capsys.readouterr().err
    assert "cannot read 2 texts" in said
    assert "1 a character that the teacher does not know" in said
    assert "1 too long for the teacher" in said


def test_a_teacher_that_can_read_nothing_is_an_error():
    view = TeacherView(reader(BPE), reader(CHARACTERS), max_tokens=32)
    with pytest.raises(ConfigError, match="can read none of the 12 texts"):
        taught_examples(QUESTIONS, examples_of(BPE, solution="é{}"), view)
