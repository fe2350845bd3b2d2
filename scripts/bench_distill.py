#!/usr/bin/env python
"""Our distillation beside TRL's on the same texts: the same losses, at what cost?

    python scripts/bench_distill.py MODEL TEACHER
    pip install --no-deps --target PEERS/trl trl
    python scripts/bench_distill.py MODEL TEACHER --trl PEERS/trl

MODEL and TEACHER are folders of checkpoints with one tokenizer. The texts are the worked solutions
of --config's cold start, in its order. Both sides get the same sequences in the same steps, in
float32 with the same AdamW and no dropout; prompts are not trained on. Each measurement is a
process of its own. The two sides take turns at going first, --rounds times for each number of
threads; times are of all rounds' steps but the first --warm-up ones of each.

On-policy, TRL's trainer samples the completions and both sides train on those. Sampling has lines
of its own: TRL's by `generate` with the weights of the step, ours by vLLM with the weights of
MODEL; what it takes to hand new weights to vLLM is not in them. Without --trl our engine samples.

TRL's losses are means over trained tokens too, and its beta weighs the teacher as our mix does. Its
GKDTrainer 1.16 divides by the trained tokens of the data set's texts even where it trains on others
that it sampled (corrected in DistillationTrainer: huggingface/trl#6478). The table shows its loss
as it is; the columns after the difference compare it over the tokens that it was summed over.

CPU seconds are those of all of a process's threads. Other load on the machine disturbs them less
than it does the seconds that pass.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from distill_orders import LOSSES, SAMPLE, Order, Result, Side, Text, write_texts
from safetensors.numpy import load_file

from cotree.grpo.problems import PromptOrder, trace_rows
from cotree.grpo.provenance import machine
from cotree.grpo.run_folder import load_pipeline
from cotree.grpo.seeds import derive
from cotree.grpo.supervised import prompt_renderer, trace_examples

CHILD = Path(__file__).resolve().parent / "peers_distill.py"
SIDES: tuple[Side, Side] = ("trl", "cotree")
MIB = 1 << 20


@dataclass(frozen=True)
class Cost:
    """One side's cost of a step, over all rounds."""

    median_seconds: float
    least_seconds: float
    most_seconds: float
    median_cpu_seconds: float
    start_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class Agreement:
    """How far the two sides are apart; losses in nats a token."""

    ours: float
    """Loss of the first step."""
    theirs: float | None
    """As TRL tells it."""
    tokens: int
    """Trained in the first step."""
    divisor: int | None
    """What TRL divided the first step's sum by."""
    most_apart: float | None
    """Largest difference of a step's loss, after TRL's is multiplied by divisor / tokens."""
    weights_apart: float | None
    """|ours - theirs| / |theirs - start| after the last step, 2-norms over all weights."""


@dataclass(frozen=True)
class Row:
    """One line of the tables."""

    loss: str
    threads: int
    ours: Cost
    theirs: Cost | None
    agreement: Agreement | None = None
    """None of sampling: each side draws its own."""


class Bench:
    """Starts the processes."""

    def __init__(self, args: argparse.Namespace, scratch: Path) -> None:
        self._args, self._scratch = args, scratch
        self._texts = scratch / "texts.json"
        write_texts(self._texts, texts_of(args))
        self._count = 0
        self.versions: set[str] = set()

    def run(self, side: Side, loss: str, threads: int, texts: Path | None) -> tuple[Result, Path]:
        """One process's result, and the folder that it wrote to."""
        args = self._args
        folder = self._scratch / f"{self._count:03}_{side}_{loss}"
        folder.mkdir()
        self._count += 1
        order = Order(
            side=side,
            loss=loss,
            model=str(args.model),
            teacher=str(args.teacher),
            texts=str(texts or self._texts),
            threads=threads,
            learning_rate=args.learning_rate,
            max_tokens=args.max_tokens,
            micro_batch_tokens=args.micro_batch_tokens,
        )
        (folder / "order.json").write_text(json.dumps(asdict(order)))
        path = [str(args.trl.resolve())] if side == "trl" else []
        path += [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
        done = subprocess.run(
            [sys.executable, CHILD, folder],
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(path)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{side}, {loss}: exit code {done.returncode}\n{done.stderr[-4000:]}")
        result = Result(**json.loads((folder / "result.json").read_text()))
        self.versions.add(result.version)
        steady = statistics.median(result.seconds[args.warm_up :])
        load = os.getloadavg()[0]
        print(
            f"{side}, {loss}, {threads} threads: {steady:.3f} s a step, load {load:.1f}",
            file=sys.stderr,
        )
        return result, folder

    def rows(self, loss: str, threads: int) -> Iterator[Row]:
        """The line of one loss and, where completions are sampled, that of the sampling."""
        sides = SIDES if self._args.trl else SIDES[1:]
        sampled = LOSSES[loss].sampled
        found: dict[str, list[tuple[Result, Path]]] = {"trl": [], "cotree": [], SAMPLE: []}
        for number in range(self._args.rounds):
            if sampled:
                found[SAMPLE].append(self.run("cotree", SAMPLE, threads, None))
            for side in sides if number % 2 == 0 else reversed(sides):
                given = None
                if sampled and side == "cotree":
                    given = found[sides[0] if self._args.trl else SAMPLE][0][1] / "samples.json"
                found[side].append(self.run(side, loss, threads, given))
        ours, theirs, samples = found["cotree"], found["trl"], found[SAMPLE]
        yield Row(
            loss=f"{LOSSES[loss].label} ({LOSSES[loss].trainer})",
            threads=threads,
            ours=self._cost(ours, learning=True),
            theirs=self._cost(theirs, learning=True) if theirs else None,
            agreement=agreement(ours[0], theirs[0] if theirs else None, self._args.model),
        )
        if sampled:
            yield Row(
                loss=f"sampling for it ({LOSSES[loss].trainer})",
                threads=threads,
                ours=self._cost(samples, learning=False),
                theirs=self._cost(theirs, learning=False) if theirs else None,
            )

    def _cost(self, runs: Sequence[tuple[Result, Path]], *, learning: bool) -> Cost:
        """Of all but the sampling, or of the sampling alone."""
        results = [result for result, _ in runs]
        seconds: list[float] = []
        cpu_seconds: list[float] = []
        for one in results:
            kept = spent(one.seconds, one.sampling_seconds, learning=learning)
            kept_cpu = spent(one.cpu_seconds, one.sampling_cpu_seconds, learning=learning)
            seconds += kept[self._args.warm_up :]
            cpu_seconds += kept_cpu[self._args.warm_up :]
        return Cost(
            median_seconds=statistics.median(seconds),
            least_seconds=min(seconds),
            most_seconds=max(seconds),
            median_cpu_seconds=statistics.median(cpu_seconds),
            start_bytes=max(one.bytes_at_start for one in results),
            peak_bytes=max(one.peak_bytes for one in results),
        )


def spent(whole: Sequence[float], sampling: Sequence[float], *, learning: bool) -> list[float]:
    """Each step's time without its sampling, or that of the sampling."""
    return [w - s if learning else s for w, s in zip(whole, sampling, strict=True)]


def texts_of(args: argparse.Namespace) -> list[list[Text]]:
    """The steps' texts: worked solutions in the order that the cold start takes them."""
    pipeline = load_pipeline(args.config, [])
    if pipeline.sft is None:
        sys.exit(f"{args.config} has no [sft] section, whose worked solutions are the texts.")
    model, size = str(args.model), args.sequences
    render = prompt_renderer(pipeline.prompt, model, revision=None)
    rows = trace_rows(pipeline, pipeline.sft.traces, render)
    order = PromptOrder(len(rows), derive(pipeline.seed, "sft", "order"))
    rows = [rows[order.at(place)] for place in range(size * (args.warm_up + args.steps))]
    examples = trace_examples(pipeline, rows, model, revision=None)
    texts = [
        Text(row.prompt, example.prompt_ids, example.completion_ids)
        for row, example in zip(rows, examples, strict=True)
    ]
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def agreement(
    ours: tuple[Result, Path], theirs: tuple[Result, Path] | None, model: Path
) -> Agreement:
    """Of the first round."""
    own = ours[0]
    if theirs is None:
        return Agreement(own.losses[0], None, own.tokens[0], None, None, None)
    peer = theirs[0]
    if own.tokens != peer.tokens:
        raise ValueError(f"the sides trained on other texts: {own.tokens} and {peer.tokens} tokens")
    sums = zip(own.losses, peer.losses, peer.divisors, peer.tokens, strict=True)
    return Agreement(
        ours=own.losses[0],
        theirs=peer.losses[0],
        tokens=own.tokens[0],
        divisor=peer.divisors[0],
        most_apart=max(abs(a - b * divisor / tokens) for a, b, divisor, tokens in sums),
        weights_apart=weights_apart(ours[1] / "model", theirs[1] / "model", model),
    )


def weights_apart(ours: Path, theirs: Path, start: Path) -> float:
    """|ours - theirs| / |theirs - start|, 2-norms over all weights."""
    a, b, c = (load_file(folder / "model.safetensors") for folder in (ours, theirs, start))
    if a.keys() != b.keys():
        raise ValueError(f"{ours} and {theirs} have other weights: {sorted(a.keys() ^ b.keys())}")
    gap = sum(float(((a[name] - b[name]) ** 2).sum(dtype="f8")) for name in b)
    moved = sum(float(((b[name] - c[name]) ** 2).sum(dtype="f8")) for name in b)
    return (gap / moved) ** 0.5


# --- what is printed -------------------------------------------------------------------------


def show(rows: Sequence[Row], num_steps: int) -> None:
    """Two tables: how far the sides are apart, and what a step costs."""
    print(
        f"\n| loss | threads | step 1, ours | step 1, TRL | difference | most of {num_steps} steps "
        "| weights apart |\n|---|---|---|---|---|---|---|"
    )
    notes: dict[str, None] = {}
    for row in rows:
        one = row.agreement
        if one is None:
            continue
        cells = [f"{one.ours:.6f}"]
        if one.theirs is None or one.divisor is None:
            cells += ["-"] * 4
        else:
            cells += [f"{one.theirs:.6f}", f"{one.ours - one.theirs:+.1e}"]
            cells += [f"{one.most_apart:.1e}", f"{one.weights_apart:.1e}"]
            if one.divisor != one.tokens:
                notes[
                    f"{row.loss}: TRL divides by {one.divisor}, the trained tokens of the data "
                    f"set's texts, not by the {one.tokens} of those that it sampled. Times "
                    f"{one.divisor} / {one.tokens} its loss is "
                    f"{one.theirs * one.divisor / one.tokens:.6f}."
                ] = None
        print(f"| {row.loss} | {row.threads} | {' | '.join(cells)} |")
    print("\n".join(["", *notes]))
    print(
        "\n| loss | threads | seconds a step, ours | TRL | CPU seconds, ours | TRL "
        "| peak MiB (when loaded), ours | TRL |\n|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        costs = (row.ours, row.theirs)
        cells = [
            "-" if cost is None else cell(cost)
            for cell in (passed, worked, memory)
            for cost in costs
        ]
        print(f"| {row.loss} | {row.threads} | {' | '.join(cells)} |")


def passed(cost: Cost) -> str:
    return f"{cost.median_seconds:.3f} ({cost.least_seconds:.3f} to {cost.most_seconds:.3f})"


def worked(cost: Cost) -> str:
    return f"{cost.median_cpu_seconds:.3f}"


def memory(cost: Cost) -> str:
    return f"{cost.peak_bytes / MIB:.0f} ({cost.start_bytes / MIB:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--trl", type=Path, help="folder that TRL is installed in")
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.toml"))
    parser.add_argument("--only", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--warm-up", type=int, default=5, help="first steps that are not timed")
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed")
    parser.add_argument("--sequences", type=int, default=64, help="of a step")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--max-tokens", type=int, default=110, help="of a sampled completion")
    parser.add_argument(
        "--micro-batch-tokens", type=int, default=1 << 20, help="ours; by default the whole batch"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    if args.trl is not None and not (args.trl / "trl").is_dir():
        parser.error(f"{args.trl} has no trl; pip install --no-deps --target {args.trl} trl")
    rows: list[Row] = []
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(args, Path(scratch))
        for threads in args.threads:
            for loss in args.only:
                rows += bench.rows(loss, threads)
    show(rows, args.warm_up + args.steps)
    around = {
        "versions": sorted(bench.versions),
        "load_before": load,
        "load_after": os.getloadavg(),
        **machine(),
    }
    print(f"\n{json.dumps(around)}")
    if args.json is not None:
        settings = {name: str(value) for name, value in vars(args).items()}
        figures = {
            "settings": settings,
            "machine": around,
            "losses": {name: asdict(loss) for name, loss in LOSSES.items()},
            "rows": [asdict(row) for row in rows],
        }
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
