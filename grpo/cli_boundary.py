"""Where the command line ends: every way out of a command becomes a message and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, NoReturn

import typer

from cotree.grpo.run_folder import ConfigError

OK, FAILED, BAD_CONFIG, INTERRUPTED = 0, 1, 2, 130


def _ask_for_tracebacks(wanted: bool) -> bool:
    if wanted:
        os.environ["COTREE_DEBUG"] = "1"  # actors inherit it
    return wanted


Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, nothing else there.")]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        envvar="COTREE_DEBUG",
        callback=_ask_for_tracebacks,
        help="Show tracebacks and the actors' own output.",
    ),
]


@contextmanager
def boundary(*, debug: bool, resumable: bool = True) -> Generator[None]:
    """The process boundary: every way out of a command becomes a message and an exit code."""
    stopped = "interrupted; --resume continues where it stopped."
    if not resumable:
        stopped = "interrupted."
    previous = _end_on_sigterm()
    try:
        yield
    except typer.Exit:
        raise
    except ConfigError as error:
        _fail(str(error), BAD_CONFIG, debug=debug)
    except KeyboardInterrupt:
        _fail(stopped, INTERRUPTED, debug=debug)
    except SystemExit as stop:
        # Ray replaces our SIGTERM handler with one that calls sys.exit(SIGTERM).
        if stop.code != signal.SIGTERM:
            raise
        _fail(stopped, INTERRUPTED, debug=debug)
    except Exception as error:
        _fail(f"{type(error).__name__}: {error}", FAILED, debug=debug)
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


@contextmanager
def what_a_user_can_fix() -> Generator[None]:
    """Refusals of what was asked for are faults of the command line, not of the program."""
    try:
        yield
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        raise ConfigError(str(error)) from error


def _end_on_sigterm() -> signal.Handlers | None:
    """SIGTERM (`ray job stop` sends it) unwinds like Ctrl-C: actors end, files are closed."""
    if threading.current_thread() is not threading.main_thread():
        return None  # Python sets signal handlers in the main thread only

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    return before if isinstance(before, signal.Handlers) else None


def _fail(message: str, code: int, *, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc(file=sys.stderr)
    typer.echo(f"error: {message}" if code != INTERRUPTED else message, err=True)
    raise typer.Exit(code) from None


def plain(text: str) -> str:
    """Text that rich prints as it is."""
    return text.replace("[", r"\[")  # rich would read [x] as markup
