"""`alert-pipeline trace`: what became of a push, as one timeline over its runs, attempts and deliveries."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from orchestration.settings import load_settings
from orchestration.store.database import Database
from orchestration.store.story import Trace, TracedRun, find_trace, read_trace
from service.cli.reader import read
from service.cli.run_table import SHORT, STYLES, duration, status_of
from service.cli.terminal import as_json, output
from service.cli.timeline import Event, timeline
from tasks.ingest.incidents import reason_in_words


def trace(
    trace_id: Annotated[
        str, typer.Argument(help="The push's trace id, as answers, messages and monitor_pipeline show it; its start.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print the story as JSON, and nothing else.")] = False,
) -> int:
    """Tell what became of a push: taken when, carried by whom, each attempt, each wait, each message, and why.

    Exit code: 0, or 1 when there is no such trace id, several start so, or the database does not answer.
    """

    async def work(database: Database) -> Trace:
        async with database.transaction() as tx:
            return await read_trace(tx, await find_trace(tx, trace_id))

    found = read(load_settings(), work)
    events = timeline(found)
    if json:
        as_json(found.model_dump(mode="json") | {"timeline": [event.model_dump(mode="json") for event in events]})
        return 0
    _show_head(found)
    _show_timeline(events, several=len(found.runs) > 1)
    return 0


def _show_head(found: Trace) -> None:
    first = found.runs[0].run
    many = "1 run" if found.run_count == 1 else f"{found.run_count} runs"
    output.print(Text.assemble("Trace ", (found.trace_id, "bold"), f": {many}"))
    accepted = f"{first.created_at:%Y-%m-%d %H:%M:%S} UTC"
    output.print(f"  Accepted {accepted} from {first.source}, environment {first.environment}", markup=False)
    for one in found.runs:
        _show_run(one, found)
    if found.run_count > len(found.runs):
        output.print(f"  and {found.run_count - len(found.runs)} more runs, which are not shown", markup=False)


def _show_run(one: TracedRun, found: Trace) -> None:
    run = one.run
    output.print()
    style = f"bold {STYLES.get(run.status, '')}".strip()
    took = f" after {duration(run.total_duration_ms)}" if run.total_duration_ms is not None else ""
    output.print(Text.assemble(f"  {run.title or 'Run'}: ", (status_of(run), style), took))
    incident = next((each for each in found.incidents if each.id == run.incident_id), None)
    facts = {
        "Run": run.run_id,
        "Severity": run.severity.value,
        "Incident": f"{incident.id} ({incident.status.value}, {incident.severity.value}): {incident.title}"
        if incident
        else "none",
        "Told": _telling(one),
        "Engine": run.engine,
        "Flow run": run.prefect_flow_run_id,
    }
    for label, value in facts.items():
        if value:
            output.print(f"    {label + ':':<10} {value}", markup=False)


def _telling(one: TracedRun) -> str:
    """Whether somebody is told, and why; what has become of it stands in the timeline."""
    reason = reason_in_words(one.reason or one.run.skip_reason)
    if one.told is None:
        return f"nobody: {reason}" if one.run.skip_reason else "not decided yet" if not one.run.status.final else ""
    return f"{'yes' if one.told else 'nobody'}: {reason}"


def _show_timeline(events: list[Event], *, several: bool) -> None:
    output.print()
    day = None
    for event in events:
        if event.at.date() != day:
            day = event.at.date()
            output.print(f"  {day:%Y-%m-%d}", style="bold")
        line = Text(f"  {event.at:%H:%M:%S}.{event.at.microsecond // 1000:03}  {_after(event.after_ms):>10}  ")
        line.append(f"{event.run_id[:SHORT]}  " if several else "", style="dim")
        line.append(f"{event.mark} ", style=_MARK_STYLES.get(event.mark, ""))
        line.append(event.text)
        output.print(line)


_MARK_STYLES = {"✓": "green", "✗": "red", "!": "yellow"}


def _after(milliseconds: float) -> str:
    return f"+{duration(milliseconds)}"
