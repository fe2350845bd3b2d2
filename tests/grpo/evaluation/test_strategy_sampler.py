"""Tests for grpo/evaluation/strategy_sampler.py, with a sampler that answers by seed."""

import json
import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.grpo.config_evaluation import Benchmarks
from cotree.grpo.evaluation.job import Job, make_job
from cotree.grpo.evaluation.records import Ask, Drawn, Prompt
from cotree.grpo.evaluation.strategy_sampler import StrategySampler, with_strategy
from cotree.grpo.seeds import derive
from cotree.search.strategies import strategy_named
from cotree.search.strategy import Candidate


class BySeed:
    """A completion is a function of its prompt and seed; problems finish in a shuffled order."""

    def __init__(self, *, arrival: int = 0) -> None:
        self._arrival = random.Random(arrival)
        self.calls: list[list[Ask]] = []
        self.num_tokens = 0
        self.num_closed = 0

    def describe(self) -> Mapping[str, object]:
        return {"engine": "by seed"}

    def shown(self, prompt: Prompt) -> str:
        assert isinstance(prompt, str)
        return f"> {prompt}"

    def sample(self, asks: Sequence[Ask]) -> Generator[tuple[int, tuple[Drawn, ...]]]:
        self.calls.append(list(asks))
        try:
            for ask in self._arrival.sample(list(asks), len(asks)):
                drawn = tuple(completion(ask, seed) for seed in ask.seeds)
                self.num_tokens += sum(one.num_tokens for one in drawn)
                yield ask.index, drawn
        finally:
            self.num_closed += 1


def completion(ask: Ask, seed: int) -> Drawn:
    drawn = random.Random(derive(str(ask.prompt), seed))
    left, right, slip = drawn.randint(1, 3), drawn.randint(1, 3), drawn.random() < 0.4
    total = left + right + slip  # a false line is refuted
    text = rf"{left} + {right} = {total}. So \boxed{{{total}}}"
    reason = "length" if drawn.random() < 0.2 else "stop"
    return Drawn(text, drawn.randint(1, 50), reason)


def read(ask: Ask, drawn: Sequence[Drawn]) -> list[Candidate]:
    """As `with_strategy` reads, with a rule that needs no process."""
    found: list[Candidate] = []
    for one in drawn:
        line, total = one.text.split(" = ")[0], one.text.split("{")[1].strip("}")
        refuted = sum(map(int, line.split(" + "))) != int(total)
        finished = one.stop_reason == "stop"
        score = 0.0 if refuted else 1.0
        found.append(Candidate(one.text, total, one.num_tokens, finished, refuted, score))
    return found


def asks(count: int, *, k: int = 2) -> list[Ask]:
    return [Ask(n, f"p{n}", f"{n}?", tuple(derive(n, i) for i in range(k))) for n in range(count)]


def sampled(
    name: str, wanted: Sequence[Ask], base: BySeed | None = None
) -> dict[int, tuple[Drawn, ...]]:
    sampler = StrategySampler(base or BySeed(), strategy_named(name), read)
    return dict(sampler.sample(wanted))


NAMES = st.sampled_from(
    [
        "first",
        "majority:1",
        "majority:5",
        "vetoed-majority:4",
        "resample:1",
        "resample:6",
        "best-of:4",
        "weighted-majority:5",
    ]
)


@given(NAMES, st.integers(0, 99), st.integers(1, 5), st.integers(1, 3))
def test_what_finishes_first_changes_nothing(name: str, arrival: int, count: int, k: int):
    wanted = asks(count, k=k)
    found = sampled(name, wanted, BySeed(arrival=arrival))
    assert found == sampled(name, wanted)
    assert all(len(found[ask.index]) == k for ask in wanted)


@given(NAMES, st.sets(st.integers(0, 5), min_size=1))
def test_what_else_is_in_the_batch_changes_nothing(name: str, some: set[int]):
    # A resumed evaluation asks for the problems that are left.
    everything = sampled(name, asks(6))
    left = sampled(name, [ask for ask in asks(6) if ask.index in some])
    assert left == {index: everything[index] for index in some}


@given(NAMES, st.integers(1, 5), st.integers(1, 3))
def test_every_token_is_counted_once(name: str, count: int, k: int):
    base = BySeed()
    found = sampled(name, asks(count, k=k), base)
    reported = sum(one.num_tokens for drawn in found.values() for one in drawn)
    assert reported == base.num_tokens
    assert base.num_closed == len(base.calls)


def test_the_runs_of_one_problem_are_independent():
    (both,) = sampled("resample:4", asks(1, k=2)).values()
    ask = asks(1, k=2)[0]
    alone = [sampled("resample:4", [replace(ask, seeds=(seed,))])[0][0] for seed in ask.seeds]
    assert list(both) == alone


def test_a_selection_keeps_its_text_and_end_and_has_the_tokens_of_its_run():
    (ask,) = asks(1, k=1)
    drawn = [completion(ask, derive(ask.seeds[0], "strategy", n)) for n in range(5)]
    ((found,),) = sampled("majority:5", [ask]).values()
    chosen = next(one for one in drawn if one.text == found.text)
    assert found.stop_reason == chosen.stop_reason
    assert found.num_tokens == sum(one.num_tokens for one in drawn)


def test_all_that_is_wanted_is_asked_for_in_one_call():
    base = BySeed()
    sampled("majority:3", asks(4, k=2), base)
    (only,) = base.calls
    assert [len(ask.seeds) for ask in only] == [6] * 4
    assert len({seed for ask in only for seed in ask.seeds}) == 24


def test_later_rounds_ask_for_what_is_still_wanted_and_number_on():
    base = BySeed()
    sampled("resample:6", asks(8, k=1), base)
    sizes = [len(call) for call in base.calls]
    assert sizes == sorted(sizes, reverse=True)
    assert 1 < len(sizes) <= 6
    for number, call in enumerate(base.calls):
        for ask in call:
            assert ask.seeds == (derive(asks(8)[ask.index].seeds[0], "strategy", number),)


def test_a_problem_comes_out_as_soon_as_its_own_runs_are_done():
    base = BySeed()
    stream = StrategySampler(base, strategy_named("resample:6"), read).sample(asks(8, k=1))
    next(stream)
    assert len(base.calls) == 1  # others of them need more rounds
    stream.close()
    assert base.num_closed == 1  # what was asked and not answered is taken back


def test_it_describes_itself_and_shows_prompts_as_its_base_does():
    sampler = StrategySampler(BySeed(), strategy_named("majority:4"), read)
    assert sampler.describe() == {"engine": "by seed", "strategy": "majority:4"}
    assert sampler.shown("2?") == "> 2?"


# --- a job's ---------------------------------------------------------------------------------


def job(folder: Path, strategy: str | None, *, reference: str = "4") -> tuple[Job, Benchmarks]:
    folder.mkdir(exist_ok=True)
    rows = [{"question": f"{n}?", "answer": f"#### {reference}"} for n in range(6)]
    (folder / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = Benchmarks(
        names=("gsm8k",), data=str(folder), samples=2, temperature=1.0, strategy=strategy
    )
    return make_job("gsm8k", chosen, has_template=False), chosen


def selected(found: tuple[Job, Benchmarks]) -> dict[int, tuple[Drawn, ...]]:
    made, chosen = found
    with with_strategy(made, chosen, BySeed()) as sampler:
        return dict(sampler.sample(made.asks))


@pytest.mark.parametrize("name", ["majority:5", "vetoed-majority:5", "resample:5"])
def test_other_references_select_the_same(tmp_path: Path, name: str):
    found = selected(job(tmp_path / "a", name))
    garbage = selected(job(tmp_path / "b", name, reference="123456"))
    assert found == garbage
    assert len(found) == 6


def test_the_rules_of_the_benchmark_refute(tmp_path: Path):
    # As `read` refutes, so do `arithmetic_steps` and the extraction of answers in their processes.
    made, chosen = job(tmp_path, "resample:5")
    assert selected((made, chosen)) == sampled("resample:5", made.asks)


def test_without_a_strategy_the_sampler_is_the_one_given(tmp_path: Path):
    made, chosen = job(tmp_path, None)
    base = BySeed()
    with with_strategy(made, chosen, base) as sampler:
        assert sampler is base
