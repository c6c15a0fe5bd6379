"""The alerts of one run while they are recorded: compared with what is known of them, and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import Alert, AlertStatus, Severity
from orchestration.errors import PipelineError
from orchestration.news import KnownAlert, Moments, News, news_of
from orchestration.store.ingest_order import QueuedRun
from orchestration.store.models import AlertRow, HistoryRow
from orchestration.store.prepared import Prepared
from orchestration.store.table import Base, as_json, columns_of, insert_many

CHUNK = 1000
"""How many rows a statement writes or reads at most."""

_A = AlertRow
_STORED = {column.name for column in columns_of(AlertRow, Alert)}


class RecordedMeanwhile(PipelineError):
    """An alert that was not known has been recorded by a push about another incident. It can be recorded again."""


@dataclass(kw_only=True)
class Recording:
    """The alerts of one run while they are recorded."""

    run: QueuedRun
    known: Mapping[str, tuple[int, KnownAlert]]
    """The ids of the known alerts and what is known of them, by fingerprint."""
    news: Mapping[str, News]
    """What is new about each alert, by fingerprint."""
    moments: Mapping[str, Moments]
    omitted: int = 0
    """How many alerts the sender has left out of a group of which it says that it fires."""
    route: Callable[[], str] | None = None
    """Names the route that the alerts take."""
    group: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The incident's `details`: its source, and the sizes of a group that its sender has cut off."""
    history: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """The lines of history to write."""

    @property
    def latest(self) -> datetime | None:
        """The latest moment that the alerts name."""
        return max(_known(*(moments.latest for moments in self.moments.values())), default=None)

    def count(self, wanted: News) -> int:
        """How many of the alerts are such news."""
        return sum(news is wanted for news in self.news.values())

    def only_repeats(self, alert: Alert) -> bool:
        """Whether a firing alert says nothing that a person who has resolved its incident did not know.

        Without its start nobody can tell whether it fires anew. What has become worse is news, as it is for whoever has
        acknowledged an incident.
        """
        if self.news[alert.fingerprint] is not News.REPEAT or alert.episode_at is None:
            return False
        known = self.known[alert.fingerprint][1]
        return self.moments[alert.fingerprint].overtaken or alert.severity.rank <= known.severity.rank

    def note(self, event: str, *, alert_id: int | None = None, old: str | None = None, new: str | None = None) -> None:
        """Add a line of history, which `write_history()` writes."""
        line = {"event": event, "alert_id": alert_id, "old_status": old, "new_status": new}
        self.history.append({**line, "run_id": self.run.run_id})


async def compare(tx: AsyncConnection, alerts: Sequence[Alert], run: QueuedRun) -> Recording:
    """Compare what the alerts of a run say with what is known of them. The rows of known alerts are locked."""
    known = await _known_alerts(tx, alerts, run.environment)
    moments: dict[str, Moments] = {}
    news: dict[str, News] = {}
    for alert in alerts:
        _, before = known.get(alert.fingerprint, (0, None))
        overtaken = before is not None and run.id < (before.last_run or 0)
        moments[alert.fingerprint] = Moments.of(alert, run.created_at, overtaken=overtaken)
        news[alert.fingerprint] = news_of(alert, before, moments[alert.fingerprint])
    return Recording(run=run, known=known, news=news, moments=moments)


_KNOWN_FIELDS = [*KnownAlert.__dataclass_fields__]
_KNOWN = Prepared(
    select(_A.id, _A.fingerprint, *(getattr(_A, name) for name in _KNOWN_FIELDS))
    .where(
        _A.source == bindparam("source"),
        _A.environment == bindparam("place"),
        _A.fingerprint == func.any(bindparam("fingerprints")),
    )
    .order_by(_A.id)
    .with_for_update()
)


async def _known_alerts(
    tx: AsyncConnection, alerts: Sequence[Alert], environment: str
) -> dict[str, tuple[int, KnownAlert]]:
    """The ids of these alerts and what is known of them before this push, by fingerprint. Their rows are locked."""
    known: dict[str, tuple[int, KnownAlert]] = {}
    for start in range(0, len(alerts), CHUNK):
        wanted = [alert.fingerprint for alert in alerts[start : start + CHUNK]]
        keys = {"source": alerts[0].source, "place": environment, "fingerprints": wanted}
        for row in await _KNOWN.rows(tx, keys):
            values = {name: row[name] for name in _KNOWN_FIELDS}
            values |= {"status": AlertStatus(row["status"]), "severity": Severity(row["severity"])}
            known[row["fingerprint"]] = row["id"], KnownAlert(**values)
    return known


@cache
def _insert_of(table: type[Base], names: tuple[str, ...], more: str = "") -> Prepared:
    return Prepared(insert_many(table, names, more))


@cache
def _upsert_of(names: tuple[str, ...]) -> Prepared:
    identity = ("source", "environment", "fingerprint")
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in identity)
    return _insert_of(
        _A,
        names,
        f"""
        on conflict ({", ".join(identity)}) do update set {changes}, updated_at = clock_timestamp()
        where alert.id = any(cast(:known as bigint[]))
        returning fingerprint, id
        """,
    )


async def write_alerts(tx: AsyncConnection, fresh: Sequence[Alert], recording: Recording) -> dict[str, int]:
    """Write the alerts, in the order of their fingerprints, so that two pushes cannot block each other. Returns their
    ids by fingerprint.

    The rows of known alerts are locked since they were compared; one that was not known can have got a row meanwhile.
    """
    ids: dict[str, int] = {}
    ordered = sorted(fresh, key=lambda alert: alert.fingerprint)
    for start in range(0, len(ordered), CHUNK):
        chunk = ordered[start : start + CHUNK]
        rows = [_row(alert, recording) for alert in chunk]
        known = [recording.known[alert.fingerprint][0] for alert in chunk if alert.fingerprint in recording.known]
        written = await _upsert_of(tuple(rows[0])).rows(tx, {"rows": as_json(rows), "known": known})
        ids |= {row["fingerprint"]: row["id"] for row in written}
    if len(ids) < len(fresh):
        raise RecordedMeanwhile("Another push has recorded an alert of this one meanwhile")
    return ids


def _row(alert: Alert, recording: Recording) -> dict[str, Any]:
    """The row of an alert, after this push."""
    moments = recording.moments[alert.fingerprint]
    _, known = recording.known.get(alert.fingerprint, (0, None))
    news = recording.news[alert.fingerprint]
    same_episode = known is not None and news in (News.REPEAT, News.RESOLVED)
    episodes = _known(known.episode_at if known and same_episode else None, moments.episode_at)
    starts = _known(known.started_at if known and same_episode else None, alert.started_at)
    if not starts and not same_episode and alert.firing:  # a sender that names no start: the first that is heard of it
        starts = [moments.latest or recording.run.created_at]
    # An end is as severe as its beginning, whatever its sender calls it; of repeats the one accepted last counts.
    keeps = not alert.firing or (news is News.REPEAT and moments.overtaken)
    severity = known.severity if known is not None and keeps else alert.severity
    return {
        **alert.model_dump(mode="json", include=_STORED),
        "environment": recording.run.environment,
        "severity": severity.value,
        "started_at": min(starts, default=None),
        "ended_at": moments.ended_at,
        # Two servers of a pair name two starts of one firing: the first counts. An end may be that of a later firing.
        "episode_at": (min if alert.firing else max)(episodes, default=None),
        "occurred_at": max(_known(known and known.occurred_at, moments.latest), default=None),
        "heard_at": moments.heard_at(known if same_episode else None),
        "received_at": recording.run.created_at,
        "last_run": max(recording.run.id, (known and known.last_run) or 0),
    }


def _known(*moments: datetime | None) -> list[datetime]:
    return [moment for moment in moments if moment is not None]


def note_alerts(alerts: Sequence[Alert], ids: Mapping[str, int], recording: Recording) -> None:
    """Add a line of history for each alert that is new or has changed; a repeated alert gets none."""
    events = {News.REFIRED: "alert_refired", News.NEW_EPISODE: "alert_began_anew", News.RESOLVED: "alert_resolved"}
    for alert in alerts:
        news = recording.news[alert.fingerprint]
        if news is News.CREATED:
            recording.note("alert_created", alert_id=ids[alert.fingerprint], new=alert.status)
            continue
        alert_id, known = recording.known[alert.fingerprint]
        if news is News.STALE:
            recording.note("alert_stale", alert_id=alert_id, old=known.status, new=alert.status)
        elif news in events:
            recording.note(events[news], alert_id=alert_id, old=known.status, new=alert.status)
        elif known.severity is not alert.severity:
            recording.note("alert_severity_changed", alert_id=alert_id, old=known.severity, new=alert.severity)


async def write_history(tx: AsyncConnection, recording: Recording, incident_id: int | None) -> None:
    """Write the lines of history, all of this incident."""
    lines = [{**line, "incident_id": incident_id} for line in recording.history]
    for start in range(0, len(lines), CHUNK):
        chunk = lines[start : start + CHUNK]
        await _insert_of(HistoryRow, tuple(chunk[0])).run(tx, {"rows": as_json(chunk)})
