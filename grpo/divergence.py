"""How far a student's next-token distribution is from its teacher's: the loss of distillation.

Pure functions: tensors in, tensors out. N tokens' positions, V vocabulary, K outcomes that the
teacher tells about, C outcomes in all (K and the tail, or V). p is the teacher's distribution, q
the student's, both as log-masses in nats. Lower is better everywhere.

    forward_kl          KL(p || q)
    reverse_kl          KL(q || p)
    jsd                 b KL(p || m) + (1 - b) KL(q || m),  m = b p + (1 - b) q,  b = mix
    skewed_forward_kl   KL(p || a p + (1 - a) q),  a = mix
    skewed_reverse_kl   KL(q || (1 - a) p + a q),  a = mix

An outcome without mass is -inf. 0 log 0 is 0, and no value or gradient is ever NaN. Where the
Kullback-Leibler divergence itself is infinite, `FLOOR_NATS` makes it finite.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from cotree.grpo.config_distill import Divergence

Kind = Literal["forward_kl", "reverse_kl", "jsd", "skewed_forward_kl", "skewed_reverse_kl"]

FLOOR_NATS = -30.0
"""Log-probability (9.4e-14) that stands for an impossible outcome, after tempering.

reverse_kl: log p is never read as less. Student mass on what the teacher holds impossible costs
up to 30 nats per unit and is pushed away with a finite gradient.
forward_kl: log q = -inf is read as this, which leaves the loss finite and the other outcomes'
gradients as they are; finite log q stay as they are, or their gradient would vanish. Callers
should not have teacher mass where the student's is exactly zero: no gradient can move it.
"""


# --- outcomes --------------------------------------------------------------------------------


def outcome_logprobs(
    logprobs: Tensor, first: Tensor, end: Tensor, *, order: Tensor | None
) -> Tensor:
    """Log-probability of each outcome, and of the tail: all tokens that are in no outcome.

        result[n, k] = logsumexp of logprobs[n, order[first[n, k] : end[n, k]]],  k < K
        result[n, K] = logsumexp of logprobs[n] over the tokens in no outcome of n

    The tail is added up from its own tokens: 1 - sum of the outcomes would lose all its digits.
    Masses far below the smallest float keep theirs, as nothing leaves the log domain unscaled.

    Args:
        logprobs: [N, V] nats, of a log-softmax. Carries the gradient.
        first: [N, K] int, places in `order`. Outcomes of one position must be disjoint.
        end: [N, K] int, >= first; an empty outcome has first == end.
        order: [V] int64, the tokens in the order that the places mean; None is their own.

    Returns:
        [N, K + 1] nats; -inf, with gradient zero, for what holds no token.

    Raises:
        ValueError: the shapes disagree.
    """
    fits = logprobs.ndim == 2 and first.ndim == 2 and first.shape == end.shape
    if not fits or len(first) != len(logprobs):
        got = [tuple(tensor.shape) for tensor in (logprobs, first, end)]
        raise ValueError(
            f"outcome_logprobs needs logprobs [N, V], first [N, K], end [N, K]; got {got}."
        )
    first, length = first.long(), (end - first).long()
    pick = _single_tokens if bool((length <= 1).all()) else _token_ranges
    outcomes, covered = pick(logprobs, first, length, order)
    return torch.cat([outcomes, _tail(logprobs, covered).unsqueeze(-1)], -1)


def _single_tokens(
    logprobs: Tensor, first: Tensor, length: Tensor, order: Tensor | None
) -> tuple[Tensor, Tensor]:
    """[N, K] log-masses of outcomes of at most one token, and [N, V] True on their tokens."""
    num_rows, vocabulary = logprobs.shape
    empty = length == 0
    place = first.masked_fill(empty, 0)
    token = place if order is None else order[place]
    outcomes = logprobs.gather(-1, token).masked_fill(empty, -torch.inf)
    # Empty outcomes mark a column of their own, which is cut off again.
    covered = logprobs.new_zeros((num_rows, vocabulary + 1), dtype=torch.bool)
    covered.scatter_(-1, token.masked_fill(empty, vocabulary), value=True)
    return outcomes, covered[:, :-1]


def _token_ranges(
    logprobs: Tensor, first: Tensor, length: Tensor, order: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `_single_tokens`, for outcomes of any length, in memory of the tokens they hold."""
    # One entry per token of an outcome, outcome by outcome.
    length_E = length.flatten()
    outcome = torch.repeat_interleave(length_E)
    start = length_E.cumsum(0) - length_E
    place = torch.arange(len(outcome), device=outcome.device) + (first.flatten() - start)[outcome]
    token = place if order is None else order[place]
    entry = outcome // length.shape[1] * logprobs.shape[1] + token

    values = logprobs.flatten().gather(0, entry)
    empty = values.new_full((len(length_E),), -torch.inf)
    top = empty.scatter_reduce(0, outcome, values.detach(), "amax")
    top = top.masked_fill(top == -torch.inf, 0.0)
    mass = torch.zeros_like(top).index_add(0, outcome, torch.exp(values - top[outcome]))
    some = mass > 0
    # log(0) would send inf * 0 = NaN back; the empty outcomes' logarithm is of 1, and unused.
    outcomes = torch.where(some, torch.log(torch.where(some, mass, 1.0)) + top, empty)
    covered = torch.zeros_like(logprobs, dtype=torch.bool)
    covered.view(-1)[entry] = True
    return outcomes.view_as(length), covered


def _tail(logprobs: Tensor, covered: Tensor) -> Tensor:
    """[N] log-mass of the tokens that are not covered; -inf, with gradient zero, without any."""
    left_out = covered | (logprobs == -torch.inf)
    empty = left_out.all(-1)
    # Over nothing but -inf, logsumexp has NaN as its gradient: such a row keeps its tokens here.
    kept = logprobs.masked_fill(left_out & ~empty.unsqueeze(-1), -torch.inf)
    return torch.logsumexp(kept, -1).masked_fill(empty, -torch.inf)


# --- divergences -----------------------------------------------------------------------------


def divergence(
    kind: Kind, teacher: Tensor, student: Tensor, *, mix: float, temperature: float
) -> Tensor:
    """Divergence between teacher and student at each position; lower is better.

        x      = log_softmax(x / temperature) over C, for both     (skipped at 1)
        result = temperature^2 * D(p, q)                           (D: see the module)

    Outcomes of one token each are tempered as their logits are. An outcome of several tokens is
    tempered as one, by its mass, which is not the mass of its tempered tokens.

    Args:
        kind: which divergence D.
        teacher: [N, C] nats, log-masses of a distribution, -inf where it has none. Never gets a
            gradient. A row of -inf only is no opinion: result and gradient are exactly zero.
        student: [N, C] nats, the same outcomes under the student. Carries the gradient.
        mix: weight in the mixture, in (0, 1): of p for jsd, of the distribution that the
            expectation is over for the skewed ones. The other kinds have no mixture.
        temperature: > 0. Its square keeps the gradient's size (Hinton et al. 2015, sec. 2.1).

    Returns:
        [N] nats, never negative but for rounding, and zero when both are equal.

    Raises:
        ValueError: the shapes disagree, or mix or temperature is out of range.

    Source: Agarwal et al. 2024, arXiv:2306.13649, eq. 1 (jsd, there with mix = beta); Ko et al.
        2024, arXiv:2402.03898, sec. 3.1 (skewed, there with mix = alpha); Hinton et al. 2015,
        arXiv:1503.02531 (temperature).
    """
    if teacher.shape != student.shape or teacher.ndim != 2:
        got = [tuple(tensor.shape) for tensor in (teacher, student)]
        raise ValueError(f"divergence needs teacher [N, C] and student [N, C]; got {got}.")
    if not (0 < mix < 1 and temperature > 0):
        raise ValueError(f"mix = {mix} must be in (0, 1) and temperature = {temperature} > 0.")
    teacher = teacher.detach().to(student.dtype)
    silent = (teacher == -torch.inf).all(-1)
    log_p, log_q = _tempered(teacher, temperature), _tempered(student, temperature)
    if kind == "forward_kl":
        nats = _kl(log_p, log_q.masked_fill(log_q == -torch.inf, FLOOR_NATS), own=0.0)
    elif kind == "reverse_kl":
        nats = _kl(log_q, log_p.clamp(min=FLOOR_NATS), own=0.0)
    elif kind == "jsd":
        nats = mix * _kl(log_p, log_q, own=mix) + (1.0 - mix) * _kl(log_q, log_p, own=1.0 - mix)
    elif kind == "skewed_forward_kl":
        nats = _kl(log_p, log_q, own=mix)
    else:
        nats = _kl(log_q, log_p, own=mix)
    return temperature**2 * nats.masked_fill(silent, 0.0)


def divergence_of(settings: Divergence, teacher: Tensor, student: Tensor) -> Tensor:
    """The configured [N] divergence; see `divergence`."""
    return divergence(
        settings.kind, teacher, student, mix=settings.mixture, temperature=settings.temperature
    )


def truncation_bound(tail_mass: Tensor) -> Tensor:
    """How far the gradient of forward_kl can be off because the teacher told its tail's sum only.

        |grad with K outcomes and the tail - grad with all V tokens|_1 <= 2 * tail_mass

    Gradients are with respect to the student's logits, at temperature 1, outcomes of one token.
    Proof: token v's is q_v - p_v with all tokens. With the tail as one outcome (p_T, q_T), it is
    the same outside the tail and q_v - q_v p_T / q_T in it; there they differ by
    p_v - q_v p_T / q_T, whose absolute values sum to at most p_T + q_T p_T / q_T = 2 p_T.

    Args:
        tail_mass: [N] in [0, 1], p_T: the teacher's probability of all tokens it did not name.

    Returns:
        [N]. The divergence itself is never larger than with all tokens (data processing).
    """
    return 2.0 * tail_mass


def _tempered(logprobs: Tensor, temperature: float) -> Tensor:
    """log_softmax(logprobs / temperature). A row of -inf only, which would give NaN, is uniform."""
    if temperature == 1:
        return logprobs
    scaled = logprobs / temperature
    silent = (scaled == -torch.inf).all(-1, keepdim=True)
    return torch.log_softmax(scaled.masked_fill_(silent, 0.0), -1)


def _kl(log_a: Tensor, log_b: Tensor, *, own: float) -> Tensor:
    """[N] KL(a || own * a + (1 - own) * b), the sum over what a holds possible.

    Args:
        log_a: [N, C] nats; -inf where a = 0.
        log_b: [N, C] nats; -inf where b = 0, which without `own` must not be where a > 0.
        own: weight of a in the mixture, in [0, 1).
    """
    # Where a = 0 the difference is inf or NaN; a subtraction sends neither back.
    log_ratio = (log_b - log_a).masked_fill_(log_a == -torch.inf, 0.0)
    if own:
        # log of (mixture / a) at once: log mixture - log a would cancel near a = b.
        log_own = log_ratio.new_full((), math.log(own))
        log_ratio = torch.logaddexp(log_own, log_ratio + math.log1p(-own))
    return -(log_a.exp() * log_ratio).sum(-1)
