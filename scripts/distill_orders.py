"""What `bench_distill.py` asks of its processes, `peers_distill.py`, and what they answer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Side = Literal["cotree", "trl"]


@dataclass(frozen=True)
class Text:
    """A prompt and what follows it, as tokens; `grpo.supervised.Example` with the prompt's text."""

    prompt: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


@dataclass(frozen=True)
class Loss:
    """What both sides minimise, in the words of each."""

    label: str
    trainer: str
    """TRL's class."""
    kind: str | None = None
    """Our divergence; None is cross-entropy on the texts' own tokens."""
    beta: float | None = None
    """TRL's, which weighs the teacher in the mixture; 0 and 1 are the two Kullback-Leibler."""
    sampled: bool = False
    """On completions that the student samples, instead of the texts'."""


LOSSES = {
    "sft": Loss("cross-entropy", "SFTTrainer"),
    "jsd": Loss("JSD, beta 0.5", "GKDTrainer", "jsd", 0.5),
    "jsd_0.1": Loss("JSD, beta 0.1", "GKDTrainer", "jsd", 0.1),
    "forward_kl": Loss("forward KL, beta 0", "GKDTrainer", "forward_kl", 0.0),
    "reverse_kl": Loss("reverse KL, beta 1", "GKDTrainer", "reverse_kl", 1.0),
    "on_policy": Loss("on-policy reverse KL", "DistillationTrainer", "reverse_kl", 1.0, True),
    "on_policy_gkd": Loss("on-policy reverse KL", "GKDTrainer", "reverse_kl", 1.0, True),
}

SAMPLE = "sample"
"""The loss of an order that asks for completions alone, of our engine."""


@dataclass(frozen=True)
class Order:
    """One process's work."""

    side: Side
    loss: str
    """A key of `LOSSES`, or `SAMPLE`."""
    model: str
    teacher: str
    texts: str
    """File of steps, each a list of texts."""
    threads: int
    learning_rate: float
    max_tokens: int
    """Of a sampled completion."""
    micro_batch_tokens: int
    """Ours; TRL always gets the whole batch at once."""
    seed: int = 0


@dataclass
class Result:
    """What was measured, one entry a step unless it says otherwise."""

    version: str
    """Package and version."""
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """From the end of the step before: batch, sampling, loss, update."""
    cpu_seconds: list[float] = field(default_factory=list)
    """The same in time of all threads, which other processes on the machine disturb less."""
    sampling_seconds: list[float] = field(default_factory=list)
    """Of which sampling."""
    sampling_cpu_seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    """Trained or, with `SAMPLE`, sampled."""
    divisors: list[int] = field(default_factory=list)
    """What the loss's sum over tokens was divided by."""
    bytes_at_start: int = 0
    """Resident memory when everything is loaded, once."""
    peak_bytes: int = 0
    """Largest resident memory of the whole process, once."""


class Laps:
    """Writes down what each step took, and how much of that sampling did."""

    def __init__(self, result: Result) -> None:
        self._result = result
        self.start()

    def start(self) -> None:
        self._last, self._sampling = clocks(), (0.0, 0.0)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """The part of a step that samples."""
        wall, cpu = clocks()
        yield
        now = clocks()
        self._sampling = (self._sampling[0] + now[0] - wall, self._sampling[1] + now[1] - cpu)

    def end(self) -> None:
        """Ends a step, and starts the next one."""
        now, result = clocks(), self._result
        result.seconds.append(now[0] - self._last[0])
        result.cpu_seconds.append(now[1] - self._last[1])
        result.sampling_seconds.append(self._sampling[0])
        result.sampling_cpu_seconds.append(self._sampling[1])
        self._last, self._sampling = now, (0.0, 0.0)


def clocks() -> tuple[float, float]:
    """Seconds that passed, and those of all of the process's threads."""
    return time.perf_counter(), time.process_time()


def read_texts(path: Path) -> list[list[Text]]:
    """Steps of texts, as `write_texts` wrote them."""
    return [
        [Text(prompt, tuple(before), tuple(after)) for prompt, before, after in step]
        for step in json.loads(path.read_text())
    ]


def write_texts(path: Path, steps: Sequence[Sequence[Text]]) -> None:
    rows = [[(text.prompt, text.prompt_ids, text.completion_ids) for text in s] for s in steps]
    path.write_text(json.dumps(rows))


def resident(name: Literal["VmRSS", "VmHWM"]) -> int:
    """This process's memory, now or at its peak, in bytes.

    The peak of `getrusage` would start at that of the process which started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    raise ValueError(f"/proc/self/status has no {name}; this measurement needs Linux.")
