"""The command `alert-pipeline trace`: the timeline of a push over all its runs, attempts and deliveries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Annotated, NamedTuple

import typer
from rich.text import Text

from orchestration.alert import UtcDatetime
from orchestration.contracts import Contract, Stage
from orchestration.errors import error_in_words
from orchestration.reasons import in_words
from orchestration.settings import load_settings
from orchestration.states import RunStatus, StageStatus
from orchestration.store.database import AsyncConnection
from orchestration.store.records import AttemptRecord, DeliveryRecord, HistoryRecord, RunRecord
from orchestration.store.story import Trace, TracedRun, find_trace, read_trace
from service.cli.reader import read
from service.cli.run_views import ATTEMPT_MARKS, SHORT, STYLES, duration, status_of
from service.cli.terminal import Json, as_json, output, show_facts

_MARK_STYLES = {"✓": "green", "✗": "red", "!": "yellow"}


class Event(Contract):
    """One line of the timeline."""

    at: UtcDatetime
    after_ms: float
    """Milliseconds since the push was accepted."""
    run_id: str
    event: str
    mark: str
    text: str


class _Line(NamedTuple):
    """An event before the time since acceptance is known."""

    at: datetime
    run_id: str
    event: str
    mark: str
    text: str


def trace(
    trace_id: Annotated[
        str, typer.Argument(help="The trace id, as answers, messages and monitor_pipeline show it, or the start of it.")
    ],
    json: Json = False,
) -> int:
    """Show the timeline of a push: each run, attempt, wait, decision and message.

    Exit code: 0, or 1 if no trace id or several trace ids start with TRACE_ID, or if the database does not answer.
    """

    async def query(tx: AsyncConnection) -> Trace:
        return await read_trace(tx, await find_trace(tx, trace_id))

    found = read(load_settings(), query)
    events = timeline(found)
    if json:
        as_json(found.model_dump(mode="json") | {"timeline": [event.model_dump(mode="json") for event in events]})
        return 0
    _show_head(found)
    _show_timeline(events, several=len(found.runs) > 1)
    return 0


def timeline(trace: Trace) -> list[Event]:
    """All events of a push by time. Events of the same moment keep the order of the stages."""
    accepted = min(traced.run.created_at for traced in trace.runs)
    found = [
        Event(**line._asdict(), after_ms=(line.at - accepted).total_seconds() * 1000)
        for line in (*_run_lines(trace.runs), *_incident_lines(trace.history))
    ]
    return sorted(found, key=lambda event: event.at)


def _run_lines(runs: Sequence[TracedRun]) -> Iterator[_Line]:
    for traced in runs:
        run = traced.run
        title = f"accepted: {run.title or 'a push'}, {run.severity.value}"
        yield _Line(run.created_at, run.run_id, "accepted", "·", title)
        if run.started_at is not None:
            by = f" by {_process(traced.first_owner)}" if traced.first_owner else ""
            engine = f", engine {traced.first_engine}" if traced.first_engine else ""
            text = f"claimed{by}{engine} after {_seconds(run.started_at - run.created_at)} in the queue"
            yield _Line(run.started_at, run.run_id, "claimed", "·", text)
        yield from _attempt_lines(traced)
        for delivery in traced.deliveries:
            yield _delivery_line(run, delivery)
        yield from _resume_lines(traced)
        if run.status.final:
            yield _end_line(run)


def _resume_lines(traced: TracedRun) -> Iterator[_Line]:
    """A line for each resume: who asked for it, and which process executed the run from then on."""
    run = traced.run
    for index, resume in enumerate(traced.resumes, 1):
        owner = traced.resumes[index].owner if index < len(traced.resumes) else run.carried_by
        by = f" by {_process(resume.by)}" if resume.by else ""
        # The owner of before means that no process has claimed the run since.
        executed = f", executed by {_process(owner)}" if owner and owner not in (resume.by, resume.owner) else ""
        yield _Line(resume.at, run.run_id, "resumed", "·", f"resumed{by}{executed}")


def _process(owner: str) -> str:
    """The host and the process id of a lease owner."""
    return "/".join(owner.split("/")[:2])


def _attempt_lines(traced: TracedRun) -> Iterator[_Line]:
    run_id = traced.run.run_id
    ended: dict[str, datetime] = {}
    for attempt in traced.attempts:
        at = attempt.started_at or attempt.completed_at or traced.run.created_at
        waited = at - ended[attempt.node_id] if attempt.node_id in ended else None
        mark = ATTEMPT_MARKS[attempt.status]
        yield _Line(at, run_id, f"attempt_{attempt.status.value}", mark, _attempt(attempt, waited))
        if attempt.completed_at is None:
            continue
        ended[attempt.node_id] = attempt.completed_at
        if attempt.stage is Stage.INGEST and attempt.status is StageStatus.SUCCEEDED and traced.told is not None:
            decision = "decided to notify" if traced.told else "decided not to notify"
            text = f"{decision}: {in_words(traced.reason)}"
            yield _Line(attempt.completed_at, run_id, "decided", "·", text)


def _attempt(attempt: AttemptRecord, waited: timedelta | None) -> str:
    name = attempt.node_id if attempt.node_id == attempt.stage else f"{attempt.node_id} ({attempt.stage.value})"
    if attempt.status is StageStatus.SKIPPED:
        return f"{name}: skipped, {(attempt.output_snapshot or {}).get('skipped', 'no reason is on record')}"
    after = f" after a wait of {_seconds(waited)}" if waited is not None else ""
    took = f" in {duration(attempt.duration_ms)}" if attempt.duration_ms is not None else ""
    status = {StageStatus.RETRYING: "failed", StageStatus.PENDING: "not started"}.get(attempt.status, attempt.status)
    retry = ", to be retried" if attempt.status is StageStatus.RETRYING else ""
    error = f": {error_in_words(attempt.error_type, attempt.error_message)}" if attempt.error_type else ""
    return f"{name}, attempt {attempt.attempt}{after}: {status}{took}{retry}{error}"


def _delivery_line(run: RunRecord, delivery: DeliveryRecord) -> _Line:
    mark = {"sent": "✓", "sending": "…"}.get(delivery.status, "✗")
    tries = "1 try" if delivery.tries == 1 else f"{delivery.tries} tries"
    text = f"message to {delivery.channel} ({delivery.driver}, {delivery.target}): {delivery.status}, {tries}"
    text += f", message id {delivery.provider_id}" if delivery.provider_id else ""
    text += f": {delivery.error}" if delivery.error else ""
    at = delivery.settled_at or delivery.created_at
    return _Line(at, run.run_id, f"delivery_{delivery.status}", mark, text)


def _end_line(run: RunRecord) -> _Line:
    at = run.completed_at or run.updated_at
    took = f" after {duration(run.total_duration_ms)}" if run.total_duration_ms is not None else ""
    if run.status is RunStatus.FAILED:
        error = f": {error_in_words(run.last_error_type, run.last_error_message)}" if run.last_error_type else ""
        text = f"failed{took}{error}. Resume it with: alert-pipeline resume {run.run_id}"
        return _Line(at, run.run_id, "failed", "✗", text)
    if run.status is RunStatus.SKIPPED:
        original = f" (run {run.duplicate_of})" if run.duplicate_of else ""
        text = f"skipped{took}: {in_words(run.skip_reason)}{original}"
        return _Line(at, run.run_id, "skipped", "-", text)
    fallback = ", without the analysis" if run.intelligence_fallback_used else ""
    return _Line(at, run.run_id, "notified", "✓", f"notified{took}{fallback}")


def _incident_lines(history: Sequence[HistoryRecord]) -> Iterator[_Line]:
    """The changes of incidents. The changes of alerts, of which there may be thousands, are in the JSON only."""
    for record in history:
        if record.event.startswith("incident_") and record.run_id is not None:
            name = record.event.removeprefix("incident_").replace("_", " ")
            change = f" ({record.old_status} → {record.new_status})" if record.old_status and record.new_status else ""
            text = f"incident {record.incident_id} {name}{change}"
            yield _Line(record.at, record.run_id, record.event, "·", text)


def _seconds(wait: timedelta) -> str:
    return duration(wait.total_seconds() * 1000)


def _show_head(found: Trace) -> None:
    first = found.runs[0].run
    count = "1 run" if found.run_count == 1 else f"{found.run_count} runs"
    output.print(Text.assemble("Trace ", (found.trace_id, "bold"), f": {count}"))
    accepted = f"{first.created_at:%Y-%m-%d %H:%M:%S} UTC"
    output.print(f"  Accepted {accepted} from {first.source}, environment {first.environment}")
    for traced in found.runs:
        _show_run(traced, found)
    if found.run_count > len(found.runs):
        output.print(f"  and {found.run_count - len(found.runs)} more runs, which are not shown")


def _show_run(traced: TracedRun, found: Trace) -> None:
    run = traced.run
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
        "Notify": _notify_decision(traced),
        "Engine": run.engine,
        "Flow run": run.prefect_flow_run_id,
    }
    show_facts(facts, indent=4)


def _notify_decision(traced: TracedRun) -> str | None:
    """Whether the run notifies, and why. None means that the run ended without a decision."""
    reason = in_words(traced.reason or traced.run.skip_reason)
    if traced.told is not None:
        return f"{'yes' if traced.told else 'no'}: {reason}"
    if traced.run.skip_reason:
        return f"no: {reason}"
    return None if traced.run.status.final else "not decided yet"


def _show_timeline(events: Sequence[Event], *, several: bool) -> None:
    output.print()
    day = None
    for event in events:
        if event.at.date() != day:
            day = event.at.date()
            output.print(f"  {day:%Y-%m-%d}", style="bold")
        since = f"+{duration(event.after_ms)}"
        line = Text(f"  {event.at:%H:%M:%S}.{event.at.microsecond // 1000:03}  {since:>10}  ")
        line.append(f"{event.run_id[:SHORT]}  " if several else "", style="dim")
        line.append(f"{event.mark} ", style=_MARK_STYLES.get(event.mark, ""))
        line.append(event.text)
        output.print(line)
