"""Heartbeats: a sender that says regularly that it lives. Its absence is an alert. Pure: no store, no clock."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from pydantic import Field

from orchestration.alert import HEARTBEAT_SOURCE, Alert, AlertStatus, Severity, UtcDatetime
from orchestration.contracts import Contract
from orchestration.errors import BadInput
from orchestration.moments import length_in_words, parse_length
from orchestration.redaction import redact_text

SOURCE = HEARTBEAT_SOURCE
"""The source of the alerts about missing heartbeats."""

ALERT_NAME = "HeartbeatMissing"

DOOR_SECONDS = 5.0
"""How often a process that accepts heartbeats writes that it does, in seconds."""

DOOR_GAP_SECONDS = 3 * DOOR_SECONDS
"""After so many seconds without such a note nothing may have been accepted meanwhile: the time counts anew."""

LOOK_SECONDS = DOOR_SECONDS + 1.0
"""How long after it is due a heartbeat is looked for, in seconds: by then a process has noted that it accepts them."""

SHORTEST, LONGEST = timedelta(seconds=10), timedelta(days=366)
"""The limits of `every`."""

_LEAST_GRACE, _MOST_GRACE = timedelta(seconds=30), timedelta(hours=1)
_GRACE = 0.2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_ENVIRONMENT_CHARACTERS = 128


class BeatRequest(Contract):
    """One beat, as its sender asks for it. None means: as it was before."""

    name: str
    environment: str = "production"
    every_seconds: float | None = None
    grace_seconds: float | None = None
    severity: Severity | None = None

    @property
    def incident_key(self) -> str:
        """The key of its incident."""
        return incident_key_of(self.name)


class Heartbeat(Contract):
    """A heartbeat that is expected."""

    name: str
    environment: str
    every_seconds: float
    grace_seconds: float
    severity: Severity
    created_at: UtcDatetime
    last_beat_at: UtcDatetime
    missing_since: UtcDatetime | None = Field(default=None, description="When it was found to be missing.")

    @property
    def next_due_at(self) -> datetime:
        """When the next beat is expected."""
        return self.last_beat_at + timedelta(seconds=self.every_seconds)

    @property
    def incident_key(self) -> str:
        """The key of its incident."""
        return incident_key_of(self.name)

    @property
    def title(self) -> str:
        """The title of its incident."""
        return f"Heartbeat {self.name} is missing"

    @property
    def rhythm(self) -> str:
        """How often it is expected, for people."""
        return f"every {length_in_words(self.every_seconds)}, with {length_in_words(self.grace_seconds)} of grace"

    def missing_after(self, open_since: datetime | None = None) -> datetime:
        """When it is missing, if nothing comes. `open_since` is since when beats could be accepted without a gap."""
        counted = self.last_beat_at if open_since is None else max(self.last_beat_at, open_since)
        return counted + timedelta(seconds=self.every_seconds + self.grace_seconds)


def parse_beat(
    name: str, *, every: str | None = None, grace: str | None = None, severity: str | None = None, environment: str
) -> BeatRequest:
    """The beat that a request asks for.

    A beat with `every` says all of the heartbeat: what it leaves out has its default. Without `every`, what it leaves
    out stays as it was.

    Raises:
        BadInput: names the parameter that is wrong.
    """
    known = checked_name(name)
    place = checked_environment(environment)
    length = None if every is None else parse_length(every, name="every")
    if length is not None and not SHORTEST <= length <= LONGEST:
        raise BadInput(f"every={every!r}: expected 10s to 366d")
    spare = None if grace is None else parse_length(grace, name="grace")
    if spare is not None and spare > LONGEST:
        raise BadInput(f"grace={grace!r}: expected at most 366d")
    worst = None if severity is None else _severity_of(severity)
    if length is not None:
        spare = default_grace(length) if spare is None else spare
        worst = Severity.CRITICAL if worst is None else worst
    return BeatRequest(
        name=known,
        environment=place,
        every_seconds=None if length is None else length.total_seconds(),
        grace_seconds=None if spare is None else spare.total_seconds(),
        severity=worst,
    )


def checked_name(name: str) -> str:
    """The name of a heartbeat.

    Raises:
        BadInput: it is no such name.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(f"The name {name[:80]!r} is not 1 to 64 letters, digits, dots, dashes, colons and underscores")
    if redact_text(name) != name:
        raise BadInput("The name of the heartbeat looks like a secret, and would be shown: choose another one")
    return name


def checked_environment(environment: str) -> str:
    """The environment of a heartbeat, without secrets.

    Raises:
        BadInput: it is empty, too long, or has characters that are not printable.
    """
    if not environment or len(environment) > _ENVIRONMENT_CHARACTERS or not environment.isprintable():
        raise BadInput(
            f"environment={environment[:40]!r}: expected 1 to {_ENVIRONMENT_CHARACTERS} printable characters"
        )
    return redact_text(environment)


def _severity_of(text: str) -> Severity:
    try:
        return Severity(text.strip().lower())
    except ValueError:
        raise BadInput(f"severity={text[:40]!r}: expected critical, warning or info") from None


def default_grace(every: timedelta) -> timedelta:
    """How long a beat may be late: a fifth of its interval, at least 30 s, at most 1 h."""
    return min(max(every * _GRACE, _LEAST_GRACE), _MOST_GRACE)


def incident_key_of(name: str) -> str:
    """The key of the incident of a heartbeat."""
    return f"{SOURCE}:{name}"


def missing_alert(heartbeat: Heartbeat, open_since: datetime | None = None) -> Alert:
    """The alert that says that a heartbeat is missing. `open_since`: see `Heartbeat.missing_after`."""
    late = heartbeat.missing_after(open_since)
    said = f"No beat since {_utc(heartbeat.last_beat_at)}. Expected {heartbeat.rhythm}: at the latest at {_utc(late)}"
    if open_since is not None and open_since > heartbeat.last_beat_at:
        said += f", because no beats could be accepted before {_utc(open_since)}"
    return _alert(heartbeat, AlertStatus.FIRING, f"{said}.")


def ending_alert(heartbeat: Heartbeat, at: datetime, why: str) -> Alert:
    """The alert that ends the former. `heartbeat` is as it was while it was missing."""
    ended = _alert(heartbeat, AlertStatus.RESOLVED, f"{why} Nothing had come since {_utc(heartbeat.last_beat_at)}.")
    return ended.model_copy(update={"ended_at": at})


def _alert(heartbeat: Heartbeat, status: AlertStatus, description: str) -> Alert:
    # It names no `episode_at`: the order of acceptance decides, so that also two absences within a minute are two.
    return Alert(
        source=SOURCE,
        fingerprint=incident_key_of(heartbeat.name),
        name=ALERT_NAME,
        severity=heartbeat.severity,
        status=status,
        description=description,
        labels={"heartbeat": heartbeat.name},
        annotations={"last_beat": _utc(heartbeat.last_beat_at), "expected": heartbeat.rhythm},
        incident_key=heartbeat.incident_key,
        title=heartbeat.title,
        started_at=heartbeat.last_beat_at,
    )


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
