"""Tests for grpo/loss.py: each estimator against its equation in float64, value and gradient."""

import math

import pytest
import torch
from enumerable import OTHER_TABLE, TABLE

from cotree.grpo.config_algorithm import (
    CispoLoss,
    GrpoLoss,
    GspoLoss,
    Kl,
    MaskedWeights,
    NoCorrection,
    ReinforceLoss,
    SequenceMask,
    TruncatedWeights,
)
from cotree.grpo.loss import (
    cispo,
    clipped_surrogate,
    masked_weights,
    policy_loss,
    reinforce,
    sequence_clipped_surrogate,
    sequence_mask,
    truncated_weights,
)

LOW, HIGH = 0.2, 0.28
LOSSES = [
    GrpoLoss(clip_low=LOW, clip_high=HIGH),
    GspoLoss(type="gspo", clip_low=0.02, clip_high=0.1),  # a mean over tokens moves less
    CispoLoss(type="cispo", clip_high=0.5),
    ReinforceLoss(type="reinforce"),
]
CORRECTIONS = [
    NoCorrection(type="none"),
    TruncatedWeights(cap=1.2),
    MaskedWeights(type="mask", low=0.7, high=1.5),
    SequenceMask(type="sequence_mask", low=0.9, high=1.1),
]


def draws(shape=(5, 7), *, seed=0):
    """Log-probabilities that differ enough for ratios on both sides of every clip."""
    generator = torch.Generator().manual_seed(seed)

    def normal(scale):
        return scale * torch.randn(shape, generator=generator, dtype=torch.float64)

    old = -normal(1.0).abs()
    mask = torch.rand(shape, generator=generator) > 0.3
    mask[:, 0] = True
    return {
        "logprobs": (old + normal(0.4)).requires_grad_(),
        "old_logprobs": old,
        "behavior_logprobs": old + normal(0.3),
        "ref_logprobs": old + normal(0.5),
        "advantages": normal(1.0),
        "mask": mask,
    }


def token_by_token(formula, inputs):
    """Applies a scalar formula to each token: (log pi, log pi_old, A) -> loss as a tensor."""
    logprobs, old, advantages = (
        inputs[name] for name in ("logprobs", "old_logprobs", "advantages")
    )
    rows = [
        torch.stack([formula(*token) for token in zip(*row, strict=True)])
        for row in zip(logprobs, old, advantages, strict=True)
    ]
    return torch.stack(rows)


def gradient(loss, inputs):
    return torch.autograd.grad(loss.sum(), inputs["logprobs"], retain_graph=True)[0]


def assert_same_value_and_gradient(got, expected, inputs):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        gradient(got, inputs), gradient(expected, inputs), rtol=0, atol=1e-12
    )


# --- each loss against its equation ----------------------------------------------------------


def test_clipped_surrogate_is_eq_7_of_ppo():
    def formula(new, old, a):
        r = (new - old).exp()
        if a > 0:  # min(r A, clip(r) A): only the upper bound can bind
            return -(r * a if r < 1 + HIGH else (1 + HIGH) * a)
        return -(r * a if r > 1 - LOW else (1 - LOW) * a)

    inputs = draws()
    got = clipped_surrogate(
        inputs["logprobs"],
        inputs["old_logprobs"],
        inputs["advantages"],
        clip_low=LOW,
        clip_high=HIGH,
    )
    assert_same_value_and_gradient(got, token_by_token(formula, inputs), inputs)


def test_cispo_is_eq_4_of_minimax():
    def formula(new, old, a):
        weight = min(max(float((new - old).detach().exp()), 1 - 0.3), 1 + 0.5)
        return -weight * a * new

    inputs = draws()
    got = cispo(
        inputs["logprobs"],
        inputs["old_logprobs"],
        inputs["advantages"],
        clip_low=0.3,
        clip_high=0.5,
    )
    assert_same_value_and_gradient(got, token_by_token(formula, inputs), inputs)


def test_cispo_keeps_the_gradient_that_clipping_would_drop():
    # ratio = 0.9 / 0.5 = 1.8, A = 2: PPO's gradient is 0, CISPO's is -clip(1.8) * A = -1.5 * 2.
    logprobs = torch.tensor([[math.log(0.9)]], requires_grad=True)
    old, advantage = torch.tensor([[math.log(0.5)]]), torch.tensor([2.0])
    clipped = clipped_surrogate(logprobs, old, advantage, clip_low=0.2, clip_high=0.5)
    kept = cispo(logprobs, old, advantage, clip_low=1.0, clip_high=0.5)
    assert torch.autograd.grad(clipped.sum(), logprobs)[0].item() == 0.0
    assert torch.autograd.grad(kept.sum(), logprobs)[0].item() == pytest.approx(-3.0)


def test_reinforce_is_minus_advantage_times_logprob():
    inputs = draws()
    got = reinforce(inputs["logprobs"], inputs["advantages"])
    expected = token_by_token(lambda new, _, a: -a * new, inputs)
    assert_same_value_and_gradient(got, expected, inputs)


def test_gspo_has_the_value_and_gradient_of_eq_5_to_7():
    # Eq. 5 and 7 straight from the paper: one ratio per sequence, with gradient through the mean.
    inputs = draws()
    mask, advantages_B = inputs["mask"], inputs["advantages"][:, 0]
    tokens = mask.sum(-1)
    log_s = torch.where(mask, inputs["logprobs"] - inputs["old_logprobs"], 0.0).sum(-1) / tokens
    s = log_s.exp()
    paper = -torch.minimum(s * advantages_B, s.clamp(0.98, 1.1) * advantages_B)
    assert 0 < ((s < 0.98) | (s > 1.1)).sum() < 5  # the clip is exercised, and not everywhere

    per_token = sequence_clipped_surrogate(
        inputs["logprobs"], inputs["old_logprobs"], advantages_B, mask, clip_low=0.02, clip_high=0.1
    )
    got = torch.where(mask, per_token, 0.0).sum(-1) / tokens  # sequence_mean
    assert_same_value_and_gradient(got, paper, inputs)


def test_advantages_per_rollout_equal_the_same_per_token():
    inputs = draws()
    one_B = inputs["advantages"][:, 0]
    args = inputs["logprobs"], inputs["old_logprobs"]
    clip = {"clip_low": LOW, "clip_high": HIGH}
    spread = one_B.unsqueeze(-1).expand(5, 7)
    assert torch.equal(
        clipped_surrogate(*args, one_B, **clip), clipped_surrogate(*args, spread, **clip)
    )


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.type)
def test_on_policy_gradient_is_reinforce(loss):
    # At ratio 1 no clip is active, so d(loss)/d(logprobs) = -A for every loss.
    inputs = draws()
    inputs["old_logprobs"] = inputs["behavior_logprobs"] = inputs["logprobs"].detach()
    per_token, diagnostics = policy_loss(
        loss, NoCorrection(type="none"), None, **{**inputs, "ref_logprobs": None}
    )
    expected = torch.where(inputs["mask"], -inputs["advantages"], 0.0)
    torch.testing.assert_close(gradient(per_token, inputs), expected, rtol=0, atol=1e-12)
    assert diagnostics["clipped"].sum() == 0
    assert torch.equal(diagnostics["ratio"], inputs["mask"].double())


def test_shapes_that_would_broadcast_are_refused():
    logprobs = torch.zeros(2, 3)
    clip = {"clip_low": 0.2, "clip_high": 0.2}
    with pytest.raises(ValueError, match="all be"):
        clipped_surrogate(logprobs, torch.zeros(2, 1), torch.zeros(2), **clip)
    with pytest.raises(ValueError, match="one advantage per rollout"):
        clipped_surrogate(logprobs, logprobs, torch.zeros(2, 1), **clip)
    with pytest.raises(ValueError, match="one advantage per rollout"):
        reinforce(torch.zeros(3, 3), torch.zeros(1))
    with pytest.raises(ValueError, match="all be"):
        truncated_weights(logprobs, torch.zeros(3), cap=2.0)


# --- corrections -----------------------------------------------------------------------------


def test_correction_weights_by_hand():
    # Row 0: weights 1/2, 1, 4; geometric mean 2^(1/3) = 1.26. Row 1: 1/8, 1/2 and padding.
    log2 = math.log(2)
    old = torch.tensor([[-log2, 0.0, 2 * log2], [-3 * log2, -log2, math.nan]])
    behavior = torch.zeros(2, 3)
    mask = torch.tensor([[True, True, True], [True, True, False]])

    torch.testing.assert_close(
        truncated_weights(old, behavior, cap=2.0)[0], torch.tensor([0.5, 1.0, 2.0])
    )
    torch.testing.assert_close(
        masked_weights(old, behavior, low=0.4, high=3.0)[0], torch.tensor([0.5, 1.0, 0.0])
    )
    # Row 1's geometric mean is sqrt(1/16) = 1/4.
    both = sequence_mask(old, behavior, mask, low=0.2, high=1.3)
    assert both.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert sequence_mask(old, behavior, mask, low=0.3, high=1.3).tolist() == [[1, 1, 1], [0, 0, 0]]
    assert sequence_mask(old, behavior, mask, low=0.2, high=1.2).tolist() == [[0, 0, 0], [1, 1, 0]]


def test_corrections_carry_no_gradient():
    old = torch.zeros(1, 2, requires_grad=True)
    behavior, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    assert not truncated_weights(old, behavior, cap=2.0).requires_grad
    assert not masked_weights(old, behavior, low=0.5, high=2.0).requires_grad
    assert not sequence_mask(old, behavior, mask, low=0.5, high=2.0).requires_grad


@pytest.mark.parametrize(("cap", "unbiased"), [(1e6, True), (1.05, False)])
def test_importance_weights_make_another_policys_samples_unbiased(cap, unbiased):
    # One token over 3 symbols, sampled by the behavior policy; expectation by enumeration.
    table = TABLE[0].clone().requires_grad_()
    rewards = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    logprobs = torch.log_softmax(table, -1).unsqueeze(-1)  # [3, 1]: each symbol is a rollout
    behavior = torch.log_softmax(OTHER_TABLE[0], -1).unsqueeze(-1)
    per_token, _ = policy_loss(
        GrpoLoss(),
        TruncatedWeights(cap=cap),
        None,
        logprobs=logprobs,
        old_logprobs=logprobs.detach(),
        behavior_logprobs=behavior,
        ref_logprobs=None,
        advantages=rewards,
        mask=torch.ones(3, 1, dtype=torch.bool),
    )
    got = torch.autograd.grad((behavior.exp() * per_token).sum(), table, retain_graph=True)[0]
    truth = torch.autograd.grad(-(logprobs[:, 0].exp() * rewards).sum(), table)[0]
    assert (torch.allclose(got, truth, rtol=0, atol=1e-14)) is unbiased


# --- the entry -------------------------------------------------------------------------------


def reference_policy_loss(loss, correction, kl, inputs):
    """The configured loss as loops over rollouts and tokens."""
    rows = []
    for b, mask in enumerate(inputs["mask"].tolist()):
        tokens = [t for t, inside in enumerate(mask) if inside]
        new, old, behavior, ref, a = (
            inputs[name][b]
            for name in (
                "logprobs", "old_logprobs", "behavior_logprobs", "ref_logprobs", "advantages",
            )
        )  # fmt: skip
        s = math.exp(sum(float((new[t] - old[t]).detach()) for t in tokens) / len(tokens))
        w_row = math.exp(sum(float(old[t] - behavior[t]) for t in tokens) / len(tokens))
        row = [torch.zeros((), dtype=torch.float64)] * len(mask)
        for t in tokens:
            ratio = (new[t] - old[t]).exp()
            if loss.type == "gspo":
                ratio = s * (new[t] - new[t].detach()).exp()
            if loss.type == "reinforce":
                term = -a[t] * new[t]
            elif loss.type == "cispo":
                term = -min(float(ratio.detach()), 1 + loss.clip_high) * a[t] * new[t]
            else:
                low, high = 1 - loss.clip_low, 1 + loss.clip_high
                term = -min(ratio * a[t], ratio.clamp(low, high) * a[t])
            w = math.exp(float(old[t] - behavior[t]))
            if correction.type == "none":
                w = 1.0
            elif correction.type == "tis":
                w = min(w, correction.cap)
            elif correction.type == "mask":
                w = w if correction.low <= w <= correction.high else 0.0
            else:
                w = 1.0 if correction.low <= w_row <= correction.high else 0.0
            row[t] = w * term
            if kl:
                x = ref[t] - new[t]
                row[t] = row[t] + kl.coef * (x.exp() - 1 - x if kl.estimator == "k3" else x**2 / 2)
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("kl", [None, Kl(coef=0.1), Kl(coef=0.3, estimator="k2")], ids=str)
@pytest.mark.parametrize("correction", CORRECTIONS, ids=lambda c: c.type)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.type)
def test_policy_loss_equals_a_loop_over_tokens(loss, correction, kl):
    inputs = draws(seed=3)
    given = {**inputs, "ref_logprobs": inputs["ref_logprobs"] if kl else None}
    per_token, diagnostics = policy_loss(loss, correction, kl, **given)
    assert_same_value_and_gradient(
        per_token, reference_policy_loss(loss, correction, kl, inputs), inputs
    )
    names = {"ratio", "clipped", "correction_weight", "mismatch"} | ({"kl"} if kl else set())
    assert set(diagnostics) == names
    for name, value in diagnostics.items():
        assert value.shape == inputs["mask"].shape, name
        assert not value.requires_grad, name
        assert (value[~inputs["mask"]] == 0).all(), name


@pytest.mark.parametrize("loss", LOSSES[:2], ids=lambda loss: loss.type)
def test_clipped_marks_the_tokens_whose_gradient_is_gone(loss):
    inputs = draws()
    per_token, diagnostics = policy_loss(
        loss, NoCorrection(type="none"), None, **{**inputs, "ref_logprobs": None}
    )
    no_gradient = (gradient(per_token, inputs) == 0) & inputs["mask"]
    assert torch.equal(diagnostics["clipped"].bool(), no_gradient)
    assert 0 < no_gradient.sum() < inputs["mask"].sum()


def test_mismatch_is_old_minus_behavior():
    inputs = draws()
    _, diagnostics = policy_loss(
        GrpoLoss(), TruncatedWeights(), None, **{**inputs, "ref_logprobs": None}
    )
    expected = inputs["old_logprobs"] - inputs["behavior_logprobs"]
    torch.testing.assert_close(diagnostics["mismatch"], torch.where(inputs["mask"], expected, 0.0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("correction", CORRECTIONS, ids=lambda c: c.type)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.type)
def test_padding_never_reaches_the_loss(loss, correction, bad):
    clean = draws(seed=5)
    dirty = {
        name: value if name == "mask" else torch.where(clean["mask"], value.detach(), bad)
        for name, value in clean.items()
    }
    dirty["logprobs"].requires_grad_()
    kl = Kl(coef=0.1)
    expected, _ = policy_loss(loss, correction, kl, **clean)
    got, diagnostics = policy_loss(loss, correction, kl, **dirty)
    assert torch.equal(got, expected)
    assert torch.equal(
        gradient(got, dirty), torch.where(clean["mask"], gradient(expected, clean), 0.0)
    )
    assert all(torch.isfinite(value).all() for value in diagnostics.values())


def test_the_reference_comes_exactly_with_the_penalty():
    inputs = draws()
    with pytest.raises(ValueError, match="exactly when kl is set"):
        policy_loss(GrpoLoss(), TruncatedWeights(), None, **inputs)
    with pytest.raises(ValueError, match="they are missing"):
        policy_loss(
            GrpoLoss(), TruncatedWeights(), Kl(coef=0.1), **{**inputs, "ref_logprobs": None}
        )
