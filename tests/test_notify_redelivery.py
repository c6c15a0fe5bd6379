"""A channel that fails: it is left alone as long as it asks, tried again until it works, and others say so."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from pydantic import SecretStr

from blocks.channels.generic import GenericChannel
from orchestration.contracts import Delivery
from orchestration.engine.run import Services
from orchestration.errors import DeliveryFailed
from orchestration.message import Message, NamedChannel
from orchestration.requests import RunOptions
from orchestration.states import RunReason, RunStatus
from orchestration.store import channels
from orchestration.store.incidents import read_incident
from orchestration.store.why import read_why
from service.worker.outages import look_after_channels
from tasks.notify.redelivery import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, delay_seconds
from tests.conftest import MemoryChannel, MemoryChannels
from tests.engine_helpers import execute
from tests.inbox_helpers import accept_push
from tests.notify_helpers import (
    FailingChannel,
    busy,
    change,
    end,
    end_pauses,
    execute_redelivery,
    ledger,
    redeliveries,
    refused,
    repair,
    rows,
    tell,
    titles,
    unanswered,
    with_channels,
)
from tests.receivers import Answer, http_receiver


async def test_what_a_channel_refused_is_sent_by_a_later_run_with_the_results_of_the_first(services: Services) -> None:
    dead = FailingChannel()
    services = with_channels(services, dead=dead)
    failed = await tell(services, host=socket.gethostname())
    (waiting,) = await redeliveries(services.database)
    await repair(services, dead)
    record = await execute_redelivery(services)

    assert failed.status is RunStatus.FAILED
    assert (waiting["trace_id"], waiting["incident_id"], waiting["priority"]) == (failed.trace_id, 1, 2)
    assert waiting["options"]["follows"] == failed.run_id
    assert 10 < waiting["due_in"] < 20
    assert (record.status, record.reason) == (RunStatus.NOTIFIED, RunReason.REDELIVERY)
    (message,) = dead.messages
    assert message.checks
    assert "an earlier message about this incident did not go out" in message.text
    stages = await rows(
        services.database,
        "select node_id, output_snapshot->>'skipped' as skipped from stage_execution join pipeline_run as run "
        "on run.id = pipeline_run_id where run.run_id = :run_id order by stage_execution.id",
        run_id=record.run_id,
    )
    assert [(row["node_id"], row["skipped"]) for row in stages] == [
        ("ingest", None),
        ("check", "redelivery"),
        ("analyze", "redelivery"),
        ("notify", None),
    ]


async def test_what_ended_meanwhile_is_one_message_that_says_both(services: Services) -> None:
    dead = FailingChannel()
    services = with_channels(services, dead=dead)
    await tell(services)
    await end(services)
    await repair(services, dead)
    record = await execute_redelivery(services)

    assert titles(dead) == ["RESOLVED"]
    assert "it began and ended before" in dead.messages[0].text
    assert record.status is RunStatus.NOTIFIED
    assert await redeliveries(services.database) == []


async def test_one_redelivery_waits_for_an_incident_however_many_runs_fail(services: Services) -> None:
    services = with_channels(services, dead=FailingChannel(), gone=FailingChannel(error=refused()))
    for severity in ("info", "warning", "critical"):
        await tell(services, severity=severity)

    assert len(await redeliveries(services.database)) == 1


async def test_a_redelivery_tries_only_the_channels_that_are_behind(services: Services) -> None:
    good, dead = MemoryChannel(), FailingChannel()
    services = with_channels(services, good=good, dead=dead)
    await tell(services)
    await repair(services, dead)
    await execute_redelivery(services)

    assert (len(good.messages), len(dead.messages)) == (1, 1)


def test_the_delays_grow_from_seconds_to_minutes() -> None:
    first, later, last = delay_seconds(0.0), delay_seconds(120.0), delay_seconds(86_000.0)
    assert 0.8 * FIRST_DELAY_SECONDS <= first <= 1.2 * FIRST_DELAY_SECONDS
    assert 96 <= later <= 144
    assert 0.8 * LONGEST_DELAY_SECONDS <= last <= 1.2 * LONGEST_DELAY_SECONDS


# A real channel


async def test_a_real_receiver_that_answers_500_and_then_works_is_told_once(services: Services) -> None:
    with http_receiver(*[Answer(500)] * 4) as receiver:
        webhook = GenericChannel(endpoint=SecretStr(receiver.url))
        named = NamedChannel(name="webhook", channel=webhook)

        class Only(MemoryChannels):
            async def select(self, name: str | None) -> list[NamedChannel]:
                return [named]

            async def others(self, names: object) -> list[NamedChannel]:
                return []

        services = replace(services, channels=Only({}))
        failed = await tell(services)
        record = await execute_redelivery(services)
        asked = [request.headers["idempotency-key"] for request in receiver.requests]

    assert (failed.status, record.status) == (RunStatus.FAILED, RunStatus.NOTIFIED)
    assert set(asked) == {"incident-1/1/notify/webhook"}
    (row,) = await ledger(services.database, record.run_id)
    assert row.status == "sent"


# When it works again


async def test_when_a_channel_works_again_all_that_waits_for_it_is_due_at_once(services: Services) -> None:
    dead = FailingChannel()
    services = with_channels(services, dead=dead)
    for number in range(3):
        await tell(services, name=f"Alert{number}")
    assert len(await redeliveries(services.database)) == 3
    await repair(services, dead)
    await tell(services, name="Another")

    assert [float(run["due_in"]) <= 0 for run in await redeliveries(services.database)] == [True] * 3


async def test_while_it_fails_the_first_of_what_waits_is_the_probe(services: Services) -> None:
    services = with_channels(services, dead=FailingChannel())
    for number in range(3):
        await tell(services, name=f"Alert{number}")
    await change(services.database, "update channel_health set not_before = now() + interval '1 min'")
    async with services.database.transaction() as tx:
        assert await channels.wake_probes(tx) == 0
    await end_pauses(services)
    async with services.database.transaction() as tx:
        assert await channels.wake_probes(tx) == 1

    assert [float(run["due_in"]) <= 0 for run in await redeliveries(services.database)] == [True, False, False]


async def test_a_message_that_is_refused_for_good_does_not_wake_at_each_success_of_others(services: Services) -> None:
    odd = FailingChannel(error=refused("it answered 400"))
    services = with_channels(services, odd=odd)
    await tell(services)
    odd.error = None
    await tell(services, name="Another")
    async with services.database.transaction() as tx:
        assert await channels.wake_probes(tx) == 0

    (waiting,) = await redeliveries(services.database)
    assert waiting["due_in"] > 5


# Somebody else is told


async def test_a_page_that_every_channel_refuses_for_good_goes_to_the_others_at_once(services: Services) -> None:
    slack, mail = FailingChannel(error=refused("it answered 404")), MemoryChannel()
    services = with_channels(services, {"mail": mail}, slack=slack)
    record = await tell(services)

    (message,) = mail.messages
    assert "Delivery: slack did not accept it: it answered 404" in message.text
    assert record.status is RunStatus.FAILED
    assert "notified instead: mail" in str(record.last_error_message)
    await end(services)
    assert titles(mail) == ["CRITICAL", "RESOLVED"]


async def test_a_critical_page_goes_to_the_others_after_30_seconds_of_failing(services: Services) -> None:
    slack, mail = FailingChannel(), MemoryChannel()
    services = with_channels(services, {"mail": mail}, slack=slack)
    await tell(services)
    assert mail.messages == []
    await change(services.database, "update incident_channel set failing_since = now() - interval '31 s'")
    await execute_redelivery(services)
    await execute_redelivery(services)

    assert len(mail.messages) == 1


@dataclass
class DeafChannel(FailingChannel):
    """A channel that accepts each message; as long as it has an error, nobody hears the answer."""

    async def send(self, message: Message) -> Delivery:
        self.messages.append(message)
        if self.error is not None:
            raise self.error
        return Delivery(driver="memory", provider="memory", channel="memory", status="sent")


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        ((unanswered(),), ["CRITICAL", "RESOLVED"]),
        ((unanswered(), busy()), ["CRITICAL", "CRITICAL", "RESOLVED"]),
        ((busy(), busy()), ["CRITICAL", "CRITICAL"]),
    ],
)
async def test_a_channel_that_may_have_a_page_without_an_answer_hears_of_its_end(
    services: Services, failures: Sequence[DeliveryFailed], said: list[str]
) -> None:
    slack, mail = FailingChannel(error=refused()), DeafChannel()
    services = with_channels(services, {"mail": mail}, slack=slack)
    for number, mail.error in enumerate(failures):
        await end_pauses(services)
        await (execute_redelivery(services) if number else tell(services))
    mail.error = None
    await repair(services, slack)
    await execute_redelivery(services)
    await end(services)

    assert titles(slack) == ["CRITICAL", "RESOLVED"]
    assert titles(mail) == said


async def test_a_warning_waits_for_its_channel(services: Services) -> None:
    slack, mail = FailingChannel(), MemoryChannel()
    services = with_channels(services, {"mail": mail}, slack=slack)
    await tell(services, severity="warning")
    await change(services.database, "update incident_channel set failing_since = now() - interval '31 s'")
    await execute_redelivery(services)

    assert mail.messages == []


async def test_a_page_that_one_channel_has_is_told_to_nobody_else(services: Services) -> None:
    gone, good, mail = FailingChannel(error=refused()), MemoryChannel(), MemoryChannel()
    await tell(with_channels(services, {"mail": mail}, gone=gone, good=good))

    assert (len(good.messages), len(mail.messages)) == (1, 0)


async def test_an_outage_is_an_incident_that_the_other_channels_hear_of_once_and_its_end(services: Services) -> None:
    slack, mail = FailingChannel(), MemoryChannel()
    services = with_channels(services, slack=slack, mail=mail)
    await tell(services)
    await look_after_channels(services)
    assert await _own_runs(services) == []
    await change(
        services.database, "update channel_health set failing_since = now() - interval '31 s' where name = 'slack'"
    )
    await look_after_channels(services)
    await look_after_channels(services)
    (outage,) = await _own_runs(services)
    await execute(services, outage)

    assert mail.messages[-1].title.startswith("[CRITICAL] Channel slack does not accept messages")
    assert not any("Channel slack" in message.title for message in slack.asked)

    await repair(services, slack)
    await execute_redelivery(services)
    await look_after_channels(services)
    _, recovery = await _own_runs(services)
    await execute(services, recovery)
    assert mail.messages[-1].title.startswith("[RESOLVED] Channel slack does not accept messages")


async def test_an_outage_is_told_to_the_others_also_when_they_hear_of_it_later(services: Services) -> None:
    slack, mail = FailingChannel(), FailingChannel()
    services = with_channels(services, {"mail": mail}, slack=slack)
    await _report_outage(services, slack)
    await repair(services, mail)
    slack.error = None
    while await redeliveries(services.database):
        await execute_redelivery(services)

    assert len(mail.asked) > len(mail.messages)
    (page,) = mail.messages
    assert page.title.startswith("[CRITICAL] Channel slack does not accept messages")
    assert not any("Channel slack" in message.title for message in slack.asked)


async def _report_outage(services: Services, slack: FailingChannel) -> None:
    """A page that Slack refuses, until that counts as an outage, and the run that reports it, to its end."""
    await tell(services)
    await change(
        services.database, "update channel_health set failing_since = now() - interval '31 s' where name = 'slack'"
    )
    await execute_redelivery(services)
    await look_after_channels(services)
    (outage,) = await _own_runs(services)
    await execute(services, outage)


async def _own_runs(services: Services) -> list[str]:
    found = await rows(
        services.database,
        "select run_id from pipeline_run where source = 'alert-pipeline' and reason = 'push' order by id",
    )
    return [row["run_id"] for row in found]


async def test_an_outage_of_the_only_channel_is_an_error_in_the_log_once(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    services = with_channels(services, slack=FailingChannel())
    await tell(services)
    await change(services.database, "update channel_health set failing_since = now() - interval '31 s'")
    await look_after_channels(services)
    await look_after_channels(services)

    assert caplog.text.count("there is no other channel to say so") == 1
    (outage,) = await _own_runs(services)
    assert (await execute(services, outage)).skip_reason == "no_other_channel"
    async with services.database.transaction() as tx:
        answer = (await read_why(tx, "Channel slack")).answer
    assert "and no other one is set up (no_other_channel). Set one up: " in answer


async def test_after_a_message_was_given_up_on_the_only_channel_nothing_claims_that_it_was_sent(
    services: Services,
) -> None:
    services = with_channels(services, slack=FailingChannel())
    await tell(services)
    await change(services.database, "update incident_channel set failing_since = now() - interval '25 h'")
    await end_pauses(services)
    await execute_redelivery(services)
    silent = await execute_redelivery(services)

    assert (silent.status, silent.skip_reason) == (RunStatus.SKIPPED, "given_up")
    async with services.database.transaction() as tx:
        why = await read_why(tx, "1")
    assert why.answer.startswith("Nobody was notified of HighCPU on web-1 at ")
    assert re.search(r" Resume it with `alert-pipeline resume [0-9a-f]{32}`\. ", why.answer)
    assert "another run has already said" not in "".join(line.text for line in why.timeline)


# The deadline


async def test_after_the_deadline_a_message_is_given_up_and_the_other_channels_say_so(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    slack, mail = FailingChannel(), MemoryChannel()
    services = with_channels(services, slack=slack, mail=mail)
    await tell(services)
    await change(
        services.database,
        "update incident_channel set failing_since = now() - interval '25 h' where channel = 'slack'",
    )
    await end_pauses(services)
    failed = await execute_redelivery(services)
    said = await execute_redelivery(services)

    assert (failed.status, said.status) == (RunStatus.FAILED, RunStatus.NOTIFIED)
    assert "Delivery: given up on slack: it answered 503" in mail.messages[-1].text
    assert "is given up there" in caplog.text
    assert await redeliveries(services.database) == []
    states = await rows(services.database, "select status from delivery where channel = 'slack'")
    assert states == [{"status": "given_up"}]
    asked = len(slack.asked)
    await tell(services, severity="critical", group_key="", description="again")
    await end(services)
    assert len(slack.asked) > asked


async def test_an_all_clear_that_is_given_up_is_said_in_the_history_in_why_and_in_the_next_message(
    services: Services,
) -> None:
    slack, mail = FailingChannel(), MemoryChannel()
    services = with_channels(services, slack=slack, mail=mail)
    await repair(services, slack)
    await tell(services)
    slack.error = busy()
    await end(services)
    await change(
        services.database,
        "update incident_channel set failing_since = now() - interval '25 h' where channel = 'slack'",
    )
    await execute_redelivery(services)

    assert titles(mail) == ["CRITICAL", "RESOLVED"], "mail knows that it is over, and is not told again"
    assert await redeliveries(services.database) == []
    async with services.database.transaction() as tx:
        story = await read_incident(tx, 1)
        why = await read_why(tx, "1")
    assert story is not None
    assert story.history[0].in_words == "given up on slack: it answered 503"
    assert "slack could not be told and was given up" in why.answer
    assert "and still says that it fires" in why.answer
    assert "✗ incident 1 given up on slack: it answered 503" in [f"{line.mark} {line.text}" for line in why.timeline]

    await tell(services)
    assert titles(mail)[2:] == ["CRITICAL"]
    assert "Delivery: given up on slack: it answered 503" in mail.messages[-1].text


async def test_a_run_whose_channel_does_not_exist_is_tried_again_with_growing_delay(services: Services) -> None:
    nodes = [{"id": "intake", "type": "ingest"}, {"id": "page", "type": "notify", "config": {"channel": "nowhere"}}]
    options = RunOptions(definition_config={"nodes": nodes})
    alert = {"name": "HighCPU", "severity": "critical"}
    (run_id,) = await accept_push(services, alert, source="generic", environment="test", options=options)
    record = await execute(services, run_id)

    assert record.status is RunStatus.FAILED
    assert len(await redeliveries(services.database)) == 1
