"""An incident is one message on each channel that can edit what it has sent, from its beginning to its end."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from blocks.channels import EmailChannel, PagerDutyChannel, SlackChannel
from orchestration.engine.run import Services
from orchestration.store import actions
from orchestration.store.actions import Actor, Via
from tests import vendors
from tests.conftest import MemoryChannel
from tests.notify_helpers import end, rows, tell, with_channels
from tests.receivers import SmtpReceiver, smtp_receiver
from tests.vendors import ROUTING_KEY, SLACK_TOKEN, PagerDuty, Slack


def three_channels(slack: Slack, mails: SmtpReceiver, pagerduty: PagerDuty) -> dict[str, Any]:
    return {
        "slack": SlackChannel(bot_token=SecretStr(SLACK_TOKEN), channel="#oncall", base_url=slack.url),
        "email": EmailChannel(
            smtp_host=mails.host, smtp_port=mails.port, security="none", to_addresses=["ops@example.com"]
        ),
        "pagerduty": PagerDutyChannel(routing_key=SecretStr(ROUTING_KEY), url=pagerduty.url),
    }


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message to Slack does not wait for its turn."""
    monkeypatch.setattr(SlackChannel, "seconds_between_messages", 0.0)


@pytest.mark.usefixtures("at_once")
async def test_an_incident_gets_worse_ends_and_begins_anew(services: Services) -> None:
    with vendors.slack() as slack, smtp_receiver() as mails, vendors.pagerduty() as pagerduty:
        services = with_channels(services, **three_channels(slack, mails, pagerduty))
        await tell(services, severity="warning")
        await tell(services, severity="critical")
        await end(services)
        await tell(services, severity="critical")

    first, second = slack.posts
    assert first.text == "🟢 [RESOLVED] HighCPU on web-1 (test)"
    assert [reply.text for reply in slack.replies_to(first)] == [
        "🔴 [CRITICAL] HighCPU on web-1 (test)",
        "🟢 [RESOLVED] HighCPU on web-1 (test)",
    ]
    assert (second.text, second.edits) == ("🔴 [CRITICAL] HighCPU on web-1 (test)", 0)

    one, two, three, four = (mail.message for mail in mails.mails)
    assert two["In-Reply-To"] == three["In-Reply-To"] == one["Message-ID"]
    assert one["Subject"] == "[WARNING] HighCPU on web-1 (test)"
    assert two["Subject"] == three["Subject"] == f"Re: {one['Subject']}"
    assert (four["In-Reply-To"], four["Subject"]) == (None, "[CRITICAL] HighCPU on web-1 (test)")

    assert [(one.severity, one.events) for one in pagerduty.incidents] == [
        ("critical", ["trigger", "trigger", "resolve"]),
        ("critical", ["trigger"]),
    ]


async def test_a_message_says_who_has_acknowledged_the_incident_until_it_gets_worse(
    services: Services, channel: MemoryChannel
) -> None:
    same = {"incident_key": "one", "severity": "warning"}
    run = await tell(services, **same)
    async with services.database.transaction() as tx:
        await actions.acknowledge(tx, run.incident_id or "", Actor(by="ann", via=Via.CLI), services.settings)
    await tell(services, fingerprint="second", host="web-2", **same)
    await tell(services, fingerprint="third", host="web-3", **{**same, "severity": "critical"})
    assert [message.acknowledged_by for message in channel.messages] == [None, "ann", None]
    assert [message.fact("Acknowledged by") for message in channel.messages] == ["", "ann", ""]


@pytest.mark.usefixtures("at_once")
async def test_a_channel_of_the_same_name_and_another_driver_begins_anew(services: Services) -> None:
    with vendors.slack() as slack, smtp_receiver() as mails, vendors.pagerduty() as pagerduty:
        channels = three_channels(slack, mails, pagerduty)
        await tell(with_channels(services, oncall=channels["slack"]), severity="warning")
        [known] = await rows(services.database, "select thread_id from incident_channel")
        assert known["thread_id"] == f"C0ONCALL {slack.posts[0].ts} #oncall"
        await tell(with_channels(services, oncall=channels["email"]), severity="critical")
        [mail] = mails.mails
    assert mail.message["In-Reply-To"] is None
    [known] = await rows(services.database, "select thread_id, driver from incident_channel")
    assert known["driver"] == "email"
    assert known["thread_id"].startswith(mail.message["Message-ID"])
