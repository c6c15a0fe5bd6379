"""What is true of incidents, written from the rules of the design and not from the code: order, identity, event time,
severity, membership, life; and what each channel should have heard. Small enough to be read at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from orchestration.alert import Severity

SAME_START = timedelta(minutes=2)
"""The servers of a pair begin within so short a time."""

Key = tuple[str, ...]


@dataclass(frozen=True)
class Event:
    """What a sender says of one alert. `start` names the episode, `at` the moment of the event, if the sender does."""

    alert: Key
    firing: bool
    severity: Severity
    start: datetime | None = None
    at: datetime | None = None


@dataclass
class AlertTruth:
    """What is known of an alert."""

    firing: bool
    severity: Severity
    start: datetime | None
    at: datetime | None
    ended: datetime | None
    heard: datetime


@dataclass
class IncidentTruth:
    """What is known of an incident."""

    severity: Severity
    status: str = "open"
    members: dict[Key, str] = field(default_factory=dict[Key, str])
    versions: tuple[int, int] = (1, 1)
    """The least and the most changes that somebody should hear of; they differ where the rules leave it open."""
    may_say: set[Severity] = field(default_factory=set[Severity])
    """The severities since the last change that somebody should hear of: a fall is not said by itself."""
    snoozed_until: datetime | None = None
    hushed: bool = False
    """Whether the last change was left unsaid because of a snooze."""
    heard: datetime | None = None

    def changed(self, *, least: int = 1, most: int = 1, hushed: bool = False) -> None:
        """Something has changed that somebody should hear of, unless the incident is snoozed."""
        self.versions = self.versions[0] + least, self.versions[1] + most
        self.may_say = self.may_say | {self.severity} if hushed else {self.severity}
        self.hushed = hushed

    def end(self, members: str) -> None:
        """It ends although its alerts fire: a person resolves it (`dismissed`), or nobody hears of it (`expired`)."""
        self.members = {a: members if status == "firing" else status for a, status in self.members.items()}
        self.status, self.snoozed_until = "resolved", None
        self.changed()


class Truth:
    """All alerts and incidents. Pushes are given in the order of acceptance."""

    def __init__(self) -> None:
        self.alerts: dict[Key, AlertTruth] = {}
        self.incidents: dict[Key, list[IncidentTruth]] = {}

    def push(self, key: Key, events: list[Event], *, accepted: datetime, now: datetime) -> None:
        """A push about one incident is recorded."""
        news = {event: self._news(event) for event in events}
        fresh = [event for event in events if news[event] != "old"]
        dismissed = {e.alert for e in fresh if self._stays_dismissed(key, e, news[e])}
        for event in fresh:
            self._note(event, news[event], accepted)
        firing = [event for event in fresh if event.firing]
        incident = self.incidents.get(key, [None])[-1]
        reopened = False
        if any(event.alert not in dismissed for event in firing) and (incident is None or incident.status != "open"):
            severity = Severity.worst(*(event.severity for event in firing))
            if incident is not None and incident.status == "resolved":
                incident.status, incident.severity, incident.snoozed_until, reopened = "open", severity, None, True
            else:
                incident = IncidentTruth(severity=severity, versions=(0, 0))
                self.incidents.setdefault(key, []).append(incident)
                reopened = True
        for event in fresh:
            if not event.firing:
                self._end(event.alert, incident, now)
        if incident is not None and fresh:
            joining = [e.alert for e in firing if incident.members.get(e.alert) != "firing" and e.alert not in dismissed]
            incident.members.update(dict.fromkeys(joining, "firing"))
            incident.heard = accepted
            anew = {news[event] for event in fresh}
            grown = reopened or bool(joining) or "anew" in anew
            self._settle(incident, grown=grown, perhaps="perhaps" in anew, reopened=reopened, now=now)

    def _news(self, event: Event) -> str:
        """old (changes nothing), anew (a new episode), perhaps (one that the rules leave open), or said."""
        known = self.alerts.get(event.alert)
        if known is None:
            return "said"
        if event.start is None or known.start is None:
            return "old" if event.at is not None and known.at is not None and event.at < known.at else "said"
        if event.start < known.start - SAME_START:
            return "old"
        same = event.start <= known.start + SAME_START
        if same and event.at is not None and known.at is not None and event.at < known.at:
            return "old"
        if event.firing and not known.firing:
            over = same or (known.ended is not None and event.start <= known.ended)
            return "old" if over else "said"
        if not event.firing or same:
            return "said"
        return "anew" if event.start > known.heard else "perhaps"

    def _stays_dismissed(self, key: Key, event: Event, news: str) -> bool:
        """Whether a person has ended this firing, and the sender only repeats it."""
        incident = self.incidents.get(key, [None])[-1]
        dismissed = incident is not None and incident.members.get(event.alert) == "dismissed"
        return dismissed and event.firing and news == "said" and event.start is not None

    def _note(self, event: Event, news: str, accepted: datetime) -> None:
        known = self.alerts.get(event.alert)
        severity = known.severity if known and not event.firing else event.severity
        starts = [start for start in (known and known.start, event.start) if start is not None]
        ats = [at for at in (known and known.at, event.at) if at is not None]
        same = known is not None and known.firing and event.firing and news == "said"
        start = min(starts, default=None) if same else max(starts, default=None)
        ended = None if event.firing else event.at
        self.alerts[event.alert] = AlertTruth(event.firing, severity, start, max(ats, default=None), ended, accepted)

    def _end(self, alert: Key, here: IncidentTruth | None, now: datetime) -> None:
        """An alert that ends does so in every incident that it is in."""
        for incident in (one for each in self.incidents.values() for one in each):
            fired = incident.members.get(alert) == "firing"
            if alert in incident.members:
                incident.members[alert] = "resolved"
            if fired and incident is not here:
                self._settle(incident, grown=False, perhaps=False, reopened=False, now=now, elsewhere=True)

    def _settle(
        self, incident: IncidentTruth, *, grown: bool, perhaps: bool, reopened: bool, now: datetime, elsewhere: bool = False
    ) -> None:
        """Its severity is that of the worst alert that fires; when none fires, it is resolved."""
        firing = [self.alerts[alert].severity for alert, status in incident.members.items() if status == "firing"]
        if incident.status != "open":
            return
        if not firing:
            incident.status, incident.snoozed_until = "resolved", None
            incident.changed(least=0 if elsewhere else 1)
            return
        worst = Severity.worst(*firing)
        raised, incident.severity = worst.rank > incident.severity.rank, worst
        snoozed = incident.snoozed_until is not None and incident.snoozed_until > now
        if grown or raised or perhaps:
            sure = grown or raised
            incident.changed(least=int(sure), hushed=snoozed and not raised and not reopened)
        incident.may_say.add(worst)
