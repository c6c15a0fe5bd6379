"""`monitor_pipeline` as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from orchestration.states import RunStatus
from orchestration.store import runs
from orchestration.store.database import Database
from orchestration.store.runs import NewRun
from tests.cli_helpers import json_of, says_in_one_line, side_by_side
from tests.conftest import Command, clean_environment

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
        run = NewRun(
            run_id=run_id, trace_id=f"trace-{run_id}", source=source, environment="test", payload={}, title="Disk full"
        )
        async with database.transaction() as tx:
            await runs.add_runs(tx, [run])
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
