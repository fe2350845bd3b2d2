"""Tests for grpo/divergence.py: the student's outcomes, and what a truncated teacher costs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotree.grpo.divergence import divergence, outcome_logprobs, truncation_bound

INF = math.inf


def log_distribution(*shape, seed, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    values = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    return torch.log_softmax(values, -1)


def places(*rows):
    """`first` and `end`, int32 [N, K], from rows of (first, end)."""
    table = torch.tensor(rows, dtype=torch.int32)
    return table[..., 0], table[..., 1]


def summed(logprobs, first, end, order):
    """The same, token by token in Python: exact sums of float64 exponentials."""
    rows = []
    for scores, begins, ends in zip(logprobs.tolist(), first.tolist(), end.tolist(), strict=True):
        tokens = list(range(len(scores))) if order is None else order.tolist()
        rest, row = set(tokens), []
        for begin, stop in zip(begins, ends, strict=True):
            row.append(math.fsum(math.exp(scores[token]) for token in tokens[begin:stop]))
            rest -= set(tokens[begin:stop])
        rows.append([*row, math.fsum(math.exp(scores[token]) for token in rest)])
    return torch.tensor(rows, dtype=torch.float64).log()


@st.composite
def outcomes(draw, *, longest):
    """Log-distributions [2, V], and disjoint ranges [2, K] in any order, empty ones among them."""
    vocabulary = draw(st.integers(1, 9))
    num_outcomes = draw(st.integers(0, 5))
    rows = []
    for _ in range(2):
        cursor, row = 0, []
        for _ in range(num_outcomes):
            first = min(vocabulary, cursor + draw(st.integers(0, 2)))
            cursor = min(vocabulary, first + draw(st.integers(0, longest)))
            row.append((first, cursor) if cursor > first else (0, 0))
        rows.append(draw(st.permutations(row)))
    table = torch.tensor(rows, dtype=torch.int32).view(2, num_outcomes, 2)
    order = draw(st.none() | st.permutations(range(vocabulary)).map(torch.tensor))
    logprobs = log_distribution(2, vocabulary, seed=draw(st.integers(0, 999)))
    return logprobs, table[..., 0], table[..., 1], order


@given(outcomes(longest=1) | outcomes(longest=9))
def test_outcomes_and_tail_equal_explicit_sums(drawn):
    logprobs, first, end, order = drawn
    got = outcome_logprobs(logprobs, first, end, order=order)
    assert got.shape == (2, first.shape[1] + 1)
    torch.testing.assert_close(got, summed(*drawn), rtol=1e-12, atol=1e-12)
    # They are a distribution: nothing is counted twice, nothing is left out.
    torch.testing.assert_close(got.exp().sum(-1), torch.ones(2).double(), rtol=0, atol=1e-13)


@given(outcomes(longest=1) | outcomes(longest=9))
def test_each_token_gets_its_share_of_its_outcome_as_gradient(drawn):
    # d logsumexp / d x_v = exp(x_v - logsumexp), 0 for outcomes without tokens.
    logprobs, first, end, order = drawn
    leaf = logprobs.clone().requires_grad_()
    got = outcome_logprobs(leaf, first, end, order=order)
    share = torch.linspace(1, 2, got.numel(), dtype=torch.float64).view_as(got)
    (gradient,) = torch.autograd.grad((share * got.masked_fill(got == -INF, 0)).sum(), leaf)
    expected = torch.zeros_like(logprobs)
    for n in range(2):
        owner = torch.full((logprobs.shape[1],), first.shape[1])
        tokens = torch.arange(logprobs.shape[1]) if order is None else order
        for k in range(first.shape[1]):
            owner[tokens[first[n, k] : end[n, k]]] = k
        expected[n] = share[n, owner] * torch.exp(logprobs[n] - got.detach()[n, owner])
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rows", [[[(3, 4), (0, 1)], [(2, 3), (0, 0)]], [[(1, 3), (4, 5)]] * 2])
def test_gradcheck_of_single_tokens_and_of_ranges(rows):
    first, end = places(*rows)
    order = torch.tensor([2, 0, 4, 1, 3])

    def function(x):
        found = outcome_logprobs(torch.log_softmax(x, -1), first, end, order=order)
        return found.masked_fill(found == -INF, 0.0)

    assert torch.autograd.gradcheck(function, log_distribution(2, 5, seed=1).requires_grad_())


def test_ranges_by_hand():
    # p = (1, 2, 3, 4, 5, 6, 7, 8) / 36; the order is from the last token to the first.
    logprobs = (torch.arange(1.0, 9.0, dtype=torch.float64) / 36).log().unsqueeze(0)
    order = torch.arange(7, -1, -1)
    # Places 0 to 1 are tokens 7 and 6: 8 + 7; place 5 is token 2: 3; the rest is 36 - 18.
    first, end = places([(0, 2), (5, 6), (0, 0)])
    got = outcome_logprobs(logprobs, first, end, order=order)
    expected = torch.tensor([[15 / 36, 3 / 36, 0.0, 18 / 36]], dtype=torch.float64)
    torch.testing.assert_close(got.exp(), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("longer", [0, 1])
def test_masses_below_the_smallest_float_keep_their_digits(longer):
    # float32 has no e^-200. Outcome: tokens 1 (and 2); tail: the others but 0, 3 or 4 of e^-200.
    logprobs = torch.tensor([[0.0, -200.0, -200.0, -200.0, -200.0, -200.0]])
    first, end = places([(0, 1), (1, 2 + longer)])
    leaf = logprobs.clone().requires_grad_()
    got = outcome_logprobs(leaf, first, end, order=None)
    expected = [0.0, -200 + math.log(1 + longer), -200 + math.log(4 - longer)]
    assert got[0].tolist() == pytest.approx(expected, rel=1e-6)
    (gradient,) = torch.autograd.grad(got[0, -1], leaf)
    assert gradient[0, 3:].tolist() == pytest.approx([1 / (4 - longer)] * 3, rel=1e-5)


def test_a_small_tail_is_not_what_one_minus_the_rest_leaves():
    # Tail e^-20 beside an outcome of nearly 1: 1 - float32(1 - 2e-9) would be 0.
    logprobs = torch.tensor([[-2e-9, -20.0]])
    first, end = places([(0, 1)])
    assert outcome_logprobs(logprobs, first, end, order=None)[0, 1].item() == -20.0


@pytest.mark.parametrize("rows", [[[(0, 1), (1, 2), (2, 3)]], [[(0, 2), (2, 3), (0, 0)]]])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_what_is_empty_on_both_sides_sends_no_nan_back(kind, temperature, rows):
    # All tokens are covered, so that the tail is empty; in the second case an outcome is as well.
    first, end = places(*rows)
    z = log_distribution(1, 3, seed=2).requires_grad_()
    student = outcome_logprobs(torch.log_softmax(z, -1), first, end, order=None)
    assert student[0, -1].item() == -INF
    teacher = outcome_logprobs(log_distribution(1, 3, seed=0), first, end, order=None)
    value = divergence(kind, teacher, student, mix=0.5, temperature=temperature)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert value.item() > 1e-3
    assert gradient.isfinite().all()
    assert gradient.sum().item() == pytest.approx(0, abs=1e-14)  # logits may shift as one


@pytest.mark.parametrize("rows", [[[(0, 1), (0, 0)]], [[(0, 1), (1, 3)]]])
def test_tokens_that_the_student_rules_out_are_no_nan_either(rows):
    # Tokens 1 to 3 are at -inf: one of the outcomes (or the empty one), and the tail.
    first, end = places(*rows)
    z = torch.tensor([[0.5, -INF, -INF, -INF]], dtype=torch.float64, requires_grad=True)
    student = outcome_logprobs(torch.log_softmax(z, -1), first, end, order=None)
    assert student.tolist() == [[0.0, -INF, -INF]]
    teacher = torch.tensor([[0.5, 0.0, 0.5]], dtype=torch.float64).log()
    value = divergence("forward_kl", teacher, student, mix=0.5, temperature=1.0)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


def test_no_positions_and_no_outcomes():
    nothing = torch.zeros(0, 3, dtype=torch.int32)
    assert outcome_logprobs(torch.zeros(0, 5), nothing, nothing, order=None).shape == (0, 4)
    none = torch.zeros(2, 0, dtype=torch.int32)
    got = outcome_logprobs(log_distribution(2, 5, seed=4), none, none, order=None)
    assert got.tolist() == [[pytest.approx(0.0, abs=1e-15)]] * 2  # all is tail


def test_shapes_that_disagree_are_refused():
    logprobs = log_distribution(2, 5, seed=5)
    first, end = places([(0, 1), (1, 2)])
    with pytest.raises(ValueError, match=r"got \[\(2, 5\), \(1, 2\), \(1, 2\)\]"):
        outcome_logprobs(logprobs, first, end, order=None)
    with pytest.raises(ValueError, match=r"end \[N, K\]"):
        outcome_logprobs(logprobs[:1], first, end[:, :1], order=None)


# --- a truncated teacher ---------------------------------------------------------------------


def truncated_and_full(teacher, z, num_outcomes):
    """(forward_kl, its gradient) with the teacher's `num_outcomes` likeliest, and with all."""
    top = teacher.topk(num_outcomes, -1).indices
    found = []
    for outcome in (top, torch.arange(teacher.shape[1]).expand_as(teacher)):
        leaf = z.clone().requires_grad_()
        pair = [
            outcome_logprobs(scores, outcome, outcome + 1, order=None)
            for scores in (teacher, torch.log_softmax(leaf, -1))
        ]
        value = divergence("forward_kl", *pair, mix=0.5, temperature=1.0)
        found.append((value.detach(), torch.autograd.grad(value.sum(), leaf)[0]))
    tail_mass = 1 - teacher.gather(-1, top).exp().sum(-1)
    return *found, tail_mass


@given(st.integers(0, 999), st.integers(1, 7), st.sampled_from([0.5, 2.0, 5.0]))
def test_truncating_the_teacher_costs_at_most_the_bound(seed, num_outcomes, spread):
    teacher = log_distribution(3, 8, seed=seed, spread=spread)
    z = log_distribution(3, 8, seed=seed + 1000, spread=spread)
    (value, gradient), (full, full_gradient), tail_mass = truncated_and_full(
        teacher, z, num_outcomes
    )
    gap = (gradient - full_gradient).abs().sum(-1)
    assert (gap <= truncation_bound(tail_mass) + 1e-12).all()
    assert (value <= full + 1e-12).all()


def test_the_bound_is_reached_where_the_tails_are_apart():
    # Tails p = (0.4, 0) and q = (0, 0.4) but for 1e-9: the gap is 0.4 + 0.4, twice the mass.
    teacher = torch.tensor([[0.6, 0.4 - 1e-9, 1e-9]], dtype=torch.float64).log()
    z = torch.tensor([[0.6, 1e-9, 0.4 - 1e-9]], dtype=torch.float64).log()
    (_, gradient), (_, full_gradient), tail_mass = truncated_and_full(teacher, z, 1)
    gap = (gradient - full_gradient).abs().sum()
    assert gap.item() == pytest.approx(0.8, abs=1e-8)
    assert truncation_bound(tail_mass).item() == pytest.approx(0.8, abs=1e-12)


@pytest.mark.parametrize("num_outcomes", [7, 8])
def test_a_tail_of_one_token_or_none_loses_nothing(num_outcomes):
    teacher, z = log_distribution(2, 4, 8, seed=6)
    (value, gradient), (full, full_gradient), _ = truncated_and_full(teacher, z, num_outcomes)
    torch.testing.assert_close(value, full, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(gradient, full_gradient, rtol=1e-12, atol=1e-14)
