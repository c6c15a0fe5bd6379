"""PagerDuty: one incident of ours is one of theirs, and every event is within their schema and limits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from blocks.channels.pagerduty import EVENT_BYTES, PagerDutyChannel, events_of
from orchestration.alert import AlertStatus, Severity
from orchestration.errors import DeliveryFailed
from orchestration.message import Fact
from tests.receivers import Answer
from tests.test_channels import a_message
from tests.vendors import ROUTING_KEY, PagerDuty, pagerduty


def a_channel(vendor: PagerDuty, **fields: Any) -> PagerDutyChannel:
    own: dict[str, Any] = {"routing_key": SecretStr(ROUTING_KEY), "url": vendor.url}
    return PagerDutyChannel(**(own | fields))


async def test_one_incident_is_triggered_gets_worse_is_acknowledged_and_resolved() -> None:
    with pagerduty() as vendor:
        channel = a_channel(vendor)
        first = await channel.send(a_message(severity=Severity.WARNING))
        assert (first.status, first.provider_id, first.thread) == ("sent", "incident-7", "incident-7")
        await channel.send(a_message(thread=first.thread, severity=Severity.CRITICAL))
        await channel.send(a_message(thread=first.thread, acknowledged_by="ann"))
        await channel.send(a_message(thread=first.thread, status=AlertStatus.RESOLVED))
        [incident] = vendor.incidents
        assert incident.events == ["trigger", "trigger", "acknowledge", "resolve"]
        assert (incident.status, incident.severity) == ("resolved", "critical")

        await channel.send(a_message())  # the incident begins anew
        assert [one.status for one in vendor.incidents] == ["resolved", "triggered"]


async def test_an_event_says_what_the_message_says() -> None:
    with pagerduty() as vendor:
        await a_channel(vendor).send(a_message())
        [event] = vendor.events
    payload = event["payload"]
    assert payload["summary"] == "[CRITICAL] HighCPU on web-1 (production)"
    assert (payload["source"], payload["severity"], payload["group"]) == ("web-1", "critical", "production")
    assert payload["custom_details"] == {
        "Where": "web-1",
        "Since": "2026-01-02 03:04:05 UTC",
        "What to do": "1. Follow the runbook.\n2. Restart java",
        "Analysis": "A process eats the CPU.",
        "Checked": "✗ cpu: critical, 97 % busy\n✓ disk: ok, 12 % used",
        "Trace": "trace-1",
        "Run": "run-1",
    }
    assert event["links"] == [{"href": "https://wiki.example.com/cpu?a=1&b=2", "text": "runbook"}]


@pytest.mark.parametrize(
    ("ours", "theirs"), [(Severity.CRITICAL, "critical"), (Severity.WARNING, "warning"), (Severity.INFO, "info")]
)
def test_each_severity_has_its_own(ours: Severity, theirs: str) -> None:
    [event] = events_of(a_message(severity=ours))
    assert event["payload"]["severity"] == theirs


async def test_what_was_acknowledged_before_pagerduty_heard_of_it_is_there_and_acknowledged() -> None:
    with pagerduty() as vendor:
        await a_channel(vendor).send(a_message(acknowledged_by="ann"))
        assert [(one.status, one.events) for one in vendor.incidents] == [("acknowledged", ["trigger", "acknowledge"])]


async def test_an_end_that_pagerduty_never_heard_the_beginning_of_opens_nothing() -> None:
    with pagerduty() as vendor:
        assert (await a_channel(vendor).send(a_message(status=AlertStatus.RESOLVED))).status == "sent"
        assert vendor.incidents == []


async def test_a_key_that_pagerduty_does_not_know_is_final_and_is_not_shown() -> None:
    wrong = "f" * 32
    with pagerduty() as vendor, pytest.raises(DeliveryFailed, match="400: Invalid routing key") as failure:
        await a_channel(vendor, routing_key=SecretStr(wrong)).send(a_message())
    assert not failure.value.retryable


async def test_an_answer_that_repeats_the_key_is_kept_without_it() -> None:
    said = Answer.json({"status": "invalid event", "errors": [f"{ROUTING_KEY} is wrong"]}, 400)
    with pagerduty(said) as vendor, pytest.raises(DeliveryFailed) as failure:
        await a_channel(vendor).send(a_message())
    assert ROUTING_KEY not in str(failure.value)


@pytest.mark.parametrize("body", [b"<html>Sign in</html>", b"{}", b""])
async def test_a_success_that_is_not_pagerdutys_is_none(body: bytes) -> None:
    with pagerduty(Answer(200, body)) as vendor, pytest.raises(DeliveryFailed, match="not PagerDuty's") as failure:
        await a_channel(vendor).send(a_message())
    assert not failure.value.retryable


@settings(deadline=None, max_examples=50)
@given(st.text(), st.integers(min_value=0, max_value=3000), st.integers(min_value=0, max_value=60))
def test_any_message_is_within_pagerdutys_limits(text: str, times: int, count: int) -> None:
    long = text * times
    message = a_message(
        title=long,
        dedup_key=long or "k",
        summary=long,
        facts=[Fact(label=f"{n}{long}", value=long) for n in range(count)],
        checks=[long] * count,
        actions=[long] * count,
        links={f"{n}{long}": "https://x.example/" for n in range(count)},
        trace_id=long,
    )
    [event] = events_of(message)
    assert len(json.dumps({"routing_key": ROUTING_KEY, **event}).encode()) <= EVENT_BYTES
    assert 1 <= len(event["payload"]["summary"]) <= 1024
    assert event["payload"]["source"]
    assert len(event["dedup_key"]) <= 255
