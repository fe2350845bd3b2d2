"""A teacher's opinions of a corpus: asked once and kept, or read from where they were kept."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cotree.grpo.config_distill import EngineTeacher, LogitsDistill, ServerTeacher
from cotree.grpo.config_file import ConfigError
from cotree.grpo.count_progress import CountProgress
from cotree.grpo.distilling.logit_store import LogitStore, LogitWriter
from cotree.grpo.distilling.taught_batch import taught_batch
from cotree.grpo.distilling.teachers import open_scorer
from cotree.grpo.distilling.view import TeacherView, Text
from cotree.grpo.supervised import Example, sft_batch
from cotree.grpo.token_scores import ScoreRequest
from cotree.grpo.types import TaughtBatch


@dataclass(frozen=True, slots=True)
class TaughtExample:
    """A worked solution that the teacher could read."""

    example: Example
    text: Text
    request: ScoreRequest
    """The text as the teacher read it."""


def taught_examples(
    questions: Sequence[str], examples: Sequence[Example], view: TeacherView
) -> list[TaughtExample]:
    """The examples that the teacher can read; `view.refused` counts the others.

    Raises:
        ConfigError: it can read none.
    """
    found: list[TaughtExample] = []
    for question, example in zip(questions, examples, strict=True):
        text = Text(question, example.completion_ids)
        request = view.request(text)
        if request is not None:
            found.append(TaughtExample(example, text, request))
    if view.refused:
        reasons = ", ".join(f"{number} {reason}" for reason, number in view.refused.items())
        sys.stderr.write(f"the teacher cannot read {view.refused.total()} texts: {reasons}\n")
    if not found:
        raise ConfigError(
            f"the teacher can read none of the {len(examples)} texts: {dict(view.refused)}. Choose "
            "another teacher, or other texts."
        )
    return found


def ask_once(
    examples: Sequence[TaughtExample],
    settings: LogitsDistill,
    folder: Path,
    *,
    about: Mapping[str, object],
    vocab_size: int,
    seed: int,
) -> LogitStore:
    """The teacher's scores of every example, in their order; what the folder has is not asked.

    Args:
        examples: to be scored.
        settings: the teacher, and how much of its answers is kept.
        folder: of the store.
        about: what decides the answers.
        vocab_size: of the teacher.
        seed: of the engines.

    Raises:
        LogitStoreError: the folder has answers to other questions, or is damaged.
    """
    teacher = settings.teacher
    assert isinstance(teacher, EngineTeacher | ServerTeacher), "others have no answers to keep"
    with LogitWriter(folder, about=about, vocab_size=vocab_size) as writer:
        left = [one.request for one in islice(examples, writer.num_done, None)]
        if left:
            longest = max(len(r.prompt_ids) + len(r.token_ids) for r in left)
            with (
                open_scorer(teacher, longest=longest, seed=seed) as scorer,
                CountProgress("logits", total=len(examples), done=writer.num_done) as bar,
            ):
                tokens = 0
                for index, scores in scorer.scores(left, top_k=settings.keep.most):
                    writer.add(left[index], scores.trimmed(settings.keep))
                    tokens += len(left[index].token_ids)
                    bar.add(1, f"{tokens / bar.seconds():,.0f} tokens/s")
        summary = writer.finish()
    sys.stderr.write(
        f"{summary.num_tokens} tokens scored, {summary.num_bytes / 1e6:.1f} MB "
        f"({summary.bytes_per_million_tokens / 1e6:.1f} MB a million tokens); what is not kept has "
        f"{summary.mean_tail_mass:.2e} of the probability on average\n"
    )
    return LogitStore.open(folder)


def check_store(store: LogitStore, examples: Sequence[TaughtExample], folder: Path) -> None:
    """Raises ConfigError unless the store has the answers to exactly these questions."""
    if len(store) != len(examples):
        raise ConfigError(
            f"{folder} has the teacher's scores of {len(store)} texts, and the corpus has "
            f"{len(examples)}. Use the corpus and prompt that it was made with."
        )
    for number in range(0, len(examples), max(1, len(examples) // 64)):
        if store[number].request != examples[number].request:
            raise ConfigError(
                f"text {number} of the corpus is not the one that {folder} has the teacher's "
                "scores of. Use the corpus, its order and the prompt that it was made with."
            )


def stored_batch(
    indices: Sequence[int],
    examples: Sequence[TaughtExample],
    store: LogitStore,
    view: TeacherView,
) -> TaughtBatch:
    """The batch of the examples with these indices, with what the teacher thinks of them.

    Raises:
        ConfigError: the store has the scores of another text in the place of one of them.
    """
    opinions = []
    for index in indices:
        stored, one = store[index], examples[index]
        if stored.request != one.request:
            raise ConfigError(
                f"text {index} of the corpus is not the one that the teacher scored; use the "
                "corpus and prompt that distill.store was made with."
            )
        opinions.append(view.opinion(one.text, one.request, stored.scores))
    return taught_batch(sft_batch([examples[index].example for index in indices]), opinions)
