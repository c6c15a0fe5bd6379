"""What a push becomes that is more than people can be told: one alert that says so.

Thousands of pages at once are none: nobody reads them, and what matters waits behind them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from orchestration.alert import TOO_LARGE, TOO_MANY, Alert, AlertStatus, Severity
from orchestration.redaction import one_line
from tasks.ingest.sources import Push

_NAMES_SHOWN = 10
_NAME_CHARACTERS = 80
_NAME = re.compile(
    r'''"(?:alert_?name|alert_title|condition_name|rule_?name|check_name|name|title)"\s*:\s*"((?:[^"\\]|\\.){1,200})"''',
    re.IGNORECASE,
)


def too_many_incidents(push: Push, groups: Sequence[Sequence[Alert]], ceiling: int) -> Alert:
    """The one alert that stands for a push with more than `ceiling` incidents. It fires as long as one of them does."""
    firing = [alert for alert in push.alerts if alert.firing]
    names = Counter(one_line(alert.name, _NAME_CHARACTERS) for alert in push.alerts)
    frequent = ", ".join(f"{name} ({count:,})" for name, count in names.most_common(_NAMES_SHOWN))
    others = f" and {len(names) - _NAMES_SHOWN:,} other names" if len(names) > _NAMES_SHOWN else ""
    return Alert(
        source=push.source,
        fingerprint=f"{TOO_MANY}/{push.source}",
        incident_key=f"{TOO_MANY}/{push.source}",
        name=TOO_MANY,
        title=f"{len(groups):,} incidents in one push from {push.source}",
        severity=Severity.worst(*(alert.severity for alert in firing or push.alerts)),
        status=AlertStatus.FIRING if firing else AlertStatus.RESOLVED,
        description=f"A push has {len(push.alerts):,} alerts of {len(groups):,} incidents, {len(firing):,} of them "
        f"firing. That is more than ORCHESTRATION_MAX_INCIDENTS_PER_PUSH={ceiling}, so this is one message for all, "
        f"and nobody is notified of each. The most frequent: {frequent}{others}",
    )


def too_large_push(source: str, sender: str, size_bytes: int | None, limit: str, beginning: str) -> dict[str, object]:
    """The body of the generic source that stands for a push that could not be read.

    Args:
        source: who sent it, as the address or the body says.
        sender: the name of the key; "" means the local key.
        size_bytes: how large it is, as far as that is known.
        limit: what is too large about it, in a sentence.
        beginning: the text of its beginning.
    """
    size = f" of {size_bytes:,} bytes" if size_bytes else ""
    name = first_name(beginning)
    begins = f"It begins with the alert {name!r}." if name else "No alert's name could be read."
    return {
        "name": TOO_LARGE,
        "title": f"A push{size} from {source} is too large to be read: {name or 'its alerts are not known'}",
        # What it says is not known, so it may be the worst.
        "severity": "critical",
        "status": "firing",
        "description": f"{limit}. Nobody is notified of the alerts in it. {begins} Its beginning: {beginning}",
        "fingerprint": f"{TOO_LARGE}/{source}/{sender}",
        "incident_key": f"{TOO_LARGE}/{source}/{sender}",
    }


def first_name(text: str) -> str:
    """The name of the first alert in the beginning of a body; "" if none can be read."""
    found = _NAME.search(text)
    return one_line(found[1], _NAME_CHARACTERS) if found else ""
