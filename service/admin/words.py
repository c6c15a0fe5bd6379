"""How values are written on the pages. What comes back is escaped, or plain text that the template escapes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

from markupsafe import Markup

from orchestration.redaction import redact
from orchestration.store.workers import ALIVE_SECONDS

GOOD, BAD, BUSY, QUIET, WARN = "good", "bad", "busy", "quiet", "warn"

TONES = {
    "notified": GOOD,
    "succeeded": GOOD,
    "sent": GOOD,
    "resolved": GOOD,
    "closed": QUIET,
    "failed": BAD,
    "critical": BAD,
    "firing": BAD,
    "open": BAD,
    "retrying": WARN,
    "warning": WARN,
    "acknowledged": WARN,
    "skipped": QUIET,
    "info": QUIET,
}
"""How a status or a severity looks; what is not named here is at work."""

_UNITS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0))


def badge(value: object, label: str | None = None) -> Markup:
    """A status or a severity as a coloured word."""
    if value is None or value == "":
        return Markup("")
    return Markup('<span class="badge {}">{}</span>').format(TONES.get(str(value), BUSY), label or str(value))


def seconds(value: float | None) -> str:
    """A time span in the unit that fits: `4 s`, `3 min`, `2 h 5 min`."""
    if value is None:
        return ""
    value = max(value, 0.0) if value < _UNITS[-1][1] else float(round(value))
    for place, (unit, size) in enumerate(_UNITS):
        if value >= size:
            whole, rest = divmod(value, size)
            below = _UNITS[place + 1] if place + 1 < len(_UNITS) else None
            more = f" {rest // below[1]:.0f} {below[0]}" if below and rest >= below[1] and whole < 10 else ""
            return f"{whole:.0f} {unit}{more}"
    return f"{value:.0f} s" if value >= 10 or value == int(value) else f"{value:.1f} s"


def milliseconds(value: float | None) -> str:
    """A duration: `312 ms`, `4.2 s`, `3 min`."""
    if value is None:
        return ""
    return f"{value:.0f} ms" if value < 1000 else seconds(value / 1000)


def moment(value: datetime | None) -> Markup:
    """A moment in UTC, which tells on hovering how long ago it was."""
    if value is None:
        return Markup("")
    at = value.astimezone(UTC)
    return Markup('<time datetime="{}" title="{} ago">{}</time>').format(
        at.isoformat(), seconds(round(_age(at))), f"{at:%Y-%m-%d %H:%M:%S}"
    )


def ago(value: datetime | None) -> Markup:
    """How long ago, with the moment itself on hovering."""
    if value is None:
        return Markup("")
    at = value.astimezone(UTC)
    return Markup('<time datetime="{}" title="{}">{} ago</time>').format(
        at.isoformat(), f"{at:%Y-%m-%d %H:%M:%S} UTC", seconds(round(_age(at)))
    )


def percent(part: float, whole: float) -> str:
    """A share: `12 %`, `0.4 %`; a dash where there is nothing to share."""
    if not whole:
        return "–"
    share = 100 * part / whole
    return f"{share:.1f} %" if 0 < share < 10 else f"{share:.0f} %"


def hidden(values: Mapping[str, object]) -> Mapping[str, object]:
    """Stored values without secrets."""
    clean = redact(values)
    return clean if isinstance(clean, dict) else {}


def pretty(value: object) -> str:
    """A stored value as indented JSON, without secrets."""
    return json.dumps(redact(value), indent=2, ensure_ascii=False, sort_keys=False)


def query(**values: str) -> str:
    """The values as the query of an address."""
    return urlencode(values)


def heartbeat(at: datetime) -> Markup:
    """When a worker was last heard of, and whether it is alive."""
    alive = _age(at) < ALIVE_SECONDS
    return badge("succeeded" if alive else "failed", "alive" if alive else "dead") + Markup(" ") + ago(at)


def short(identifier: str | None) -> str:
    """The start of an id, enough to tell it from others."""
    return (identifier or "")[:8]


def _age(at: datetime) -> float:
    return (datetime.now(UTC) - at).total_seconds()
