"""The row of a message that says what changed: series that left their past, and what somebody has done before."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import chain, islice, zip_longest

from orchestration.alert import AlertStatus, latest_start
from orchestration.changes.events import likelihood
from orchestration.contracts import Change, ChangeEvent
from orchestration.redaction import one_line
from tasks.notify.subject import MessageSubject

_SHOWN = 3
_ABOUT_NOW = timedelta(minutes=1)
_WINDOW = timedelta(hours=1)
"""What was done earlier is shown in the order of its time."""


def changed(subject: MessageSubject) -> str:
    """The three strongest changes in words, with their numbers and times; "" if nothing is known to have changed."""
    if subject.status is not AlertStatus.FIRING:
        return ""
    began_at = _began_at(subject)
    likeliest = sorted(subject.changes, key=lambda event: -likelihood(event, began_at or event.at, _WINDOW))
    events = [_of_event(event, began_at) for event in likeliest[:_SHOWN]]
    series = [_of_series(change, subject) for change in (subject.check.changes if subject.check else [])[:_SHOWN]]
    in_turn: Iterator[str | None] = chain.from_iterable(zip_longest(events, series))
    return "; ".join(islice(filter(None, in_turn), _SHOWN))


def _began_at(subject: MessageSubject) -> datetime | None:
    opened_at = subject.incident.opened_at if subject.incident else None
    return latest_start(subject.relevant) or opened_at


def _of_event(event: ChangeEvent, began_at: datetime | None) -> str:
    title = one_line(event.title, 120)
    kind = "" if event.kind in ("change", "annotation") or title.lower().startswith(event.kind) else f"{event.kind} "
    by = f" by {one_line(event.by, 40)}" if event.by else ""
    return f"{kind}{title}{by}{_distance(event.at, began_at)}"


def _distance(at: datetime, began_at: datetime | None) -> str:
    if began_at is None:
        return f" at {at:%H:%M} UTC"
    away = abs(began_at - at)
    if away < _ABOUT_NOW:
        return " at that time"
    minutes = int(away.total_seconds() // 60)
    length = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h" if minutes < 2880 else f"{minutes // 1440} d"
    return f" {length} {'before' if at < began_at else 'after'}"


def _of_series(change: Change, subject: MessageSubject) -> str:
    places = {alert.place for alert in subject.relevant}
    entity = "" if change.entity in places else f" of {one_line(change.entity, 60)}"
    since = f" since {change.since:%H:%M} UTC" if change.since else ""
    usual = f"normally {change.low:.3g} to {change.high:.3g}"
    return f"{one_line(change.metric, 60)}{entity} {change.now:.3g}, {usual}{since}"
