"""Apprise: what a service gets, and what is made of the little that Apprise says when it fails."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import SecretStr

from blocks.channels.apprise import AppriseChannel, failure_of
from orchestration.alert import AlertStatus, Severity
from orchestration.errors import DeliveryFailed
from tests.receivers import HttpReceiver, http_receiver
from tests.test_channels import a_message


def a_service(receiver: HttpReceiver) -> AppriseChannel:
    return AppriseChannel(url=SecretStr(f"{receiver.url.replace('http', 'json')}/in"))


@pytest.mark.parametrize(
    ("severity", "status", "kind"),
    [
        (Severity.CRITICAL, AlertStatus.FIRING, "failure"),
        (Severity.WARNING, AlertStatus.FIRING, "warning"),
        (Severity.INFO, AlertStatus.FIRING, "info"),
        (Severity.CRITICAL, AlertStatus.RESOLVED, "success"),
    ],
)
async def test_a_service_gets_title_and_text(severity: Severity, status: AlertStatus, kind: str) -> None:
    with http_receiver() as receiver:
        message = a_message(severity=severity, status=status)
        delivery = await a_service(receiver).send(message)
        [request] = receiver.requests
    assert (delivery.status, delivery.channel, delivery.provider_id) == ("sent", "json", None)
    assert (request.path, request.json["title"], request.json["type"]) == ("/in", message.title, kind)
    assert "CPU above 95 %" in request.json["message"]


async def test_each_of_many_at_a_time_gets_its_own_answer() -> None:
    with http_receiver() as works, http_receiver(default=404) as gone, http_receiver(default=503) as busy:
        sending = [a_service(one).send(a_message()) for one in (works, gone, busy) * 3]
        ended = await asyncio.gather(*sending, return_exceptions=True)
    said = [str(one) if isinstance(one, DeliveryFailed) else "sent" for one in ended]
    assert said == ["sent", "json answered 404", "json answered 503"] * 3


async def test_a_service_that_is_not_there_is_worth_a_retry() -> None:
    with http_receiver() as receiver:
        channel = a_service(receiver)
    with pytest.raises(DeliveryFailed, match="json did not accept the message") as failure:
        await channel.send(a_message())
    assert failure.value.retryable


@pytest.mark.parametrize(
    ("log", "retryable"),
    [
        ("Failed to send Discord notification: Unauthorized, error=401.", False),
        ("Failed to send Twilio notification to +1: Too many, error=429.", True),
        ("A Connection error occurred posting to Discord.", True),
        ("", True),
    ],
)
def test_only_a_status_that_apprise_names_is_final(log: str, retryable: bool) -> None:
    failure = failure_of("discord", log)
    assert failure.retryable is retryable
    assert "Twilio" not in str(failure)
