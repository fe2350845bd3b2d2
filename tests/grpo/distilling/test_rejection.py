"""Tests for grpo/distilling/rejection.py: every candidate is kept or dropped for one reason."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from teacher_texts import CUT, REFUTED, RIGHT, UNGRADED, WRONG, numbered, problem

from cotree.grpo.config_distill import Keep
from cotree.grpo.distilling.candidates import Candidate
from cotree.grpo.distilling.rejection import Rejection, Trace, kept_traces, pass_rate

OTHER = replace(RIGHT, text="6*7, so 42")
KINDS = (RIGHT, OTHER, WRONG, CUT, REFUTED, UNGRADED, replace(CUT, right=True, reward=1.0))

candidates = st.builds(
    lambda kind, tokens: replace(kind, num_tokens=tokens), st.sampled_from(KINDS), st.integers(1, 9)
)
rules = st.builds(
    Keep,
    right=st.booleans(),
    unrefuted=st.booleans(),
    duplicates=st.booleans(),
    min_tokens=st.none() | st.integers(1, 4),
    max_tokens=st.none() | st.integers(4, 9),
    pass_rate=st.sampled_from([(0.0, 1.0), (0.0, 0.5), (0.25, 0.75), (1.0, 1.0)]),
    per_problem=st.integers(1, 4),
)
corpora = st.lists(st.lists(candidates, max_size=6), max_size=4).map(
    lambda rows: {f"p{i}": numbered(f"p{i}", *row) for i, row in enumerate(rows)}
)


def reasons(keep: Keep, *row: Candidate) -> dict[str, int]:
    """Number of candidates of one problem that are dropped for each reason that holds."""
    _, counts = kept_traces({"p0": numbered("p0", *row)}, [problem(0)], keep)
    return {reason.value: number for reason, number in counts.dropped.items() if number}


@given(corpora, rules)
def test_kept_and_dropped_add_up_to_all(corpus: dict[str, tuple[Candidate, ...]], keep: Keep):
    problems = [problem(index) for index in range(len(corpus))]
    traces, counts = kept_traces(corpus, problems, keep)
    assert list(counts.dropped) == list(Rejection)
    assert counts.kept == len(traces)
    assert counts.total == sum(map(len, corpus.values()))


@given(corpora, rules)
def test_what_is_kept_obeys_every_rule(corpus: dict[str, tuple[Candidate, ...]], keep: Keep):
    problems = [problem(index) for index in range(len(corpus))]
    traces, _ = kept_traces(corpus, problems, keep)
    by_id = {f"{one.problem_id}/{one.sample}": one for row in corpus.values() for one in row}
    for trace in traces:
        one = by_id[trace.id]
        assert one.stop_reason == "stop"
        assert one.ungraded is None
        assert one.right or not keep.right
        assert not (one.refuted and keep.unrefuted)
        assert (keep.min_tokens or 0) <= one.num_tokens <= (keep.max_tokens or 99)
        assert keep.pass_rate[0] <= trace.pass_rate <= keep.pass_rate[1]
    for row in corpus.values():
        texts = (
            [trace.solution for trace in traces if trace.id.startswith(f"{row[0].problem_id}/")]
            if row
            else []
        )
        assert len(texts) <= keep.per_problem
        assert keep.duplicates or len(set(texts)) == len(texts)


@given(corpora, rules, st.randoms(use_true_random=False))
def test_the_order_of_finishing_does_not_matter(
    corpus: dict[str, tuple[Candidate, ...]], keep: Keep, rng
):
    problems = [problem(index) for index in range(len(corpus))]
    shuffled = {key: tuple(rng.sample(row, len(row))) for key, row in corpus.items()}
    shuffled = dict(rng.sample(list(shuffled.items()), len(shuffled)))
    assert kept_traces(shuffled, problems, keep) == kept_traces(corpus, problems, keep)


@given(corpora, rules)
def test_a_problem_is_judged_by_its_own_candidates(
    corpus: dict[str, tuple[Candidate, ...]], keep: Keep
):
    problems = [problem(index) for index in range(len(corpus))]
    alone = [kept_traces({one.id: corpus[one.id]}, [one], keep)[0] for one in problems]
    assert kept_traces(corpus, problems, keep)[0] == [trace for row in alone for trace in row]


def test_a_trace_has_its_problem_and_its_teachers_success():
    # The cut one was graded too: 1 right of 3 graded.
    row = numbered("p2", WRONG, RIGHT, UNGRADED, CUT)
    traces, counts = kept_traces({"p2": row}, [problem(2)], Keep())
    assert traces == [Trace("p2/1", "2?", "Q: 2?\n", "so 42", 9, 1 / 3)]
    assert counts.dropped[Rejection.WRONG] == 1
    assert counts.dropped[Rejection.UNGRADED] == 1
    assert counts.dropped[Rejection.CUT] == 1


def test_the_first_reason_that_holds_is_the_one_that_counts():
    everything = replace(CUT, right=None, reward=None, ungraded="timeout", refuted=True, text="")
    assert reasons(Keep(min_tokens=17), everything) == {"cut": 1}
    ended = replace(everything, stop_reason="stop")
    assert reasons(Keep(min_tokens=17), ended) == {"ungraded": 1}
    graded = replace(ended, right=False, reward=0.0, ungraded=None)
    assert reasons(Keep(min_tokens=17), graded) == {"wrong": 1}
    assert reasons(Keep(min_tokens=17, right=False), graded) == {"refuted": 1}
    assert reasons(Keep(min_tokens=17, right=False, unrefuted=False), graded) == {"too_short": 1}


def test_a_failed_grader_is_never_a_wrong_answer_even_where_wrong_ones_are_kept():
    assert reasons(Keep(), UNGRADED) == {"ungraded": 1}
    assert reasons(Keep(right=False, unrefuted=False), UNGRADED) == {"ungraded": 1}


def test_lengths_are_kept_with_their_ends():
    row = [replace(RIGHT, num_tokens=n, text=f"{n}") for n in (3, 4, 6, 7)]
    keep = Keep(min_tokens=4, max_tokens=6, per_problem=4)
    assert reasons(keep, *row) == {"too_short": 1, "too_long": 1}


def test_a_text_of_nothing_is_no_row_to_learn_from():
    # Wrong ones may be kept, and a model may well say nothing.
    assert reasons(Keep(right=False), replace(WRONG, text=" \n")) == {"too_short": 1}


def test_the_first_of_equal_texts_is_kept_unless_all_are_wanted():
    row = (REFUTED, replace(RIGHT, text=REFUTED.text), replace(RIGHT, text=REFUTED.text), OTHER)
    # The refuted one is dropped already, so the second is no duplicate of it.
    assert reasons(Keep(per_problem=4), *row) == {"refuted": 1, "duplicate": 1}
    assert reasons(Keep(per_problem=4, duplicates=True), *row) == {"refuted": 1}


@pytest.mark.parametrize(
    ("bounds", "kept"), [((0, 0.75), 1), ((0.75, 1), 1), ((0, 0.7), 0), ((0.8, 1), 0)]
)
def test_problems_outside_the_pass_rates_are_left_out(bounds: tuple[float, float], kept: int):
    row = (RIGHT, OTHER, RIGHT, WRONG, UNGRADED)  # 3 of 4 graded; the second RIGHT is a duplicate
    left_out = reasons(Keep(pass_rate=bounds), *row)
    assert left_out.get("pass_rate", 0) == (0 if kept else 2)
    assert left_out.get("per_problem", 0) == kept


def test_the_pass_rate_of_nothing_graded_is_unknown():
    assert pass_rate([UNGRADED, UNGRADED]) is None
    assert pass_rate([]) is None
    assert pass_rate([UNGRADED, RIGHT]) == 1.0


def test_a_problem_without_candidates_is_an_error_and_so_is_the_reverse():
    with pytest.raises(ValueError, match="'p1' for one"):
        kept_traces({"p0": ()}, [problem(0), problem(1)], Keep())
    with pytest.raises(ValueError, match="'p0' for one"):
        kept_traces({"p0": ()}, [], Keep())
