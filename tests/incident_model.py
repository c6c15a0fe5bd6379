"""What is true of incidents, written from the rules of the design and not from the code."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from orchestration.alert import Severity
from tests.incident_senders import Event, Key

SAME_START, SETTLED = timedelta(minutes=2), timedelta(minutes=4)  # of a pair's servers; after which an end was none


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
    members: dict[Key, str] = field(default_factory=dict[Key, str])
    versions: tuple[int, int] = (0, 0)  # the least and the most changes to hear of: the rules leave some of them open
    may_say: set[Severity] = field(default_factory=set[Severity])  # those since then: a fall is not said by itself
    snoozed_until: datetime | None = None
    acknowledged_until: datetime | None = None
    hushed: bool = False  # whether the last change was left unsaid because of a snooze
    silent: bool = False  # whether all changes since the beginning of the snooze were
    unsettled: bool = False  # whether a member has ended in a push about another incident
    heard: datetime | None = None

    def changed(self, *, least: int = 1, hushed: bool = False) -> None:
        """Something has changed that somebody should hear of."""
        self.versions = self.versions[0] + least, self.versions[1] + 1
        self.may_say = self.may_say | {self.severity} if hushed else {self.severity}
        self.hushed, self.silent = hushed, self.silent and hushed

    def resolve(self) -> None:
        self.status, self.snoozed_until, self.acknowledged_until, self.silent = "resolved", None, None, False
        self.changed()

    def end(self, members: str) -> None:
        """It ends although its alerts fire: a person resolves it (`dismissed`), or nobody hears of it (`expired`)."""
        self.members = {a: members if status == "firing" else status for a, status in self.members.items()}
        self.resolve()


class Truth:
    """All alerts and incidents. Pushes are given in the order in which they are recorded."""

    def __init__(self) -> None:
        self.alerts: dict[Key, AlertTruth] = {}
        self.incidents: dict[Key, list[IncidentTruth]] = {}

    def push(self, key: Key, events: list[Event], *, accepted: datetime, now: datetime, of_all: bool = False) -> None:
        """A push about one incident is recorded. `of_all` is whether its sender names all alerts of it that fire."""
        news = {event: self._news(event, accepted) for event in events}
        fresh = [event for event in events if news[event] != "old"]
        incident = self.incidents.get(key, [None])[-1]
        if of_all and incident is not None and fresh and not any(event.firing for event in events):
            left_out = self._left_out(incident, events)
            news |= dict.fromkeys(left_out, "said")
            fresh += left_out
        firing, members = [event for event in fresh if event.firing], incident.members if incident else {}
        # What a person has ended stays so while its sender only repeats it, no worse, and names when it began.
        ended = {a: self.alerts[a].severity.rank for a, status in members.items() if status == "dismissed"}
        repeats = {e for e in firing if news[e] == "said" and e.start and e.severity.rank <= ended.get(e.alert, -1)}
        wanted = {event.alert for event in firing if event not in repeats}
        for event in fresh:
            self._note(event, news[event], accepted)
        reopened = bool(wanted) and (incident is None or incident.status != "open")
        if reopened:
            if incident is None or incident.status == "closed":
                incident, wanted = IncidentTruth(Severity.INFO), {event.alert for event in firing}
                self.incidents.setdefault(key, []).append(incident)
            incident.status, incident.snoozed_until = "open", None
            incident.severity = Severity.worst(*(event.severity for event in firing))
        for event in set(fresh) - set(firing):
            self._end(event.alert, incident)
        if incident is not None and (fresh or incident.unsettled):
            grown = any(incident.members.get(alert) != "firing" for alert in wanted)
            incident.members.update(dict.fromkeys(wanted, "firing"))
            incident.heard = accepted if fresh else incident.heard
            words = ("grown",) * grown + ("grown", "reopened") * reopened
            self.settle(incident, now, *words, *(news[event] for event in fresh))

    def _left_out(self, incident: IncidentTruth, events: list[Event]) -> list[Event]:
        """The alerts that have ended without a word: the sender says that all has ended, and they began before that."""
        said, at = {event.alert for event in events}, max(event.at for event in events if event.at is not None)
        known = {a: self.alerts[a] for a, status in incident.members.items() if status == "firing" and a not in said}
        return [Event(a, False, one.severity, None, at) for a, one in known.items() if one.start and one.start <= at]

    def _news(self, event: Event, accepted: datetime) -> str:
        """old (changes nothing), anew (a new episode), perhaps (one that the rules leave open), or said."""
        if (known := self.alerts.get(event.alert)) is None:
            return "said"
        earlier = event.at is not None and known.at is not None and event.at < known.at
        if event.start is None or known.start is None:
            return "old" if earlier else "said"
        same, contradicts = event.start <= known.start + SAME_START, event.firing or known.firing
        if event.start < known.start - SAME_START or (same and earlier and contradicts):
            return "old"
        if event.firing and not known.firing:
            over = same or (known.ended is not None and event.start <= known.ended)
            return "old" if over and accepted < known.heard + SETTLED else "said"
        return "said" if same or not event.firing else "anew" if event.start > known.heard else "perhaps"

    def _note(self, event: Event, news: str, accepted: datetime) -> None:
        known = self.alerts.get(event.alert)
        severity = known.severity if known and not event.firing else event.severity
        same = known is not None and known.firing and event.firing and news == "said"
        starts = (start for start in (known and known.start, event.start) if start is not None)
        at = max((at for at in (known and known.at, event.at) if at is not None), default=None)
        start = (min if same else max)(starts, default=None)
        heard = max(known.heard, accepted) if known and same else accepted
        end = None if event.firing else event.at
        self.alerts[event.alert] = AlertTruth(event.firing, severity, start, at, end, heard)
        for incident in (one for each in self.incidents.values() for one in each if news == "anew"):
            if incident.members.get(event.alert) == "dismissed":
                incident.members[event.alert] = "resolved"  # the firing that the person has ended is over

    def _end(self, alert: Key, here: IncidentTruth | None) -> None:
        """An alert that ends does so in every incident that it is in; the others are settled by runs of their own."""
        for incident in (one for each in self.incidents.values() for one in each if alert in one.members):
            incident.unsettled |= incident.members[alert] == "firing" and incident is not here
            incident.members[alert] = "resolved"

    def settle(self, incident: IncidentTruth, now: datetime, *said: str) -> None:
        """Its severity is that of the worst alert that fires; when none fires, it is resolved."""
        firing = [self.alerts[alert].severity for alert, status in incident.members.items() if status == "firing"]
        incident.unsettled = False
        if incident.status == "open" and not firing:
            incident.resolve()
        if incident.status != "open":
            return
        worst = Severity.worst(*firing)
        raised, incident.severity = worst.rank > incident.severity.rank, worst
        snoozed = incident.snoozed_until is not None and incident.snoozed_until > now
        sure = raised or "grown" in said or "anew" in said
        if raised or "anew" in said:
            incident.acknowledged_until = None
        if sure or "perhaps" in said:
            incident.changed(least=int(sure), hushed=snoozed and not raised and "reopened" not in said)
        incident.may_say.add(worst)
