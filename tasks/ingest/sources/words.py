"""The vendors' words for how bad it is and for whether it still is, in ours."""

from __future__ import annotations

from pydantic import JsonValue

from orchestration.alert import AlertStatus, Severity
from tasks.ingest.sources.fields import text

_SEVERITIES: dict[Severity, str] = {
    Severity.CRITICAL: "critical crit fatal emergency emerg disaster page severe high error err major urgent "
    "p0 p1 p2 sev0 sev1 sev2 sev-0 sev-1 sev-2",
    Severity.WARNING: "warning warn medium moderate average minor p3 sev3 sev-3",
    Severity.INFO: "info information informational low notice none debug ok p4 p5 sev4 sev5 sev-4 sev-5",
}
_SEVERITY_OF = {word: severity for severity, words in _SEVERITIES.items() for word in words.split()}

_RESOLVED_WORDS = "resolved resolve ok normal closed close inactive recovered recovery healthy cleared clear"
_RESOLVED = frozenset(_RESOLVED_WORDS.split())


def known_severity(*values: JsonValue) -> Severity | None:
    """The severity that the first known word among `values` means, in any case; None when there is none."""
    words = (text(value).strip().casefold() for value in values)
    return next((_SEVERITY_OF[word] for word in words if word in _SEVERITY_OF), None)


def severity_of(*values: JsonValue) -> Severity:
    """Like `known_severity`, but warning where no word is known: neither lost nor a false page."""
    return known_severity(*values) or Severity.WARNING


def worst_of(*values: JsonValue) -> Severity:
    """The worst that a known word among `values` means, for vendors that say it in two places; warning without one."""
    known = [severity for value in values if (severity := known_severity(value)) is not None]
    return Severity.worst(*known) if known else Severity.WARNING


def status_of(*values: JsonValue) -> AlertStatus:
    """What the first word that is there says. Anything that is not plainly an end (acknowledged, …) is firing."""
    words = (text(value).strip().casefold() for value in values)
    word = next((word for word in words if word), "")
    return AlertStatus.RESOLVED if word in _RESOLVED else AlertStatus.FIRING
