"""Teachers as the stages of distillation need them: who they are, and open for questions."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from transformers import AutoConfig, PretrainedConfig

from cotree.grpo import config
from cotree.grpo.config_distill import EngineTeacher, ResidentTeacher, ServerTeacher
from cotree.grpo.config_file import ConfigError
from cotree.grpo.config_model import Prompt
from cotree.grpo.distilling.server_scorer import ServerScorer
from cotree.grpo.distilling.teacher_scorer import EngineScorer, Scorer
from cotree.grpo.distilling.view import Reader
from cotree.grpo.evaluation.engine_setup import generator_settings, running_engines
from cotree.grpo.evaluation.fingerprint import model_identity
from cotree.grpo.models import cannot_load
from cotree.grpo.problems import render_prompt
from cotree.grpo.tokens import load_tokenizer, prompt_encoder

AnyTeacher = EngineTeacher | ServerTeacher | ResidentTeacher


def reader_of(path: str, prompt: Prompt, *, revision: str | None) -> Reader:
    """A checkpoint as a reader of texts.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    tokenizer = load_tokenizer(path, revision=revision)
    encode = prompt_encoder(tokenizer, chat=prompt.chat)
    return Reader(
        tokenizer,
        int(_text_config(path, revision).vocab_size),
        lambda question: encode(render_prompt(prompt, question, tokenizer)),
    )


def longest_text(path: str, *, revision: str | None) -> int:
    """Tokens that a checkpoint's position embedding is built for."""
    return int(_text_config(path, revision).max_position_embeddings)


def teacher_checkpoint(teacher: AnyTeacher) -> tuple[str, str | None]:
    """Where a teacher's tokenizer is: path and revision.

    Raises:
        ConfigError: a server's tokenizer is not known here.
    """
    if not isinstance(teacher, ServerTeacher):
        return teacher.path, teacher.revision
    if teacher.tokenizer is None:
        raise ConfigError(
            "distill.teacher.tokenizer is missing: a server is asked about tokens, which takes its "
            "model's tokenizer here. Give the folder or hub name of the model."
        )
    return teacher.tokenizer, None


def teacher_reader(teacher: AnyTeacher, prompt: Prompt) -> Reader:
    """The teacher as a reader; `prompt` is the student's, used where it has none of its own."""
    path, revision = teacher_checkpoint(teacher)
    return reader_of(path, teacher.prompt or prompt, revision=revision)


def identity_of(teacher: AnyTeacher, prompt: Prompt) -> dict[str, object]:
    """What decides a teacher's answers, for files that must not mix those of two."""
    put = (teacher.prompt or prompt).model_dump()
    if isinstance(teacher, ServerTeacher):
        return {"server": teacher.url, "model": teacher.model, "prompt": put}
    described = model_identity(teacher.path, teacher.revision)
    return described | {"dtype": teacher.dtype, "prompt": put}


def engine_settings(
    teacher: EngineTeacher, *, prompt_tokens: int, max_tokens: int
) -> config.Generator:
    """Settings of a teacher's engines; see `generator_settings`."""
    return generator_settings(
        teacher.path, teacher, prompt_tokens=prompt_tokens, max_tokens=max_tokens
    )


@contextmanager
def open_scorer(
    teacher: EngineTeacher | ServerTeacher, *, longest: int, seed: int
) -> Generator[Scorer]:
    """A teacher that answers what it thinks of texts, as long as the context lasts.

    Args:
        teacher: on engines of our own, which start here, or on a server.
        longest: tokens of the longest text, prompt included.
        seed: the engines' own.
    """
    if isinstance(teacher, ServerTeacher):
        yield server_scorer(teacher)
        return
    settings = engine_settings(teacher, prompt_tokens=longest, max_tokens=1)
    running = running_engines(teacher.path, settings, revision=teacher.revision, seed=seed)
    with running as group:
        yield EngineScorer(group)


def server_scorer(teacher: ServerTeacher) -> ServerScorer:
    """The scorer of a server; it is asked which model it offers.

    Raises:
        ConfigError: the address is none.
        ServerError: it does not answer, or does not offer the model.
    """
    try:
        return ServerScorer(
            teacher.url,
            model=teacher.model,
            concurrency=teacher.concurrency,
            timeout_seconds=teacher.timeout_seconds,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def longest_prompt(questions: Sequence[str], encode: Callable[[str], Sequence[int]]) -> int:
    """Tokens of the longest prompt."""
    return max(len(encode(question)) for question in questions)


def _text_config(path: str, revision: str | None) -> PretrainedConfig:
    try:
        found = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except OSError as error:
        raise cannot_load(path, error) from error
    return found.get_text_config()
