"""A teacher's answers on the disk: asked once, read by many students with no teacher resident.

    FOLDER/shard_00000.safetensors ...   whole sequences, in their order (see logit_shards)
    FOLDER/logits.json                   what they are, each shard's size and digest, totals

A shard is written to a temporary name, flushed to the disk and renamed, and then the manifest is
replaced in the same way. So a kill at any moment leaves the shards that the manifest names, and the
next writer continues after them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from bisect import bisect_right
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from cotree.grpo.distilling.logit_shards import (
    ASK_AGAIN,
    LARGEST_VOCABULARY,
    QUANTUM,
    LogitStoreError,
    Shard,
    ShardContents,
    ShardFile,
    StoredScores,
)
from cotree.grpo.durable import flush_entry
from cotree.grpo.evaluation.fingerprint import differing_parts
from cotree.grpo.token_scores import ScoreRequest, TokenScores

__all__ = ["LogitStore", "LogitStoreError", "LogitWriter", "StoreSummary", "StoredScores"]

FORMAT_VERSION = 1
SHARD_TOKENS = 1 << 18
"""Scored tokens after which a shard is closed: about 10 MB with 8 entries a token."""

_MANIFEST = "logits.json"


@dataclass(frozen=True, slots=True)
class StoreSummary:
    """Totals of a store."""

    num_sequences: int
    num_tokens: int
    """Scored ones."""
    num_bytes: int
    """Of the shards."""
    mean_tail_mass: float
    """Over all scored tokens: the probability that is not kept by token."""
    max_tail_mass: float

    @property
    def bytes_per_million_tokens(self) -> float:
        return self.num_bytes / self.num_tokens * 1e6


class LogitWriter:
    """Fills a store, or continues one that was not finished. A context manager.

    Leaving it without `finish` keeps every sequence that was added; a kill keeps whole shards.
    """

    def __init__(
        self,
        folder: Path,
        *,
        about: Mapping[str, object],
        vocab_size: int,
        shard_tokens: int = SHARD_TOKENS,
    ) -> None:
        """Makes the folder, or takes up what a writer with the same `about` left there.

        Args:
            folder: of this store alone.
            about: JSON; what the answers depend on, such as the teacher, its tokenizer, the texts
                and how much of a distribution is kept.
            vocab_size: of the teacher; ids are below it.
            shard_tokens: scored tokens after which a shard is closed.

        Raises:
            LogitStoreError: the folder holds answers about something else or damaged ones, another
                process writes to it, or it cannot be written.
            ValueError: `about` is not JSON, or a number is out of range.
        """
        if not 0 < vocab_size <= LARGEST_VOCABULARY or shard_tokens < 1:
            raise ValueError(
                f"vocab_size = {vocab_size} must be from 1 to {LARGEST_VOCABULARY}, and "
                f"shard_tokens = {shard_tokens} at least 1."
            )
        self._folder = folder
        self._shard_tokens = shard_tokens
        self._pending = ShardContents(vocab_size=vocab_size)
        fresh = _Manifest(about=_as_json(about), vocab_size=vocab_size)
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            lock = opened.enter_context((folder / ".lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LogitStoreError(
                    f"another process writes to {folder}. Wait for it, or choose another folder."
                ) from None
            self._manifest = self._taken_up(fresh)
            self._opened = opened.pop_all()

    @property
    def num_done(self) -> int:
        """Sequences that are on the disk; of those added later, a kill loses all."""
        return sum(shard.num_sequences for shard in self._manifest.shards)

    def add(self, request: ScoreRequest, scores: TokenScores) -> None:
        """Adds the next sequence. If it raises for the scores, nothing was added.

        Raises:
            ValueError: the scores are not a teacher's of these tokens; the message says where.
            LogitStoreError: the store is finished, or the disk is full. Then the sequence is kept
                in memory, and the next `add` or `finish` writes it.
        """
        if self._manifest.complete:
            raise LogitStoreError(
                f"{self._folder} is finished, with {self.num_done} sequences. Write others to "
                "another folder."
            )
        self._pending.add(request, scores)
        if self._pending.num_tokens >= self._shard_tokens:
            self._close_shard()

    def finish(self) -> StoreSummary:
        """Writes what is left and declares the store complete. Doing so again changes nothing.

        Raises:
            LogitStoreError: nothing was added, or it cannot be written.
        """
        self._close_shard()
        if not self._manifest.shards:
            raise LogitStoreError(f"{self._folder} would be empty; add at least one sequence.")
        if not self._manifest.complete:
            complete = replace(self._manifest, complete=True)
            self._put(_MANIFEST, complete.to_bytes())
            self._manifest = complete
        return self._manifest.summary

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._opened:
            if kind is None or not issubclass(kind, LogitStoreError):
                self._close_shard()

    def _taken_up(self, fresh: _Manifest) -> _Manifest:
        """The manifest to go on from; removes what a kill left half done."""
        for name in ("shard_*.safetensors", _MANIFEST):
            for scratch in self._folder.glob(f"{name}.tmp"):
                scratch.unlink()
        if not (self._folder / _MANIFEST).exists():
            if strays := sorted(path.name for path in self._folder.glob("shard_*.safetensors")):
                raise LogitStoreError(
                    f"{self._folder} has {', '.join(strays)} but no {_MANIFEST}. {ASK_AGAIN}"
                )
            self._put(_MANIFEST, fresh.to_bytes())
            return fresh
        found = _Manifest.read(self._folder)
        changed = differing_parts(found.identity, fresh.identity)
        if changed:
            listed = "\n".join(
                f"  {k}: {was!r} there, {now!r} now" for k, (was, now) in changed.items()
            )
            raise LogitStoreError(
                f"{self._folder} holds a teacher's answers under other settings:\n{listed}\n"
                "Set these back, or choose another folder."
            )
        for shard in found.shards:
            shard.verify(self._folder)
        # Renamed just before a kill, so the manifest does not name it: its sequences come again.
        (self._folder / _shard_name(len(found.shards))).unlink(missing_ok=True)
        return found

    def _close_shard(self) -> None:
        if not self._pending.num_sequences:
            return
        before = self._manifest
        shard, content = self._pending.encoded(_shard_name(len(before.shards)))
        self._put(shard.name, content)
        after = replace(before, shards=(*before.shards, shard))
        self._put(_MANIFEST, after.to_bytes())
        self._manifest, self._pending = after, ShardContents(vocab_size=before.vocab_size)

    def _put(self, name: str, content: bytes) -> None:
        """Writes or replaces a file: after a kill or a power cut there is all of it or none."""
        path, scratch = self._folder / name, self._folder / f"{name}.tmp"
        try:
            with scratch.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
            flush_entry(self._folder)
        except OSError as error:
            with suppress(OSError):  # it frees space; the next writer removes it otherwise
                scratch.unlink(missing_ok=True)
            free = shutil.disk_usage(self._folder).free >> 20
            raise LogitStoreError(
                f"could not write {path} ({len(content)} bytes): {error} ({free} MiB are free "
                "there). The shards before it are whole. Free some space and start again, which "
                "continues after them."
            ) from error


class LogitStore:
    """A finished store: `store[i]` is one sequence, `len(store)` their number."""

    def __init__(self, folder: Path, manifest: _Manifest) -> None:
        """See `open`."""
        self.about = manifest.about
        """What the writer was told of these answers."""
        self.vocab_size = manifest.vocab_size
        self.summary = manifest.summary
        self._shards = [
            ShardFile(folder / shard.name, vocab_size=manifest.vocab_size)
            for shard in manifest.shards
        ]
        self._ends = list(accumulate(shard.num_sequences for shard in manifest.shards))

    @classmethod
    def open(cls, folder: Path) -> LogitStore:
        """The store in `folder`, after a look at every byte of it; no array is held in memory.

        Raises:
            LogitStoreError: a file is missing, cut short or changed, the store is not finished, or
                a newer version of the project wrote it.
        """
        manifest = _Manifest.read(folder)
        if not manifest.complete:
            raise LogitStoreError(
                f"{folder / _MANIFEST} says that the teacher has not answered everything: "
                f"{manifest.summary.num_sequences} sequences so far. Continue the run that writes "
                "it."
            )
        for shard in manifest.shards:
            shard.verify(folder)
        return cls(folder, manifest)

    @property
    def num_tokens(self) -> int:
        """Scored ones."""
        return self.summary.num_tokens

    @property
    def num_bytes(self) -> int:
        return self.summary.num_bytes

    @property
    def mean_tail_mass(self) -> float:
        return self.summary.mean_tail_mass

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> StoredScores:
        """The sequence that was added as number `index`, from 0; negative ones from the end.

        Raises:
            IndexError: there is no such sequence.
        """
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"sequence {index} of a store with {len(self)}.")
        shard = bisect_right(self._ends, at)
        return self._shards[shard].sequence(at - (self._ends[shard - 1] if shard else 0))


# --- the manifest ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Manifest:
    about: dict[str, Any]
    vocab_size: int
    shards: tuple[Shard, ...] = ()
    complete: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """What two writers of one store must agree on."""
        return {"about": self.about, "vocab_size": self.vocab_size, "quantum": QUANTUM}

    @property
    def summary(self) -> StoreSummary:
        num_tokens = sum(shard.num_tokens for shard in self.shards)
        return StoreSummary(
            num_sequences=sum(shard.num_sequences for shard in self.shards),
            num_tokens=num_tokens,
            num_bytes=sum(shard.num_bytes for shard in self.shards),
            mean_tail_mass=sum(shard.tail_mass_sum for shard in self.shards) / max(num_tokens, 1),
            max_tail_mass=max((shard.tail_mass_max for shard in self.shards), default=0.0),
        )

    def to_bytes(self) -> bytes:
        content = {
            "format_version": FORMAT_VERSION,
            "complete": self.complete,
            **self.identity,
            "totals": asdict(self.summary),
            "shards": [asdict(shard) for shard in self.shards],
        }
        return json.dumps(content | {"digest": _digest(content)}, indent=1).encode("ascii")

    @classmethod
    def read(cls, folder: Path) -> _Manifest:
        """The manifest of a folder.

        Raises:
            LogitStoreError: it is missing or damaged, or a newer version wrote it.
        """
        path = folder / _MANIFEST
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise LogitStoreError(
                f"there is no {path}. Name the folder of a teacher's answers, or write them first."
            ) from None
        except ValueError as error:
            raise LogitStoreError(f"{path} is not JSON ({error}). {ASK_AGAIN}") from error
        version = content.get("format_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise LogitStoreError(
                f"{path} has format {version}, and this version of the project reads "
                f"{FORMAT_VERSION}. Install a newer one, or ask the teacher again."
            )
        if version != FORMAT_VERSION or content.pop("digest", None) != _digest(content):
            raise LogitStoreError(f"{path} was changed since it was written. {ASK_AGAIN}")
        return cls(
            about=content["about"],
            vocab_size=content["vocab_size"],
            shards=tuple(Shard(**shard) for shard in content["shards"]),
            complete=content["complete"],
        )


def _shard_name(index: int) -> str:
    return f"shard_{index:05d}.safetensors"


def _digest(content: Mapping[str, object]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()


def _as_json(about: Mapping[str, object]) -> dict[str, Any]:
    """`about` as it is read back: lists for tuples, texts for keys."""
    try:
        return json.loads(json.dumps(about, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"about = {about!r} is not JSON ({error}). Give it texts, finite numbers, lists and "
            "mappings."
        ) from error
