"""No request over HTTP is answered with a 500, and every refusal says why."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestration.settings import Settings
from orchestration.store.database import Database
from service.api import create_app
from tests.api_helpers import open_api
from tests.payloads import NAMES, body
from tests.vendors import SIGNING_SECRET, WEBHOOK_SECRET, signed_by_pagerduty, signed_by_slack

CALLS = [
    (method.upper(), path)
    for path, methods in create_app(Settings(), "postgresql://nowhere/none").openapi()["paths"].items()
    for method in methods
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
fields = st.sampled_from(
    [
        *("payload", "source", "trace_id", "environment", "driver", "checker_names", "checker_configs", "labels"),
        *("provider", "notify_driver", "notify_channel", "name", "status", "severity", "alerts", "version", "groupKey"),
    ]
)
vendor_bodies = st.sampled_from(NAMES).map(body)
objects = st.dictionaries(fields | st.text(), json_values | vendor_bodies, max_size=6)


def as_json(value: object) -> bytes:
    """JSON, also of integers that are too long for most."""
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:
        return repr(value).encode(errors="replace")


bodies = (
    st.binary(max_size=64)
    | (objects | vendor_bodies | json_values).map(as_json)
    | objects.map(lambda value: gzip.compress(as_json(value)))
    | vendor_bodies.map(lambda value: as_json({"payload": value}))
)
words = st.text(st.characters(min_codepoint=33, max_codepoint=255), min_size=1, max_size=24)
headers = st.dictionaries(
    st.sampled_from(
        [
            *("Content-Encoding", "Content-Type", "Idempotency-Key", "X-Trace-Id", "traceparent", "Authorization"),
            *("X-API-Key", "X-Signature", "X-Key-Id", "X-Timestamp", "Origin", "Host", "Forwarded"),
        ]
    ),
    words | st.sampled_from(["gzip", "identity", "Basic Og==", "Bearer apk_x", "1"]),
    max_size=3,
)
queries = st.dictionaries(
    st.sampled_from(["status", "source", "environment", "stage", "trace_id", "limit", "cursor"]),
    st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["failed", "10", "-1", "MjAyNi8x"]),
    max_size=3,
)


@pytest.fixture(scope="module")
async def api(home: Any, _database: Database) -> AsyncIterator[httpx.AsyncClient]:
    from tests.stack_fixtures import settings_for

    secrets = {"slack_signing_secret": SIGNING_SECRET, "pagerduty_webhook_secret": WEBHOOK_SECRET}
    chosen = settings_for(home, api_sync_timeout_seconds=0.01, api_rate_limit_per_second=0, api_auth="off", **secrets)
    async with open_api(chosen, _database.url) as client:
        yield client


@given(call=st.sampled_from(CALLS), segment=words, content=bodies, headers=headers, query=queries)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
async def test_no_request_is_answered_with_a_500(
    api: httpx.AsyncClient,
    call: tuple[str, str],
    segment: str,
    content: bytes,
    headers: dict[str, str],
    query: dict[str, str],
) -> None:
    method, path = call
    address = re.sub(r"\{.*?\}", lambda _: quote(segment, safe=""), path)
    given_headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    answer = await api.request(
        method, address, params=query, content=content if method == "POST" else None, headers=given_headers
    )

    not_over, not_ready = (answer.status_code == 504, answer.status_code == 503 and path == "/ready/")
    assert answer.status_code < 500 or not_over or not_ready, answer.text
    if answer.status_code >= 400 and not not_ready:
        assert len(answer.json()["error"]) > 5


KEY = f"1-{'0' * 32}"
odd = json_values | st.sampled_from([KEY, "1", "x" * 300, "\x00", "alert-pipeline/resolve", "user_reference", {}, []])


def shaped(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of which each field is there or not, and has a value that fits or does not."""
    return st.fixed_dictionaries({}, optional={name: values | odd for name, values in fields.items()})


pressed = shaped(action_id=st.just("alert-pipeline/resolve"), value=st.just(KEY))
interactions = shaped(
    type=st.just("block_actions"),
    user=shaped(id=st.text(), name=st.text(), username=st.text()),
    team=shaped(id=st.text(), domain=st.text()),
    actions=st.lists(pressed | odd, max_size=3),
)
events = shaped(
    event=shaped(
        event_type=st.sampled_from(["incident.resolved", "incident.acknowledged", "incident.triggered"]),
        occurred_at=st.sampled_from(["2026-11-27T10:00:00Z", "soon", 1e300]),
        agent=shaped(type=st.just("user_reference"), id=st.text(), summary=st.text()),
        data=shaped(incident_key=st.just(KEY), id=st.text(), title=st.text(), status=st.text()),
    )
)


@given(payload=interactions | odd, event=events | odd, token=words, form=st.binary(max_size=64))
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
async def test_no_answer_to_a_message_is_answered_with_a_500(
    api: httpx.AsyncClient, payload: Any, event: Any, token: str, form: bytes
) -> None:
    page = f"/respond/{quote(token, safe='')}/"
    answers = [
        await api.post("/slack/interactions/", **signed_by_slack(payload)),
        await api.post("/pagerduty/webhook/", **signed_by_pagerduty(event)),
        await api.get(page),
        await api.post(page, content=form),
    ]
    assert [answer.status_code for answer in answers if answer.status_code >= 500] == []
