"""Random batches and learners for the tests of the learner; nothing here is a fake."""

from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from cotree.grpo import config
from cotree.grpo.config_algorithm import Kl, Optimizer, Train
from cotree.grpo.learner import Learner, LearnerSpec
from cotree.grpo.types import Batch

# A large eps keeps AdamW from turning rounding noise of a gradient near zero into a whole step.
OPTIMIZER = Optimizer(learning_rate=1e-2, warmup_steps=2, weight_decay=0.01, eps=1e-3)


def random_batch(seed: int, *, rows: int = 6, width: int = 24, vocab: int = 99) -> Batch:
    """Rows of different lengths with 4 prompt tokens each; token_mean weights."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(8, width + 1, (rows,), generator=random)
    lengths[0] = width
    columns = torch.arange(width)
    real = columns < lengths[:, None]
    mask = real & (columns >= 4)
    num_tokens = int(mask.sum())
    return Batch(
        token_ids=torch.randint(3, vocab, (rows, width), generator=random) * real,
        lengths=lengths,
        mask=mask,
        behavior_logprobs=(-4.0 - torch.rand(rows, width, generator=random)) * mask,
        advantages=torch.randn(rows, 1, generator=random).expand(rows, width) * mask,
        weights=mask / num_tokens,
        num_tokens=num_tokens,
    )


def train_config(**fields: object) -> Train:
    return Train(num_steps=10, optimizer=OPTIMIZER, **fields)


def make_spec(
    model: Path, *, train: Train | None = None, dtype: str = "float32", **learner: object
) -> LearnerSpec:
    return LearnerSpec(
        model_path=str(model),
        learner=config.Learner.model_validate({"precision": {"type": dtype}, **learner}),
        optimizer=OPTIMIZER,
        total_updates=10,
        objective=train or train_config(),
        seed=0,
        engine_dtype="float32",
    )


def make_learner(
    model: Path,
    *,
    train: Train | None = None,
    dtype: str = "float32",
    rank: int = 0,
    world_size: int = 1,
    **learner: object,
) -> Learner:
    """A learner in this process; accelerate allows one precision per process unless reset."""
    AcceleratorState._reset_state(reset_partial_state=True)
    spec = make_spec(model, train=train, dtype=dtype, **learner)
    return Learner(spec, rank=rank, world_size=world_size)


def tensors(learner: Learner) -> dict[str, torch.Tensor]:
    return learner.weights().tensors


def largest_gap(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


KL = Kl(coef=0.1)
