"""The sources, and how a request body becomes alerts.

To add a source, write a mapping (`mappings/`), or its file and a line here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestration.alert import OWN_SOURCE, Alert
from orchestration.errors import BadInput, Unreadable, json_kind
from tasks.ingest.sources import (
    alertmanager,
    cloudevents,
    datadog,
    generic,
    grafana,
    mail,
    newrelic,
    opsgenie,
    pagerduty,
    zabbix,
)
from tasks.ingest.sources.cleaning import clean
from tasks.ingest.sources.envelope import Envelope
from tasks.ingest.sources.fields import one_line_text
from tasks.ingest.sources.shipped import shipped_sources
from tasks.ingest.sources.source import VENDOR, JsonObject, Push, Source

IN_CODE: dict[str, Source] = {
    module.SOURCE.name: module.SOURCE
    for module in (
        alertmanager,
        grafana,
        pagerduty,
        datadog,
        newrelic,
        opsgenie,
        zabbix,
        cloudevents,
        mail,
        generic,
    )
}
"""The sources that say more than a mapping can, and those of many senders: CloudEvents, mails and the generic one."""

SOURCES: dict[str, Source] = {**IN_CODE, **{source.name: source for source in shipped_sources()}}
"""The sources that ship, by name."""

Sources = Mapping[str, Source]
"""The sources of an installation by name: those that ship, and those of its own mappings."""

ENTRY_POINTS = frozenset(
    ("", "api", "cli", "event", "manual", "orchestrator", "prefect", "python", "schedule", "unknown", "webhook")
)
"""Names of entry points, not of senders: the source of such a push is recognised by its body."""

_IGNORED_CHARACTERS = 128
_MAX_ERRORS = 20
_MAX_FIELDS = 8


def source_named(name: str, sources: Sources = SOURCES) -> Source:
    """The source with this name, in any case.

    Raises:
        BadInput: no source has this name; the message lists the sources.
    """
    found = sources.get(name.strip().casefold())
    if found is None:
        raise BadInput(f"there is no source {one_line_text(name, 64)!r}; the sources are {', '.join(sources)}")
    return found


def recognise(payload: object, sources: Sources = SOURCES) -> Source:
    """The source that sent this body: the source that recognises most of its fields.

    Raises:
        Unreadable: the payload is no object, is empty or too deeply nested, or no source recognises it.
    """
    return _most_specific(_body(payload, sources)[0], sources)


def bids_for(payload: object, sources: Sources = SOURCES) -> dict[str, int]:
    """How certain each source is that a body is its own, the surest first; without those that do not recognise it.

    Raises:
        Unreadable: the payload is no object, is empty or too deeply nested.
    """
    return {name: bid for bid, name in sorted(_bids(_body(payload, sources)[0], sources), reverse=True)}


def parse_push(payload: object, *, source: str | None = None, sources: Sources = SOURCES) -> Push:
    """Parse the body of one request.

    The body may be wrapped in an object, `{"payload": {…}}`, as the Python API passes it, or in a CloudEvent.
    `source` selects the parser with that name, in any case. With None or a name of `ENTRY_POINTS`, the parser is
    chosen by the body. A vendor's name also accepts a body of any mapping, or a flat body in the generic shape, and
    stays the source; so does the name of the generic source.

    `errors` lists what cannot be used; the rest is used. If several alerts have the same fingerprint, the one of
    the latest moment is kept, else the last one, and `errors` says so.

    A body that its vendor documents and that says nothing about an alert gives a push without alerts; `ignored` says
    what it is about.

    Raises:
        Unreadable: nothing in the payload can be used.
        BadInput: `source` is neither a source nor an entry point.
    """
    if source == OWN_SOURCE:
        return _deduplicated(generic.parse_as(_body(payload, sources)[0], OWN_SOURCE))
    forced = None if source is None or source.strip().casefold() in ENTRY_POINTS else source_named(source, sources)
    body, envelope = _body(payload, sources)
    parser = forced or _most_specific(body, sources)
    by_hand = forced is not None and (parser is IN_CODE["generic"] or not parser.bid(body))
    push = _parsed_for(parser, body, sources) if by_hand else parser.parse(body)
    if push.ignored:
        return replace(push, ignored=one_line_text(push.ignored, _IGNORED_CHARACTERS))
    if not push.alerts:
        raise Unreadable(_why_nothing(push, body, sources))
    return _deduplicated(push if envelope is None else envelope.added_to(push))


def unknown_words(payload: object, source: str, sources: Sources) -> list[str]:
    """The words for a status or a severity in a body that this source reads and does not know, in sentences.

    Raises:
        Unreadable: it is no body that a source reads.
    """
    find = sources[source].unknown_words if source in sources else None
    return [] if find is None else list(dict.fromkeys(find(_body(payload, sources)[0])))


def _parsed_for(parser: Source, body: JsonObject, sources: Sources) -> Push:
    """A body that was sent under a name whose vendor it does not show: of that vendor, of a mapping, or by hand."""
    own_only = parser is IN_CODE["generic"] or (parser.name in IN_CODE and _is_envelope(body))
    push = Push(source=parser.name) if own_only else parser.parse(body)
    if push.alerts or push.ignored:
        return push
    bids = _bids(body, {name: each for name, each in sources.items() if each.parse_as is not None})
    mapped = sources[max(bids)[1]].parse_as if bids else None
    for parse_as in filter(None, (mapped, generic.parse_as)):
        found = parse_as(body, parser.name)
        if found.alerts or found.ignored:
            return found
        push = push if push.errors else found
    return push


def _body(payload: object, sources: Sources) -> tuple[JsonObject, Envelope | None]:
    """The body that a source reads, and the envelope that it came in, if a source knows what is in that."""
    body = clean(payload)
    if not isinstance(body, dict):
        raise Unreadable(f"the payload is {json_kind(payload)}, not a JSON object; {_expected(sources)}")
    if not body:
        raise Unreadable(f"the payload is an empty object; {_expected(sources)}")
    inner = body.get("payload")
    if isinstance(inner, dict) and inner and not _bids(body, sources):
        body = inner
    envelope = cloudevents.opened(body) or mail.opened(body)
    if envelope is None or not isinstance(envelope.data, dict) or _best(body, sources) >= VENDOR:
        return body, None
    return (envelope.data, envelope) if _best(envelope.data, sources) >= VENDOR else (body, None)


def _is_envelope(body: JsonObject) -> bool:
    return cloudevents.is_envelope(body) or mail.is_mail(body)


def _best(body: JsonObject, sources: Sources) -> int:
    return max((bid for bid, _ in _bids(body, sources)), default=0)


def _bids(body: JsonObject, sources: Sources) -> list[tuple[int, str]]:
    return [(bid, source.name) for source in sources.values() if (bid := source.bid(body)) > 0]


def _most_specific(body: JsonObject, sources: Sources) -> Source:
    bids = _bids(body, sources)
    if not bids:
        fields = ", ".join(one_line_text(name, 40) for name in list(body)[:_MAX_FIELDS])
        more = ", …" if len(body) > _MAX_FIELDS else ""
        raise Unreadable(f"no source recognizes the payload (its fields: {fields}{more}); {_expected(sources)}")
    return sources[max(bids)[1]]  # equal bids are decided by name, not by the order of the registry


def _expected(sources: Sources) -> str:
    vendors = ", ".join(name for name in IN_CODE if name != "generic")
    mapped = f"of one of {len(sources.keys() - IN_CODE.keys())} mappings (alert-pipeline sources list)"
    return f"expected the webhook body of {vendors}, {mapped}, or of generic: an object with a name, alertname or title"


def _why_nothing(push: Push, body: JsonObject, sources: Sources) -> str:
    if push.errors:
        return f"no alert of the payload can be used: {'; '.join(_bounded(push.errors, 3))}; {_expected(sources)}"
    if body.get("alerts") == []:
        return f"the payload has no alert: its list of alerts is empty; {_expected(sources)}"
    return f"the payload has no alert that source {push.source} can read; {_expected(sources)}"


def _deduplicated(push: Push) -> Push:
    if len(push.alerts) == 1 and not push.errors:
        return push
    last: dict[str, Alert] = {}
    for alert in push.alerts:
        before = last.pop(alert.fingerprint, alert)
        last[alert.fingerprint] = before if _is_later(before, alert) else alert
    errors = list(push.errors)
    repeated = len(push.alerts) - len(last)
    if repeated:
        errors.append(
            f"{repeated} of {len(push.alerts)} alerts came again later in the push with the same fingerprint: "
            "the latest of each is used"
        )
    return replace(push, alerts=tuple(last.values()), errors=tuple(_bounded(errors, _MAX_ERRORS)))


def _is_later(one: Alert, other: Alert) -> bool:
    """Whether the first alert is of a later firing, or of a later moment, than the second; False if it is not known."""
    for mine, theirs in ((one.episode_at, other.episode_at), (one.occurred_at, other.occurred_at)):
        if mine and theirs and mine != theirs:
            return mine > theirs
    return False


def _bounded(errors: Sequence[str], limit: int) -> list[str]:
    shown = list(errors[:limit])
    return shown if len(errors) <= limit else [*shown, f"and {len(errors) - limit} more"]
