"""`/respond/TOKEN/`: the page behind the links in messages. GET changes nothing, so whatever follows links does not."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from fastapi import Response as Answer
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse

from orchestration.alert import Incident, IncidentStatus
from orchestration.errors import BadInput, PipelineError
from orchestration.pages import incident_page
from orchestration.redaction import one_line
from orchestration.respond_links import PATH, LinkExpired, RespondLink, RespondLinks
from orchestration.responses import offered_for
from orchestration.signals import logger
from orchestration.store import actions
from orchestration.store.actions import Actor, Via
from orchestration.store.incident_list import IncidentSummary, summarize
from orchestration.store.incidents import find_incident_of
from orchestration.store.standings import wait_for_messages
from service.api.body import read_raw
from service.api.prefix import prefix_of
from service.api.problems import HttpProblem, public_words, status_of
from service.api.state import state_of

_MAX_FORM_BYTES = 4096

_STYLE = """
:root { color-scheme: light dark; --back: #f4f6f8; --card: #fff; --text: #16202b; --quiet: #5c6b7a; --line: #dde3e9;
  --bad: #c6262e; --warn: #a15c00; --busy: #2463c4; }
@media (prefers-color-scheme: dark) { :root { --back: #0e141b; --card: #161e27; --text: #e4ebf2; --quiet: #93a2b1;
  --line: #2a3541; --bad: #ff7b7f; --warn: #e8ab4b; --busy: #77aef9; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1rem; background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 32rem; margin: 0 auto; padding: 1.25rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
h1 { margin: 0 0 1rem; font-size: 1.3rem; line-height: 1.3; overflow-wrap: anywhere; }
p { margin: 0 0 .5rem; }
dl { margin: 0 0 1.25rem; }
dt { color: var(--quiet); font-size: .85rem; }
dd { margin: 0 0 .5rem; overflow-wrap: anywhere; }
label { display: block; color: var(--quiet); font-size: .85rem; }
input { display: block; width: 100%; margin: .2rem 0 1rem; padding: .6rem; font: inherit; color: var(--text);
  background: var(--back); border: 1px solid var(--line); border-radius: 6px; }
button { display: block; width: 100%; margin: 0 0 .75rem; padding: .8rem; font: inherit; font-weight: 600;
  color: var(--text); background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
button.acknowledge { color: #fff; background: #1f6feb; border-color: #1f6feb; }
a { color: var(--busy); }
.critical, .warning, .info { font-size: .85rem; font-weight: 650; text-transform: uppercase; color: var(--busy); }
.critical, .problem { color: var(--bad); }
.warning { color: var(--warn); }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # The address is the permission: no other site learns it, and no cache keeps it.
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Robots-Tag": "noindex",
}

router = APIRouter(include_in_schema=False)


@router.get(f"{PATH}{{token}}/")
async def show(request: Request, token: str) -> Answer:
    """The incident as it is now, and what can be done about it."""
    try:
        link, summary = await _find(request, token)
    except PipelineError as error:
        return _problem(error)
    return _page(request, link, summary)


@router.post(f"{PATH}{{token}}/")
async def act(request: Request, token: str) -> Answer:
    """Do what was pressed, and show what is true after it."""
    link, summary = None, None
    try:
        link, summary = await _find(request, token)
        form = await _read_form(request)
        response = next((one for one in link.responses if one.value == form.get("response")), None)
        if response is None:
            raise BadInput("This is no button of the page: open the link again")
        actor = _actor(link, form.get("by", ""))
        api = state_of(request)
        async with api.database.transaction() as tx:
            done = await actions.respond(tx, summary.incident.id, response, actor, api.settings)
        await wait_for_messages(api.database, done.incident.id)
    except PipelineError as error:
        return _problem(error) if link is None or summary is None else _page(request, link, summary, error)
    logger.info("From a link to %s: %s", link.channel, done.message)
    return RedirectResponse(f"{prefix_of(request)}{PATH}{token}/", HTTPStatus.SEE_OTHER, headers=HEADERS)


async def _find(request: Request, token: str) -> tuple[RespondLink, IncidentSummary]:
    """What the link allows, and its incident.

    Raises:
        HttpProblem: 404 for a link that is none, 410 for one that has expired, 429 after too many requests.
        IncidentNotFound: the incident is not stored any more.
        Unavailable: the database does not answer.
    """
    api = state_of(request)
    api.guard.count_visit(request)
    try:
        link = RespondLinks(api.settings).read(token)
    except LinkExpired as error:
        raise HttpProblem(HTTPStatus.GONE, str(error)) from None
    except BadInput as error:
        raise HttpProblem(HTTPStatus.NOT_FOUND, str(error)) from None
    async with api.database.transaction() as tx:
        return link, await summarize(tx, await find_incident_of(tx, link.incident))


async def _read_form(request: Request) -> dict[str, str]:
    """
    Raises:
        HttpProblem: 400 for anything but a form, 403 if another site sent it, 413 if it is too large.
    """
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise HttpProblem(HTTPStatus.FORBIDDEN, "This form was sent from another site: open the link of the message")
    try:
        return dict(parse_qsl((await read_raw(request, _MAX_FORM_BYTES)).decode(), max_num_fields=10))
    except ValueError:
        raise HttpProblem(HTTPStatus.BAD_REQUEST, "This is not the form of the page: open the link again") from None


def _actor(link: RespondLink, typed: str) -> Actor:
    by = one_line(typed, actions.MAX_NAME_CHARACTERS) or link.person or "somebody with the link"
    return Actor(by=by, via=Via.LINK, account=one_line(link.channel, actions.MAX_NAME_CHARACTERS))


def _page(
    request: Request, link: RespondLink, summary: IncidentSummary, problem: PipelineError | None = None
) -> Answer:
    incident, settings = summary.incident, state_of(request).settings
    view: dict[str, Any] = {
        "incident": incident,
        "title": one_line(incident.title, 200),
        "severity": incident.severity.value,
        "number": incident.id,
        "facts": _facts(summary),
        "responses": [one for one in offered_for(incident) if one in link.responses],
        "person": link.person,
        "page": incident_page(settings, incident.id),
    }
    return _render(view, problem)


def _problem(error: PipelineError) -> Answer:
    return _render({"incident": None, "title": "No incident"}, error)


def _render(view: Mapping[str, Any], problem: PipelineError | None) -> Answer:
    said = {"problem": f"{public_words(problem)}." if problem else "", "style": _STYLE}
    text = _template().render(view, **said, longest_name=actions.MAX_NAME_CHARACTERS)
    return HTMLResponse(text, HTTPStatus.OK if problem is None else status_of(problem), headers=HEADERS)


@cache
def _template() -> Any:
    loader = PackageLoader("service.api", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("respond.html")


def _facts(summary: IncidentSummary) -> dict[str, str]:
    incident = summary.incident
    rows = {
        "What": one_line(incident.description, 300),
        "State": _state(incident),
        "Since": _moment(incident.opened_at),
        "Alerts": f"{summary.firing} of {summary.alerts} firing",
        "Environment": one_line(incident.environment, 80),
        "Source": one_line(summary.source, 80),
    }
    return {label: value for label, value in rows.items() if value}


def _state(incident: Incident) -> str:
    said: str = incident.status.value
    if incident.status is IncidentStatus.ACKNOWLEDGED and incident.acknowledged_at is not None:
        said = f"acknowledged by {incident.acknowledged_by or 'somebody'} at {_moment(incident.acknowledged_at)}"
    elif incident.status.ended and (ended_at := incident.closed_at or incident.resolved_at) is not None:
        said = f"{said} since {_moment(ended_at)}"
    until = incident.snoozed_until
    return f"{said}, snoozed until {_moment(until)}" if until is not None else said


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
