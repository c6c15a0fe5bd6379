"""What a message is about: a run, its incident as it is now, and what the run has found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from zoneinfo import ZoneInfo

from pydantic import JsonValue

from orchestration.alert import Alert, AlertStatus, Incident, IncidentStatus, Severity, worst_first
from orchestration.contracts import WORST_FIRST, AnalyzeResult, ChangeEvent, CheckResult, CheckStatus, StormFacts
from orchestration.escalation import progress_of
from orchestration.message import Upcoming
from orchestration.reasons import Reason
from orchestration.redaction import one_line
from orchestration.responses import Response

_OF_CHECK = {CheckStatus.OK: Severity.INFO, CheckStatus.CRITICAL: Severity.CRITICAL}


@dataclass(frozen=True, kw_only=True)
class MessageSubject:
    """The run that a message is about, with all that the message says of it."""

    run_id: str
    trace_id: str
    source: str
    environment: str
    node_id: str
    incident: Incident | None
    alerts: Sequence[Alert]
    """The alerts of this run."""
    reason: str
    """The reason of the notify decision, such as opened; "" if there was no decision."""
    check: CheckResult | None
    analysis: AnalyzeResult | None
    firing: int
    """How many alerts of the whole incident fire."""
    resolved: int
    """How many alerts of the whole incident are resolved."""
    title: str = ""
    """The title of a run that is neither about an alert nor about the health of this host."""
    text: str = ""
    """What such a run was asked to say."""
    said_severity: Severity | None = None
    """How bad such a run was asked to say it is. None means that it was not."""
    extracts: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """The outputs of transforms, by node id."""
    test: bool = False
    """Whether the message says that it is a test."""
    version: int | None = None
    """The incident's version that is said. None means that the message is about the run alone."""
    pipeline: Sequence[str] = ()
    """What was unusual about how the run was executed."""
    upcoming: Upcoming | None = None
    """What happens to the incident next, by itself."""
    unread: int = 0
    """How many more alerts of the incident are in the same state as `alerts`."""
    omitted: int = 0
    """How many alerts of the incident the sender has left out of its push."""
    began_and_ended: bool = False
    """Whether the channel hears of the beginning and the end at once."""
    notes: Sequence[str] = ()
    """Why the message goes to this channel."""
    is_edited: bool = True
    """Whether the channel can bring its messages up to date."""
    rose_from: Severity | None = None
    """What the incident's severity was before it rose last. None means that it has not."""
    given_up: Mapping[str, str] = field(default_factory=dict[str, str])
    """The channels on which the incident could not be told, and was given up: name to error."""
    ended: str = Reason.RESOLVED
    """How the incident ended last: resolved, resolved_by_hand or expired."""
    ended_by: str = ""
    """The person who has resolved the incident, if one has."""
    at: datetime | None = None
    """The moment of the message, for how long it has lasted. None means that it does not say how long."""
    zone: ZoneInfo | None = None
    """The time zone of its readers, beside UTC."""
    on_call: str = ""
    """Who is on call."""
    on_call_until: datetime | None = None
    """Until when. None means that it is not known, or that nobody is."""
    storm: StormFacts | None = None
    """What is true of the storm. None means that the incident is none."""
    kept_back: str = ""
    """What kept the incident back before this message."""
    buttons: Sequence[Response] = ()
    """What can be done about it with a button whose press comes back."""
    changes: Sequence[ChangeEvent] = ()
    """What somebody has changed shortly before, the newest first."""
    pages: Mapping[str, str] = field(default_factory=dict[str, str])
    """The pages about the incident and the run on our own sites: name to URL."""

    @property
    def delivery(self) -> list[str]:
        """What the reader should know of the way of the message: whom it could not reach, and why it comes here."""
        return [*self.notes, *(f"given up on {channel}: {error}" for channel, error in self.given_up.items())]

    @property
    def status(self) -> AlertStatus:
        """Firing while the incident is open; without one, while an alert of the run fires. A healthy host is
        resolved."""
        if self.version is not None and self.incident:
            # Of what goes on and off nobody is to believe that it is over, before it has been quiet.
            over = self.incident.status.ended and not self.incident.is_flapping
            return AlertStatus.RESOLVED if over else AlertStatus.FIRING
        if any(alert.firing for alert in self.alerts):
            return AlertStatus.FIRING
        if self.alerts:
            over = self.firing == 0 or self.reason == "resolved"
        elif self.incident:
            over = self.incident.status.ended
        else:
            over = worst_check(self.check) is CheckStatus.OK
        return AlertStatus.RESOLVED if over else AlertStatus.FIRING

    @property
    def severity(self) -> Severity:
        """The worst severity of the firing alerts; if none fires, of all alerts; without alerts, of the checks."""
        if self.alerts:
            return Severity.worst(*(alert.severity for alert in self.relevant))
        if self.incident:
            return self.incident.severity
        if self.check is None and self.title:
            return self.said_severity or Severity.INFO
        return _OF_CHECK.get(worst_check(self.check), Severity.WARNING)

    @property
    def checked_host(self) -> str:
        """The host whose health a run without alerts has checked; "" if it is not known."""
        return self.check.target.name if self.check and self.check.target else ""

    @property
    def marks(self) -> list[str]:
        """What the title says beside the severity of an incident that is not over."""
        incident = self.incident
        if incident is None or self.status is AlertStatus.RESOLVED:
            return []
        progress = progress_of(incident)
        unanswered = (
            progress is not None and progress.count > 0 and progress.is_over and incident.status is IncidentStatus.OPEN
        )
        return [
            *(["storm"] if incident.is_storm else []),
            *(["flapping"] if incident.is_flapping else []),
            *(["nobody acknowledged"] if unanswered and incident.snoozed_until is None else []),
        ]

    @property
    def acknowledged_by(self) -> str:
        """Who has acknowledged the incident; "" if nobody has."""
        incident = self.incident
        if incident is None or incident.status is not IncidentStatus.ACKNOWLEDGED:
            return ""
        return one_line(incident.acknowledged_by or "somebody", 80)

    @cached_property
    def relevant(self) -> Sequence[Alert]:
        """The firing alerts of the run, the worst first, then the oldest; all of them, if none fires."""
        return worst_first([alert for alert in self.alerts if alert.firing] or self.alerts)

    @property
    def is_mixed(self) -> bool:
        """Whether the alerts differ in name or severity, so that what is true of the first is not true of all."""
        return len({(alert.name, alert.severity) for alert in self.relevant}) > 1


def worst_check(check: CheckResult | None) -> CheckStatus:
    """The worst result of the checks; unknown if there are none."""
    found = {one.status for one in check.checks} if check else set[CheckStatus]()
    return next((status for status in WORST_FIRST if status in found), CheckStatus.UNKNOWN)
