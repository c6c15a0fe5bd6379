"""What all commands share: reading input files, printing to the terminal, and ending with an exit code."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, TextIO

import typer
from rich.console import Console
from rich.status import Status
from rich.text import Text

from orchestration.errors import BadInput, PipelineError
from orchestration.json_text import to_json
from orchestration.problems import BadDocument
from orchestration.redaction import redact_text
from orchestration.signals import LOGGER_NAME, logger

INTERRUPTED, TERMINATED, HUNG_UP = 130, 143, 129
"""Exit codes after Ctrl-C, after SIGTERM and after SIGHUP, as shells expect them."""

USAGE = 2
"""Exit code after a wrong use of flags and arguments."""

STDIN = "-"
"""The file name that means standard input."""

_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""Why standard output cannot be written, other than that its reader has gone."""


class _Output(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # the command ends with its own exit code, and not with that of rich


output = _Output(
    highlight=False,
    markup=False,
    emoji=False,
    soft_wrap=True,
    width=None if sys.stdout is not None and sys.stdout.isatty() else 10_000,
)
"""Standard output: only the result. In a pipe, lines are not cut to a terminal's width."""

errors = _Output(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
"""Standard error: progress, log lines, errors."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
"""The option of all commands that can print their result as JSON."""


class Stopped(SystemExit):
    """Ctrl-C or SIGTERM stopped the command. It is a SystemExit because asyncio and Typer do not catch those."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code)
        self.exit_code = code
        self.message = message


def run_app(
    app: typer.Typer, failures: Mapping[str, int] | None = None, unheard_commands: Collection[str] = ()
) -> None:
    """Run a command and exit the process with its exit code. An expected error is one line on standard error.

    `failures` has the exit code of commands whose 1 and 2 mean something else than that the command failed.
    `unheard_commands` do their work also if standard output is closed.
    """
    name = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    own = (failures or {}).get(name)
    failed = 1 if own is None else own
    code = failed  # an exception that nobody caught

    def leave() -> None:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):  # the reader of the pipe has gone, or there was none
            os._exit(failed if own is not None else code or failed)
        os._exit(code)

    # Python would otherwise unload Prefect module by module, which takes half a second. The exit function that is
    # registered first is called last, after all threads have ended.
    atexit.register(leave)
    try:
        _run_app(app, failed=failed, misused=own, unheard_too=name in unheard_commands)
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else failed if done.code else 0
        raise


def _run_app(app: typer.Typer, *, failed: int, misused: int | None, unheard_too: bool) -> None:
    _be_quiet()
    _log_to_terminal()
    _ensure_streams(failed, unheard_too=unheard_too)
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background jobs ignore it
        signal.signal(signal.SIGINT, _stop)
    try:
        code = app(standalone_mode=False) or 0
        sys.stdout.flush()  # what cannot be printed is no success
        sys.exit(code)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except PipelineError as error:
        fail(str(error), code=failed)
    except Stopped as stop:
        fail(stop.message, code=stop.exit_code)
    except typer.Abort:
        fail("Interrupted", code=INTERRUPTED)
    except BrokenPipeError:
        _drop_output()
        sys.exit(failed)
    except Exception as error:
        show = getattr(error, "show", None)  # only Typer's own usage errors have it
        if callable(show):
            show()
            _hint(error)
            sys.exit(int(getattr(error, "exit_code", USAGE)) if misused is None else misused)
        if isinstance(error, OSError) and error.errno in _NOT_WRITTEN and error.filename is None:
            _drop_output()
            fail(f"Standard output cannot be written: {error.strerror}", code=failed)
        raise


def _hint(usage: Exception) -> None:
    if type(usage).__name__ == "NoSuchOption":  # of the copy of Click that Typer hides
        errors.print("An argument that begins with a dash goes behind two of them: -- '-5 degrees'")


def _ensure_streams(failed: int, *, unheard_too: bool) -> None:
    """Give each missing stream a file: the next file or connection would get its number, and what is printed.

    Without standard output only those commands run whose result is elsewhere.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - it is open as long as the process runs
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - as above
        if not unheard_too:
            fail("Standard output is closed. To print nothing, send it to /dev/null", code=failed)


def _drop_output(*streams: TextIO) -> None:
    """Send to nowhere what is still to be printed, so that Python's own flush at the end prints no error."""
    for stream in streams or (sys.stdout,):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def unheard() -> Generator[None]:
    """What the body prints may be lost: a command whose result is elsewhere is no failure if nobody can read of it."""
    try:
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        _drop_output(sys.stdout, sys.stderr)


def stop_on_hangup() -> None:
    """End the command in order if its terminal goes away, unless `nohup` says otherwise."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _stop)


def fail(message: str, *, code: int = 1) -> NoReturn:
    """End the command with one line on standard error. Whoever raises an error keeps secrets out of its message."""
    errors.print(Text.assemble(("Error:", "bold red"), f" {' '.join(message.split())}"))
    sys.exit(code)


@contextmanager
def resumable(run_ids: Sequence[str]) -> Generator[None]:
    """If the body is stopped, the error line says how to resume these runs."""
    try:
        yield
    except Stopped as stop:
        others = len(run_ids) - 1
        more = f"; a worker executes those of the push's {others} other runs that have not started" if others else ""
        resume = f"Resume it with: alert-pipeline resume {run_ids[0]}"
        raise Stopped(stop.exit_code, f"{stop.message}. {resume}{more}") from None


@contextmanager
def progress() -> Generator[Callable[[str], None]]:
    """Show each step of the work: with a spinner on a terminal, as one line each in a pipe."""
    if not errors.is_terminal:
        yield errors.print
        return
    with Status("", console=errors) as status:
        yield lambda text: status.update(Text(redact_text(text)))


class _Handler(logging.Handler):
    """Writes log lines through the console, which moves the spinner out of their way."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            errors.print(self.format(record), style="yellow" if record.levelno >= logging.WARNING else "dim")
        except Exception:  # noqa: BLE001 - logging must not end a command
            self.handleError(record)


def _log_to_terminal() -> None:
    handler = _Handler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.propagate = False


def _be_quiet() -> None:
    """Keep Prefect's own log lines off the terminal; its UI shows them. Settings of the user have priority."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", LOGGER_NAME)
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")


def _stop(number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGINT:
        raise Stopped(INTERRUPTED, "Interrupted")
    if number == signal.SIGHUP:
        raise Stopped(HUNG_UP, "The terminal has gone")
    raise Stopped(TERMINATED, "Terminated")


def read_file(name: str, limit: int) -> bytes:
    """Read a file, or standard input if the name is `-`.

    At most `limit` + 1 bytes are read, so that the caller can see that a file is too large.

    Raises:
        BadInput: the file cannot be read.
    """
    try:
        if name == STDIN:
            if sys.stdin is None:
                raise BadInput("Standard input is closed")
            return sys.stdin.buffer.read(limit + 1)
        with Path(name).open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror}") from None


def as_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    sys.stdout.write(to_json(value, indent=True).decode() + "\n")


def show_problems(file: str, error: BadDocument[Any]) -> None:
    """Print what is wrong with the document in a file, one problem a line."""
    count = len(error.problems) + error.more
    output.print(f"✗ {file}: {count} {'problem' if count == 1 else 'problems'}", style="bold red")
    for line in error.lines:
        output.print(f"    {line}")


def shortened(text: str, limit: int = 80) -> str:
    """A text in a table: what is longer than this is cut, so that a line stays a line."""
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}…"


def show_facts(facts: Mapping[str, object], *, indent: int = 2, width: int = 10) -> None:
    """Print one line for each fact: its label and its value. A fact that is None is left out."""
    for label, value in facts.items():
        if value is not None:
            output.print(f"{'':{indent}}{label + ':':<{width}} {value}")
