"""Tests for grpo/divergence.py: gradients against formulas worked out by hand, and properties.

Closed forms, for q = softmax(z) over C outcomes. With g_i = dD / d log q_i,

    dD/dz_j = g_j - q_j * sum_i g_i                          (d log q_i / dz_j = [i = j] - q_j)

forward:         D = sum p log(p/q)              g = -p                   dz = q - p
reverse:         D = sum q log(q/p)              g = q (log(q/p) + 1)     dz = q (log(q/p) - D)
skewed forward:  D = sum p log(p/m), dm/dq = 1-a, g = -p r with r = (1-a) q / m,
                                                                          dz = q sum(p r) - p r
skewed reverse:  D = sum q log(q/m), dm/dq = a,   g = q (log(q/m) + 1 - a q / m),
                                                                          dz = g - q sum(g)
jsd:             g = q [-b (1-b) p/m + (1-b) (log(q/m) + 1 - (1-b) q/m)] = (1-b) q log(q/m),
                 as b p + (1-b) q = m;                   dz = (1-b) q (log(q/m) - KL(q || m))
"""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotree.grpo.config_distill import Divergence
from cotree.grpo.divergence import FLOOR_NATS, Kind, divergence, divergence_of

KINDS = get_args(Kind)
INF = math.inf


def logits(*shape, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(shape, generator=generator, dtype=torch.float64)


def log_distribution(*shape, seed, spread=2.0):
    return torch.log_softmax(logits(*shape, seed=seed, spread=spread), -1)


def kl(p, q):
    return (p * (p / q).log()).sum(-1)


def by_definition(kind, p, q, mix):
    """The module's table, in probabilities."""
    match kind:
        case "forward_kl":
            return kl(p, q)
        case "reverse_kl":
            return kl(q, p)
        case "jsd":
            m = mix * p + (1 - mix) * q
            return mix * kl(p, m) + (1 - mix) * kl(q, m)
        case "skewed_forward_kl":
            return kl(p, mix * p + (1 - mix) * q)
        case "skewed_reverse_kl":
            return kl(q, (1 - mix) * p + mix * q)


def closed_form_gradient(kind, p, q, mix):
    """With respect to the student's logits; derived at the top of this file."""

    def total(x):
        return x.sum(-1, keepdim=True)

    match kind:
        case "forward_kl":
            return q - p
        case "reverse_kl":
            return q * ((q / p).log() - kl(q, p).unsqueeze(-1))
        case "jsd":
            m = mix * p + (1 - mix) * q
            return (1 - mix) * q * ((q / m).log() - kl(q, m).unsqueeze(-1))
        case "skewed_forward_kl":
            r = (1 - mix) * q / (mix * p + (1 - mix) * q)
            return q * total(p * r) - p * r
        case "skewed_reverse_kl":
            m = (1 - mix) * p + mix * q
            g = q * ((q / m).log() + 1 - mix * q / m)
            return g - q * total(g)


distributions = st.integers(0, 10_000).flatmap(
    lambda seed: st.tuples(st.just(seed), st.integers(2, 6), st.sampled_from([0.1, 1.0, 4.0]))
)


def pair(drawn):
    """Log-distributions of a teacher and a student over some outcomes, [3, C] each."""
    seed, num_outcomes, spread = drawn
    both = log_distribution(2, 3, num_outcomes, seed=seed, spread=spread)
    return both[0], both[1]


# --- values and gradients --------------------------------------------------------------------


@pytest.mark.parametrize("mix", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_equal_the_definition_and_the_closed_form(kind, temperature, mix):
    z_teacher, z = logits(5, 7, seed=1), logits(5, 7, seed=2).requires_grad_()
    p = torch.softmax(z_teacher / temperature, -1)
    got = divergence(
        kind,
        torch.log_softmax(z_teacher, -1),
        torch.log_softmax(z, -1),
        mix=mix,
        temperature=temperature,
    )
    # Tempering log-probabilities is tempering logits: they differ by a constant per row.
    expected = temperature**2 * by_definition(kind, p, torch.softmax(z / temperature, -1), mix)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)

    share = torch.linspace(-1, 2, 5, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((share * got).sum(), z)
    (naive,) = torch.autograd.grad((share * expected).sum(), z)
    torch.testing.assert_close(gradient, naive, rtol=1e-11, atol=1e-12)
    # d(T^2 D)/dz = T times the closed form at the tempered distributions.
    closed = closed_form_gradient(kind, p, torch.softmax(z.detach() / temperature, -1), mix)
    torch.testing.assert_close(
        gradient, share[:, None] * temperature * closed, rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_of_the_divergence(kind, temperature):
    teacher = log_distribution(3, 4, seed=3)
    teacher[0, 1] = -INF
    teacher = torch.log_softmax(teacher, -1)

    def function(z):
        student = torch.log_softmax(z, -1)
        return divergence(kind, teacher, student, mix=0.3, temperature=temperature)

    assert torch.autograd.gradcheck(function, logits(3, 4, seed=4).requires_grad_())


@pytest.mark.parametrize(
    ("kind", "mix", "value"),
    [
        # p = (1/2, 1/2), q = (1/4, 3/4).
        # KL(p || q) = 1/2 ln 2 + 1/2 ln(2/3) = 1/2 ln(4/3)
        ("forward_kl", 0.5, 0.5 * math.log(4 / 3)),
        # KL(q || p) = 1/4 ln(1/2) + 3/4 ln(3/2) = 3/4 ln 3 - ln 2
        ("reverse_kl", 0.5, 0.75 * math.log(3) - math.log(2)),
        # m = (3/8, 5/8): KL(p || m) = 1/2 ln(4/3 * 4/5) = 1/2 ln(16/15),
        # KL(q || m) = 1/4 ln(2/3) + 3/4 ln(6/5)
        (
            "jsd",
            0.5,
            0.25 * math.log(16 / 15) + 0.125 * math.log(2 / 3) + 0.375 * math.log(6 / 5),
        ),
        # a = 1/5: m = p/5 + 4q/5 = (3/10, 7/10): KL(p || m) = 1/2 ln(5/3 * 5/7)
        ("skewed_forward_kl", 0.2, 0.5 * math.log(25 / 21)),
        # a = 1/5: m = 4p/5 + q/5 = (9/20, 11/20): KL(q || m) = 1/4 ln(5/9) + 3/4 ln(15/11)
        ("skewed_reverse_kl", 0.2, 0.25 * math.log(5 / 9) + 0.75 * math.log(15 / 11)),
    ],
)
def test_two_outcomes_by_hand(kind, mix, value):
    p = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    q = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    got = divergence(kind, p.log(), q.log(), mix=mix, temperature=1.0)
    assert got.item() == pytest.approx(value, rel=1e-14)


def test_the_settings_choose_kind_mixture_and_temperature():
    assert get_args(Divergence.model_fields["kind"].annotation) == KINDS
    p, q = log_distribution(2, 4, 5, seed=5)
    for kind in KINDS:
        settings = Divergence(kind=kind, temperature=1.5)
        mix = 0.5 if kind == "jsd" else 0.1
        expected = divergence(kind, p, q, mix=mix, temperature=1.5)
        assert torch.equal(divergence_of(settings, p, q), expected)
    chosen = Divergence(kind="jsd", mix=0.9)
    expected = divergence("jsd", p, q, mix=0.9, temperature=1.0)
    assert torch.equal(divergence_of(chosen, p, q), expected)


# --- properties ------------------------------------------------------------------------------


@given(distributions, st.sampled_from(KINDS), st.floats(0.05, 0.95))
def test_never_negative_and_zero_only_for_equal_distributions(drawn, kind, mix):
    p, q = pair(drawn)
    between = divergence(kind, p, q, mix=mix, temperature=1.0)
    # Pinsker, for the weakest of them: D is at least a constant times the squared distance.
    distance = (p.exp() - q.exp()).abs().sum(-1)
    least = {"forward_kl": 0.5, "reverse_kl": 0.5, "jsd": 0.5 * mix * (1 - mix)}
    assert (between >= least.get(kind, 0.5 * (1 - mix) ** 2) * distance**2 - 1e-13).all()
    same = divergence(kind, p, p.clone(), mix=mix, temperature=1.0)
    torch.testing.assert_close(same, torch.zeros_like(same), rtol=0, atol=1e-14)


@given(distributions, st.floats(0.05, 0.95))
def test_exchanging_the_two_exchanges_the_kinds(drawn, mix):
    p, q = pair(drawn)

    def nats(kind, a, b, weight):
        return divergence(kind, a, b, mix=weight, temperature=1.0)

    def same(a, b):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)

    same(nats("forward_kl", p, q, mix), nats("reverse_kl", q, p, mix))
    same(nats("skewed_forward_kl", p, q, mix), nats("skewed_reverse_kl", q, p, mix))
    same(nats("jsd", p, q, mix), nats("jsd", q, p, 1 - mix))
    same(nats("jsd", p, q, 0.5), nats("jsd", q, p, 0.5))
    assert (nats("jsd", p, q, 0.5) <= math.log(2)).all()


def test_the_mixtures_end_in_the_plain_divergences():
    # With weight e: D differs from its limit by O(e), whose constant is below 20 here.
    p, q = log_distribution(2, 4, 5, seed=6, spread=1.0)
    e = 1e-6

    def nats(kind, mix):
        return divergence(kind, p, q, mix=mix, temperature=1.0)

    forward, reverse = nats("forward_kl", 0.5), nats("reverse_kl", 0.5)
    assert (forward - reverse).abs().min() > 1e-3
    for got, limit in [
        (nats("jsd", e) / e, forward),
        (nats("jsd", 1 - e) / e, reverse),
        (nats("skewed_forward_kl", e), forward),
        (nats("skewed_reverse_kl", e), reverse),
    ]:
        torch.testing.assert_close(got, limit, rtol=0, atol=20 * e)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_outcomes_and_of_rows_does_not_matter(kind):
    p, q = log_distribution(2, 4, 6, seed=7)
    options = {"mix": 0.3, "temperature": 1.3}
    expected = divergence(kind, p, q, **options)
    shuffled = torch.tensor([3, 0, 5, 1, 4, 2])
    got = divergence(kind, p[:, shuffled], q[:, shuffled], **options)
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=0)
    rows = torch.tensor([2, 3, 0, 1])
    assert torch.equal(divergence(kind, p[rows], q[rows], **options), expected[rows])


# --- outcomes without mass -------------------------------------------------------------------


def value_and_gradient(kind, teacher, student, *, mix=0.5, temperature=1.0):
    student = student.clone().requires_grad_()
    value = divergence(kind, teacher, student, mix=mix, temperature=temperature)
    return value.detach(), torch.autograd.grad(value.sum(), student)[0]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_an_outcome_that_neither_holds_possible_adds_nothing(kind, temperature):
    p, q = log_distribution(2, 4, 5, seed=8)
    impossible = torch.full((4, 1), -INF, dtype=torch.float64)
    with_it = [torch.cat([x, impossible], -1) for x in (p, q)]
    value, gradient = value_and_gradient(kind, *with_it, temperature=temperature)
    expected, expected_gradient = value_and_gradient(kind, p, q, temperature=temperature)
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(gradient[:, :-1], expected_gradient, rtol=1e-14, atol=1e-14)
    assert (gradient[:, -1] == 0).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_no_opinion_is_exactly_zero_whatever_the_student_thinks(kind, temperature):
    p, q = log_distribution(2, 4, 5, seed=9)
    p[1], p[3] = -INF, -INF
    q[3] = torch.tensor([0.0, -INF, -INF, -INF, -INF])
    value, gradient = value_and_gradient(kind, p, q, temperature=temperature)
    assert (value[[1, 3]] == 0).all()
    assert (gradient[[1, 3]] == 0).all()
    alone, _ = value_and_gradient(kind, p[[0, 2]], q[[0, 2]], temperature=temperature)
    torch.testing.assert_close(value[[0, 2]], alone, rtol=1e-14, atol=0)
    assert (gradient[[0, 2]] != 0).any(-1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_arguments_are_left_as_they_were(kind):
    p, q = log_distribution(2, 4, 5, seed=9)
    p[1], p[2, 3] = -INF, -INF
    before = p.clone(), q.clone()
    for temperature in (1.0, 2.0):
        divergence(kind, p, q, mix=0.5, temperature=temperature)
    assert torch.equal(p, before[0])
    assert torch.equal(q, before[1])


def half_impossible():
    """Log-distributions of a teacher p = (1/2, 1/2, 0) and a student q = (1/4, 1/4, 1/2)."""
    p = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    q = torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64).log()
    return p, q


LN2 = math.log(2)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("forward_kl", LN2),  # 2 * 1/2 ln 2; the outcome without p adds 0
        # 2 * 1/4 ln(1/2) + 1/2 (ln(1/2) - floor)
        ("reverse_kl", -LN2 + 0.5 * 30),
        # m = (3/8, 3/8, 1/4): 1/2 ln(4/3) + 1/2 (1/2 ln(2/3) + 1/2 ln 2)
        ("jsd", 0.5 * math.log(4 / 3) + 0.25 * math.log(4 / 3)),
        ("skewed_forward_kl", math.log(4 / 3)),
        ("skewed_reverse_kl", 0.5 * math.log(4 / 3)),
    ],
)
def test_student_mass_where_the_teacher_has_none_is_finite_by_hand(kind, value):
    assert FLOOR_NATS == -30
    p, q = half_impossible()
    got, gradient = value_and_gradient(kind, p, q)
    assert got.item() == pytest.approx(value, rel=1e-14)
    assert gradient.isfinite().all()


def test_reverse_kl_pushes_mass_away_from_what_the_teacher_holds_impossible():
    # Closed form with log p = -30: dz_3 = q_3 (log q_3 + 30 - D), the only positive one.
    p, q = half_impossible()
    z = q.clone().requires_grad_()
    value = divergence("reverse_kl", p, torch.log_softmax(z, -1), mix=0.5, temperature=1.0)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert gradient[0, 2].item() == pytest.approx(0.5 * (-LN2 + 30 - value.item()), rel=1e-13)
    assert (gradient[0, :2] < 0).all()


def test_reverse_kl_reads_no_log_p_below_the_floor():
    # Half of the student's mass at p = e^-40 costs what it costs at e^-30 and at 0.
    _, q = half_impossible()
    values = []
    for low in (FLOOR_NATS, -40.0, -INF):
        p = torch.tensor([[math.log(0.5), math.log(0.5), low]], dtype=torch.float64)
        values.append(divergence("reverse_kl", p, q, mix=0.5, temperature=1.0).item())
    assert values[0] == values[1] == values[2]


def test_teacher_mass_where_the_student_has_none_leaves_forward_kl_alive():
    # p = (1/4, 1/4, 1/2), q = (1/2, 1/2, 0): 2 * 1/4 ln(1/2) + 1/2 (ln(1/2) + 30).
    q, p = half_impossible()
    value, gradient = value_and_gradient("forward_kl", p, q)
    assert value.item() == pytest.approx(-LN2 + 15, rel=1e-14)
    # d/d log q = -p where q can move, nothing where it cannot.
    torch.testing.assert_close(
        gradient, torch.tensor([[-0.25, -0.25, 0.0]], dtype=torch.float64), rtol=1e-14, atol=0
    )
    # A finite log q below the floor is not touched: its gradient is what brings it back.
    far = torch.tensor([[-0.7, -0.7, -50.0]], dtype=torch.float64)
    value, gradient = value_and_gradient("forward_kl", p, far)
    assert value.item() == pytest.approx(0.5 * (math.log(0.25) + 0.7) + 0.5 * (-LN2 + 50))
    assert gradient[0, 2].item() == -0.5


@pytest.mark.parametrize("kind", KINDS)
def test_impossible_outcomes_of_either_side_never_give_nan(kind):
    # All 3 * 3 pairs of supports that have mass at all, in float32 and with a temperature.
    supports = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]).log()
    teacher, student = supports.repeat_interleave(3, 0), supports.repeat(3, 1)
    for temperature in (1.0, 3.0):
        value, gradient = value_and_gradient(kind, teacher, student, temperature=temperature)
        assert value.dtype == torch.float32
        assert value.isfinite().all()
        assert gradient.isfinite().all()
        assert (value[[0, 4, 8]].abs() < 1e-6).all()  # the equal pairs


def test_the_teacher_gets_no_gradient():
    teacher = log_distribution(2, 3, seed=10).requires_grad_()
    student = log_distribution(2, 3, seed=11).requires_grad_()
    for kind in KINDS:
        divergence(kind, teacher, student, mix=0.5, temperature=1.0).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("kind", KINDS)
def test_float32_keeps_small_divergences(kind):
    # D is near 1e-4 and 1e-5; float32 rounds log-probabilities near 1 by up to 6e-8 and 1e-7.
    z = logits(4, 6, seed=12)
    p, q = torch.log_softmax(z, -1), torch.log_softmax(z + 0.01 * logits(4, 6, seed=13), -1)
    exact = divergence(kind, p, q, mix=0.3, temperature=1.0)
    got = divergence(kind, p.float(), q.float(), mix=0.3, temperature=1.0)
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=2e-7)


def test_wrong_arguments_are_refused():
    p, q = log_distribution(2, 3, 4, seed=14)
    with pytest.raises(ValueError, match=r"\[N, C\]; got \[\(3, 4\), \(3, 3\)\]"):
        divergence("jsd", p, q[:, :3], mix=0.5, temperature=1.0)
    for options in ({"mix": 1.0, "temperature": 1.0}, {"mix": 0.5, "temperature": 0.0}):
        with pytest.raises(ValueError, match=r"mix = .* temperature = "):
            divergence("jsd", p, q, **options)
