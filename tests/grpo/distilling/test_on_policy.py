"""Tests for grpo/distilling/on_policy.py: a teacher's word in a batch, and its gradient."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from readers import BPE, CHARACTERS, ended, random_scores, reader

from cotree.grpo.collate import collate
from cotree.grpo.config_algorithm import Advantage, Optimizer, Rollouts, Train
from cotree.grpo.config_distill import OnPolicyDistill
from cotree.grpo.distilling.on_policy import OnPolicyTeacher, learner_compares
from cotree.grpo.distilling.view import Reader, TeacherView
from cotree.grpo.token_scores import ScoreRequest, TokenScores
from cotree.grpo.types import Batch, Completion, Group, Problem, Rollout, TaughtBatch
from cotree.rewards.types import Reward

VOCABULARY = 128
SAME = Reader(CHARACTERS, VOCABULARY, lambda question: tuple(map(ord, question)))
ENGINE = {"type": "engine", "path": "teacher"}
RESIDENT = {"type": "resident", "path": "teacher"}
ADVANTAGE = {"type": "advantage"}
DIVERGENCE = {"type": "divergence", "keep": {"most": 3, "tail_mass": 0.0}}


def settings_of(
    *, signal: dict = ADVANTAGE, teacher: dict = ENGINE, mask_truncated: bool = False, **fields
) -> OnPolicyDistill:
    train = Train(
        num_steps=1,
        optimizer=Optimizer(learning_rate=1e-3),
        rollout=Rollouts(max_tokens=8),
        mask_truncated=mask_truncated,
    )
    return OnPolicyDistill(type="on_policy", teacher=teacher, signal=signal, train=train, **fields)


def batch_of(groups: Sequence[Group], settings: OnPolicyDistill) -> Batch:
    return collate(
        groups,
        advantage=Advantage(),
        first_term="answer",
        aggregation="token_mean",
        max_tokens=8,
        mask_truncated=settings.train.mask_truncated,
    )


def same_view(*, max_tokens: int = 64) -> TeacherView:
    return TeacherView(SAME, SAME, max_tokens=max_tokens)


class Asked:
    """A teacher that remembers what it was asked."""

    def __init__(self, vocab_size: int = VOCABULARY) -> None:
        self.requests: list[ScoreRequest] = []
        self.most: list[int] = []
        self._vocab_size = vocab_size

    def score(self, requests: Sequence[ScoreRequest], most: int) -> list[TokenScores]:
        self.requests += requests
        self.most.append(most)
        return [self.of(request) for request in requests]

    def of(self, request: ScoreRequest) -> TokenScores:
        """The same for the same text, whatever it is asked with."""
        seed = sum((i + 1) * token for i, token in enumerate(request.token_ids))
        return random_scores(request, vocab_size=self._vocab_size, seed=seed)


def rollout(value: float, *, text: str, stop_reason: str = "stop") -> Rollout:
    """One token per character of `text`; token i was sampled with -0.5 - 0.25 i nats."""
    logprobs = tuple(-0.5 - 0.25 * i for i in range(len(text)))
    return _rollout(tuple(map(ord, text)), logprobs, value, stop_reason)


def _rollout(
    token_ids: Sequence[int], logprobs: Sequence[float], value: float, stop_reason: str = "stop"
) -> Rollout:
    text, ends = "x" * len(token_ids), tuple(range(1, len(token_ids) + 1))
    completion = Completion(tuple(token_ids), tuple(logprobs), text, ends, stop_reason, 0)
    return Rollout(completion, Reward(value, "", {"answer": value}))


def group_of(name: str, *rollouts: Rollout, prompt: tuple[int, ...] = (1, 2)) -> Group:
    return Group(Problem(name, "p", "r", "t", "p"), prompt, rollouts)


GROUPS = [
    group_of("a", rollout(1.0, text="abc"), rollout(0.0, text="de", stop_reason="length")),
    group_of("b", rollout(0.5, text="fghi"), rollout(2.0, text="j"), prompt=(7, 7, 7)),
]
TEXTS = ["abc", "de", "fghi", "j"]


def own(text: str) -> torch.Tensor:
    """The teacher's log-probabilities of a text's tokens."""
    request = ScoreRequest((1,), tuple(map(ord, text)))
    return torch.from_numpy(Asked().of(request).logprobs)


@pytest.mark.parametrize("mask_truncated", [False, True])
def test_each_token_gets_its_own_log_ratio_beside_its_share_of_the_reward(mask_truncated: bool):
    settings = settings_of(
        signal={"type": "advantage", "coef": 0.5}, reward_coef=0.25, mask_truncated=mask_truncated
    )
    batch = batch_of(GROUPS, settings)
    teacher = Asked()
    taught, stats = OnPolicyTeacher(settings, view=same_view(), score=teacher.score).teach(
        GROUPS, batch
    )
    texts = [text for text in TEXTS if text != "de" or not mask_truncated]
    assert [one.token_ids for one in teacher.requests] == [tuple(map(ord, t)) for t in texts]
    assert teacher.most == [0]
    nats = []
    for row, text in enumerate(texts):
        ratio = own(text) - torch.tensor([-0.5 - 0.25 * i for i in range(len(text))])
        nats += (-ratio).tolist()
        expected = torch.zeros_like(batch.advantages[row])
        expected[batch.mask[row]] = 0.25 * batch.advantages[row][batch.mask[row]] + 0.5 * ratio
        torch.testing.assert_close(taught.advantages[row], expected, atol=1e-6, rtol=0)
    assert stats["distill/reverse_kl_nats"] == pytest.approx(sum(nats) / len(nats), abs=1e-5)
    assert stats["distill/refused"] == 0
    assert torch.equal(taught.token_ids, batch.token_ids)
    assert torch.equal(taught.weights, batch.weights)


def test_without_a_reward_coefficient_the_teacher_teaches_alone():
    settings = settings_of()
    batch = batch_of(GROUPS, settings)
    assert batch.advantages.any()
    taught, _ = OnPolicyTeacher(settings, view=same_view(), score=Asked().score).teach(
        GROUPS, batch
    )
    ratio = own("j") + 0.5
    torch.testing.assert_close(taught.advantages[3, 3:4], ratio, atol=1e-6, rtol=0)
    assert not taught.advantages[~batch.mask].any()


def test_the_batch_that_was_given_is_left_as_it_was():
    settings = settings_of()
    batch = batch_of(GROUPS, settings)
    before = batch.advantages.clone()
    OnPolicyTeacher(settings, view=same_view(), score=Asked().score).teach(GROUPS, batch)
    assert torch.equal(batch.advantages, before)


def test_a_resident_teacher_whose_distributions_the_learner_compares_leaves_the_batch_alone():
    settings = settings_of(signal={"type": "divergence"}, teacher=RESIDENT, reward_coef=0.5)
    batch = batch_of(GROUPS, settings)
    taught, stats = OnPolicyTeacher(settings, view=same_view(), score=None).teach(GROUPS, batch)
    assert type(taught) is Batch
    assert stats == {}
    assert torch.equal(taught.advantages, 0.5 * batch.advantages)


def test_the_learner_compares_whole_distributions_of_a_resident_teacher_alone():
    divergence = {"type": "divergence"}
    assert learner_compares(settings_of(signal=divergence, teacher=RESIDENT))
    assert not learner_compares(settings_of(signal=divergence))
    assert not learner_compares(settings_of(teacher=RESIDENT))


@pytest.mark.parametrize("signal", [ADVANTAGE, DIVERGENCE], ids=["advantage", "kl"])
def test_a_refused_row_is_counted_and_left_without_a_signal(signal: dict):
    # The teacher's prompt is the question, "p". With a limit of 5 tokens, prompt included, it reads
    # rows of 1 + 3 and 1 + 1, not those of 1 + 5.
    settings = settings_of(signal=signal)
    groups = [
        group_of("a", rollout(1.0, text="abcde"), rollout(0.0, text="abc")),
        group_of("b", rollout(0.5, text="fghij"), rollout(2.0, text="j")),
    ]
    batch = batch_of(groups, settings)
    view = same_view(max_tokens=5)
    view.refused["empty"] += 3  # of an earlier step
    teacher = Asked()
    taught, stats = OnPolicyTeacher(settings, view=view, score=teacher.score).teach(groups, batch)
    assert stats["distill/refused"] == 2
    assert [len(one.token_ids) for one in teacher.requests] == [3, 1]
    if isinstance(taught, TaughtBatch):
        silent = torch.isneginf(taught.teacher_logprobs).all(-1)
        assert silent.all(-1).tolist() == [True, False, True, False]
        assert torch.equal(~silent[[1, 3]], batch.mask[[1, 3]])
        assert not taught.advantages.any()
    else:
        assert taught.advantages.any(-1).tolist() == [False, True, False, True]


def test_a_step_of_refused_rows_alone_teaches_nothing_and_does_not_fail():
    settings = settings_of()
    batch = batch_of(GROUPS, settings)
    view = same_view(max_tokens=1)
    taught, stats = OnPolicyTeacher(settings, view=view, score=Asked().score).teach(GROUPS, batch)
    assert not taught.advantages.any()
    assert stats == {"distill/refused": 4.0, "distill/reverse_kl_nats": 0.0}


def test_a_divergence_is_asked_for_its_most_likely_tokens_and_stands_at_the_students():
    settings = settings_of(signal=DIVERGENCE, reward_coef=0.5, mask_truncated=True)
    batch = batch_of(GROUPS, settings)
    teacher = Asked()
    taught, stats = OnPolicyTeacher(settings, view=same_view(), score=teacher.score).teach(
        GROUPS, batch
    )
    assert isinstance(taught, TaughtBatch)
    assert teacher.most == [3]
    assert stats == {"distill/refused": 0.0, "distill/inside_frac": 0.0}
    assert torch.equal(taught.advantages, 0.5 * batch.advantages)
    rows = [(0, "abc", 2), (1, "fghi", 3), (2, "j", 3)]  # without the one that was cut
    for row, text, start in rows:
        scores = teacher.of(ScoreRequest((1,), tuple(map(ord, text))))
        tokens = slice(start, start + len(text))
        named = taught.outcome_first[row, tokens].numpy()
        np.testing.assert_array_equal(named, scores.top_ids[:, :3])
        np.testing.assert_allclose(
            taught.teacher_logprobs[row, tokens, :3], scores.top_logprobs[:, :3], atol=1e-5
        )


def test_tokens_inside_one_of_the_teachers_have_an_opinion_and_are_a_share_of_all():
    # A student of characters, a teacher of longer tokens, which begin in fewer places.
    settings = settings_of(signal={"type": "divergence"})
    view = TeacherView(reader(CHARACTERS), reader(BPE), max_tokens=64, probes=["12+12*2="])
    groups = [_written("12+12*2="), _written("12-1")]
    batch = batch_of(groups, settings)
    taught, stats = OnPolicyTeacher(settings, view=view, score=Asked(len(BPE)).score).teach(
        groups, batch
    )
    assert isinstance(taught, TaughtBatch)
    theirs = sum(len(ended(BPE, text)) for text in ("12+12*2=", "12-1")) + 2  # and two short rows
    assert not torch.isneginf(taught.teacher_logprobs[batch.mask]).all(-1).any()
    inside = batch.num_tokens - theirs
    assert inside > 0
    assert stats["distill/inside_frac"] == pytest.approx(inside / batch.num_tokens)


def test_another_tokenizers_advantages_add_up_to_the_log_ratio_of_each_row():
    settings = settings_of()
    view = TeacherView(reader(CHARACTERS), reader(BPE), max_tokens=64, probes=["12+12*2="])
    groups = [_written("12+12*2="), _written("12-1")]
    batch = batch_of(groups, settings)
    teacher = Asked(len(BPE))
    taught, _ = OnPolicyTeacher(settings, view=view, score=teacher.score).teach(groups, batch)
    for row, request in zip((0, 2), teacher.requests[::2], strict=True):
        p, q = float(teacher.of(request).logprobs.sum()), float(batch.behavior_logprobs[row].sum())
        assert float(taught.advantages[row].sum()) == pytest.approx(p - q, abs=1e-3)


# --- the gradient -------------------------------------------------------------------------------


# A student and a teacher who write 2 tokens over 3 symbols, from a table of logits: row 0 for the
# first token, row 1 + a for the second after the first was a.
SEQUENCES = torch.tensor(list(itertools.product(range(3), repeat=2)))
TABLE, OTHER_TABLE = torch.randn(
    (2, 4, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0)
)


def sequence_logprobs(table: torch.Tensor) -> torch.Tensor:
    """[9, 2] log-probability of each token of each sequence."""
    log_p = torch.log_softmax(table, -1)
    first, second = SEQUENCES.unbind(-1)
    return torch.stack([log_p[0, first], log_p[1 + first, second]], -1)


def taught_advantages() -> torch.Tensor:
    """[9, 2] what `teach` gives every sequence of the enumerable student, its teacher knowing."""
    sampled = sequence_logprobs(TABLE).tolist()
    rollouts = [
        _rollout(ids, logprobs, 1.0)
        for ids, logprobs in zip(SEQUENCES.tolist(), sampled, strict=True)
    ]
    groups = [group_of("all", *rollouts)]
    known = dict(zip(map(tuple, SEQUENCES.tolist()), sequence_logprobs(OTHER_TABLE), strict=True))
    nothing = np.zeros((2, 0), np.int32), np.zeros((2, 0), np.float32)

    def score(requests: Sequence[ScoreRequest], most: int) -> list[TokenScores]:
        return [TokenScores(known[one.token_ids].float().numpy(), *nothing) for one in requests]

    settings = settings_of()
    batch = batch_of(groups, settings)
    taught, _ = OnPolicyTeacher(settings, view=same_view(), score=score).teach(groups, batch)
    return taught.advantages[batch.mask].view(9, 2)


def policy_gradient(advantages: torch.Tensor) -> torch.Tensor:
    """[4, 3] E over the student's samples of sum over t of advantage[t] * grad log q(token t)."""
    table = TABLE.clone().requires_grad_()
    logprobs = sequence_logprobs(table)
    chance = sequence_logprobs(TABLE).sum(-1).exp()
    (chance[:, None] * advantages * logprobs).sum().backward()
    assert table.grad is not None
    return table.grad


def reverse_kl_gradient(*, states_move: bool) -> torch.Tensor:
    """[4, 3] gradient of sum over states of d(state) * KL(q || p) there.

    d is the probability with which the student comes to the state: 1 for the first token, q(a) for
    the second after a. With it the sum is the divergence of whole sequences (the chain rule); held
    fixed, only the choice within each state is asked to come closer.
    """
    table = TABLE.clone().requires_grad_()
    log_q, log_p = torch.log_softmax(table, -1), torch.log_softmax(OTHER_TABLE, -1)
    within = (log_q.exp() * (log_q - log_p)).sum(-1)
    first = log_q[0].exp() if states_move else log_q[0].exp().detach()
    (within[0] + (first * within[1:]).sum()).backward()
    assert table.grad is not None
    return table.grad


def test_a_token_with_its_own_log_ratio_descends_the_reverse_kl_at_the_states_as_they_are():
    # What is implemented: A[t] = log p(y[t] | s[t]) - log q(y[t] | s[t]), nothing of later tokens.
    # At one state, grad KL(q || p) = sum_y grad q(y) * (log q(y) - log p(y)), as the sum of grad q
    # is 0; that is -E[A grad log q]. Averaged over the states that the student comes to:
    #     E[sum_t A[t] grad log q(y[t])] = -sum_s d(s) grad KL(q(.|s) || p(.|s)),   d held fixed.
    advantages = sequence_logprobs(OTHER_TABLE) - sequence_logprobs(TABLE)
    torch.testing.assert_close(
        policy_gradient(advantages), -reverse_kl_gradient(states_move=False), atol=1e-14, rtol=0
    )
    taught = taught_advantages()
    torch.testing.assert_close(taught.double(), advantages, atol=1e-6, rtol=0)  # they are float32
    torch.testing.assert_close(
        policy_gradient(taught.double()), -reverse_kl_gradient(states_move=False), atol=1e-6, rtol=0
    )


def test_summed_over_the_rest_of_a_sequence_they_would_descend_its_whole_reverse_kl():
    # With the return to come, G[t] = sum of A from t on, the policy gradient is that of the
    # divergence of whole sequences, as q moves the states too. The first token's row tells the two
    # apart; a last token has no rest, so the others' rows agree.
    advantages = sequence_logprobs(OTHER_TABLE) - sequence_logprobs(TABLE)
    returns = advantages.flip(-1).cumsum(-1).flip(-1)
    whole = reverse_kl_gradient(states_move=True)
    torch.testing.assert_close(policy_gradient(returns), -whole, atol=1e-14, rtol=0)
    fixed = reverse_kl_gradient(states_move=False)
    torch.testing.assert_close(whole[1:], fixed[1:], atol=1e-14, rtol=0)
    assert float((whole[0] - fixed[0]).abs().max()) > 0.01


def _written(text: str) -> Group:
    """Two completions, the text and one token, by a student of characters."""
    whole = ended(CHARACTERS, text)
    logprobs = [-0.1 * (i + 1) for i in range(len(whole))]
    return group_of(text, _rollout(whole, logprobs, 1.0), _rollout((20,), (-0.5,), 0.0))
