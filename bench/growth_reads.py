"""What people and programs read of a store: each list of the API, the admin and the commands, and each page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import IncidentStatus, Severity
from orchestration.states import RunStatus
from orchestration.store.change_events import list_changes
from orchestration.store.database import read_clock
from orchestration.store.gauges import read_state
from orchestration.store.incident_list import IncidentFilter, find_by_words, list_incidents, parse_statuses
from orchestration.store.incidents import firing_labels, read_incident
from orchestration.store.overview import read_overview, read_trouble
from orchestration.store.past_pages import read_past_pages
from orchestration.store.refused import list_refused
from orchestration.store.runs import RunFilter, list_page
from orchestration.store.story import read_story, read_trace
from orchestration.store.timers import list_upcoming
from orchestration.store.why import read_why
from service.admin.records import RecordView
from service.admin.tables import AlertView, AttemptView, IncidentView, RunView

_PAGE = 50
_FEW = 8
"""The page of a list of which the young store has few rows: as many are read from each store."""


@dataclass(frozen=True, kw_only=True)
class Landmarks:
    """Rows of a store that pages and searches are about: a run of yesterday, its incident, and how far it is down."""

    run_id: str
    trace_id: str
    incident_id: int
    incident_key: str
    title: str
    fingerprint: str
    tenth_page: str | None
    tenth_incidents: str | None


Read = Callable[[AsyncConnection, Landmarks], Awaitable[object]]

_LANDMARKS = text(
    """
    select run.run_id, run.trace_id, run.incident_id, run.incident_key, incident.title,
        run.alert_fingerprint as fingerprint
    from pipeline_run as run join incident on incident.id = run.incident_id
    where run.status = 'notified' order by run.id desc offset 400 limit 1
    """
)


async def find_landmarks(tx: AsyncConnection) -> Landmarks:
    """The landmarks of a seeded store."""
    row = (await tx.execute(_LANDMARKS)).mappings().one()
    runs = incidents = None
    for _ in range(9):
        runs = (await list_page(tx, RunFilter(), limit=_PAGE, cursor=runs)).next_cursor
        incidents = (await list_incidents(tx, IncidentFilter(), limit=_PAGE, cursor=incidents)).next_cursor
    return Landmarks(**row, tenth_page=runs, tenth_incidents=incidents)


def _runs(tenth: bool = False, limit: int = _PAGE, **wanted: Any) -> Read:
    def read(tx: AsyncConnection, marks: Landmarks) -> Awaitable[object]:
        cursor = marks.tenth_page if tenth else None
        return list_page(tx, RunFilter.model_validate(wanted), limit=limit, cursor=cursor)

    return read


def _incidents(tenth: bool = False, **wanted: Any) -> Read:
    def read(tx: AsyncConnection, marks: Landmarks) -> Awaitable[object]:
        cursor = marks.tenth_incidents if tenth else None
        return list_incidents(tx, IncidentFilter.model_validate(wanted), limit=_PAGE, cursor=cursor)

    return read


def _admin(view: type[RecordView], **asked: str) -> Read:
    def read(tx: AsyncConnection, marks: Landmarks) -> Awaitable[object]:
        return view().page(tx, {name: value.format_map(vars(marks)) for name, value in asked.items()})

    return read


async def _refused(tx: AsyncConnection, marks: Landmarks) -> object:
    now = await read_clock(tx)
    words = marks.title.split(" on ")
    return await list_refused(tx, since=now - timedelta(days=1), until=now, words=words)


async def _past_pages(tx: AsyncConnection, _: Landmarks) -> object:
    since = await read_clock(tx) - timedelta(days=1)
    return [page async for page in read_past_pages(tx, since, limit=1000)]


READS: Mapping[str, Read] = {
    "run page": lambda tx, marks: read_story(tx, marks.run_id),
    "trace": lambda tx, marks: read_trace(tx, marks.trace_id),
    "incident page": lambda tx, marks: read_incident(tx, marks.incident_id),
    "why RUN": lambda tx, marks: read_why(tx, marks.run_id),
    "why INCIDENT": lambda tx, marks: read_why(tx, str(marks.incident_id)),
    "why 'TITLE'": lambda tx, marks: read_why(tx, marks.title),
    "why 'nobody has seen this'": lambda tx, _: read_why(tx, "nobody has seen this"),
    "runs": _runs(),
    "runs, 10th page": _runs(tenth=True),
    "runs, failed": _runs(status=RunStatus.FAILED),
    "runs, failed, 10th page": _runs(tenth=True, status=RunStatus.FAILED),
    "runs, retrying: none": _runs(status=RunStatus.RETRYING),
    "runs of a source": _runs(source="generic"),
    "runs of a source that has none": _runs(source="nagios"),
    "runs of an environment": _runs(environment="development"),
    "runs of an environment that has none": _runs(environment="nowhere"),
    "runs at stage check": _runs(limit=_FEW, stage="check"),
    "runs at a stage that has none": _runs(stage="enrich"),
    "runs, failed at notify, of a source": _runs(
        limit=_FEW, status=RunStatus.FAILED, stage="notify", source="alertmanager"
    ),
    "runs, failed, of an environment that has none": _runs(status=RunStatus.FAILED, environment="nowhere"),
    "runs of a fingerprint": lambda tx, marks: list_page(tx, RunFilter(search=marks.fingerprint), limit=_PAGE),
    "runs, upcoming": lambda tx, _: list_upcoming(tx),
    "incidents, open": _incidents(statuses=parse_statuses("open")),
    "incidents": _incidents(),
    "incidents, 10th page": _incidents(tenth=True),
    "incidents, closed: none": _incidents(statuses=frozenset({IncidentStatus.CLOSED})),
    "incidents, critical": _incidents(severity=Severity.CRITICAL),
    "incidents of an environment that has none": _incidents(environment="nowhere"),
    "incidents of a source that has none": _incidents(source="nagios"),
    "incident by its number": lambda tx, marks: find_by_words(tx, f"#{marks.incident_id}"),
    "alerts that fire": lambda tx, _: firing_labels(tx, "production"),
    "refused pushes of a day": _refused,
    "changes": lambda tx, _: list_changes(tx, limit=_FEW),
    "pages of a day, for a simulation": _past_pages,
    "overview": lambda tx, _: read_overview(tx),
    "metrics": lambda tx, _: read_state(tx),
    "doctor": lambda tx, _: read_trouble(tx, stuck_after_seconds=900),
    "admin: runs": _admin(RunView),
    "admin: incidents, critical": _admin(IncidentView, severity="critical"),
    "admin: incidents, closed: none": _admin(IncidentView, status="closed"),
    "admin: incidents of a key": _admin(IncidentView, search="{incident_key}"),
    "admin: alerts": _admin(AlertView),
    "admin: alerts, critical": _admin(AlertView, severity="critical"),
    "admin: alerts of a fingerprint": _admin(AlertView, search="{fingerprint}"),
    "admin: attempts": _admin(AttemptView),
    "admin: attempts, failed": _admin(AttemptView, status="failed"),
    "admin: attempts of a run": _admin(AttemptView, search="{run_id}"),
}
"""Each is called in a transaction of its own."""
