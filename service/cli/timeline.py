"""The events of a push in the order in which they happened."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from orchestration.alert import UtcDatetime
from orchestration.contracts import Contract, Stage
from orchestration.states import RunStatus, StageStatus
from orchestration.store.records import AttemptRecord, DeliveryRecord, HistoryRecord, RunRecord
from orchestration.store.story import Trace, TracedRun
from service.cli.run_table import duration
from tasks.ingest.incidents import reason_in_words

_MARKS = {
    StageStatus.SUCCEEDED: "✓",
    StageStatus.FAILED: "✗",
    StageStatus.RETRYING: "✗",
    StageStatus.SKIPPED: "-",
}


class Event(Contract):
    """One thing that happened."""

    at: UtcDatetime
    after_ms: float
    """Since the push was accepted."""
    run_id: str
    event: str
    mark: str
    text: str


def timeline(trace: Trace) -> list[Event]:
    """All events of a push; those of one moment in the order in which they belong."""
    accepted = min(one.run.created_at for one in trace.runs)
    found = [
        Event(at=at, after_ms=(at - accepted).total_seconds() * 1000, run_id=run_id, event=event, mark=mark, text=said)
        for at, run_id, event, mark, said in (*_of_runs(trace), *_of_history(trace))
    ]
    return sorted(found, key=lambda event: event.at)


_Line = tuple[datetime, str, str, str, str]


def _of_runs(trace: Trace) -> Iterator[_Line]:
    for one in trace.runs:
        run = one.run
        yield run.created_at, run.run_id, "accepted", "·", f"accepted: {run.title or 'a push'}, {run.severity.value}"
        if run.started_at is not None:
            yield run.started_at, run.run_id, "claimed", "·", _claimed(one)
        yield from _of_attempts(one)
        for delivery in one.deliveries:
            yield _delivered(run, delivery)
        for resume in one.resumes:
            yield resume.at, run.run_id, "resumed", "·", f"resumed{f' by {resume.by}' if resume.by else ''}"
        if run.status.final:
            yield _ended(run)


def _claimed(one: TracedRun) -> str:
    run = one.run
    waited = (run.started_at or run.created_at) - run.created_at
    by = f" by {'/'.join(one.first_owner.split('/')[:2])}" if one.first_owner else ""
    engine = f", engine {one.first_engine}" if one.first_engine else ""
    return f"taken up{by}{engine} after {duration(waited.total_seconds() * 1000)} in the inbox"


def _of_attempts(one: TracedRun) -> Iterator[_Line]:
    ended: dict[str, datetime] = {}
    for attempt in one.attempts:
        at = attempt.started_at or attempt.completed_at or one.run.created_at
        waited = at - ended[attempt.node_id] if attempt.node_id in ended else None
        event = f"attempt_{attempt.status.value}"
        yield at, one.run.run_id, event, _MARKS.get(attempt.status, "…"), _tried(attempt, waited)
        if attempt.completed_at is not None:
            ended[attempt.node_id] = attempt.completed_at
        decided = attempt.stage is Stage.INGEST and attempt.status is StageStatus.SUCCEEDED
        if decided and attempt.completed_at and one.told is not None:
            said = "somebody is to be told" if one.told else "nobody is told"
            yield attempt.completed_at, one.run.run_id, "decided", "·", f"{said}: {reason_in_words(one.reason)}"


def _tried(attempt: AttemptRecord, waited: timedelta | None) -> str:
    name = attempt.node_id if attempt.node_id == attempt.stage else f"{attempt.node_id} ({attempt.stage.value})"
    if attempt.status is StageStatus.SKIPPED:
        return f"{name}: left out, {(attempt.output_snapshot or {}).get('skipped', 'no reason is on record')}"
    after = f" after a wait of {duration(waited.total_seconds() * 1000)}" if waited is not None else ""
    took = f" in {duration(attempt.duration_ms)}" if attempt.duration_ms is not None else ""
    said = {StageStatus.RETRYING: "failed", StageStatus.PENDING: "not begun"}.get(attempt.status, attempt.status.value)
    again = ", to be tried again" if attempt.status is StageStatus.RETRYING else ""
    error = f": {attempt.error_type}: {attempt.error_message}" if attempt.error_type else ""
    return f"{name}, attempt {attempt.attempt}{after}: {said}{took}{again}{error}"


def _delivered(run: RunRecord, delivery: DeliveryRecord) -> _Line:
    mark = {"sent": "✓", "sending": "…"}.get(delivery.status, "✗")
    tries = "1 try" if delivery.tries == 1 else f"{delivery.tries} tries"
    said = f"message to {delivery.channel} ({delivery.driver}, {delivery.target}): {delivery.status}, {tries}"
    more = f", their id {delivery.provider_id}" if delivery.provider_id else ""
    more += f": {delivery.error}" if delivery.error else ""
    return delivery.settled_at or delivery.created_at, run.run_id, f"delivery_{delivery.status}", mark, said + more


def _ended(run: RunRecord) -> _Line:
    at = run.completed_at or run.updated_at
    took = f" after {duration(run.total_duration_ms)}" if run.total_duration_ms is not None else ""
    if run.status is RunStatus.FAILED:
        error = f": {run.last_error_type}: {run.last_error_message}" if run.last_error_type else ""
        said = f"failed{took}{error}. Go on with: alert-pipeline resume {run.run_id}"
        return at, run.run_id, "failed", "✗", said
    if run.status is RunStatus.SKIPPED:
        of = f" (run {run.duplicate_of})" if run.duplicate_of else ""
        return at, run.run_id, "skipped", "-", f"skipped{took}: {reason_in_words(run.skip_reason)}{of}"
    fallback = ", without the analysis" if run.intelligence_fallback_used else ""
    return at, run.run_id, "notified", "✓", f"notified{took}{fallback}"


def _of_history(trace: Trace) -> Iterator[_Line]:
    """What became of the incidents; of the alerts there may be thousands, and they stand in the JSON."""
    for line in trace.history:
        if line.event.startswith("incident_") and line.run_id is not None:
            yield line.at, line.run_id, line.event, "·", _changed(line)


def _changed(line: HistoryRecord) -> str:
    what = line.event.removeprefix("incident_").replace("_", " ")
    change = f" ({line.old_status} → {line.new_status})" if line.old_status and line.new_status else ""
    return f"incident {line.incident_id} {what}{change}"
