"""ntfy: what a phone shows, within ntfy's limits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from blocks.channels.ntfy import NtfyChannel, notification_of
from orchestration.alert import AlertStatus, Severity
from orchestration.errors import DeliveryFailed
from tests.receivers import Answer
from tests.test_channels import a_message
from tests.vendors import NTFY_TOKEN, NTFY_TOPIC, Ntfy, ntfy


def a_channel(vendor: Ntfy, **fields: Any) -> NtfyChannel:
    own: dict[str, Any] = {"topic": SecretStr(NTFY_TOPIC), "url": vendor.url}
    return NtfyChannel(**(own | fields))


async def test_a_phone_shows_the_message_with_its_links() -> None:
    with ntfy() as vendor:
        delivery = await a_channel(vendor).send(a_message())
        [shown] = vendor.messages
    assert delivery.provider_id == "ntfy1"
    runbook = "https://wiki.example.com/cpu?a=1&b=2"
    assert shown == {
        "topic": NTFY_TOPIC,
        "title": "[CRITICAL] HighCPU on web-1 (production)",
        "message": "What: CPU above 95 %",
        "priority": 5,
        "tags": ["rotating_light"],
        "click": runbook,
        "actions": [{"action": "view", "label": "runbook", "url": runbook}],
    }


@pytest.mark.parametrize(
    ("severity", "status", "priority", "tag"),
    [
        (Severity.CRITICAL, AlertStatus.FIRING, 5, "rotating_light"),
        (Severity.WARNING, AlertStatus.FIRING, 4, "warning"),
        (Severity.INFO, AlertStatus.FIRING, 3, "information_source"),
        (Severity.CRITICAL, AlertStatus.RESOLVED, 3, "white_check_mark"),
    ],
)
def test_only_what_is_urgent_rings(severity: Severity, status: AlertStatus, priority: int, tag: str) -> None:
    shown = notification_of(a_message(severity=severity, status=status))
    assert (shown["priority"], shown["tags"]) == (priority, [tag])


async def test_a_protected_topic_needs_its_token() -> None:
    with ntfy(token=NTFY_TOKEN) as vendor:
        assert (await a_channel(vendor, token=SecretStr(NTFY_TOKEN)).send(a_message())).status == "sent"
        with pytest.raises(DeliveryFailed, match="ntfy answered 403: forbidden") as failure:
            await a_channel(vendor).send(a_message())
    assert not failure.value.retryable


async def test_an_error_that_names_the_topic_is_kept_without_it() -> None:
    with ntfy() as vendor, pytest.raises(DeliveryFailed, match="400: invalid request") as failure:
        await a_channel(vendor, topic=SecretStr("another-secret-topic")).send(a_message())
    assert "another-secret-topic" not in str(failure.value)


async def test_a_page_that_answers_instead_of_ntfy_is_no_success() -> None:
    with ntfy(Answer(200, b"<html>")) as vendor, pytest.raises(DeliveryFailed, match="not ntfy's"):
        await a_channel(vendor).send(a_message())


@settings(deadline=None, max_examples=50)
@given(st.text(), st.integers(min_value=0, max_value=3000), st.integers(min_value=0, max_value=20))
def test_any_message_is_within_ntfys_limits(text: str, times: int, count: int) -> None:
    long = text * times
    links = {f"{n}{long}": "https://x.example/" for n in range(count)}
    shown = notification_of(a_message(title=long, text=f"{long}{long}", links=links))
    assert 1 <= len(shown["message"].encode()) <= 4096
    assert len(shown.get("actions", [])) <= 3
