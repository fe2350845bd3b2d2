"""Tests for grpo/kl.py: values and gradients in expectation, by enumeration."""

import math

import pytest
import torch
from enumerable import OTHER_TABLE, TABLE, sequence_logprobs

from cotree.grpo.kl import k1, k2, k3, kl_estimate

# One state: the first row of each table. p is the policy, q the reference, over 3 symbols.


def policy_and_reference():
    table = TABLE[0].clone().requires_grad_()
    return table, torch.log_softmax(table, -1), torch.log_softmax(OTHER_TABLE[0], -1)


def expected(estimator):
    """Exact E over the policy's tokens of the estimate, and of its gradient."""
    table, log_p, log_q = policy_and_reference()
    p = log_p.detach().exp()
    estimates = estimator(log_p.unsqueeze(0), log_q.unsqueeze(0))[0]
    gradient = torch.autograd.grad((p * estimates).sum(), table)[0]
    return (p * estimates).sum().item(), gradient


def true_kl(*, reverse):
    """KL(p || q) when reverse, the policy's own direction, else KL(q || p); and its gradient."""
    table, log_p, log_q = policy_and_reference()
    a, b = (log_p, log_q) if reverse else (log_q, log_p)
    divergence = (a.exp() * (a - b)).sum()
    return divergence.item(), torch.autograd.grad(divergence, table)[0]


def test_k1_has_the_true_value_and_no_gradient():
    value, gradient = expected(k1)
    assert value == pytest.approx(true_kl(reverse=True)[0], abs=1e-14)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-15)


def test_k2_has_the_true_gradient_and_a_biased_value():
    value, gradient = expected(k2)
    truth, true_gradient = true_kl(reverse=True)
    torch.testing.assert_close(gradient, true_gradient, rtol=0, atol=1e-14)
    assert true_gradient.abs().max() > 0.1
    assert abs(value - truth) > 0.01 * truth  # 0.155 nats for 0.192 here


def test_k3_has_the_true_value_and_the_gradient_of_the_other_direction():
    value, gradient = expected(k3)
    truth, true_gradient = true_kl(reverse=True)
    assert value == pytest.approx(truth, abs=1e-14)
    torch.testing.assert_close(gradient, true_kl(reverse=False)[1], rtol=0, atol=1e-14)
    assert (gradient - true_gradient).abs().max() > 0.01  # and the two do differ


def test_k2_over_sequences_leaves_out_what_a_token_does_to_later_ones():
    # The per-token sum has the gradient of KL at each state with the states' distribution held
    # fixed; the sequence's KL also has the states' distribution in it.
    table = TABLE.clone().requires_grad_()
    logprobs, ref = sequence_logprobs(table), sequence_logprobs(OTHER_TABLE)
    p = logprobs.detach().sum(-1).exp()
    got = torch.autograd.grad((p * k2(logprobs, ref).sum(-1)).sum(), table, retain_graph=True)[0]

    log_p, log_q = torch.log_softmax(table, -1), torch.log_softmax(OTHER_TABLE, -1)
    per_state = (log_p.exp() * (log_p - log_q)).sum(-1)
    state_p = torch.cat([torch.ones(1), log_p[0].detach().exp()])
    frozen = torch.autograd.grad((state_p * per_state).sum(), table, retain_graph=True)[0]
    joint = logprobs.sum(-1)
    full = torch.autograd.grad((joint.exp() * (joint - ref.sum(-1))).sum(), table)[0]

    torch.testing.assert_close(got, frozen, rtol=0, atol=1e-14)
    torch.testing.assert_close(got[1:], full[1:], rtol=0, atol=1e-14)  # last tokens: nothing later
    assert (got[0] - full[0]).abs().max() > 0.01  # first token: the difference is real


def test_numbers_by_hand():
    # policy 0.5, reference 0.25: log-ratio ln 2; k3 = 1/2 - 1 + ln 2.
    logprobs, ref = torch.tensor([[math.log(0.5)]]), torch.tensor([[math.log(0.25)]])
    ln2 = math.log(2)
    for name, value in {"k1": ln2, "k2": ln2**2 / 2, "k3": ln2 - 0.5}.items():
        torch.testing.assert_close(kl_estimate(name, logprobs, ref), torch.tensor([[value]]))


def test_k2_and_k3_are_never_negative_and_zero_only_at_equality():
    logprobs = torch.linspace(-4, 0, 401, dtype=torch.float64).unsqueeze(0)
    ref = torch.full_like(logprobs, -2.0)
    for estimator in (k2, k3):
        values = estimator(logprobs, ref)[0]
        assert (values >= 0).all()
        assert values.argmin() == 200
        assert values[200] == 0


def test_k3_keeps_its_digits_for_tiny_differences():
    # k3 ~ x^2/2 for small x: 5e-9 at x = 1e-4, where float32's exp(x) - 1 - x gives rubbish.
    logprobs = torch.tensor([[1e-4]])
    torch.testing.assert_close(
        k3(logprobs, torch.zeros(1, 1)), torch.tensor([[5e-9]]), rtol=0.01, atol=0
    )


def test_the_reference_gets_no_gradient():
    ref = torch.zeros(1, 2, requires_grad=True)
    logprobs = torch.ones(1, 2, requires_grad=True)
    for estimator in (k1, k2, k3):
        estimator(logprobs, ref).sum().backward()
    assert ref.grad is None
    assert logprobs.grad is not None
