"""The commands about rewards alone: `cotree grade` and `cotree reward …`. Loads no torch."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cotree.grpo.audit_page import write_audit_page
from cotree.grpo.cli_boundary import FAILED, Debug, Json, boundary
from cotree.grpo.cli_rewards_shown import (
    show_audit,
    show_binding,
    show_grades,
    show_installed,
    show_tried,
    show_wrong,
)
from cotree.grpo.config import Grading
from cotree.grpo.run_folder import ConfigError
from cotree.rewards.audit import SecondOpinion, disagreement_share, read_samples
from cotree.rewards.cases import Judged, read_cases, summarized
from cotree.rewards.isolation import IsolatedPool, WorkerStartError
from cotree.rewards.registry import Term, bound, check_columns, describe, installed, resolve
from cotree.rewards.stopwatch import graded_one_by_one
from cotree.rewards.trial import Trial, Tried, options_from, probes, read_trials

reward_app = typer.Typer(no_args_is_help=True, help="List, try out and audit reward functions.")

LIMITS = Grading()

Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="An option of the reward function, as in the configuration. Repeatable.",
        show_default=False,
    ),
]
Extraction = Annotated[
    str | None,
    typer.Option(
        help="Where an answer may stand: lenient or anchored. Default: lenient, for graders that "
        "have such an option.",
        show_default=False,
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Child processes. Times are cleanest with one.")]
Timeout = Annotated[
    float, typer.Option(min=0.001, help="Seconds that one completion may take.", metavar="SECONDS")
]
Memory = Annotated[
    int, typer.Option(min=1 << 20, help="Address space of one child process, in bytes.")
]


def grade(
    cases: Annotated[Path, typer.Option(help="Labelled cases, a .jsonl file.")],
    reward: Annotated[
        str, typer.Option(help="The grader: a name, module:function or file.py:function.")
    ] = "math",
    options: Options = None,
    extraction: Extraction = None,
    workers: Workers = 1,
    timeout: Timeout = 2.0,
    memory_bytes: Memory = LIMITS.memory_bytes,
    disputed: Annotated[
        bool, typer.Option("--disputed", help="Grade the disputed rows instead of the others.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Disputed rows too, summed up on a line of their own.")
    ] = False,
    show_errors: Annotated[
        bool, typer.Option("--show-errors", help="Print each row with the wrong verdict.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """How right and how fast a grader is on labelled cases, each run in a killable process.

    accuracy: rows with the expected verdict / all rows; a row that could not be graded is not
    right. False positives: wrongly accepted / rows to refuse. False negatives: wrongly refused /
    rows to accept. Times are those of the reward function. Rows that are disputed never count.
    """
    with boundary(debug=debug, resumable=False), _usage():
        if disputed and everything:
            raise ConfigError("--disputed has no effect with --all; drop one.")
        if as_json and (disputed or everything or show_errors):
            raise ConfigError(
                "--json prints the figures of the undisputed rows and nothing else; "
                "drop --all, --disputed and --show-errors."
            )
        rows = [row for row in read_cases(cases) if everything or row.disputed == disputed]
        if not rows:
            raise ConfigError(f"{cases} has no {'' if disputed else 'un'}disputed rows.")
        term = _grading_term(reward, options_from(options or []), extraction)
        results = graded_one_by_one(
            term,
            [(row.completion, row.problem) for row in rows],
            workers=workers,
            timeout_seconds=timeout,
            memory_bytes=memory_bytes,
        )
        with closing(results):
            judged = [Judged(row, *result) for row, result in zip(rows, results, strict=True)]
        if as_json:
            typer.echo(json.dumps(asdict(summarized(judged)), allow_nan=False))
            return
        show_grades(judged)
        if show_errors:
            show_wrong(judged)


@reward_app.command("list")
def list_(debug: Debug = False) -> None:
    """The rewards that installed packages offer, with their options."""
    with boundary(debug=debug, resumable=False), _usage():
        show_installed(describe())


@reward_app.command("test")
def try_out(
    spec: Annotated[
        str,
        typer.Argument(
            help="A name, module:function, file.py:function, or a file.py with one function.",
            show_default=False,
        ),
    ],
    cases: Annotated[
        Path,
        typer.Option(
            help="A .jsonl file: completion, reference, question, expected (a number, or "
            "[least, greatest]) and columns."
        ),
    ],
    options: Options = None,
    timeout: Timeout = LIMITS.timeout_seconds,
    memory_bytes: Memory = LIMITS.memory_bytes,
    debug: Debug = False,
) -> None:
    """Try a reward function on cases and on degenerate text, and say what a run would do.

    Exit code 1 when a case is not rewarded as expected, when a completion that can occur in a
    run could not be graded, or when the reward's own check refuses a problem.
    """
    with boundary(debug=debug, resumable=False), _usage():
        trials = read_trials(cases)
        trials += probes(trials[0].problem)
        term = Term(spec, 1.0, options_from(options or []))
        reward = bound(term)
        show_binding(reward)
        check_columns([reward], [trial.problem for trial in trials])
        results = graded_one_by_one(
            term,
            [(trial.completion, trial.problem) for trial in trials],
            workers=1,
            timeout_seconds=timeout,
            memory_bytes=memory_bytes,
        )
        with closing(results):
            tried = [Tried(trial, *result) for trial, result in zip(trials, results, strict=True)]
        show_tried(tried)
        refused = _refused(term, trials, timeout, memory_bytes) if reward.check else []
        for message in refused:
            typer.echo(f"refused before a run starts: {message}")
        if refused or any(one.complaint for one in tried):
            raise typer.Exit(FAILED)


@reward_app.command("audit")
def audit(
    samples: Annotated[Path, typer.Argument(help="A run's samples.jsonl.", show_default=False)],
    against: Annotated[str, typer.Option(help="The second grader, named as in a configuration.")],
    options: Options = None,
    term: Annotated[
        str | None,
        typer.Option(
            help="The run's reward to compare with. Default: its first, which decided what was "
            "correct.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Regrade no more than the first N samples.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the disagreements as a page.")] = None,
    fail_above: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Exit code 1 when a larger share disagrees."),
    ] = None,
    workers: Workers = 1,
    timeout: Timeout = LIMITS.timeout_seconds,
    memory_bytes: Memory = LIMITS.memory_bytes,
    debug: Debug = False,
) -> None:
    """Grade a run's samples with a second grader and print where the two disagree."""
    with boundary(debug=debug, resumable=False), _usage():
        rows = read_samples(samples, term=term, limit=limit)
        second = Term(_second_grader(against), 1.0, options_from(options or []))
        check_columns([bound(second)], [row.problem for row in rows])
        results = graded_one_by_one(
            second,
            [(row.completion, row.problem) for row in rows],
            workers=workers,
            timeout_seconds=timeout,
            memory_bytes=memory_bytes,
        )
        with closing(results):
            opinions = [
                SecondOpinion(row, result) for row, (result, _) in zip(rows, results, strict=True)
            ]
        show_audit(opinions, against)
        if html is not None:
            write_audit_page(html, opinions, against=against, source=samples)
            typer.echo(html)
        share = disagreement_share(opinions)
        if fail_above is not None and (share is None or share > fail_above):
            raise typer.Exit(FAILED)


def _grading_term(
    reward: str, options: Mapping[str, bool | int | float | str], extraction: str | None
) -> Term:
    """The grader with lenient extraction, unless told otherwise or it has no such option."""
    takes = "extraction" in inspect.signature(resolve(reward)).parameters
    if extraction is None and takes and "extraction" not in options:
        extraction = "lenient"
    if extraction is not None:
        options = {**options, "extraction": extraction}
    return Term(reward, 1.0, options)


def _refused(
    term: Term, trials: Sequence[Trial], timeout_seconds: float, memory_bytes: int
) -> list[str]:
    """Why the reward's own check of problems refuses some of them."""
    with IsolatedPool(
        [term], workers=1, timeout_seconds=timeout_seconds, memory_bytes=memory_bytes
    ) as pool:
        # Probes answer the first trial's problem again.
        return pool.check([trial.problem for trial in trials if not trial.is_probe])


def _second_grader(name: str) -> str:
    """`math-verify` is what people call the grader that is installed as `math_verify`."""
    known, respelled = installed(), name.replace("-", "_")
    return respelled if name not in known and respelled in known else name


@contextmanager
def _usage() -> Generator[None]:
    """What is wrong with files, names and options is the user's to mend: exit code 2."""
    try:
        yield
    except BrokenPipeError:
        # Whoever reads the output has enough, as `head` does. Nothing is left to say, also not
        # when Python closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from None
    except (ValueError, OSError, ImportError, WorkerStartError) as error:
        raise ConfigError(str(error)) from error
