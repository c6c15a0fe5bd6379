"""Any JSON gives alerts that can be stored, or one clear error."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import UTC
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestration.alert import Alert
from orchestration.errors import BadInput
from tasks.ingest.incidents import split_by_incident
from tasks.ingest.sources import SOURCES, Sources, parse_push, recognise
from tests.payloads import IGNORED, NAMES, body


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    """A body and all objects in it, at any depth."""
    if isinstance(value, dict):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        yield from objects_in(each)


FIELDS = sorted(
    {field for whole in map(body, (*NAMES, *IGNORED)) for part in objects_in(whole) for field in part}
    | {"name", "alertname", "labels", "annotations", "payload", "fingerprint", "tags", "incident_key", "instance"}
    | {"resolved", "firing", "ok", "active", "check_id", "conclusion", "resolve_reason", "closedAt", "closeReason"}
    | {
        "event_timestamp",
        "event_source",
        "timezone",
        "event_update_action",
        "grafana_state_reason",
        "Error",
        "rulename",
    }
)

texts = st.text(st.characters(exclude_categories=()), max_size=12)  # also control characters and lone surrogates
words = st.sampled_from(
    [
        *("firing", "resolved", "up", "true", "no_data", "ok", "critical", "P1", "4", "0", "http://x/y"),
        *("incident.annotated", "incident.triggered", "AddNote", "[P2] [Triggered on {host:a}] x", "Europe/Berlin"),
        "2026-01-01T00:00:00Z",
    ]
)
scalars = st.none() | st.booleans() | st.integers() | st.integers(10**20, 10**40) | st.floats() | words | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | texts, inner, max_size=6),
    max_leaves=25,
)
objects = st.dictionaries(st.sampled_from(FIELDS), values, max_size=8)
vendor_like = st.sampled_from([*(source.sample("01") for source in SOURCES.values()), *map(body, (*NAMES, *IGNORED))])


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """A vendor's body or an empty one, with some fields of it and of an object in it replaced by any JSON."""
    whole = copy.deepcopy(draw(vendor_like | st.just({})))
    draw(st.sampled_from(list(objects_in(whole)))).update(draw(objects))
    whole |= draw(objects | st.just({}))
    alerts = whole.get("alerts")
    if isinstance(alerts, list):
        whole["alerts"] = [alert | draw(objects) if isinstance(alert, dict) else alert for alert in alerts] + draw(
            st.lists(values, max_size=2)
        )
    return whole


sources = st.sampled_from([None, "cli", *SOURCES])
thorough = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@thorough
@given(payload=values | bodies(), source=sources)
def test_any_json_is_alerts_or_bad_input(payload: object, source: str | None) -> None:
    try:
        push = parse_push(payload, source=source)
    except BadInput as refused:
        assert_sentence(str(refused))
        return
    assert bool(push.alerts) is not bool(push.ignored)
    assert push.source in SOURCES
    assert 0 <= push.omitted <= 1_000_000
    assert len(push.ignored) <= 128
    if push.ignored:
        assert_sentence(push.ignored)
    assert len({alert.fingerprint for alert in push.alerts}) == len(push.alerts)
    for error in push.errors:
        assert_sentence(error)
    for alert in push.alerts:
        assert_storable(alert)
        assert alert.source == push.source


def assert_sentence(text: str) -> None:
    assert text.encode()
    assert not any(ord(character) < 32 for character in text)


def assert_storable(alert: Alert) -> None:
    dumped = alert.model_dump()
    assert Alert.model_validate(dumped) == alert
    assert Alert.model_validate_json(alert.model_dump_json()) == alert
    assert len(alert.state_reason) <= 512
    assert alert.firing is False or alert.ended_at is None
    for moment in (alert.started_at, alert.ended_at, alert.episode_at, alert.occurred_at):
        assert moment is None or (moment.tzinfo is UTC and 1972 <= moment.year <= 2201)
    strict = json.dumps(alert.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
    assert strict.encode()
    assert "\\u0000" not in strict.replace("\\\\", "")
    for short in (alert.name, alert.title, alert.state_reason, *alert.labels, *alert.labels.values()):
        assert not any(ord(character) < 32 for character in short)
    assert all(url.lower().startswith(("http://", "https://")) for url in alert.links.values())


@settings(thorough, max_examples=100)
@given(payload=bodies(), order=st.permutations(list(SOURCES)))
def test_the_order_of_the_registry_decides_nothing(payload: dict[str, Any], order: list[str]) -> None:
    def recognised(sources: Sources) -> str | None:
        try:
            return recognise(payload, sources).name
        except BadInput:
            return None

    assert recognised({name: SOURCES[name] for name in order}) == recognised(SOURCES)


@thorough
@given(payload=bodies())
def test_the_split_keeps_every_alert_and_the_order(payload: dict[str, Any]) -> None:
    try:
        alerts = parse_push(payload).alerts
    except BadInput:
        return
    groups = split_by_incident(alerts)
    assert all(len({alert.incident_key for alert in group}) == 1 for group in groups)
    assert len({group[0].incident_key for group in groups}) == len(groups)
    position = {alert.fingerprint: index for index, alert in enumerate(alerts)}
    assert all(group == sorted(group, key=lambda alert: position[alert.fingerprint]) for group in groups)
    assert sum(map(len, groups)) == len(alerts)
