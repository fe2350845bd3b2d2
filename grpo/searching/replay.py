"""A finished run of searches, run again from its log, without engines."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cotree.grpo.config_file import ConfigError
from cotree.grpo.engine_exchange import TokenRequest
from cotree.grpo.evaluation.engine_sampler import PromptEncoder
from cotree.grpo.evaluation.job import make_jobs
from cotree.grpo.searching.finished import FinishedRun
from cotree.grpo.searching.records import read_searches
from cotree.grpo.searching.sampler import SearchFiles
from cotree.grpo.searching.setup import search_sampler
from cotree.grpo.tokens import load_tokenizer
from cotree.search.event_log import EventLogError
from cotree.search.tree_diff import Difference, tree_diff
from cotree.search.types import Continuation


class NoEngines:
    """A session in which nothing can be generated."""

    def exchange(self, requests: Sequence[TokenRequest]) -> list[Continuation]:
        """Nothing is asked of it, or the log is incomplete.

        Raises:
            EventLogError: something is asked.
        """
        if requests:
            raise EventLogError(
                f"the log lacks {len(requests)} answers, the first of them to request "
                f"{requests[0].name}: it was cut, or strategy, rules or step rule are not those "
                "that made it."
            )
        return []

    def stats(self) -> dict[str, float]:
        """It counts nothing."""
        return {}

    def close(self) -> None:
        """There is nothing to end."""


def replayed(run: FinishedRun) -> Mapping[int, Sequence[Difference]]:
    """Runs all searches of a run again, answered by its log.

    Strategies, rules and ledgers are those of this code; of the model only the tokenizer is read.

    Args:
        run: as it was left.

    Returns:
        For each search by its number, where the new tree differs from the saved one; none where
        they are equal.

    Raises:
        ConfigError: the log does not have all that is asked for, or has it for other requests.
    """
    measured = run.settings.benchmarks
    revision = run.settings.engines.revision
    encoder = PromptEncoder(load_tokenizer(run.model, revision=revision))
    jobs = make_jobs(measured, has_template=encoder.template is not None)
    (job,) = [one for one in jobs if one.name == run.benchmark.name]
    saved = {record.search: record for record in run.records}
    with tempfile.TemporaryDirectory() as folder:
        files = SearchFiles.of(Path(folder), job.name)._replace(
            events=SearchFiles.of(run.root, job.name).events
        )
        sampler = search_sampler(job, run.settings, files, encoder=encoder, open_session=NoEngines)
        try:
            for _ in sampler.sample(job.asks):
                pass
        except EventLogError as error:
            raise ConfigError(f"{run.root}: {error}") from error
        again = {record.search: record for record in read_searches(files.trees)}
    return {number: tree_diff(saved[number].tree, one.tree) for number, one in again.items()}
