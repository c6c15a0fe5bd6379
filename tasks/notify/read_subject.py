"""What a message says: the incident as it is now, and what the run has found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast
from zoneinfo import ZoneInfo

from orchestration.alert import Severity
from orchestration.contracts import AnalyzeResult, ChangeEvent, CheckResult, IngestResult, TransformResult
from orchestration.engine.run import ActiveRun, Step
from orchestration.escalation import EscalationProgress, progress_of
from orchestration.pages import pages_of
from orchestration.responses import offered_for
from orchestration.settings import Settings
from orchestration.store.change_events import changes_of
from orchestration.store.database import AsyncConnection
from orchestration.store.open_storms import read_storm
from orchestration.store.present import Present, read_present
from orchestration.store.story import all_checks
from tasks.notify.subject import MessageSubject


async def read_subject(run: ActiveRun, step: Step) -> MessageSubject:
    """The subject of this node's message, from what is true at this moment.

    Raises:
        Unavailable: the database does not answer.
    """
    found = _found_by(run, step)
    incident_id = run.record.incident_id
    if incident_id is None:
        return found
    async with run.services.database.statement() as tx:
        present = await read_present(tx, incident_id)
        changes = await _changes_of(tx, present, found, run.services.settings)
        storm = await read_storm(tx, incident_id) if present.incident.is_storm else None
    subject = _with_present(found, present, reconciles=bool(run.found(IngestResult, step.before)))
    subject = replace(subject, changes=changes, storm=storm)
    if subject.version is None or run.services.settings.slack_signing_secret is None:
        return subject
    return replace(subject, buttons=offered_for(present.incident))


async def _changes_of(
    tx: AsyncConnection, present: Present, found: MessageSubject, settings: Settings
) -> Sequence[ChangeEvent]:
    """What was changed before an incident that has not ended."""
    if present.incident.status.ended:
        return ()
    return await changes_of(tx, present.incident, present.alerts or found.alerts, settings)


def _with_present(found: MessageSubject, present: Present, *, reconciles: bool) -> MessageSubject:
    progress = progress_of(present.incident)
    return replace(
        found,
        incident=present.incident,
        alerts=present.alerts or found.alerts,
        unread=present.unread if present.alerts else 0,
        omitted=max(present.omitted, found.omitted if present.incident.status.ended else 0),
        firing=present.firing,
        resolved=present.resolved,
        upcoming=present.upcoming,
        rose_from=present.rose_from,
        given_up=present.given_up,
        ended=present.ended,
        ended_by=present.ended_by,
        at=present.at,
        zone=ZoneInfo(progress.time_zone) if progress is not None and progress.time_zone else None,
        on_call=_on_call(progress),
        on_call_until=progress.on_call_until if progress is not None else None,
        # A node that no ingest comes before says something about an incident that nobody else says.
        version=present.incident.version if reconciles else None,
    )


def _on_call(progress: EscalationProgress | None) -> str:
    """Who was notified by the escalation last, and what went wrong with that."""
    if progress is None:
        return ""
    return "; ".join([", ".join(progress.people), *(step.note for step in progress.last)]).strip("; ")


_SUSPECT = "processes ended during this run: its checks and its analysis are left out"


def _failures(run: ActiveRun, step: Step) -> list[str]:
    """The nodes at which the followed run has failed, so that the message says what it lacks."""
    if run.followed is None:
        return []
    failed = ((node_id, run.failed[node_id]) for node_id in step.before if node_id in run.failed)
    return [f"{node_id} failed, and is left out: {error.message}" for node_id, error in failed]


def _said_by(run: ActiveRun) -> dict[str, Any]:
    """What the payload of a definition without alerts says: its `title`, its `message` and its `severity`."""
    given = run.start_value if run.push.data is not None else None
    said = cast("dict[str, object]", given) if isinstance(given, dict) else {}
    text, severity = said.get("message"), said.get("severity")
    known = severity in [one.value for one in Severity]
    return {
        "title": run.record.title,
        "text": text if isinstance(text, str) else "",
        "said_severity": Severity(str(severity)) if known else None,
    }


def _found_by(run: ActiveRun, step: Step) -> MessageSubject:
    record = run.record
    ingested = run.found(IngestResult, step.before)
    analyses = run.found(AnalyzeResult, step.before)
    results = {node_id: run.results.get(node_id) for node_id in step.before}
    return MessageSubject(
        run_id=record.run_id,
        trace_id=record.trace_id,
        source=record.source,
        environment=record.environment,
        node_id=step.node.id,
        incident=None,
        alerts=run.alerts,
        reason=ingested[-1].reason if ingested else "",
        kept_back=ingested[-1].note if ingested else "",
        check=all_checks(run.found(CheckResult, step.before)),
        analysis=analyses[-1] if analyses else None,
        extracts={node_id: made.output for node_id, made in results.items() if isinstance(made, TransformResult)},
        firing=0,
        resolved=0,
        **(_said_by(run) if record.options.defined else {}),
        test=record.options.test,
        pages=pages_of(run.services.settings, incident_id=record.incident_id, flow_run_id=record.prefect_flow_run_id),
        omitted=run.push.omitted,
        pipeline=[note for note in (run.plan.note, _SUSPECT if run.suspect else "", *_failures(run, step)) if note],
    )
