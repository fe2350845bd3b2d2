"""The cold start: next-token cross-entropy on worked solutions, on the learner that GRPO uses.

A step is a pure function of (seed, step): a resumed run takes the steps an uninterrupted one would.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from transformers import AutoConfig, PreTrainedTokenizerFast

from cotree.grpo.checkpoint import latest, load_checkpoint, prune, save_checkpoint
from cotree.grpo.collate import token_weights
from cotree.grpo.config import Pipeline, RowsTask
from cotree.grpo.config_model import NewNetwork, Prompt
from cotree.grpo.learner import LearnerGroup, LearnerSpec
from cotree.grpo.models import create_model, encode_checked
from cotree.grpo.problems import PromptOrder, TraceRow, render_prompt, task_alphabet, trace_rows
from cotree.grpo.seeds import derive
from cotree.grpo.tokens import load_tokenizer, prompt_encoder
from cotree.grpo.types import Batch, Stats

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEEP_CHECKPOINTS = 2


@dataclass(frozen=True, slots=True)
class Example:
    """One worked solution: the prompt's tokens, which are not trained on, and the solution's."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    """Ends with the end-of-sequence token."""


def run_sft(
    pipeline: Pipeline,
    *,
    resume: bool,
    log: Callable[[int, Stats], None],
    gpu_share: float = 0.0,
    rewind: Callable[[int], None] | None = None,
) -> Path:
    """Trains the starting model on the pipeline's traces; returns the folder of the result.

    Args:
        pipeline: has an `sft` section.
        resume: continue from the newest checkpoint in RUN/sft, if there is one.
        log: called with the step, counted from 1, and its measurements.
        gpu_share: GPUs of each learner process.
        rewind: called with the step that a resumed run continues from, before the first `log`.

    Returns:
        RUN/sft/model, a Hugging Face checkpoint.
    """
    assert pipeline.sft is not None, "the caller checks that there is an [sft] section"
    sft, folder = pipeline.sft, Path(pipeline.output_dir) / "sft"
    path, revision = base_model(pipeline)
    examples = load_examples(pipeline, path, revision=revision)
    course = Course(
        folder=folder,
        num_examples=len(examples),
        batch_of=lambda indices: sft_batch([examples[index] for index in indices]),
        num_steps=sft.num_steps,
        sequences_per_step=sft.sequences_per_step,
        save_every=sft.save_every,
        order_seed=derive(pipeline.seed, "sft", "order"),
    )
    spec = LearnerSpec(
        model_path=path,
        learner=pipeline.learner,
        optimizer=sft.optimizer,
        total_updates=sft.num_steps,
        objective="sft",
        seed=derive(pipeline.seed, "sft"),
        engine_dtype=pipeline.generator.dtype,
        revision=revision,
    )
    return run_course(course, spec, resume=resume, log=log, gpu_share=gpu_share, rewind=rewind)


@dataclass(frozen=True, slots=True)
class Course:
    """Texts that are there beforehand, and how many steps of them a learner takes."""

    folder: Path
    """Of the stage: checkpoints, and the model it ends in."""
    num_examples: int
    batch_of: Callable[[Sequence[int]], Batch]
    """The batch of the examples with these indices."""
    num_steps: int
    sequences_per_step: int
    save_every: int
    order_seed: int


def run_course(
    course: Course,
    spec: LearnerSpec,
    *,
    resume: bool,
    log: Callable[[int, Stats], None],
    gpu_share: float = 0.0,
    rewind: Callable[[int], None] | None = None,
) -> Path:
    """Takes the course's steps; returns FOLDER/model. Arguments as of `run_sft`."""
    learner = LearnerGroup.start(spec, num_gpus=gpu_share)
    try:
        done = _restore(learner, course.folder) if resume else 0
        if rewind is not None:
            rewind(done)
        order = PromptOrder(course.num_examples, course.order_seed)
        size = course.sequences_per_step
        for step in range(done, course.num_steps):
            positions = range(step * size, (step + 1) * size)
            stats = learner.step(course.batch_of([order.at(position) for position in positions]))
            log(step + 1, {**stats, "tokens_per_second/learn": stats["tokens"] / stats["seconds"]})
            if (step + 1) % course.save_every == 0 or step + 1 == course.num_steps:
                save_checkpoint(
                    course.folder, step=step + 1, state={}, pending=[], write_learner=learner.save
                )
                prune(course.folder, keep=KEEP_CHECKPOINTS)
        return _finish(learner, course.folder / "model")
    finally:
        learner.stop()


def base_model(pipeline: Pipeline) -> tuple[str, str | None]:
    """Path and revision of the model that the cold start begins with; makes a new one at RUN/base.

    An existing RUN/base is taken as it is: it is a pure function of the configuration.
    """
    if not isinstance(pipeline.model, NewNetwork):
        return pipeline.model.path, pipeline.model.revision
    assert not isinstance(pipeline.task, RowsTask), "Pipeline refuses new models for rows"
    folder = Path(pipeline.output_dir) / "base"
    if not folder.is_dir():
        partial = folder.with_name(".partial_base")
        shutil.rmtree(partial, ignore_errors=True)
        seed = derive(pipeline.seed, "model")
        alphabet = task_alphabet(pipeline.task)
        create_model(pipeline.model, partial, alphabet=alphabet, seed=seed)
        partial.rename(folder)
    return str(folder), None


def load_examples(pipeline: Pipeline, path: str, *, revision: str | None) -> list[Example]:
    """The cold start's traces as tokens; see `trace_examples`."""
    assert pipeline.sft is not None, "the caller checks that there is an [sft] section"
    render = prompt_renderer(pipeline.prompt, path, revision=revision)
    rows = trace_rows(pipeline, pipeline.sft.traces, render)
    return trace_examples(pipeline, rows, path, revision=revision)


def trace_examples(
    pipeline: Pipeline, rows: Sequence[TraceRow], path: str, *, revision: str | None
) -> list[Example]:
    """Worked solutions as tokens.

    Args:
        pipeline: says how prompts are encoded.
        rows: with prompts as `trace_rows` renders them.
        path: the model that reads them.
        revision: hub commit or tag.

    Raises:
        ValueError: a trace has text the tokenizer cannot express, or is too long for the model.
    """
    tokenizer = load_tokenizer(path, revision=revision)
    encode_prompt = prompt_encoder(tokenizer, chat=pipeline.prompt.chat)
    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    longest = int(config.get_text_config().max_position_embeddings)
    examples: list[Example] = []
    for number, row in enumerate(rows):
        prompt_ids = encode_prompt(row.prompt)
        completion_ids = encode_solution(tokenizer, row.solution)
        if len(prompt_ids) + len(completion_ids) > longest:
            raise ValueError(
                f"trace {number} has {len(prompt_ids) + len(completion_ids)} tokens, the model "
                f"takes {longest}: {row.prompt[:80]!r}. Shorten or drop it, or raise "
                "model.max_positions of a new model."
            )
        examples.append(Example(prompt_ids, completion_ids))
    return examples


def prompt_renderer(prompt: Prompt, path: str, *, revision: str | None) -> Callable[[str], str]:
    """From a question to the text that the model at `path` sees."""
    tokenizer = load_tokenizer(path, revision=revision)
    return lambda question: render_prompt(prompt, question, tokenizer)


def encode_solution(tokenizer: PreTrainedTokenizerBase, solution: str) -> tuple[int, ...]:
    """The solution's tokens and the one that ends them."""
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no end-of-sequence token, so a "
            "model cannot learn to stop; use one that has."
        )
    ids = encode_checked(cast(PreTrainedTokenizerFast, tokenizer), solution)
    return (*ids, cast(int, tokenizer.eos_token_id))


def sft_batch(examples: Sequence[Example]) -> Batch:
    """One step's batch: the loss is the mean over its completion tokens.

    Returns:
        B rows; the log-probabilities of a behavior policy and the advantages, which a cold
        start does not have, are zero.
    """
    lengths = torch.tensor([len(e.prompt_ids) + len(e.completion_ids) for e in examples])
    token_ids = torch.zeros((len(examples), int(lengths.max())), dtype=torch.int64)
    mask = torch.zeros(token_ids.shape, dtype=torch.bool)
    for row, example in enumerate(examples):
        ids = example.prompt_ids + example.completion_ids
        token_ids[row, : len(ids)] = torch.tensor(ids)
        mask[row, len(example.prompt_ids) : len(ids)] = True
    zeros = torch.zeros(token_ids.shape)
    return Batch(
        token_ids=token_ids,
        lengths=lengths,
        mask=mask,
        behavior_logprobs=zeros,
        advantages=zeros,
        weights=token_weights(mask, aggregation="token_mean", max_tokens=token_ids.shape[1]),
        num_tokens=int(mask.sum()),
    )


def _restore(learner: LearnerGroup, folder: Path) -> int:
    """Loads the newest checkpoint, if there is one; returns the steps already done."""
    checkpoint = latest(folder)
    if checkpoint is None:
        return 0
    state, _ = load_checkpoint(checkpoint)
    learner.load(checkpoint / "learner")
    return int(state["step"])


def _finish(learner: LearnerGroup, folder: Path) -> Path:
    """Puts the trained model into place, whole or not at all."""
    partial = folder.with_name(".partial_model")
    shutil.rmtree(partial, ignore_errors=True)
    learner.save_model(partial)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    return folder
