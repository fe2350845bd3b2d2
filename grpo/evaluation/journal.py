"""An evaluation's folder: samples that survive a kill, and what they were sampled under."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.fingerprint import differing_parts
from cotree.grpo.evaluation.records import ProblemRecord
from cotree.grpo.evaluation.results import record_from_json, record_json
from cotree.grpo.result import write_json
from cotree.search.lines import drop_torn_line


class Journal:
    """The problems of one benchmark that are finished: a line each, appended when graded."""

    def __init__(self, path: Path) -> None:
        """Reads what is there. A last line that was cut short by a kill is dropped.

        Raises:
            ConfigError: a line is no record, or a problem is there twice.
        """
        self._path = path
        self.finished: dict[int, ProblemRecord] = {}
        """By position in the benchmark."""
        if path.exists():
            drop_torn_line(path)
            self.finished = {record.index: record for record in read_records(path)}
        self._file = path.open("a", encoding="ascii")

    def append(self, record: ProblemRecord) -> None:
        """Writes one finished problem; it is in the file when this returns."""
        assert record.index not in self.finished, record.id
        self._file.write(_line(record))
        self._file.flush()
        self.finished[record.index] = record

    def replace(self, records: Iterable[ProblemRecord]) -> None:
        """Puts other records in the place of all; a reader sees the old ones or the new ones."""
        scratch = self._path.with_name(f"{self._path.name}.tmp")
        with scratch.open("w", encoding="ascii") as file:
            for record in records:
                file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())
        self._file.close()
        scratch.replace(self._path)
        self.finished = {record.index: record for record in read_records(self._path)}
        self._file = self._path.open("a", encoding="ascii")

    def close(self) -> None:
        """Closes the file; what it holds stays."""
        self._file.close()


class EvaluationFolder:
    """Where an evaluation writes. A context manager: it belongs to one process at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open = ExitStack()

    @property
    def plan(self) -> Path:
        """Which model, and each benchmark's parts: what the samples were drawn under."""
        return self.root / "plan.json"

    @property
    def results(self) -> Path:
        return self.root / "results.json"

    @property
    def page(self) -> Path:
        return self.root / "report.html"

    @property
    def starts(self) -> Path:
        """One line for each start: the code, the machine, the time."""
        return self.root / "starts.jsonl"

    def samples(self, benchmark: str) -> Path:
        """The journal of one benchmark, whose name is fit for a path."""
        return self.root / f"samples_{benchmark}.jsonl"

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True)
        lock = self._open.enter_context((self.root / ".lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._open.close()
            raise ConfigError(
                f"another evaluation is writing to {self.root}. Wait for it, or choose another "
                "folder with --output."
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def begin(self, plan: Mapping[str, Any], *, resume: bool, regrade: bool = False) -> None:
        """Saves what is about to be measured, unless the folder holds something else.

        Args:
            plan: `model`: who is measured; `seed`; `benchmarks`: name -> parts.
            resume: continue what is there.
            regrade: continue it although its graders were others. The plan is not saved then: the
                caller writes it when the samples have been graded again.

        Raises:
            ConfigError: there are samples and `resume` is false, or they were drawn from another
                model, seed or under other parts; the message has each that differs. Or `regrade`
                would change nothing.
        """
        saved = _read_plan(self.plan)
        if saved is not None:
            if not resume:
                raise ConfigError(
                    f"{self.root} already holds an evaluation. Add --resume to continue it, choose "
                    "another folder with --output, or remove it."
                )
            self._refuse_other(saved, plan, regrade=regrade)
            if regrade:
                return
        elif regrade:
            raise ConfigError(f"{self.root} holds no evaluation to grade again; drop --regrade.")
        elif strays := sorted(path.name for path in self.root.glob("samples_*.jsonl")):
            raise ConfigError(
                f"{self.root} has {', '.join(strays)} but no plan.json that says what they were "
                "sampled under. Remove them, or choose another folder with --output."
            )
        write_json(self.plan, plan)

    def journal(self, benchmark: str) -> Journal:
        """The benchmark's journal, open; it is closed with the folder."""
        journal = Journal(self.samples(benchmark))
        self._open.callback(journal.close)
        return journal

    def _refuse_other(
        self, saved: Mapping[str, Any], plan: Mapping[str, Any], *, regrade: bool
    ) -> None:
        there, now = (", ".join(sorted(side["benchmarks"])) for side in (saved, plan))
        if there != now:
            raise ConfigError(
                f"{self.root} is an evaluation on {there}, not on {now}. Name the same benchmarks, "
                "or choose another folder with --output."
            )
        changed = differing_parts(saved, plan)
        graders = [key for key in changed if ".grader." in key]
        if regrade and not graders:
            raise ConfigError(f"--regrade has no effect: the graders of {self.root} are the same.")
        if regrade:
            changed = {key: pair for key, pair in changed.items() if key not in graders}
        if changed:
            listed = "\n".join(
                f"  {k}: {was!r} there, {now!r} now" for k, (was, now) in changed.items()
            )
            raise ConfigError(
                f"--resume would continue the evaluation in {self.root} under other settings:\n"
                f"{listed}\nSet these back, or choose another folder with --output. Where only "
                "graders differ, --regrade grades the samples again."
            )


def _read_plan(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"{path} is not JSON ({error}); remove the folder and start over."
        ) from error


def read_records(path: Path) -> list[ProblemRecord]:
    """The records of a `samples_BENCHMARK.jsonl`, in the order in which they were finished.

    Raises:
        ConfigError: there is no such file, a line is no record, or a problem is there twice.
    """
    if not path.exists():
        raise ConfigError(f"there is no {path}; the evaluation's samples were moved or deleted.")
    records: dict[int, ProblemRecord] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line:
            continue
        try:
            record = record_from_json(json.loads(line))
        except ValueError as error:
            raise ConfigError(
                f"{path}, line {number}: {error}. Correct or delete the line, or evaluate into "
                "another folder."
            ) from error
        if record.index in records:
            raise ConfigError(f"{path}, line {number}: problem {record.id!r} is there twice.")
        records[record.index] = record
    return list(records.values())


def _line(record: ProblemRecord) -> str:
    return json.dumps(record_json(record), allow_nan=False) + "\n"
