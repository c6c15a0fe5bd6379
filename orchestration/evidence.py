"""What is known about an incident as pieces of evidence, and which claims they support. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from orchestration.alert import Alert
from orchestration.analysis import AnalysisInput
from orchestration.contracts import Change, ChangeEvent, Episode, Evidence, EvidenceKind
from orchestration.redaction import one_line

_MAX_ALERTS, _MAX_CHANGES, _MAX_EVENTS, _MAX_EPISODES = 20, 10, 10, 5
_LINE, _RUNBOOK_CHARACTERS = 400, 4000


def evidence_of(case: AnalysisInput) -> list[Evidence]:
    """All that is known, each piece with an id that claims can cite. Equal cases give equal ids."""
    return [
        *_numbered(EvidenceKind.ALERT, map(_of_alert, case.alerts[:_MAX_ALERTS])),
        *_numbered(EvidenceKind.CHECK, _of_checks(case)),
        *_numbered(EvidenceKind.CHANGE, map(_of_change, (case.check.changes if case.check else [])[:_MAX_CHANGES])),
        *_numbered(EvidenceKind.EVENT, map(_of_event, case.events[:_MAX_EVENTS])),
        *_numbered(EvidenceKind.EPISODE, map(_of_episode, case.episodes[:_MAX_EPISODES])),
        *_numbered(EvidenceKind.RUNBOOK, [{"says": case.runbook[:_RUNBOOK_CHARACTERS]}] if case.runbook else []),
    ]


def _numbered(kind: EvidenceKind, pieces: Iterable[dict[str, object]]) -> Iterator[Evidence]:
    for number, piece in enumerate(pieces, 1):
        yield Evidence.model_validate({"id": f"{kind}-{number}", "kind": kind, **piece})


def _of_alert(alert: Alert) -> dict[str, object]:
    says = f"{alert.name} ({alert.severity}, {alert.status}) {alert.description}"
    values = ", ".join(f"{name}={value}" for name, value in (*alert.annotations.items(), *alert.labels.items()))
    return {"about": one_line(alert.place, 120), "says": one_line(f"{says} [{values}]", 2 * _LINE)}


def _of_checks(case: AnalysisInput) -> Iterator[dict[str, object]]:
    for check in case.check.checks if case.check else []:
        says = one_line(f"{check.name} is {check.status}: {check.message}", _LINE)
        yield {"about": check.target, "says": says, "status": check.status, "topic": check.name}


def _of_change(change: Change) -> dict[str, object]:
    since = f", since {change.since:%H:%M:%S} UTC" if change.since else ""
    over = f", normal again since {change.until:%H:%M:%S} UTC" if change.until else ""
    is_now = "was" if change.until else "is"
    says = f"{change.metric} {is_now} {change.now:.4g}, normally {change.low:.4g} to {change.high:.4g}{over or since}"
    return {"about": change.entity, "says": says}


def _of_event(event: ChangeEvent) -> dict[str, object]:
    by = f" by {event.by}" if event.by else ""
    about = ", ".join(f"{name}={value}" for name, value in event.labels.items())
    says = one_line(f"{event.kind} at {event.at:%Y-%m-%d %H:%M:%S} UTC{by}: {event.title}", _LINE)
    return {"about": one_line(about, 200), "says": says}


def _of_episode(episode: Episode) -> dict[str, object]:
    ended = f", until {episode.ended_at:%Y-%m-%d %H:%M} UTC" if episode.ended_at else ""
    by = f", ended by {episode.ended_by}" if episode.ended_by else ""
    notes = f": {'; '.join(episode.notes)}" if episode.notes else ""
    says = f"it was like this on {episode.began_at:%Y-%m-%d %H:%M} UTC{ended}{by}{notes}"
    return {"about": "", "says": one_line(says, _LINE)}
