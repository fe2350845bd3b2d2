"""Teachers, their opinions of random batches, and learners under them; nothing here is a fake."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from random_batches import make_spec
from transformers import AutoModelForCausalLM, PreTrainedModel

from cotree.grpo.config_distill import Divergence, ResidentTeacher, TopK
from cotree.grpo.distilling.logit_store import LogitStore, LogitWriter
from cotree.grpo.distilling.taught_batch import taught_batch
from cotree.grpo.distilling.view import Opinion
from cotree.grpo.distilling.vocabulary import identity_outcomes
from cotree.grpo.learner import Learner
from cotree.grpo.models import load_model
from cotree.grpo.objective import Objective
from cotree.grpo.policy import Policy
from cotree.grpo.taught_policy import ResidentModel, TaughtPolicy
from cotree.grpo.token_scores import ScoreRequest, TokenScores
from cotree.grpo.types import Batch, TaughtBatch

FORWARD = Divergence()


def write_teacher(
    student: Path, folder: Path, *, seed: int, sharpness: float, vocab_size: int | None = None
) -> Path:
    """The student after noise on its weights, with logits `sharpness` times as far apart."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
        model.model.norm.weight.mul_(sharpness)
    if vocab_size is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model.resize_token_embeddings(vocab_size, mean_resizing=False)
    model.save_pretrained(folder)
    return folder


def full_logprobs(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """[B, S, V] nats: the model's own log_softmax at the position that predicts each token.

    Row by row and without padding; zero at the first position. Carries the model's gradient.
    """
    rows = []
    for ids, length in zip(batch.token_ids, batch.lengths.tolist(), strict=True):
        own = torch.log_softmax(model(ids[None, :length]).logits[0], -1)
        rows.append(torch.nn.functional.pad(own[:-1], (0, 0, 1, len(ids) - length)))
    return torch.stack(rows)


@torch.no_grad()
def scores_of(model: PreTrainedModel, batch: Batch) -> list[tuple[ScoreRequest, TokenScores]]:
    """What the model thinks of each row's trained tokens: all its tokens, the likeliest first."""
    found: list[tuple[ScoreRequest, TokenScores]] = []
    logprobs = full_logprobs(model, batch).float()
    for row, (ids, mask) in enumerate(zip(batch.token_ids, batch.mask, strict=True)):
        places = mask.nonzero()[:, 0]
        start, end = int(places[0]), int(places[-1]) + 1
        top, order = logprobs[row, start:end].sort(descending=True)
        own = logprobs[row, start:end].gather(-1, ids[start:end, None])[:, 0]
        request = ScoreRequest(tuple(ids[:start].tolist()), tuple(ids[start:end].tolist()))
        scores = TokenScores(own.numpy(), order.to(torch.int32).numpy(), top.numpy())
        found.append((request, scores))
    return found


def told(
    batch: Batch, scores: Sequence[TokenScores | None], *, vocab_size: int, keep: TopK
) -> TaughtBatch:
    """The batch with the scores' likeliest tokens; None is no opinion of a row."""
    opinions = [
        None
        if one is None
        else Opinion(_outcomes(one.trimmed(keep), vocab_size=vocab_size), num_inside=0)
        for one in scores
    ]
    return taught_batch(batch, opinions)


def _outcomes(scores: TokenScores, *, vocab_size: int):
    return identity_outcomes(scores.top_ids, scores.top_logprobs, vocab_size=vocab_size)


class StoredTeacher:
    """A teacher's scores of some batches, written to a store and read back from it."""

    def __init__(
        self, model: PreTrainedModel, batches: Sequence[Batch], folder: Path, *, keep: TopK
    ) -> None:
        self._vocab_size = int(model.config.vocab_size)
        self._batches, self._keep = batches, keep
        with LogitWriter(folder, about={}, vocab_size=self._vocab_size) as writer:
            for batch in batches:
                for request, scores in scores_of(model, batch):
                    writer.add(request, scores.trimmed(keep))
            writer.finish()
        self.store = LogitStore.open(folder)

    def batch(self, index: int) -> TaughtBatch:
        """The batch with this number and its stored scores."""
        start = sum(len(batch.lengths) for batch in self._batches[:index])
        batch = self._batches[index]
        rows = [self.store[start + row].scores for row in range(len(batch.lengths))]
        return told(batch, rows, vocab_size=self._vocab_size, keep=self._keep)


def everything(model: PreTrainedModel) -> TopK:
    """Keeps every token of the model's vocabulary, which has to be small."""
    return TopK(most=int(model.config.vocab_size), tail_mass=0.0)


def resident(folder: Path, *, dtype: str = "float32") -> ResidentTeacher:
    return ResidentTeacher(type="resident", path=str(folder), dtype=dtype)


def taught_learner(
    model: Path,
    objective: Objective,
    *,
    teacher: Path | None = None,
    order: Sequence[int] | None = None,
    rank: int = 0,
    world_size: int = 1,
    dtype: str = "float32",
    **learner: object,
) -> Learner:
    """A learner in this process, under a resident teacher if one is given."""
    AcceleratorState._reset_state(reset_partial_state=True)
    spec = replace(
        make_spec(model, dtype=dtype, **learner),
        objective=objective,
        teacher=None if teacher is None else resident(teacher),
        vocabulary_order=None if order is None else tuple(order),
    )
    return Learner(spec, rank=rank, world_size=world_size)


def frozen(folder: Path, *, dtype: str = "float64") -> PreTrainedModel:
    """A checkpoint as transformers computes it, without gradients."""
    return load_model(str(folder), dtype=dtype).eval().requires_grad_(requires_grad=False)


def by_definition(
    kind: str, p: torch.Tensor, q: torch.Tensor, *, mix: float, temperature: float
) -> torch.Tensor:
    """The divergence's formula in plain probabilities, from [..., V] log-probabilities."""
    p, q = (torch.softmax(x / temperature, -1) for x in (p, q))

    def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * (a / b).log()).sum(-1)

    match kind:
        case "forward_kl":
            nats = kl(p, q)
        case "reverse_kl":
            nats = kl(q, p)
        case "jsd":
            m = mix * p + (1 - mix) * q
            nats = mix * kl(p, m) + (1 - mix) * kl(q, m)
        case "skewed_forward_kl":
            nats = kl(p, mix * p + (1 - mix) * q)
        case _:
            nats = kl(q, (1 - mix) * p + mix * q)
    return temperature**2 * nats


def taught(
    student: PreTrainedModel,
    *,
    teacher: PreTrainedModel | None = None,
    divergence: Divergence = FORWARD,
    packing: bool = False,
    order: Sequence[int] | None = None,
) -> TaughtPolicy:
    return TaughtPolicy(
        student,
        packing=packing,
        divergence=divergence,
        teacher=None if teacher is None else ResidentModel(teacher, packing=packing),
        order=None if order is None else torch.tensor(order),
    )


def opinions(teacher: PreTrainedModel, batch: Batch, keep: TopK | None = None) -> TaughtBatch:
    """The batch with the teacher's likeliest tokens; all of them without `keep`."""
    scores = [scores for _, scores in scores_of(teacher, batch)]
    size = int(teacher.config.vocab_size)
    return told(batch, scores, vocab_size=size, keep=keep or everything(teacher))


def gradients(policy: TaughtPolicy | Policy, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    named = dict(policy.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()))
    return dict(zip(named, found, strict=True))


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], *, within: float):
    """Every gradient differs by at most that share of its own largest entry."""
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        scale = float(theirs[name].abs().max())
        assert scale > 1e-4, name
        assert float((gradient - theirs[name]).abs().max()) <= within * scale, name


def heard(teacher: Path, batch: Batch, *, silent: Sequence[int] = ()) -> TaughtBatch:
    """The batch with every token's log-probability; no opinion of the silent rows."""
    model = frozen(teacher, dtype="float32")
    scores = [
        None if row in silent else scores for row, (_, scores) in enumerate(scores_of(model, batch))
    ]
    return told(batch, scores, vocab_size=128, keep=everything(model))


def steps(learner: Learner, batches: Sequence[Batch]) -> list[dict[str, float]]:
    return [dict(learner.step(batch)) for batch in batches]
