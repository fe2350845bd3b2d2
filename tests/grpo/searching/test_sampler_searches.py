"""Tests for grpo/searching/sampler.py and backend.py, with a session that writes known texts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_models import write_character_tokenizer

from cotree.grpo.engine_exchange import TokenRequest
from cotree.grpo.evaluation.engine_sampler import PromptEncoder
from cotree.grpo.evaluation.records import Ask
from cotree.grpo.searching.records import read_searches
from cotree.grpo.searching.sampler import SearchFiles, SearchPlan, SearchSampler, text_decoder
from cotree.grpo.tokens import load_tokenizer
from cotree.search.ledger import Limits
from cotree.search.step_rule import STEP_RULES
from cotree.search.strategy import Question
from cotree.search.trees.registry import tree_strategy_named
from cotree.search.types import Continuation, Judge, Judgement, State

TEXTS = ("so\nit is 4\n4", "so\nit is 5\n5", "well\nperhaps\n4", "hm\nhm")
EOS = 1


class Texts:
    """A session with an engine that writes one of `TEXTS`, by the request's seed."""

    def __init__(self, encoder: PromptEncoder, prompts: Sequence[str]) -> None:
        self._starts = {encoder.token_ids(prompt) for prompt in prompts}
        self._encoder = encoder
        self.requests: list[TokenRequest] = []
        self.is_closed = False

    def exchange(self, requests: Sequence[TokenRequest]) -> list[Continuation]:
        self.requests += requests
        return [self._answer(request) for request in requests]

    def _answer(self, request: TokenRequest) -> Continuation:
        (start,) = [one for one in self._starts if request.token_ids[: len(one)] == one]
        prefix = request.token_ids[len(start) :]
        whole = [(*self._encoder.token_ids(text), EOS) for text in TEXTS]
        fitting = [one for one in whole if one[: len(prefix)] == prefix]
        tokens = random.Random(request.seed).choice(fitting)[len(prefix) :][: request.max_tokens]
        end = "stop" if tokens[-1] == EOS else "length"
        return Continuation(request.name, tokens, (-1.0,) * len(tokens), end, 40, 32)

    def stats(self) -> dict[str, float]:
        return {"tokens": 7.0, "seconds": 1.0}

    def close(self) -> None:
        self.is_closed = True


class LastLine:
    """The last line is the answer; nothing is refuted."""

    def judge(self, states: Sequence[State]) -> list[Judgement]:
        return [
            Judgement((), one.text.split("\n")[-1] if one.is_finished else None, 1.0)
            for one in states
        ]


@contextmanager
def last_line(opens_thinking: bool) -> Iterator[Judge]:
    assert not opens_thinking
    yield LastLine()


PROMPTS = ("2+2?", "1+3?", "what is 2*2?")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_character_tokenizer(folder)
    return load_tokenizer(str(folder), revision=None)


def asks(samples: int = 2) -> list[Ask]:
    return [
        Ask(index, f"p/{index}", prompt, tuple(100 * index + n for n in range(samples)))
        for index, prompt in enumerate(PROMPTS)
    ]


def sampler(tokenizer, root: Path, *, budget: int = 60, strategy: str = "majority"):
    encoder = PromptEncoder(tokenizer)
    root.mkdir(exist_ok=True)
    session = Texts(encoder, PROMPTS)
    plan = SearchPlan(
        tree_strategy_named(strategy), Limits(budget, 20, 1), STEP_RULES["line"], concurrency=2
    )
    made = SearchSampler(
        plan,
        {one.index: Question(one.id, str(one.prompt)) for one in asks()},
        SearchFiles.of(root, "toy"),
        encoder=encoder,
        decode=text_decoder(tokenizer),
        open_session=lambda: session,
        open_judge=last_line,
        description={"engine": "texts"},
    )
    return made, session


def test_each_problem_gets_a_completion_a_seed_at_the_price_of_its_search(tokenizer, tmp_path):
    made, session = sampler(tokenizer, tmp_path)
    found = dict(made.sample(asks()))
    assert sorted(found) == [0, 1, 2]
    for drawn in found.values():
        assert len(drawn) == 2
        assert all(one.num_tokens == 60 and one.stop_reason == "stop" for one in drawn)
        assert all(one.text in TEXTS for one in drawn)
    assert session.is_closed
    assert made.describe() == {"engine": "texts"}


def test_finished_searches_and_speed_are_in_files(tokenizer, tmp_path):
    made, _ = sampler(tokenizer, tmp_path)
    found = dict(made.sample(asks()))
    records = read_searches(tmp_path / "trees_toy.jsonl")
    assert [(one.search, one.problem_id, one.seed) for one in records] == [
        (0, "p/0", 0), (1, "p/0", 1), (2, "p/1", 100), (3, "p/1", 101), (4, "p/2", 200),
        (5, "p/2", 201),
    ]  # fmt: skip
    for record in records:
        assert record.best is not None
        chosen = found[record.search // 2][record.search % 2]
        assert record.tree.text(record.best) == chosen.text
        assert record.tokens["spent"] == record.tree.num_tokens == 60
        assert record.tokens["cached_tokens"] == 32 * record.tokens["requests"]
    assert json.loads((tmp_path / "speed_toy.json").read_text())["engines"]["tokens"] == 7.0


def test_numbers_and_seeds_do_not_depend_on_what_is_left_to_do(tokenizer, tmp_path):
    whole = dict(sampler(tokenizer, tmp_path / "a")[0].sample(asks()))
    part = dict(sampler(tokenizer, tmp_path / "b")[0].sample(asks()[1:]))
    assert part == {index: whole[index] for index in (1, 2)}


def test_what_the_log_has_is_not_asked_for_again(tokenizer, tmp_path, capsys):
    first = dict(sampler(tokenizer, tmp_path)[0].sample(asks()))
    made, session = sampler(tokenizer, tmp_path)
    assert dict(made.sample(asks())) == first
    assert session.requests == []
    assert "answers of engines are in the log" in capsys.readouterr().err


def test_a_completion_that_the_budget_cuts_counts_as_cut(tokenizer, tmp_path):
    made, _ = sampler(tokenizer, tmp_path, budget=3)
    for drawn in dict(made.sample(asks())).values():
        for one in drawn:
            assert (one.num_tokens, one.stop_reason, len(one.text)) == (3, "length", 3)


def test_a_search_without_any_end_selects_nothing(tokenizer, tmp_path):
    made, _ = sampler(tokenizer, tmp_path, budget=3, strategy="puct")
    for drawn in dict(made.sample(asks())).values():
        assert all((one.text, one.num_tokens) == ("", 3) for one in drawn)


def test_requests_are_the_prompt_and_the_path_and_no_two_have_one_seed(tokenizer, tmp_path):
    made, session = sampler(tokenizer, tmp_path, strategy="puct", budget=120)
    list(made.sample(asks()))
    starts = [PromptEncoder(tokenizer).token_ids(prompt) for prompt in PROMPTS]
    continued = 0
    for request in session.requests:
        start = starts[request.name[0] // 2]
        assert request.token_ids[: len(start)] == start
        continued += len(request.token_ids) > len(start)
    assert continued > 0
    seeds = [request.seed for request in session.requests]
    assert len(set(seeds)) == len(seeds)


def test_nothing_to_do_opens_nothing(tokenizer, tmp_path):
    made, session = sampler(tokenizer, tmp_path)
    assert list(made.sample([])) == []
    assert not session.is_closed
