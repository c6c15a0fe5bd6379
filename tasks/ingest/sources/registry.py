"""The sources, and the way from a request's body to alerts. To add a source: write its file, name it here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestration.alert import Alert
from orchestration.errors import BadInput
from tasks.ingest.sources import alertmanager, datadog, generic, grafana, newrelic, opsgenie, pagerduty, zabbix
from tasks.ingest.sources.cleaning import clean
from tasks.ingest.sources.fields import kind, line
from tasks.ingest.sources.source import JsonObject, Push, Source

SOURCES: dict[str, Source] = {
    module.SOURCE.name: module.SOURCE
    for module in (
        alertmanager,
        grafana,
        pagerduty,
        datadog,
        newrelic,
        opsgenie,
        zabbix,
        generic,
    )
}

ENTRY_POINTS = frozenset(
    ("", "api", "cli", "event", "manual", "orchestrator", "prefect", "python", "schedule", "unknown", "webhook")
)
"""Names that say how a push came in, not who sent it: its body is recognised."""

_MAX_ERRORS = 20
_MAX_FIELDS = 8


def source_named(name: str) -> Source:
    """The source of this name, in any case.

    Raises:
        BadInput: there is none; the message lists those there are.
    """
    found = SOURCES.get(name.strip().casefold())
    if found is None:
        raise BadInput(f"there is no source {line(name, 64)!r}; the sources are {', '.join(SOURCES)}")
    return found


def recognise(payload: object) -> Source:
    """Whose body this is: the source that recognises the most in it.

    Raises:
        BadInput: the payload is no object, is empty, is nested too deeply, or is no source's.
    """
    return _most_specific(_body(payload))


def parse_push(payload: object, *, source: str | None = None) -> Push:
    """Reads the body of one request.

    A body inside of one other object, `{"payload": {…}}`, is taken out: the Python API passes it so.
    `source` forces the parser of that name, in any case. A name of `ENTRY_POINTS` or None: the body is recognised.
    A flat body in the generic shape is read under any vendor's name and keeps that name as its source.

    What cannot be used is named in `errors` and does not hold up the rest. Of several alerts with one fingerprint
    the last counts, at its own place in the order, and `errors` says so.

    Raises:
        BadInput: nothing in the payload can be used, or `source` is neither a source nor an entry point.
    """
    forced = None if source is None or source.strip().casefold() in ENTRY_POINTS else source_named(source)
    body = _body(payload)
    parser = forced or _most_specific(body)
    push = parser.parse(body)
    if not push.alerts and not parser.recognises(body):
        by_hand = generic.parse_as(body, parser.name)
        push = by_hand if by_hand.alerts else push
    if not push.alerts:
        raise BadInput(_why_nothing(push, body))
    return _settled(push)


def _body(payload: object) -> JsonObject:
    body = clean(payload)
    if not isinstance(body, dict):
        raise BadInput(f"the payload is {kind(payload)}, not a JSON object; {_expected()}")
    if not body:
        raise BadInput(f"the payload is an empty object; {_expected()}")
    inner = body.get("payload")
    if isinstance(inner, dict) and inner and not _bids(body):
        return inner
    return body


def _bids(body: JsonObject) -> list[tuple[int, str]]:
    return [(bid, source.name) for source in SOURCES.values() if (bid := source.recognises(body)) > 0]


def _most_specific(body: JsonObject) -> Source:
    bids = _bids(body)
    if not bids:
        fields = ", ".join(line(name, 40) for name in list(body)[:_MAX_FIELDS])
        more = ", …" if len(body) > _MAX_FIELDS else ""
        raise BadInput(f"no source recognises the payload (its fields: {fields}{more}); {_expected()}")
    return SOURCES[max(bids)[1]]  # of two equal bids the name decides, not the order of the registry


def _expected() -> str:
    vendors = ", ".join(name for name in SOURCES if name != "generic")
    return f"expected the webhook body of {vendors}, or of generic: an object with a name, alertname or title"


def _why_nothing(push: Push, body: JsonObject) -> str:
    if push.errors:
        return f"no alert of the payload can be used: {'; '.join(_bounded(push.errors, 3))}; {_expected()}"
    if body.get("alerts") == []:
        return f"the payload carries no alert, its list of alerts is empty; {_expected()}"
    return f"the payload carries no alert that source {push.source} can read; {_expected()}"


def _settled(push: Push) -> Push:
    last: dict[str, Alert] = {}
    for alert in push.alerts:
        last.pop(alert.fingerprint, None)
        last[alert.fingerprint] = alert
    errors = list(push.errors)
    repeated = len(push.alerts) - len(last)
    if repeated:
        errors.append(
            f"{repeated} of {len(push.alerts)} alerts came again later in the push with the same fingerprint: "
            "the last of each counts"
        )
    return replace(push, alerts=tuple(last.values()), errors=tuple(_bounded(errors, _MAX_ERRORS)))


def _bounded(errors: Sequence[str], limit: int) -> list[str]:
    shown = list(errors[:limit])
    return shown if len(errors) <= limit else [*shown, f"and {len(errors) - limit} more"]
