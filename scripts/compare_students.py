#!/usr/bin/env python
"""Students of one size at equal optimizer steps: from scratch, on gold, and under a teacher.

    python scripts/compare_students.py [FOLDER] [--teacher DIR] [--seed N] [--only NAME ...]

Needs the quickstart's model (`bash scripts/quickstart.sh`). Every student has 0.28 times the
teacher's parameters, takes STEPS steps of 64 sequences (60 of them on 256 completions of its own,
where it samples), and meets the same 1,000 held-back problems with the same seeds:

    scratch    the quickstart's own recipe at the student's size: sloppy cold start, then GRPO
    gold       cross-entropy on flawless worked solutions
    traces     cross-entropy on the teacher's texts, kept by rejection
    logits     the teacher's distribution at each token of the same texts, asked once
    on_policy  traces for all but the last 60 steps, then its own samples, judged by the teacher
    mixed      as on_policy, with the rewards' advantages beside the teacher's word

What is there is not run again. The table goes to standard output, progress to standard error.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

STEPS, ON_POLICY_STEPS = 560, 60
STUDENT = {"layers": 3, "width": 128, "heads": 4, "mlp_width": 256}
PROBLEMS = 1_000


def main() -> None:
    """Runs what is missing and prints the table."""
    arguments = parsed()
    always = {"seed": arguments.seed, "learner.threads": arguments.threads}
    runs = Runs(arguments.folder.absolute(), arguments.teacher.absolute(), always)
    students: dict[str, Callable[[], Path]] = {
        "scratch": runs.scratch,
        "gold": runs.gold,
        "traces": runs.traces,
        "logits": runs.logits,
        "on_policy": lambda: runs.on_policy("on_policy", reward_coef=0.0),
        "mixed": lambda: runs.on_policy("mixed", reward_coef=1.0),
    }
    rows = {"teacher": runs.accuracy(runs.teacher, "teacher")}
    for name in arguments.only or students:
        rows[name] = runs.accuracy(students[name](), name)
    whole = rows["teacher"]["value"]
    print("| model | accuracy at temperature 1 | share of the teacher's |")
    print("|---|---|---|")
    for name, row in rows.items():
        value, low, high = (100 * row[key] for key in ("value", "low", "high"))
        print(f"| {name} | {value:.1f} % ({low:.1f} to {high:.1f}) | {value / whole:.1f} % |")


class Runs:
    """The commands behind the table; each returns the folder of a student."""

    def __init__(self, folder: Path, teacher: Path, always: dict[str, object]) -> None:
        self.teacher = teacher
        self._folder, self._always = folder, always

    def scratch(self) -> Path:
        """The quickstart's recipe at the student's size."""
        sizes = {f"model.{key}": value for key, value in STUDENT.items()}
        sizes["train.evaluate_every"] = 0
        for stage, made in (("sft", "sft/model"), ("train", "model")):
            self._run(stage, "configs/quickstart.toml", "scratch", made, sizes)
        return self._folder / "scratch/model"

    def gold(self) -> Path:
        """The cold start alone, without the sloppy teacher's mistakes."""
        return self._texts("gold", STEPS, {"type": "generated"})

    def traces(self) -> Path:
        """On the teacher's texts, which are sampled here for the others too."""
        settings = {"distill.teacher.path": self.teacher, "distill.num_steps": STEPS}
        self._run("distill", "configs/distill_traces.toml", "traces", "distill/model", settings)
        return self._folder / "traces/distill/model"

    def logits(self) -> Path:
        """On the teacher's distribution at each token of the same texts."""
        settings = {
            "distill.teacher.path": self.teacher,
            "distill.corpus": inline({"type": "rows", "path": self._corpus()}),
        }
        self._run("distill", "configs/distill_logits.toml", "logits", "distill/model", settings)
        return self._folder / "logits/distill/model"

    def on_policy(self, name: str, *, reward_coef: float) -> Path:
        """On texts first; then the student samples, and the teacher and the rewards judge."""
        rows = {"type": "rows", "path": self._corpus()}
        begun = self._texts("warm", STEPS - ON_POLICY_STEPS, rows)
        settings = {
            "distill.teacher.path": self.teacher,
            "distill.reward_coef": reward_coef,
            "model.path": begun,
        }
        self._run("distill", "configs/distill_on_policy.toml", name, "distill/model", settings)
        return self._folder / name / "distill/model"

    def accuracy(self, model: Path, name: str) -> dict[str, float]:
        """Of a model on the held-back problems."""
        kept = self._folder / f"{name}_accuracy.json"
        if not kept.exists():
            command = ["evaluate", "configs/quickstart.toml", "--model", str(model), "--json"]
            settings = {"evaluate.num_problems": PROBLEMS, "output_dir": self._folder / "evaluate"}
            found = self._cotree(*command, settings=settings)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(json.loads(found.splitlines()[-1])["accuracy"]))
        return json.loads(kept.read_text())

    def _corpus(self) -> Path:
        self.traces()
        return self._folder / "traces/distill/corpus/traces.jsonl"

    def _texts(self, name: str, steps: int, traces: dict[str, object]) -> Path:
        """A cold start on worked solutions: what `distill` does with the teacher's."""
        settings = {f"model.{key}": value for key, value in STUDENT.items()} | {
            "sft.traces": inline(traces),
            "sft.num_steps": steps,
            "sft.optimizer.learning_rate": 3e-3,
        }
        self._run("sft", "configs/quickstart.toml", name, "sft/model", settings)
        return self._folder / name / "sft/model"

    def _run(
        self, stage: str, config: str, name: str, made: str, settings: dict[str, object]
    ) -> None:
        """Runs a stage unless the model it makes is there; continues one that was stopped."""
        root = self._folder / name
        if not (root / made / "config.json").exists():
            given = settings | self._always | {"output_dir": root}
            self._cotree(stage, config, "--resume", settings=given)

    def _cotree(self, *words: str, settings: dict[str, object]) -> str:
        sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        command = [sys.executable, "-m", "cotree.grpo.cli", *words, *sets]
        sys.stderr.write(" ".join(command[2:]) + "\n")
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def inline(table: dict[str, object]) -> str:
    """A TOML table on one line."""
    return "{" + ", ".join(f"{key}={json.dumps(str(value))}" for key, value in table.items()) + "}"


def parsed() -> argparse.Namespace:
    """The command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/students"))
    parser.add_argument("--teacher", type=Path, default=Path("runs/quickstart/model"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of the learner")
    parser.add_argument("--only", nargs="*", help="students, by name")
    return parser.parse_args()


if __name__ == "__main__":
    main()
