"""Configuration of the algorithm: optimizer, rollouts, advantages, losses, corrections.

Every choice names its paper; README maps the papers' names to these settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Dtype = Literal["float32", "bfloat16"]


class Strict(BaseModel):
    """Unknown keys are errors: a misspelt option must not silently use the default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Optimizer(Strict):
    """AdamW and its schedule. Master weights are float32."""

    learning_rate: PositiveFloat
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After warm-up; linear and cosine end at `final_frac` of the rate."""
    final_frac: Annotated[float, Field(ge=0, le=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    eps: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _final_frac_has_an_effect(self) -> Optimizer:
        if self.schedule == "constant" and "final_frac" in self.model_fields_set:
            raise ValueError(
                'final_frac has no effect with schedule = "constant"; choose linear or cosine.'
            )
        return self


class RolloutBase(Strict):
    """How completions are sampled while training, one by one or as trees."""

    max_tokens: PositiveInt = 256
    temperature: PositiveFloat = 1.0
    """The learner divides its logits by the same number. No top-p or top-k while training: they
    give sampled tokens probabilities that the learner's softmax does not have."""
    max_staleness: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps a rollout may lag behind the learner. 0 is on-policy; 1 overlaps sampling
    with learning. The schedule is fixed, so a run repeats exactly at any value."""
    replay_routes: bool = False
    """Mixture of experts: the engine records the experts that it chose for each token, and the
    learner sends the token to the same ones, weighed by its own scores. Without it, a rounding
    difference that flips a choice is a jump in a token's probability. Source: Ma et al. 2025,
    arXiv:2510.11370 (rollout routing replay)."""


class Rollouts(RolloutBase):
    """Completions of a prompt sampled independently of each other."""

    type: Literal["flat"] = "flat"
    """May be left out."""
    group_size: PositiveInt = 8
    """Completions per prompt (G)."""


class TreeRollouts(RolloutBase):
    """Completions that share prefixes: chains, branched where no reward has a say.

    A group is the tree's leaves, chains * (1 + points * forks) of them. A chain too short for its
    points branches at those it has; the forks of the others are whole new completions, so that
    groups keep their size.

    Sources: arXiv:2506.11902 (TreeRL); arXiv:2509.21240 (Tree-GRPO); see `search.branching`.
    """

    type: Literal["tree"]
    chains: PositiveInt = 4
    """Completions sampled from the prompt (M)."""
    points: PositiveInt = 1
    """Positions at which each chain branches (T)."""
    forks: PositiveInt = 3
    """Continuations sampled at each position, besides the chain's own (N)."""
    branch: Literal["entropy", "uniform", "step"] = "entropy"
    """`entropy`: where the next token is least certain. `uniform`: anywhere, one position in each
    of `points` equal parts. `step`: at the first tokens of lines, evenly."""

    @property
    def group_size(self) -> int:
        """Completions per prompt (G)."""
        return self.chains * (1 + self.points * self.forks)

    @model_validator(mode="before")
    @classmethod
    def _group_size_follows(cls, given: object) -> object:
        if isinstance(given, Mapping) and "group_size" in given:
            raise ValueError(
                'group_size has no effect with type = "tree": it is chains * (1 + points * forks). '
                'Drop it, or set type = "flat".'
            )
        return cast(object, given)

    @model_validator(mode="after")
    def _points_fit(self) -> TreeRollouts:
        if self.points > self.max_tokens - 2:
            raise ValueError(
                f"points = {self.points} do not fit between the first and the last of max_tokens = "
                f"{self.max_tokens} tokens; lower points to {self.max_tokens - 2} or less."
            )
        return self


def _rollout_type(given: object) -> str | None:
    """The tag of `Train.rollout`, which older files lack."""
    if isinstance(given, Mapping):
        return cast("str | None", given.get("type", "flat"))
    return getattr(given, "type", "flat")


AnyRollouts = Annotated[
    Annotated[Rollouts, Tag("flat")] | Annotated[TreeRollouts, Tag("tree")],
    Discriminator(_rollout_type),
]


class DynamicSampling(Strict):
    """Sample more prompts until the step has enough informative groups.

    Source: DAPO, arXiv:2503.14476, sec. 3.2.
    """

    max_rounds: PositiveInt = 3
    """Rounds of sampling a step may take before it goes on with what it has."""


class Overlong(Strict):
    """Soft punishment for long completions. Source: DAPO, arXiv:2503.14476, eq. 13."""

    buffer_tokens: PositiveInt
    """The penalty grows linearly over the last this many tokens before `max_tokens`."""
    penalty: PositiveFloat = 1.0


class Advantage(Strict):
    """Baseline and scale of the outcome advantage; see README for the papers' settings."""

    baseline: Literal["group_mean", "leave_one_out", "batch_mean"] = "group_mean"
    scale: Literal["none", "group_std", "batch_std"] = "none"
    tree: Literal["leaf", "tree_grpo", "tree_rl", "vine", "sibling"] = "leaf"
    """How the outcomes of a rollout tree become advantages; see `grpo.tree_advantage`. `leaf`: each
    completion by itself, with `baseline` and `scale`. The others have baselines of their own."""
    process_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of process supervision: step scores, normalised over the group, summed over the
    following steps. Source: Shao et al. 2024, arXiv:2402.03300, sec. 4.1.3. 0 is off."""
    process_discount: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Per step. 1 is the paper's sum. Where a scorer judges each step by itself, that sum pays a
    wrong step for the right ones after it; 0 credits tokens with their own step alone."""
    process_baseline: Literal["group", "outcome"] = "group"
    """What step scores are normalised over. `group`: all rollouts of the prompt (DeepSeekMath).
    `outcome`: the prompt's right ones and its wrong ones apart, so that steps rank rollouts of
    one outcome and never trade against it."""

    @model_validator(mode="after")
    def _baseline_has_an_effect(self) -> Advantage:
        for name in ("baseline", "scale"):
            if self.tree != "leaf" and name in self.model_fields_set:
                raise ValueError(
                    f'advantage.{name} has no effect with advantage.tree = "{self.tree}", which '
                    'has its own; drop it, or set tree = "leaf".'
                )
        return self

    @model_validator(mode="after")
    def _process_settings_have_an_effect(self) -> Advantage:
        for name in ("process_discount", "process_baseline"):
            if self.process_coef == 0 and name in self.model_fields_set:
                raise ValueError(
                    f"advantage.{name} has no effect with advantage.process_coef = 0; "
                    "raise process_coef or drop it."
                )
        return self


class LossBase(Strict):
    """What every loss shares."""

    aggregation: Literal["token_mean", "sequence_mean", "constant"] = "token_mean"
    """token_mean: over all tokens of the step (DAPO). sequence_mean: over a rollout, then over
    rollouts (GRPO). constant: divide by B * max_tokens (Dr. GRPO)."""


class GrpoLoss(LossBase):
    """Clipped surrogate.

    Sources: arXiv:2402.03300 eq. 3; arXiv:2503.14476 sec. 3.1 for clip_high.
    """

    type: Literal["grpo"] = "grpo"
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: PositiveFloat = 0.2


class GspoLoss(LossBase):
    """Clipped surrogate with one ratio per sequence.

    Source: Zheng et al. 2025, arXiv:2507.18071, eq. 5-7.
    """

    type: Literal["gspo"]
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 3e-4
    clip_high: PositiveFloat = 4e-4
    aggregation: Literal["token_mean", "sequence_mean", "constant"] = "sequence_mean"


class CispoLoss(LossBase):
    """Truncated importance weights; every token keeps its gradient.

    Source: MiniMax 2025, arXiv:2506.13585, eq. 4-5.
    """

    type: Literal["cispo"]
    clip_low: Annotated[float, Field(gt=0, le=1)] = 1.0
    """1.0 means no lower bound, the paper's setting."""
    clip_high: PositiveFloat = 2.0


class ReinforceLoss(LossBase):
    """Plain policy gradient, for RLOO and REINFORCE++ without clipping."""

    type: Literal["reinforce"]


Loss = Annotated[GrpoLoss | GspoLoss | CispoLoss | ReinforceLoss, Field(discriminator="type")]


class Kl(Strict):
    """Penalty on the divergence from the starting policy, added to the loss per token."""

    coef: PositiveFloat
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """Source: Schulman 2020, "Approximating KL divergence". As a loss, k2 has the true gradient;
    k1's expected gradient is zero and is refused here."""

    @model_validator(mode="after")
    def _k1_has_a_gradient(self) -> Kl:
        if self.estimator == "k1":
            raise ValueError(
                'kl.estimator = "k1" as a loss has zero expected gradient, so it has no effect; '
                'choose "k2" (true gradient) or "k3" (GRPO\'s).'
            )
        return self


class NoCorrection(Strict):
    """Trust the engine's log-probabilities. The mismatch is measured and logged all the same."""

    type: Literal["none"]


class TruncatedWeights(Strict):
    """Truncated importance sampling, min(pi_learner / pi_engine, cap).

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
    training".
    """

    type: Literal["tis"] = "tis"
    cap: Annotated[float, Field(ge=1)] = 2.0


class MaskedWeights(Strict):
    """Importance weight inside [low, high], zero outside (IcePop).

    Source: Ling team 2025, arXiv:2510.18855, sec. 3.
    """

    type: Literal["mask"]
    low: Annotated[float, Field(gt=0, lt=1)] = 0.5
    high: Annotated[float, Field(gt=1)] = 5.0


class SequenceMask(Strict):
    """Drop a rollout whose geometric-mean weight leaves [low, high]."""

    type: Literal["sequence_mask"]
    low: Annotated[float, Field(gt=0, lt=1)] = 0.5
    high: Annotated[float, Field(gt=1)] = 2.0


Correction = Annotated[
    NoCorrection | TruncatedWeights | MaskedWeights | SequenceMask, Field(discriminator="type")
]


class Train(Strict):
    """Reinforcement with GRPO and its relatives."""

    num_steps: PositiveInt
    prompts_per_step: PositiveInt = 32
    updates_per_step: PositiveInt = 1
    """Optimizer updates one step's rollouts are split into."""
    rollout: AnyRollouts = Rollouts()
    advantage: Advantage = Advantage()
    loss: Loss = GrpoLoss()
    correction: Correction = TruncatedWeights()
    kl: Kl | None = None
    dynamic_sampling: DynamicSampling | None = None
    overlong: Overlong | None = None
    mask_truncated: bool = False
    """Keep completions cut at `max_tokens` out of the loss (DAPO sec. 3.4)."""
    optimizer: Optimizer
    save_every: PositiveInt = 20
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: PositiveInt = 2
    evaluate_every: Annotated[int, Field(ge=0)] = 0
    """Steps between evaluations on the test problems; 0 is never."""

    @model_validator(mode="after")
    def _groups_can_teach(self) -> Train:
        size, advantage = self.rollout.group_size, self.advantage
        if size == 1 and (advantage.baseline != "batch_mean" or advantage.scale == "group_std"):
            raise ValueError(
                f"train.rollout.group_size = 1 leaves nothing to compare with under "
                f"baseline = {advantage.baseline!r}, scale = {advantage.scale!r}: every advantage "
                'is 0. Set group_size to 2 or more, or baseline = "batch_mean" with scale "none" '
                'or "batch_std".'
            )
        if size == 1 and advantage.process_coef:
            raise ValueError(
                "advantage.process_coef compares the steps of a group; set group_size >= 2."
            )
        if self.overlong and self.overlong.buffer_tokens >= self.rollout.max_tokens:
            raise ValueError(
                f"overlong.buffer_tokens = {self.overlong.buffer_tokens} must be below "
                f"rollout.max_tokens = {self.rollout.max_tokens}."
            )
        if isinstance(self.loss, ReinforceLoss) and self.updates_per_step > 1:
            raise ValueError(
                f'loss.type = "reinforce" has no ratio, so updates_per_step = '
                f"{self.updates_per_step} would train on stale samples uncorrected. Set it to 1, "
                'or choose "grpo" or "cispo".'
            )
        if self.prompts_per_step * size < self.updates_per_step:
            raise ValueError(
                f"updates_per_step = {self.updates_per_step} exceeds the step's "
                f"{self.prompts_per_step * size} rollouts."
            )
        return self

    @model_validator(mode="after")
    def _tree_advantages_have_trees(self) -> Train:
        if self.advantage.tree != "leaf" and self.rollout.type != "tree":
            raise ValueError(
                f'advantage.tree = "{self.advantage.tree}" needs rollouts that share prefixes; set '
                'rollout.type = "tree", or drop it.'
            )
        return self

    def check_shared_prefixes(self) -> None:
        """Raises ValueError unless tokens that rollouts share have a loss of their own."""
        for name, choice in (("loss", self.loss.type), ("correction", self.correction.type)):
            if choice in ("gspo", "sequence_mask"):
                raise ValueError(
                    f'train.{name}.type = "{choice}" depends on whole rollouts, so the loss of a '
                    "token that several share is not one number. Set learner.share_prefixes = "
                    "false."
                )
