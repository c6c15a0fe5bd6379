"""`monitor_pipeline` as a user runs it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestration.states import RunStatus
from orchestration.store.database import Database
from orchestration.store.runs import RunFilter
from service.cli.monitor_pipeline import Changes, Poll, watch_runs
from tests import stack_fixtures
from tests.api_helpers import until
from tests.cli_helpers import Start, json_of, says_in_one_line, side_by_side
from tests.conftest import Command, clean_environment
from tests.store_helpers import add_runs, new_run

pytest_plugins = ["tests.cli_helpers"]

KNOWN = {
    "aaaa11110000": ("grafana", RunStatus.NOTIFIED),
    "aaaa22220000": ("generic", RunStatus.FAILED),
    "bbbb33330000": ("generic", RunStatus.SKIPPED),
}


async def keep_runs(database: Database, more: int = 0) -> None:
    """The runs of KNOWN, the last one the newest, after `more` older ones that are pending."""
    new = {f"cccc{n:08}": ("zabbix", RunStatus.PENDING) for n in range(more)} | KNOWN
    for run_id, (source, status) in new.items():  # a transaction each, so that they differ in age
        run = new_run(run_id=run_id, trace_id=f"trace-{run_id}", source=source, title="Disk full")
        async with database.transaction() as tx:
            await add_runs(tx, run)
            if status.final:
                await tx.exec_driver_sql(f"update pipeline_run set status = '{status.value}' where run_id = '{run_id}'")


async def test_the_latest_runs_are_listed_and_filtered(command: Command, database: Database) -> None:
    await keep_runs(database, more=10)
    listed, limited, completed, failed, by_source, none = side_by_side(
        command,
        (["monitor_pipeline"], {}),
        (["monitor_pipeline", "--limit", "50", "--json"], {}),
        (["monitor_pipeline", "--status", "completed"], {}),
        (["monitor_pipeline", "--status", "FaiLED", "--json"], {}),
        (["monitor_pipeline", "--source", "generic", "--json"], {}),
        (["monitor_pipeline", "--status", "retrying"], {}),
    )
    head, *lines = listed.stdout.splitlines()
    assert head.split() == ["RUN", "ID", "STATUS", "TRACE", "ID", "SOURCE", "CREATED", "DURATION", "WHAT"]
    assert len(lines) == 10
    assert lines[0].split()[:3] == ["bbbb33330000", "skipped", "trace-bbbb33330000"]
    assert [len(json_of(limited)), json_of(limited)[-1]["run_id"]] == [13, "cccc00000000"]
    assert [line.split()[:2] for line in completed.stdout.splitlines()[1:]] == [["aaaa11110000", "notified"]]
    assert [run["run_id"] for run in json_of(failed)] == ["aaaa22220000"]
    assert [run["run_id"] for run in json_of(by_source)] == ["bbbb33330000", "aaaa22220000"]
    assert none.stdout == "No pipeline runs\n"
    assert {done.returncode for done in (listed, limited, completed, failed, by_source, none)} == {0}
    assert listed.stderr == ""


async def add(database: Database, run_id: str, **more: Any) -> None:
    fields = {"source": "grafana", "title": "Disk full"} | more
    async with database.transaction() as tx:
        await add_runs(tx, new_run(run_id=run_id, **fields))


async def move(database: Database, run_id: str, status: str) -> None:
    async with database.transaction() as tx:
        changes = f"status = '{status}', updated_at = clock_timestamp(), total_duration_ms = 412"
        await tx.exec_driver_sql(f"update pipeline_run set {changes} where run_id = '{run_id}'")


async def test_in_a_pipe_watching_is_a_line_a_change_until_ctrl_c(start: Start, database: Database) -> None:
    await keep_runs(database)
    lines = start("monitor_pipeline", "--watch")
    objects = start("monitor_pipeline", "--watch", "--json", "--environment", "production", "--limit", "1")
    lines.wait_until_it_prints("bbbb33330000  skipped  generic")
    await add(database, "dddd44440000")
    lines.wait_until_it_prints("dddd44440000  pending  grafana  -  Disk full")
    await move(database, "dddd44440000", "notified")
    lines.wait_until_it_prints("dddd44440000  notified  grafana  412 ms  Disk full")
    await add(database, "eeee55550000", environment="production")
    objects.wait_until_it_prints("eeee55550000")

    ended, other = lines.end(signal.SIGINT), objects.end(signal.SIGINT)

    assert (ended.returncode, ended.stderr, other.returncode, other.stderr) == (0, "", 0, "")
    seen = [line.split()[2] for line in ended.stdout.splitlines()]
    assert seen[:5] == ["aaaa11110000", "aaaa22220000", "bbbb33330000", "dddd44440000", "dddd44440000"]
    assert [json.loads(line)["run_id"] for line in other.stdout.splitlines()] == ["eeee55550000"]


async def test_on_a_terminal_watching_is_one_table(home: Path, database: Database) -> None:
    await keep_runs(database)
    with on_a_terminal(home, "--watch", "--limit", "2") as terminal:
        terminal.wait_for("bbbb33330000")
        await add(database, "dddd44440000")
        terminal.wait_for("dddd44440000")
        terminal.press_ctrl_c()
        assert terminal.process.wait(20) == 0
    assert "2 runs, 1 in progress" in terminal.seen
    assert "Error" not in terminal.seen
    assert terminal.seen.rindex("\x1b[?25h") > terminal.seen.rindex("\x1b[?25l")  # the cursor is back


async def test_watching_ends_without_a_word_when_nobody_reads_on(home: Path, database: Database) -> None:
    await keep_runs(database)
    with piped(home, "--watch") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        await add(database, "dddd44440000")
        assert process.wait(30) == 1
        assert process.stderr.read() == ""


async def test_watching_one_run_is_refused(home: Path) -> None:
    refused = watched(home, "--watch", "--run-id", "aaaa")
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: --watch shows the latest runs")


async def test_what_has_changed_between_two_polls(database: Database) -> None:
    await keep_runs(database, more=5)
    changes = Changes(database, RunFilter(), 3)

    async def news() -> list[str]:
        return [run.run_id for run in (await changes.poll()).changed]

    assert await news() == ["aaaa11110000", "aaaa22220000", "bbbb33330000"]
    assert await news() == []  # the older ones, which are now in sight too, are no news
    for n in range(250):
        await add(database, f"ffff{n:08}")
    assert await news() == [f"ffff{n:08}" for n in range(250)]
    await move(database, "ffff00000000", "notified")  # far behind the newest hundred, and still moving when last seen
    await move(database, "ffff00000249", "ingested")
    assert await news() == ["ffff00000000", "ffff00000249"]
    assert [run.run_id for run in (await changes.poll()).latest] == ["ffff00000249", "ffff00000248", "ffff00000247"]


async def test_a_run_that_leaves_the_filter_leaves_the_table(database: Database) -> None:
    await keep_runs(database)
    changes = Changes(database, RunFilter(status=RunStatus.FAILED), 10)
    assert [run.run_id for run in (await changes.poll()).latest] == ["aaaa22220000"]
    await move(database, "aaaa22220000", "retrying")
    await move(database, "bbbb33330000", "failed")
    poll = await changes.poll()
    assert [run.run_id for run in poll.changed] == [run.run_id for run in poll.latest] == ["bbbb33330000"]


class Kept:
    """A view that keeps what it is shown."""

    def __init__(self) -> None:
        self.polls: list[Poll] = []
        self.outages: list[str] = []

    def show(self, poll: Poll) -> None:
        self.polls.append(poll)

    def show_outage(self, reason: str) -> None:
        self.outages.append(reason)


async def test_watching_outlives_an_outage_of_the_database(database: Database) -> None:
    kept = Kept()
    away = Database("postgresql://me@127.0.0.1:1/alerts")
    watching = asyncio.create_task(watch_runs(away, RunFilter(), 10, kept))
    await until(lambda: len(kept.outages) > 1, "two polls of a database that is not there")
    vars(away).update(vars(database))
    await until(lambda: kept.polls, "a poll")
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)

    assert kept.outages[0].startswith("The database does not answer: ")


async def test_one_run_is_found_by_the_start_of_its_id(command: Command, database: Database) -> None:
    await keep_runs(database)
    shown, as_json, ambiguous, unknown, wildcard = side_by_side(
        command,
        (["monitor_pipeline", "--run-id", "bbbb"], {}),
        (["monitor_pipeline", "--run-id", "aaaa22220000", "--json"], {}),
        (["monitor_pipeline", "--run-id", "aaaa"], {}),
        (["monitor_pipeline", "--run-id", "dddd"], {}),
        (["monitor_pipeline", "--run-id", "%"], {}),
    )
    assert shown.returncode == 0
    assert shown.stdout.startswith("Disk full: skipped\n")
    assert "Run:          bbbb33330000" in shown.stdout
    assert json_of(as_json)["run"]["run_id"] == "aaaa22220000"
    assert (json_of(as_json)["attempts"], json_of(as_json)["deliveries"]) == ([], [])
    assert says_in_one_line(ambiguous, 1).startswith("Several runs start with 'aaaa': aaaa")
    assert says_in_one_line(unknown, 1).startswith("There is no pipeline run 'dddd'")
    assert says_in_one_line(wildcard, 1).startswith("There is no pipeline run '%'")


async def test_it_looks_without_importing_prefect(home: Path, database: Database) -> None:
    await keep_runs(database)
    finished = watched(home, "--run-id", "bbbb")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("Disk full: skipped")
    assert finished.stderr == "[]\n"


class Terminal:
    """`monitor_pipeline` on a terminal of its own."""

    def __init__(self, home: Path, *words: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 160, 0, 0))
        self.seen = ""
        self.process = subprocess.Popen(
            [str(Path(sys.executable).parent / "monitor_pipeline"), *words],
            env={**clean_environment(), "ALERT_PIPELINE_HOME": str(home), "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, text: str) -> None:
        stack_fixtures.until(lambda: text in self.seen or self.process.poll() is not None, repr(text))
        assert text in self.seen

    def press_ctrl_c(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        self._reader.join(20)
        os.close(self._master)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the other end is closed: the command has ended
            while chunk := os.read(self._master, 65536):
                self.seen += chunk.decode(errors="replace")


@contextlib.contextmanager
def piped(home: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`monitor_pipeline` whose output is read while it runs."""
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "monitor_pipeline"), *words],
        env={**clean_environment(), "ALERT_PIPELINE_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def on_a_terminal(home: Path, *words: str) -> Iterator[Terminal]:
    with contextlib.closing(Terminal(home, *words)) as terminal:
        yield terminal


def watched(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`monitor_pipeline` with these words; at its end it says which heavy packages it has imported."""
    program = (
        "import sys; from service.cli.monitor_pipeline import main\n"
        "try: main()\n"
        "finally: print(sorted({'prefect', 'alembic', 'httpx'} & set(sys.modules)), file=sys.stderr)"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        env={**clean_environment(), "ALERT_PIPELINE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
    )
