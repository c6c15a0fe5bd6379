"""What is true of incidents, written from the rules of the design and not from the code."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from orchestration.alert import Severity

SAME_START = timedelta(minutes=2)  # the servers of a pair begin within so short a time
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
    firing: bool
    severity: Severity
    start: datetime | None
    at: datetime | None
    ended: datetime | None
    heard: datetime


@dataclass
class IncidentTruth:
    severity: Severity
    status: str = "open"
    members: dict[Key, str] = field(
        default_factory=dict[Key, str]
    )  # The least and the most changes that somebody should hear of: they differ where the rules leave it open.
    versions: tuple[int, int] = (0, 0)
    # Those since the last change that somebody should hear of: a fall is not said by itself.
    may_say: set[Severity] = field(default_factory=set[Severity])
    snoozed_until: datetime | None = None
    hushed: bool = False  # whether the last change was left unsaid because of a snooze
    heard: datetime | None = None

    def changed(self, *, least: int = 1, most: int = 1, hushed: bool = False) -> None:
        """Something has changed that somebody should hear of."""
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
        wanted = {event.alert for event in firing} - dismissed
        incident = self.incidents.get(key, [None])[-1]
        reopened = bool(wanted) and (incident is None or incident.status != "open")
        if reopened:
            if incident is None or incident.status == "closed":
                incident = IncidentTruth(Severity.INFO)
                self.incidents.setdefault(key, []).append(incident)
            severity = Severity.worst(*(event.severity for event in firing))
            incident.status, incident.severity, incident.snoozed_until = "open", severity, None
        for event in set(fresh) - set(firing):
            self._end(event.alert, incident, now)
        if incident is not None and fresh:
            grown = any(incident.members.get(alert) != "firing" for alert in wanted)
            incident.members.update(dict.fromkeys(wanted, "firing"))
            incident.heard = accepted
            words = ("grown",) * grown + ("grown", "reopened") * reopened
            self._settle(incident, now, {*words, *(news[event] for event in fresh)})

    def _news(self, event: Event) -> str:
        """old (changes nothing), anew (a new episode), perhaps (one that the rules leave open), or said."""
        known = self.alerts.get(event.alert)
        if known is None:
            return "said"
        earlier = event.at is not None and known.at is not None and event.at < known.at
        if event.start is None or known.start is None:
            return "old" if earlier else "said"
        same = event.start <= known.start + SAME_START
        if event.start < known.start - SAME_START or (same and earlier):
            return "old"
        if event.firing and not known.firing:
            return "old" if same or (known.ended is not None and event.start <= known.ended) else "said"
        began = "anew" if event.start > known.heard else "perhaps"
        return "said" if not event.firing or same else began

    def _stays_dismissed(self, key: Key, event: Event, news: str) -> bool:
        """Whether a person has ended it, and the sender only repeats it."""
        incident = self.incidents.get(key, [None])[-1]
        repeats = event.firing and news == "said" and event.start is not None
        return repeats and incident is not None and incident.members.get(event.alert) == "dismissed"

    def _note(self, event: Event, news: str, accepted: datetime) -> None:
        known = self.alerts.get(event.alert)
        severity = known.severity if known and not event.firing else event.severity
        same = known is not None and known.firing and event.firing and news == "said"
        starts = (start for start in (known and known.start, event.start) if start is not None)
        at = max((at for at in (known and known.at, event.at) if at is not None), default=None)
        start = (min if same else max)(starts, default=None)
        ended = None if event.firing else event.at
        self.alerts[event.alert] = AlertTruth(event.firing, severity, start, at, ended, accepted)

    def _end(self, alert: Key, here: IncidentTruth | None, now: datetime) -> None:
        """An alert that ends does so in every incident that it is in."""
        for incident in (one for each in self.incidents.values() for one in each):
            before = incident.members.get(alert)
            incident.members.update({alert: "resolved"} if before else {})
            if before == "firing" and incident is not here:
                self._settle(incident, now, {"elsewhere"})

    def _settle(self, incident: IncidentTruth, now: datetime, said: Collection[str]) -> None:
        """Its severity is that of the worst alert that fires; when none fires, it is resolved."""
        firing = [self.alerts[alert].severity for alert, status in incident.members.items() if status == "firing"]
        if incident.status == "open" and not firing:
            incident.status, incident.snoozed_until = "resolved", None
            incident.changed(least=int("elsewhere" not in said))
        if incident.status != "open":
            return
        worst = Severity.worst(*firing)
        raised, incident.severity = worst.rank > incident.severity.rank, worst
        snoozed = incident.snoozed_until is not None and incident.snoozed_until > now
        sure = raised or "grown" in said or "anew" in said
        if sure or "perhaps" in said:
            incident.changed(least=int(sure), hushed=snoozed and not raised and "reopened" not in said)
        incident.may_say.add(worst)
