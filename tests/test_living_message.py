"""An incident is one message on each channel that can edit what it has sent, from its beginning to its end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from blocks.channels import EmailChannel, PagerDutyChannel, SlackChannel
from orchestration.engine.run import Services
from orchestration.states import RunReason, RunStatus
from orchestration.store import actions
from orchestration.store.actions import Actor, Via
from orchestration.store.records import RunRecord
from tests import vendors
from tests.api_helpers import run_of
from tests.conftest import MemoryChannel
from tests.engine_helpers import execute
from tests.life_helpers import next_of, story_of
from tests.notify_helpers import (
    WaitingChannel,
    end,
    execute_follow_up,
    execute_redelivery,
    push,
    refused,
    rows,
    tell,
    titles,
    with_channels,
)
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
    assert two["Subject"] == "[CRITICAL] HighCPU on web-1 (test)"
    assert three["Subject"] == "[RESOLVED] HighCPU on web-1 (test)"
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


ANN = Actor(by="ann", via=Via.CLI)


async def shown(services: Services) -> RunRecord:
    """The run that shows what a person has done, to its end."""
    return await execute_follow_up(services, RunReason.STATE)


async def state_runs(services: Services) -> int:
    """How many runs wait that show what a person has done."""
    [found] = await rows(services.database, "select count(*) as n from pipeline_run where reason = 'state'")
    return found["n"]


@pytest.mark.usefixtures("at_once")
async def test_what_a_person_does_is_shown_at_once_where_it_disturbs_nobody(services: Services) -> None:
    with vendors.slack() as slack, smtp_receiver() as mails, vendors.pagerduty() as pagerduty:
        services = with_channels(services, **three_channels(slack, mails, pagerduty))
        incident_id = (await tell(services)).incident_id or ""
        checked = slack.posts[0].words.partition("Checked")[2]
        async with services.database.transaction() as tx:
            await actions.acknowledge(tx, incident_id, ANN, services.settings)
        assert (await shown(services)).status is RunStatus.NOTIFIED
        [post] = slack.messages
        assert "*Acknowledged by*\\nann" in post.words
        assert post.words.partition("Checked")[2].startswith(checked[:100])
        assert pagerduty.incidents[0].status == "acknowledged"

        async with services.database.transaction() as tx:
            await actions.unacknowledge(tx, incident_id, ANN, services.settings)
        await shown(services)
        assert "Acknowledged by" not in post.words
        async with services.database.transaction() as tx:
            await actions.snooze(tx, incident_id, ANN, services.settings, until=timedelta(minutes=30))
        await shown(services)
        assert "*Snoozed until*" in post.words
        assert (len(slack.messages), len(mails.mails), post.edits) == (1, 1, 3)
        assert pagerduty.incidents[0].events == ["trigger", "acknowledge"]

        await end(services)
        assert len(mails.mails) == 2
        assert pagerduty.incidents[0].status == "resolved"
        assert len(slack.replies_to(post)) == 1
    story = await story_of(services.database, incident_id)
    assert all(one.is_current(story.incident) for one in story.channels)


async def test_channels_that_can_only_send_new_messages_hear_nothing_of_it(
    services: Services, channel: MemoryChannel
) -> None:
    incident_id = (await tell(services)).incident_id or ""
    async with services.database.transaction() as tx:
        await actions.acknowledge(tx, incident_id, ANN, services.settings)
    assert await state_runs(services) == 0
    assert (await tell(services)).skip_reason == "repeat"
    assert titles(channel) == ["CRITICAL"]
    story = await story_of(services.database, incident_id)
    assert [one.is_current(story.incident) for one in story.channels] == [True]


async def test_an_edit_that_was_refused_is_tried_again_and_goes_nowhere_else(
    services: Services, channel: MemoryChannel
) -> None:
    channel.shows_state, other = True, MemoryChannel()
    services = with_channels(services, {"other": other}, memory=channel)
    incident_id = (await tell(services)).incident_id or ""
    async with services.database.transaction() as tx:
        await actions.acknowledge(tx, incident_id, ANN, services.settings)
    before = await next_of(services.database, incident_id)
    channel.failures = [refused()]
    assert (await shown(services)).status is RunStatus.FAILED
    assert (other.messages, titles(channel)) == ([], ["CRITICAL"])
    assert (await execute_redelivery(services)).status is RunStatus.NOTIFIED
    assert other.messages == []
    assert [(one.silent, one.acknowledged_by) for one in channel.messages] == [(False, None), (True, "ann")]
    assert await next_of(services.database, incident_id) == before


async def test_an_acknowledgement_while_the_message_is_sent_makes_no_second_one(services: Services) -> None:
    slow, editing = WaitingChannel(), WaitingChannel(shows_state=True)
    services = with_channels(services, slow=slow, editing=editing)
    run_id = await push(services)
    telling = asyncio.create_task(execute(services, run_id))
    await slow.asked.wait()
    await editing.asked.wait()
    incident_id = (await run_of(services.database, run_id)).incident_id or ""
    async with services.database.transaction() as tx:
        await actions.acknowledge(tx, incident_id, ANN, services.settings)
    slow.let_go.set()
    editing.let_go.set()
    await telling
    assert [one.silent for one in slow.messages] == [False]
    assert [(one.silent, one.acknowledged_by) for one in editing.messages] == [(False, None), (True, "ann")]


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
