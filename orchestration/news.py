"""What a push says of an alert, compared with what is known of it: news, a repeat, or old news. Pure.

The order of acceptance decides, unless the sender names moments. Then these decide: what is older than what is known is
stale, and a firing that begins after the last one was heard of is a new episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum, auto

from orchestration.alert import Alert, AlertStatus, Severity

SAME_START = timedelta(minutes=2)
"""Two starts that are closer than this are one start: the servers of a Prometheus pair see it at different moments."""

FAR_AHEAD = timedelta(hours=15)
"""A moment further in the future than this is ignored: no time zone explains it."""

SETTLED = timedelta(minutes=4)
"""A firing that is repeated this long after a push said that it has ended goes on. Alertmanager calls resolved what
Prometheus did not repeat in time, and sends the group again after five minutes at the earliest. The other server of a
pair, and a push that was overtaken on its way, come sooner."""

LATE = timedelta(hours=2)
"""A push that arrives longer than this after the start that it names does not prove that the alert fired in between."""


class News(StrEnum):
    """What one alert of a push says."""

    CREATED = auto()
    """The alert is not known."""
    REFIRED = auto()
    """The alert was resolved, and fires again."""
    NEW_EPISODE = auto()
    """The alert fires again, and no push has named the end of its previous firing."""
    RESOLVED = auto()
    """The alert fired, and is resolved."""
    REPEAT = auto()
    """Nothing new, except perhaps its severity."""
    STALE = auto()
    """The push is older than what is known."""


@dataclass(frozen=True, kw_only=True)
class KnownAlert:
    """What is known of an alert."""

    status: AlertStatus
    severity: Severity
    episode_at: datetime | None
    """The start of its latest episode, if the sender names it."""
    occurred_at: datetime | None
    """The latest moment that a push named."""
    heard_at: datetime
    """The latest moment at which a push proves that its latest episode lasted."""
    received_at: datetime
    """When the latest push about it was accepted; a stale one does not count."""
    started_at: datetime | None
    ended_at: datetime | None
    last_run: int | None
    """The number of the run that spoke of it last. Runs are numbered in the order of acceptance."""

    @property
    def firing(self) -> bool:
        """Whether it fires, as far as is known."""
        return self.status is AlertStatus.FIRING


@dataclass(frozen=True, kw_only=True)
class Moments:
    """The moments of an alert in a push, as its sender names them.

    A sender may name local times, so that they all lie some hours ahead: they are compared with each other, and not
    with our clock.
    """

    received_at: datetime
    episode_at: datetime | None
    occurred_at: datetime | None
    ended_at: datetime | None
    overtaken: bool = False
    """Whether something that was accepted later is known of the alert already."""

    @classmethod
    def of(cls, alert: Alert, received_at: datetime, *, overtaken: bool = False) -> Moments:
        """The moments of an alert that was accepted then."""

        def plausible(moment: datetime | None) -> datetime | None:
            return None if moment is None or moment > received_at + FAR_AHEAD else moment

        return cls(
            received_at=received_at,
            episode_at=plausible(alert.episode_at),
            occurred_at=plausible(alert.occurred_at),
            ended_at=None if alert.firing else plausible(alert.ended_at),
            overtaken=overtaken,
        )

    def is_before(self, moment: datetime | None, known: datetime | None) -> bool:
        """Whether a moment of this push lies before a known one; False if they cannot be compared.

        They cannot be compared if this moment is past and the known one is still to come: the clock that wrote the
        known one was wrong, and has been corrected since. In a push that was overtaken this is no sign of a wrong
        clock, because the known moment comes from a push that was accepted later.
        """
        if moment is None or known is None or moment >= known:
            return False
        return self.overtaken or not moment <= self.received_at < known

    @property
    def latest(self) -> datetime | None:
        """The latest moment that the sender names."""
        named = [moment for moment in (self.episode_at, self.occurred_at, self.ended_at) if moment is not None]
        return max(named, default=None)

    def heard_at(self, known: KnownAlert | None) -> datetime:
        """The latest moment at which the alert's episode is known to have lasted, with what this push proves."""
        heard_at = self._proves_until(known)
        return heard_at if known is None else max(heard_at, known.heard_at)

    def _proves_until(self, known: KnownAlert | None) -> datetime:
        start = self.episode_at
        if start is None:
            return self.received_at
        # A late push, such as one that waited a day at its sender, proves only that the alert fired at the moments that
        # it names.
        trusted = self.received_at - start <= LATE or (known is not None and known.heard_at > start)
        return self.received_at if trusted else max(start, self.occurred_at or start)


def news_of(alert: Alert, known: KnownAlert | None, moments: Moments) -> News:
    """What an alert of a push says.

    Args:
        alert: as the push has it.
        known: None means that the alert is not known.
        moments: those of the alert.
    """
    if known is None:
        return News.CREATED
    if _is_contradicted(alert, known, moments) or _is_older(alert, known, moments):
        return News.STALE
    if not alert.firing:
        return News.RESOLVED if known.firing else News.REPEAT
    if not known.firing:
        return News.REFIRED
    return News.NEW_EPISODE if _begins_anew(known, moments) else News.REPEAT


def _is_contradicted(alert: Alert, known: KnownAlert, moments: Moments) -> bool:
    """Whether a push that was accepted later, and recorded before, contradicts this one, and the moments do not decide.

    Two pushes can name an alert that is in two incidents. Only the pushes of one incident are recorded in order, so the
    one that was accepted first may be recorded second. If both say that the alert fires, or that it has ended, there is
    no contradiction, and the second one can still be news for its own incident.
    """
    if not moments.overtaken or alert.status is known.status:
        return False
    latest = moments.latest
    return latest is None or known.occurred_at is None or latest <= known.occurred_at


def _is_older(alert: Alert, known: KnownAlert, moments: Moments) -> bool:
    """Whether the event happened before what is known."""
    if alert.firing:
        return _begins_before(known, moments)
    moment = moments.ended_at or moments.occurred_at
    if moment is None:
        return _starts_before(known, moments)
    if moments.is_before(moment, known.episode_at):
        return True  # the end of an earlier episode arrives late
    return moments.episode_at is None and moments.is_before(moment, known.occurred_at)


def _begins_before(known: KnownAlert, moments: Moments) -> bool:
    start = moments.episode_at
    if start is None or known.episode_at is None:
        return moments.is_before(moments.occurred_at or start, known.occurred_at)
    if known.firing:
        # A sender that also names the moment of each event may deliver an old one late.
        return _starts_before(known, moments) or moments.is_before(moments.occurred_at, known.occurred_at)
    # For some time the other server of a pair still repeats the episode that has ended. If that goes on for longer, the
    # alert has not ended.
    same = start == known.episode_at
    ended = same or moments.is_before(start, known.episode_at) or moments.is_before(start, known.ended_at)
    is_old = _starts_before(known, moments) or moments.is_before(moments.occurred_at, known.occurred_at)
    return ended and (is_old or moments.received_at < known.received_at + SETTLED)


def _starts_before(known: KnownAlert, moments: Moments) -> bool:
    if known.episode_at is None:
        return False
    return moments.is_before(moments.episode_at, known.episode_at - SAME_START)


def _begins_anew(known: KnownAlert, moments: Moments) -> bool:
    start = moments.episode_at
    if start is None or known.episode_at is None:
        return False
    return start > known.episode_at + SAME_START and start > known.heard_at


@dataclass(frozen=True, kw_only=True)
class IncidentChange:
    """What the alerts of one run changed in their incident.

    The flags describe changes made by this run: `resolved` means that this run resolved the incident.
    """

    opened: bool = False
    """The incident is new: no incident with this key could be joined or reopened."""
    reopened: bool = False
    """The incident was resolved, and fires again."""
    new_episode: bool = False
    """An alert of it fires again, and no push has named the end of its previous firing."""
    severity_raised: bool = False
    """The worst alert that fires is worse than the worst one before."""
    severity_lowered: bool = False
    """The worst alert that fires is less severe than the worst one before."""
    new_firing: int = 0
    """Firing alerts that are new to the incident, or were resolved before."""
    newly_resolved: int = 0
    """Alerts of the incident that fired before and are resolved now."""
    still_firing: int = 0
    """Alerts of the incident, in this run or not, that fire after this run."""
    resolved: bool = False
    """The last firing alert of the incident is resolved."""
    known: bool = False
    """The alerts belong to an incident."""
    stale: bool = False
    """All that the run says is older than what is known."""
    elsewhere: bool = False
    """All that the run says is about alerts that another incident keeps until they end."""
    snoozed: bool = False
    """A person has asked not to hear of the incident for now."""
    notified_before: bool = False
    """Somebody was notified of the incident, or is about to be."""

    @property
    def begins(self) -> bool:
        """Whether somebody should look at the incident who need not have before."""
        return self.opened or self.reopened or self.new_episode or self.severity_raised

    @property
    def only_grew(self) -> bool:
        """Whether all that is new is that more alerts fire."""
        other = self.opened or self.reopened or self.severity_raised or self.resolved
        return not other and (self.new_episode or self.new_firing > 0)

    @property
    def material(self) -> bool:
        """Whether the incident has changed in a way that somebody should hear of."""
        grown = self.opened or self.reopened or self.new_episode or self.severity_raised or self.new_firing > 0
        return grown or self.resolved
