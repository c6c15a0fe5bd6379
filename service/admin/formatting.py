"""How the pages of the admin are rendered, and how values are written in them.

A function returns `Markup`, whose values are escaped already, or plain text, which the templates escape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from orchestration.alert import web_address
from orchestration.redaction import redact, redact_text
from orchestration.store.workers import ALIVE_SECONDS
from service.admin import PUBLIC_PATH

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
"""The colour of each status and severity. A value that is not listed here is in progress, and `BUSY`."""

_TEMPLATES = Path(__file__).parent / "templates"
_UNITS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0))


class Renderer:
    """Renders a template with what all pages show: the navigation, and who is signed in.

    Args:
        shared: the values that every template can use.
    """

    def __init__(self, shared: Mapping[str, Any]) -> None:
        self._templates = Jinja2Templates(_TEMPLATES)
        self._templates.env.trim_blocks = self._templates.env.lstrip_blocks = True
        self._templates.env.globals.update(shared)

    def render(
        self, request: Request, template: str, context: Mapping[str, Any], *, status: int = HTTPStatus.OK
    ) -> Response:
        """The page. It has a navigation only if somebody is signed in."""
        shared = {
            "session": getattr(request.state, "session", None),
            "here": request.scope["path"].removeprefix(str(PUBLIC_PATH)),
        }
        return self._templates.TemplateResponse(request, template, {**shared, **context}, status_code=status)

    def render_problem(self, request: Request, status: int, message: str) -> Response:
        """A page that says what is wrong, answered with this HTTP status."""
        return self.render(request, "problem.html", {"code": status, "message": message}, status=status)


def badge(value: object, label: str | None = None) -> Markup:
    """A status or a severity as a coloured word. None and the empty text give nothing."""
    if value is None or value == "":
        return Markup("")
    return Markup('<span class="badge {}">{}</span>').format(TONES.get(str(value), BUSY), label or str(value))


def badge_of(good: bool, yes: str, no: str) -> Markup:
    """The word `yes` in green, or the word `no` in red."""
    return badge("succeeded", yes) if good else badge("failed", no)


def seconds(value: float | None) -> str:
    """A time span of so many seconds in the unit that fits: `4 s`, `3 min`, `2 h 5 min`."""
    if value is None:
        return ""
    value = max(value, 0.0) if value < _UNITS[-1][1] else float(round(value))
    for place, (unit, size) in enumerate(_UNITS):
        if value >= size:
            count, rest = divmod(value, size)
            below = _UNITS[place + 1] if place + 1 < len(_UNITS) else None
            more = f" {rest // below[1]:.0f} {below[0]}" if below and rest >= below[1] and count < 10 else ""
            return f"{count:.0f} {unit}{more}"
    return f"{value:.0f} s" if value >= 10 or value == int(value) else f"{value:.1f} s"


def milliseconds(value: float | None) -> str:
    """A duration of so many milliseconds: `312 ms`, `4.2 s`, `3 min`."""
    if value is None:
        return ""
    return f"{value:.0f} ms" if value < 1000 else seconds(value / 1000)


def moment(value: datetime | None) -> Markup:
    """A moment in UTC; hovering shows how long ago it was."""
    return _time(value, Markup('<time datetime="{at}" title="{age} ago">{utc}</time>'))


def ago(value: datetime | None) -> Markup:
    """How long ago a moment was; hovering shows the moment in UTC."""
    return _time(value, Markup('<time datetime="{at}" title="{utc} UTC">{age} ago</time>'))


def until(value: datetime | None) -> Markup:
    """In how long a moment comes; hovering shows the moment in UTC."""
    if value is None:
        return Markup("")
    at = value.astimezone(UTC)
    html = Markup('<time datetime="{at}" title="{utc} UTC">in {wait}</time>')
    return html.format(at=at.isoformat(), utc=f"{at:%Y-%m-%d %H:%M:%S}", wait=seconds(round(max(-_age_seconds(at), 0))))


def _time(value: datetime | None, html: Markup) -> Markup:
    if value is None:
        return Markup("")
    at = value.astimezone(UTC)
    return html.format(at=at.isoformat(), utc=f"{at:%Y-%m-%d %H:%M:%S}", age=seconds(round(_age_seconds(at))))


def heartbeat(at: datetime) -> Markup:
    """Whether a worker with this heartbeat is alive, and how long ago the heartbeat was."""
    return badge_of(_age_seconds(at) < ALIVE_SECONDS, "alive", "dead") + Markup(" ") + ago(at)


def _age_seconds(at: datetime) -> float:
    return (datetime.now(UTC) - at).total_seconds()


def percent(part: float, total: float) -> str:
    """A share: `12 %`, `0.4 %`; a dash if the total is 0."""
    if not total:
        return "–"
    share = 100 * part / total
    return f"{share:.1f} %" if 0 < share < 10 else f"{share:.0f} %"


def without_secrets(values: Mapping[str, object]) -> Mapping[str, object]:
    """Stored values without their secrets."""
    return cast("dict[str, object]", redact(values))


def as_json(value: object) -> str:
    """A stored value as indented JSON, without its secrets."""
    return json.dumps(redact(value), indent=2, ensure_ascii=False)


def json_block(value: object) -> Markup:
    """A stored value as a block of JSON, without its secrets. An empty value gives nothing."""
    return block(as_json(value)) if value else Markup("")


def block(text: str | None) -> Markup:
    """Text as it is, in a block of its own."""
    return Markup("<pre>{}</pre>").format(text) if text else Markup("")


def code(text: str) -> Markup:
    """An identifier in a fixed-width font."""
    return Markup("<code>{}</code>").format(text)


def short(identifier: str | None) -> str:
    """The first 8 characters of an id, which are enough to recognize it."""
    return (identifier or "")[:8]


def link(path: str, text: object) -> Markup:
    """A link to another page of the admin."""
    return Markup('<a href="{}{}">{}</a>').format(PUBLIC_PATH, path, text)


def incident_links(numbers: Sequence[int]) -> Markup:
    """The numbers of incidents as links to their pages."""
    return Markup(" ").join(link(f"/incidents/{number}/", f"#{number}") for number in numbers)


def safe_address(value: object) -> str:
    """The value as the address of a web page; "" if it is none, or contains a secret."""
    address = web_address(value)
    return address if redact_text(address) == address else ""


def web_link(value: object) -> Markup | str:
    """The value as a link if it is the address of a web page without a secret, otherwise as text."""
    address = safe_address(value)
    if not address:
        return str(value)
    return Markup('<a href="{}" rel="noreferrer">{}</a>').format(address, str(value))


def named_values(values: Mapping[str, object]) -> Markup:
    """Labels or annotations as a list of names and values, without secrets. Web addresses are links."""
    rows = [
        Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, web_link(value))
        for name, value in without_secrets(values).items()
    ]
    return Markup('<dl class="named">{}</dl>').format(Markup("").join(rows)) if rows else Markup("")


def owner(name: str) -> str:
    """The name of a lease owner without its last parts, such as `host/pid`. The name of an API key stays as it is."""
    return "/".join(name.split("/")[:2])
