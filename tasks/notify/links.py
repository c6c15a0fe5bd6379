"""The links of a message: addresses from alerts, cleaned and without secrets."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, urlsplit

from orchestration.alert import Alert
from orchestration.redaction import REDACTED, one_line, redact_text

_LINKS = 8
_LINKS_FIRST = ("runbook", "dashboard", "panel", "source", "silence")
_URL_CHARACTERS = "!#$%&'()*+,-./:;=?@[]_~"


def links_of(alerts: Sequence[Alert]) -> dict[str, str]:
    """The web addresses that the alerts name, the most useful first."""
    found: dict[str, str] = {}
    for alert in alerts[:100]:
        for name, url in alert.links.items():
            if _is_web(url):
                clean = redact_text(url).replace(REDACTED, "redacted")
                found.setdefault(one_line(name, 40), quote(clean, safe=_URL_CHARACTERS))
    first = [name for name in _LINKS_FIRST if name in found]
    return {name: found[name] for name in [*first, *(name for name in found if name not in first)][:_LINKS]}


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and len(url) <= 2000 and url.isprintable()
    except ValueError:
        return False
