"""What the commands share: how they start, how they speak, and how they end."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from rich.console import Console
from rich.status import Status
from rich.text import Text

from orchestration.errors import PipelineError
from orchestration.redaction import redact_text
from orchestration.signals import LOGGER_NAME, logger

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and after SIGTERM, as shells expect them."""

output = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)
"""Standard output: the result, and nothing else. In a pipe nobody wants lines cut to a terminal's width."""

errors = Console(stderr=True, highlight=False, soft_wrap=True)
"""Standard error: progress, log lines, errors."""


class Stopped(SystemExit):
    """The command was told to stop, by Ctrl-C or by SIGTERM. asyncio and Typer let a SystemExit pass as it is."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code)
        self.exit_code = code
        self.message = message


def run_app(app: typer.Typer) -> None:
    """Run a command to its exit code: what it raised becomes one line on standard error, never a traceback."""
    ending = _Ending()
    atexit.register(ending.leave)
    try:
        _run_app(app)
    except SystemExit as done:
        ending.code = done.code if isinstance(done.code, int) else int(done.code is not None)
        raise


class _Ending:
    """Ends the process once all that has to happen at its end has happened.

    What would follow is Python taking Prefect apart, module by module, which takes half a second. Registered
    first, `leave()` is called last of all exit functions, after the threads have ended.
    """

    code = 1  # that of an exception that nobody caught

    def leave(self) -> None:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):  # who read them has gone
            self.code = self.code or 1
        os._exit(self.code)


def _run_app(app: typer.Typer) -> None:
    _be_quiet()
    _log_to(errors)
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background jobs ignore it
        signal.signal(signal.SIGINT, _interrupt)
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except PipelineError as error:
        fail(str(error))
    except Stopped as stop:
        fail(stop.message, code=stop.exit_code)
    except typer.Abort:
        fail("Interrupted", code=INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has gone; without this the interpreter would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - it goes on unless it is about the command line
        _usage_or_raise(error)


def fail(message: str, *, code: int = 1) -> None:
    """End the command with one line on standard error. Errors hold no secret: who raises them sees to that."""
    errors.print(Text.assemble(("Error:", "bold red"), f" {' '.join(message.split())}"))
    sys.exit(code)


@contextmanager
def resumable(run_ids: Sequence[str]) -> Generator[None]:
    """Who stops the body learns how to go on with these runs."""
    try:
        yield
    except Stopped as stop:
        others = len(run_ids) - 1
        more = f"; of {others} more of its trace a worker goes on with those that had not begun" if others else ""
        raise Stopped(stop.exit_code, f"{stop.message}. Go on with: alert-pipeline resume {run_ids[0]}{more}") from None


@contextmanager
def progress() -> Generator[Callable[[str], None]]:
    """Shows what is going on: a spinner on a terminal, a line each elsewhere."""
    if not errors.is_terminal:
        yield lambda text: errors.print(text, markup=False)
        return
    with Status("", console=errors) as status:

        def show(text: str) -> None:
            status.update(Text(redact_text(text)))

        yield show


def _usage_or_raise(error: Exception) -> None:
    """Typer's own complaints about the command line, as it words them; anything else is a bug and looks like one."""
    show = getattr(error, "show", None)
    if not callable(show):
        raise error
    show()
    sys.exit(int(getattr(error, "exit_code", 2)))


class _Handler(logging.Handler):
    """Log lines through the console, so that they and a spinner do not write over each other."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            style = "yellow" if record.levelno >= logging.WARNING else "dim"
            self._console.print(self.format(record), style=style, markup=False)
        except Exception:  # noqa: BLE001 - logging must not end a command
            self.handleError(record)


def _log_to(console: Console) -> None:
    handler = _Handler(console)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.propagate = False


def _be_quiet() -> None:
    """Prefect's own lines would drown ours here; its UI has them, and ours too. The user's settings come first."""
    defaults = {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_EXTRA_LOGGERS": LOGGER_NAME,
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise Stopped(TERMINATED, "Terminated")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise Stopped(INTERRUPTED, "Interrupted")


def as_json(value: Any) -> None:
    """Print JSON, and nothing around it."""
    import orjson

    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode() + "\n")
