"""Configuration of distillation: who teaches, on which texts, and what the student minimises."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cotree.grpo.config_algorithm import (
    Dtype,
    Optimizer,
    PositiveFloat,
    PositiveInt,
    Strict,
    Train,
)
from cotree.grpo.config_evaluation import Engines, Server
from cotree.grpo.config_model import Prompt
from cotree.grpo.config_traces import GeneratedTraces, RowTraces

# --- the teacher -----------------------------------------------------------------------------


class EngineTeacher(Engines):
    """A checkpoint on vLLM actors of our own."""

    type: Literal["engine"]
    path: str
    """Local folder or hub name."""
    prompt: Prompt | None = None
    """How a question is put to the teacher; left out, as it is to the student."""


class ServerTeacher(Server):
    """A model on any OpenAI-compatible server: another cluster may hold it."""

    type: Literal["server"]
    model: str | None = None
    """Its name there; left out, the one that the server offers."""
    tokenizer: str | None = None
    """Folder or hub name of its tokenizer, which scoring needs; sampling does not."""
    prompt: Prompt | None = None
    """As for an engine."""


class ResidentTeacher(Strict):
    """A checkpoint beside the student in the learner: every probability of its vocabulary.

    It has to have the student's tokenizer.
    """

    type: Literal["resident"]
    path: str
    revision: str | None = None
    dtype: Dtype = "float32"
    prompt: Prompt | None = None
    """As for an engine."""


Teacher = Annotated[EngineTeacher | ServerTeacher | ResidentTeacher, Field(discriminator="type")]


# --- the texts -------------------------------------------------------------------------------


class Keep(Strict):
    """Which of the teacher's completions are worth learning from: rejection sampling."""

    right: bool = True
    """Only those that the pipeline's first reward calls right (value >= 1)."""
    unrefuted: bool = True
    """None with a step that a step reward refutes."""
    duplicates: bool = False
    """Keep completions of a problem with the same text."""
    min_tokens: PositiveInt | None = None
    max_tokens: PositiveInt | None = None
    """By the teacher's tokens; those cut at the sampling limit are never kept."""
    pass_rate: tuple[float, float] = (0.0, 1.0)
    """Only problems of which this share of the samples was right, ends included: (0, 0.75) leaves
    out those that the teacher always solves."""
    per_problem: PositiveInt = 1
    """At most so many completions of a problem, the first ones."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Keep:
        low, high = self.pass_rate
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"pass_rate = {list(self.pass_rate)} must be [low, high] with 0 <= low <= high <= 1"
            )
        if self.min_tokens and self.max_tokens and self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens = {self.min_tokens} is more than max_tokens = {self.max_tokens}."
            )
        return self


class SampledTraces(Strict):
    """Completions of the train problems, sampled from the teacher and graded by the rewards."""

    type: Literal["teacher"]
    num_problems: PositiveInt | None = None
    """The first so many of the train problems; left out, all."""
    samples: PositiveInt = 4
    """Completions of each."""
    max_tokens: PositiveInt = 256
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    keep: Keep = Keep()

    @model_validator(mode="after")
    def _samples_differ(self) -> SampledTraces:
        if self.temperature == 0 and (self.samples > 1 or self.top_p != 1):
            raise ValueError(
                "corpus.temperature = 0 gives one completion, always the same; set samples = 1 and "
                "drop top_p, or raise the temperature."
            )
        return self


Corpus = Annotated[SampledTraces | GeneratedTraces | RowTraces, Field(discriminator="type")]


class Selection(Strict):
    """The share of the corpus with the highest data value to the student as it starts.

        value = entropy_weight * rank(entropy) + (1 - entropy_weight) * rank(gradient norm)

    Ranks lie in [0, 1]. See `grpo.distilling.data_value`. Measured on small students it was worse
    than a random choice (docs/distillation.md); measure it on yours.
    """

    share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    by: Literal["value", "random"] = "value"
    """`random` is the control."""
    entropy_weight: Annotated[float, Field(ge=0, le=1)] = 0.6

    @model_validator(mode="after")
    def _weight_has_an_effect(self) -> Selection:
        if self.by == "random" and "entropy_weight" in self.model_fields_set:
            raise ValueError('selection.entropy_weight has no effect with by = "random"; drop it.')
        return self


# --- the loss --------------------------------------------------------------------------------

_SKEWED = ("jsd", "skewed_forward_kl", "skewed_reverse_kl")


class Divergence(Strict):
    """Between the teacher's next-token distribution p and the student's q, in nats a token.

    See `grpo.divergence` for the formulas.
    """

    kind: Literal["forward_kl", "reverse_kl", "jsd", "skewed_forward_kl", "skewed_reverse_kl"] = (
        "forward_kl"
    )
    mix: Annotated[float, Field(gt=0, lt=1)] | None = None
    """jsd: weight of p in the mixture (GKD's beta; left out, 0.5). Skewed: weight in the mixture of
    the distribution that is compared with it, p forward and q reverse (DistiLLM's alpha; left out,
    0.1)."""
    temperature: PositiveFloat = 1.0
    """Divides both models' logits; the loss is multiplied by its square (Hinton et al. 2015)."""

    @model_validator(mode="after")
    def _mix_has_an_effect(self) -> Divergence:
        if self.mix is not None and self.kind not in _SKEWED:
            raise ValueError(
                f'mix = {self.mix:g} has no effect with kind = "{self.kind}"; drop it, or choose '
                f"{', '.join(_SKEWED)}."
            )
        return self

    @property
    def mixture(self) -> float:
        """`mix`, or its default for this kind."""
        if self.mix is not None:
            return self.mix
        return 0.5 if self.kind == "jsd" else 0.1


class TopK(Strict):
    """How much of a teacher's distribution is asked for and kept, besides the rest's total."""

    most: Annotated[int, Field(ge=1, le=255)] = 16
    """Most likely tokens at a position, at most."""
    tail_mass: Annotated[float, Field(ge=0, lt=1)] = 1e-3
    """No more tokens are kept once those left have less than this probability together. 0 keeps
    `most` at every position."""


# --- the kinds of distillation ---------------------------------------------------------------


class _Offline(Strict):
    """What the kinds share that learn from texts which are there before the student starts."""

    corpus: Corpus
    selection: Selection | None = None
    num_steps: PositiveInt
    sequences_per_step: PositiveInt = 128
    optimizer: Optimizer
    save_every: PositiveInt = 100
    """Steps between checkpoints."""
    threads: PositiveInt | None = None
    """OpenMP threads of one learner, which shares a CPU with no engine; left out,
    `learner.threads`."""

    @property
    def sampled_teacher(self) -> EngineTeacher | ServerTeacher | None:
        """The teacher, where it is one that can be sampled."""
        teacher = getattr(self, "teacher", None)
        return teacher if isinstance(teacher, EngineTeacher | ServerTeacher) else None


class TracesDistill(_Offline):
    """Next-token cross-entropy on the teacher's texts: sequence-level distillation.

    Sources: Kim & Rush 2016, arXiv:1606.07947; DeepSeek-AI 2025, arXiv:2501.12948, sec. 2.4.
    """

    type: Literal["traces"]
    teacher: EngineTeacher | ServerTeacher | None = Field(default=None, discriminator="type")
    """Left out where the corpus is there already."""

    @model_validator(mode="after")
    def _the_teacher_is_used(self) -> TracesDistill:
        if (self.teacher is None) == (self.corpus.type == "teacher"):
            raise ValueError(
                f'distill.corpus.type = "{self.corpus.type}" '
                + (
                    "needs [distill.teacher]; add it, or name texts that exist."
                    if self.teacher is None
                    else "asks no teacher; drop [distill.teacher]."
                )
            )
        return self


class LogitsDistill(_Offline):
    """A divergence from the teacher's distribution at every token of the texts.

    The teacher is asked once, and its answers are kept in RUN/distill/logits; other students read
    them from there. A resident teacher is asked at every step instead.

    Sources: Hinton et al. 2015, arXiv:1503.02531; Agarwal et al. 2024, arXiv:2306.13649 (GKD).
    """

    type: Literal["logits"]
    teacher: Teacher | None = None
    store: str | None = None
    """Folder of answers that another run kept; then no teacher is needed."""
    keep: TopK = TopK()
    divergence: Divergence = Divergence()
    cross_entropy_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the cross-entropy on the texts' own tokens, beside 1 for the divergence."""

    @model_validator(mode="after")
    def _the_teacher_is_used(self) -> LogitsDistill:
        if (self.teacher is None) == (self.store is None):
            raise ValueError(
                "distill.teacher and distill.store: give one of them, a teacher to ask or the "
                "folder of its answers."
            )
        if self.corpus.type == "teacher" and isinstance(self.teacher, ResidentTeacher):
            raise ValueError(
                'distill.corpus.type = "teacher" needs a teacher that samples; use type = "engine" '
                'or "server", or name texts that exist.'
            )
        _refuse_prompt_of(self.teacher)
        if "keep" in self.model_fields_set and (
            self.store is not None or isinstance(self.teacher, ResidentTeacher)
        ):
            raise ValueError(
                "distill.keep has no effect on a resident teacher or on answers that are there; "
                "drop it."
            )
        return self


class AdvantageSignal(Strict):
    """The reverse divergence as a reward of each token: coef * (log p - log q) joins its advantage.

    Source: Lu & Thinking Machines Lab 2025, "On-policy distillation".
    """

    type: Literal["advantage"] = "advantage"
    coef: PositiveFloat = 1.0


class DivergenceSignal(Strict):
    """The divergence itself joins the loss, coef * D(p, q), at every token the student sampled.

    Source: Agarwal et al. 2024, arXiv:2306.13649, algorithm 1 with lambda = 1.
    """

    type: Literal["divergence"]
    coef: PositiveFloat = 1.0
    divergence: Divergence = Divergence(kind="reverse_kl")
    keep: TopK = TopK(tail_mass=0.0)


class OnPolicyDistill(Strict):
    """The student samples, the teacher judges each of its tokens: loss = GRPO + beta * KL.

    The same loop as reinforcement, with a teacher in it.
    """

    type: Literal["on_policy"]
    teacher: Teacher
    signal: Annotated[AdvantageSignal | DivergenceSignal, Field(discriminator="type")] = (
        AdvantageSignal()
    )
    reward_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the rewards' advantages beside the teacher's signal; 0 learns from the teacher
    alone, and the rewards are measured only."""
    train: Train
    """The loop, as in [train]."""

    @model_validator(mode="after")
    def _the_signal_has_a_teacher(self) -> OnPolicyDistill:
        signal = self.signal
        if isinstance(signal, DivergenceSignal):
            _refuse_prompt_of(self.teacher)
        elif self.train.rollout.temperature != 1:
            raise ValueError(
                f"train.rollout.temperature = {self.train.rollout.temperature:g} would compare a "
                'tempered student with its teacher; set it to 1, or signal.type = "divergence".'
            )
        # The default may be written down: a saved configuration has it.
        if (
            isinstance(signal, DivergenceSignal)
            and signal.keep != DivergenceSignal.model_fields["keep"].default
            and isinstance(self.teacher, ResidentTeacher)
        ):
            raise ValueError(
                "distill.signal.keep has no effect on a resident teacher, which tells everything; "
                "drop it."
            )
        return self


def _refuse_prompt_of(teacher: Teacher | None) -> None:
    """Beside the student in the learner, a teacher reads the student's own batch."""
    if isinstance(teacher, ResidentTeacher) and teacher.prompt is not None:
        raise ValueError(
            "distill.teacher.prompt has no effect on a resident teacher whose distribution is "
            'compared in the learner; drop it, or set type = "engine".'
        )


AnyDistill = Annotated[TracesDistill | LogitsDistill | OnPolicyDistill, Field(discriminator="type")]
