"""One pipeline's configuration: frozen, validated once, printed in full at the start of a run.

A file holds differences from these defaults only. The stages of a pipeline (sft, train, evaluate)
share one file, so that they cannot disagree about the task, the prompt or the model.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cotree.grpo.config_algorithm import Optimizer, PositiveFloat, PositiveInt, Strict, Train
from cotree.grpo.config_distill import AnyDistill, LogitsDistill, OnPolicyDistill, TracesDistill
from cotree.grpo.config_evaluation import Evaluate
from cotree.grpo.config_generator import Generator, MtpSpeculation
from cotree.grpo.config_learner import BFloat16, Float32, Learner, Lora
from cotree.grpo.config_model import Model, NewNetwork, Prompt
from cotree.grpo.config_traces import GeneratedTraces, Traces

__all__ = [
    "ArithmeticTask",
    "BFloat16",
    "CountdownTask",
    "Float32",
    "Generator",
    "Grading",
    "Learner",
    "Lora",
    "Pipeline",
    "RewardTerm",
    "RowsTask",
    "Sft",
]

# --- the task --------------------------------------------------------------------------------


class ArithmeticTask(Strict):
    """Nested integer expressions, generated; train and test problems never overlap."""

    type: Literal["arithmetic"]
    operands: tuple[PositiveInt, PositiveInt] = (3, 6)
    """Fewest and most numbers in an expression; levels are equally likely."""
    largest: Annotated[int, Field(ge=2)] = 20
    """Every number and every intermediate value lies in 0..largest."""
    num_train: PositiveInt = 20_000
    num_test: PositiveInt = 1_000

    @model_validator(mode="after")
    def _range_is_ordered(self) -> ArithmeticTask:
        low, high = self.operands
        if low < 2 or high < low:
            raise ValueError(
                f"operands = {list(self.operands)} must be [low, high] with 2 <= low <= high."
            )
        return self


class CountdownTask(Strict):
    """Reach a target with given numbers and + - *; train and test games never overlap."""

    type: Literal["countdown"]
    numbers: tuple[PositiveInt, PositiveInt] = (3, 4)
    """Fewest and most numbers of a game; levels are equally likely."""
    largest: Annotated[int, Field(ge=2)] = 20
    """Every number and the target lie in 1..largest, and so does every value of one solution."""
    num_train: PositiveInt = 6_800
    num_test: PositiveInt = 1_000

    @model_validator(mode="after")
    def _range_is_ordered(self) -> CountdownTask:
        low, high = self.numbers
        if not 2 <= low <= high <= 5:
            raise ValueError(
                f"numbers = {list(self.numbers)} must be [low, high] with 2 <= low <= high <= 5: "
                "games are solved by trying everything."
            )
        return self


class RowsTask(Strict):
    """Question and answer rows from local JSONL/parquet files or the Hugging Face hub."""

    type: Literal["rows"]
    train: str
    """Path of a .jsonl or .parquet file, or `hub:NAME[/SUBSET]:SPLIT`."""
    test: str
    question_field: str = "question"
    answer_field: str = "answer"
    answer_after: str | None = None
    """Keep only what follows the last occurrence of this marker (GSM8K: `####`)."""


Task = Annotated[ArithmeticTask | CountdownTask | RowsTask, Field(discriminator="type")]


# --- rewards ---------------------------------------------------------------------------------


class RewardTerm(Strict):
    """One reward function, its weight in the sum, where it runs and what its failure means."""

    name: str
    """An installed name (`answer`, `format`, …), `module:function` or `path/file.py:function`."""
    weight: float = 1.0
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Keyword arguments; checked against the function's signature at start-up."""
    executor: Literal["process", "inline", "ray"] = "process"
    """`process`: a child process that is killed when a call hangs. `inline`: the grading actor
    itself, for functions that keep much in memory or hold a connection; nothing can end a call
    there. `ray`: a Ray actor of its own, killed and replaced when a call hangs."""
    timeout_seconds: PositiveFloat | None = None
    """Wall-clock limit of one call; left out, `grading.timeout_seconds`. A call is for one
    completion, for a batch, or for the completions that an `async` function has in flight."""
    on_error: Literal["mask", "value", "raise"] = "mask"
    """A call that raises, hangs, crashes or returns no reward: `mask` drops the rollout, `value`
    counts as `error_value`, `raise` stops the run. All are counted in `grading.max_failed_frac`."""
    error_value: float | None = None
    """What the term is worth for a completion it could not grade, under `on_error = "value"`."""

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> RewardTerm:
        if self.executor == "inline" and self.timeout_seconds is not None:
            raise ValueError(
                f"timeout_seconds = {self.timeout_seconds:g} has no effect on {self.name!r} with "
                'executor = "inline", where no call can be ended; drop it, or use "process".'
            )
        if self.on_error == "value" and self.error_value is None:
            raise ValueError(f'on_error = "value" needs error_value for {self.name!r}; set it.')
        if self.on_error != "value" and self.error_value is not None:
            raise ValueError(
                f"error_value = {self.error_value:g} has no effect on {self.name!r} with "
                f'on_error = "{self.on_error}"; set on_error = "value" or drop it.'
            )
        return self


class Grading(Strict):
    """Where reward functions run, what happens when one fails, and how they become one reward."""

    workers: PositiveInt = 1
    """Child processes; each is killed and replaced when a reward function hangs or crashes."""
    timeout_seconds: PositiveFloat = 5.0
    """Wall-clock limit of one call of a reward function that has none of its own."""
    memory_bytes: PositiveInt = 2 << 30
    """Address-space limit of a child process."""
    max_failed_frac: Annotated[float, Field(ge=0, le=1)] = 0.2
    """A step in which a reward function failed on a larger share of rollouts stops the run."""
    combination: Literal["sum", "product", "minimum"] = "sum"
    """Of several rewards: the weighted sum; the product, where one that is 0 takes the others with
    it (a format that gates); or the lowest, which the others cannot make up for."""


# --- cold start ------------------------------------------------------------------------------


class Sft(Strict):
    """Cold start: next-token cross-entropy on solutions, prompts masked out."""

    traces: Traces
    num_steps: PositiveInt
    sequences_per_step: PositiveInt = 128
    optimizer: Optimizer
    save_every: PositiveInt = 100
    """Steps between checkpoints."""
    threads: PositiveInt | None = None
    """OpenMP threads of one learner in this stage, which shares a CPU with no engine; left out,
    `learner.threads`."""


# --- the whole -------------------------------------------------------------------------------


class Pipeline(Strict):
    """One pipeline: a model, a task, and the stages that make the one solve the other."""

    seed: Annotated[int, Field(ge=0)] = 0
    output_dir: str
    """Folder of the run; `cotree` fills in runs/NAME from the file's name when it is not given."""
    model: Model
    task: Task
    prompt: Prompt = Prompt()
    rewards: tuple[RewardTerm, ...] = (RewardTerm(name="answer"),)
    """The reward is their weighted sum. The first entry decides what counts as correct in
    evaluations (value >= 1)."""
    grading: Grading = Grading()
    generator: Generator = Generator()
    learner: Learner = Learner()
    sft: Sft | None = None
    distill: AnyDistill | None = None
    train: Train | None = None
    evaluate: Evaluate = Evaluate()
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)

    @model_validator(mode="after")
    def _stages_fit_together(self) -> Pipeline:
        if not self.rewards:
            raise ValueError("rewards is empty: add at least one [[rewards]] with a name.")
        names = [term.name for term in self.rewards]
        if len(set(names)) != len(names):
            raise ValueError(f"rewards names repeat: {names}. Sum the weights into one entry.")
        self._refuse_grading_without_effect()
        self._refuse_what_does_not_fit_the_task()
        if self.learner.share_prefixes:
            self._refuse_shared_prefixes_that_cannot_be()
        self._refuse_routes_of_drafts()
        self._refuse_a_missing_prediction_module()
        offline = isinstance(self.distill, TracesDistill | LogitsDistill)
        if isinstance(self.model, NewNetwork) and self.sft is None and not offline:
            raise ValueError(
                f'model.type = "{self.model.type}" starts from random weights; add an [sft] '
                "section, or distill from texts first."
            )
        longest = [("evaluate.max_tokens", self.evaluate.max_tokens)]
        if self.train:
            longest.append(("train.rollout.max_tokens", self.train.rollout.max_tokens))
        if isinstance(self.distill, OnPolicyDistill):
            taught = self.distill.train.rollout.max_tokens
            longest.append(("distill.train.rollout.max_tokens", taught))
        if self.evaluate.benchmarks:
            longest.append(("evaluate.benchmarks.max_tokens", self.evaluate.benchmarks.max_tokens))
        spare = self.generator.spare_tokens
        for name, tokens in longest:
            if tokens + spare >= self.generator.max_model_len:
                raise ValueError(
                    f"{name} = {tokens}, and {spare} for drafts, leave no room for a prompt in "
                    f"generator.max_model_len = {self.generator.max_model_len}; raise it."
                )
        return self

    def _refuse_a_missing_prediction_module(self) -> None:
        if not isinstance(self.model, NewNetwork) or getattr(self.model, "mtp_layers", 0):
            return
        needs = {
            "learner.mtp": self.learner.mtp is not None,
            'generator.speculation.type = "mtp"': isinstance(
                self.generator.speculation, MtpSpeculation
            ),
        }
        for name in [name for name, needed in needs.items() if needed]:
            raise ValueError(
                f"{name} needs a multi-token prediction module, which this new model has not; use "
                'model.type = "new_deepseek_v3" with mtp_layers = 1.'
            )

    def _refuse_routes_of_drafts(self) -> None:
        on_policy = self.distill if isinstance(self.distill, OnPolicyDistill) else None
        for train in (self.train, on_policy.train if on_policy else None):
            if train and train.rollout.replay_routes and self.generator.speculation:
                raise ValueError(
                    "rollout.replay_routes would record the experts of drafted tokens that are "
                    "then rejected; drop generator.speculation, or set replay_routes to false."
                )

    def _refuse_shared_prefixes_that_cannot_be(self) -> None:
        distill = self.distill
        on_policy = distill if isinstance(distill, OnPolicyDistill) else None
        for train in (self.train, on_policy.train if on_policy else None):
            if train is not None:
                train.check_shared_prefixes()
        compared = on_policy is not None and on_policy.signal.type == "divergence"
        for train in (self.train, on_policy.train if on_policy else None):
            if train is not None and train.rollout.replay_routes:
                raise ValueError(
                    "rollout.replay_routes gives each rollout's tokens their own experts, so "
                    "learner.share_prefixes has nothing to share; set one of them to false."
                )
        if compared or isinstance(distill, LogitsDistill):
            raise ValueError(
                "learner.share_prefixes does not know a teacher's divergence; set it to false."
            )

    def _refuse_what_does_not_fit_the_task(self) -> None:
        if isinstance(self.model, NewNetwork) and isinstance(self.task, RowsTask):
            raise ValueError(
                "a new model has a character tokenizer for generated tasks alone; "
                'use model.type = "pretrained" for rows.'
            )
        if isinstance(self.task, CountdownTask) and (
            copied := {term.name for term in self.rewards} & {"answer", "math", "math_verify"}
        ):
            raise ValueError(
                f"rewards {sorted(copied)} would pay for a copy of the target, which a countdown "
                'question tells; add [[rewards]] with name = "countdown" or "countdown_answer".'
            )
        if self.sft is None or not isinstance(self.sft.traces, GeneratedTraces):
            return
        if isinstance(self.task, RowsTask):
            raise ValueError(
                'sft.traces.type = "generated" needs task.type = "arithmetic" or "countdown"; '
                "use rows."
            )
        name, instead = ("wrong_order_frac", "wrong_choice_frac")
        if isinstance(self.task, ArithmeticTask):
            name, instead = instead, name
        if rate := getattr(self.sft.traces, name):
            raise ValueError(
                f"sft.traces.{name} = {rate:g} has no effect with task.type = "
                f'"{self.task.type}"; use {instead}, or drop it.'
            )

    def _refuse_grading_without_effect(self) -> None:
        executors = {term.executor for term in self.rewards}
        needs = {"workers": {"process"}, "memory_bytes": {"process"}}
        needs["timeout_seconds"] = {"process", "ray"}
        for name, wanted in needs.items():
            value = getattr(self.grading, name)
            # The default may be written down: a saved configuration has it.
            if not wanted & executors and value != Grading.model_fields[name].default:
                raise ValueError(
                    f"grading.{name} = {value} has no effect: no reward has executor = "
                    f"{' or '.join(sorted(wanted))}. Drop it, or change an executor."
                )
        combination = self.grading.combination
        if combination == "sum":
            return
        if len(self.rewards) == 1:
            raise ValueError(
                f'grading.combination = "{combination}" has no effect on a single reward; drop it.'
            )
        for term in self.rewards:
            if term.weight != 1:
                raise ValueError(
                    f"weight = {term.weight:g} of {term.name!r} has no effect with "
                    f'grading.combination = "{combination}"; drop it, or sum.'
                )
