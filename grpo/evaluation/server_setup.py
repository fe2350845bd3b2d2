"""A model on a server and benchmarks, ready to be asked. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from cotree.grpo.config_evaluation import Benchmarks, Server
from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.job import Job, all_parts, make_jobs
from cotree.grpo.evaluation.measure import Prepared
from cotree.grpo.evaluation.records import Sampler
from cotree.grpo.evaluation.server_sampler import ServerSampler


def prepare_server(model: str, *, settings: Benchmarks, server: Server) -> Prepared:
    """Asks the server for the model and loads the benchmarks.

    Args:
        model: its name there.
        settings: what to measure.
        server: where it is.

    Raises:
        ConfigError: the address or a benchmark is not usable.
        ServerError: the server does not answer, or does not offer the model.
    """

    def connect(stop: tuple[str, ...]) -> ServerSampler:
        try:
            return ServerSampler(
                server.url,
                model=model,
                max_tokens=settings.max_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                stop=stop,
                concurrency=server.concurrency,
                timeout_seconds=server.timeout_seconds,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error

    described: dict[str, Any] = dict(connect(()).describe())
    # The server writes chats with a template of its own, which it does not tell.
    jobs = make_jobs(settings, has_template=True)

    @contextmanager
    def open_sampler() -> Generator[Callable[[Job], Sampler]]:
        yield lambda job: connect(job.stop)

    return Prepared(
        model=model,
        identity={"model": described["model"], "root": described["served"].get("root")},
        jobs=jobs,
        parts={
            job.name: all_parts(job, engine={"engine": "server"}, template=None) for job in jobs
        },
        open_sampler=open_sampler,
    )
