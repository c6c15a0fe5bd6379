"""Notifying is reconciliation: each channel is told what is true now, once, whichever run comes first."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC

import pytest

from orchestration.alert import AlertStatus, Severity
from orchestration.contracts import Delivery
from orchestration.engine.lease import lease_run
from orchestration.engine.run import Services
from orchestration.errors import RunBusy
from orchestration.message import Message
from orchestration.requests import RunOptions
from orchestration.states import RunStatus
from orchestration.store import deliveries
from orchestration.store.deliveries import Place
from orchestration.store.standings import Standing
from tasks.notify.reconcile import Why, decide, reason_to_say
from tasks.notify.stage import NOTIFY
from tests.conftest import MemoryChannel
from tests.engine_helpers import attempt, execute
from tests.inbox_helpers import accept_push
from tests.notify_helpers import (
    FailingChannel,
    NoChannels,
    WaitingChannel,
    busy,
    change,
    end,
    ledger,
    push,
    redeliveries,
    rows,
    tell,
    titles,
    with_channels,
)


def standing(**fields: object) -> Standing:
    own: dict[str, object] = {"version": 3, "news_version": 3, "over": False, "severity": Severity.CRITICAL}
    return Standing.model_validate(own | fields)


KNOWS_FIRING = {"known_version": 2, "known_status": AlertStatus.FIRING, "known_severity": Severity.WARNING}
KNOWS_END = {"known_version": 2, "known_status": AlertStatus.RESOLVED}


@pytest.mark.parametrize(
    ("found", "sends", "why"),
    [
        (standing(), True, Why.FIRST),
        (standing(**KNOWS_FIRING), True, Why.BEHIND),
        (standing(**KNOWS_FIRING | {"known_version": 3}), False, Why.UP_TO_DATE),
        (standing(**KNOWS_FIRING | {"known_version": 4}), False, Why.UP_TO_DATE),
        (standing(**KNOWS_FIRING, news_version=2), False, Why.UP_TO_DATE),
        (standing(**KNOWS_FIRING, news_version=2, shows_state=True), True, Why.STATE),
        (standing(**KNOWS_FIRING, news_version=2, shows_state=True, other_run="x"), False, Why.LEFT_TO_ANOTHER),
        (standing(news_version=2, shows_state=True), True, Why.FIRST),
        (standing(**KNOWS_FIRING, over=True), True, Why.ENDED),
        (standing(over=True), True, Why.BEGAN_AND_ENDED),
        (standing(**KNOWS_END, over=True), True, Why.BEGAN_AND_ENDED),
        (standing(**KNOWS_END | {"known_version": 3}, over=True), False, Why.UP_TO_DATE),
        (standing(**KNOWS_END), True, Why.BEGAN_AGAIN),
        (standing(other_run="b"), False, Why.LEFT_TO_ANOTHER),
        (standing(known_version=3, told_by_run=True), True, Why.SECOND_NODE),
        (standing(known_version=3, told_by_run=True, sent_by_node=True), False, Why.UP_TO_DATE),
        (standing(given_up=True), True, Why.FIRST),
    ],
)
def test_the_table_of_decisions(found: Standing, sends: bool, why: Why) -> None:
    decision = decide(found)
    assert (decision.sends, decision.why) == (sends, why)


def test_what_was_given_up_is_not_sent_again_by_a_redelivery() -> None:
    assert decide(standing(given_up=True), redelivery=True).why is Why.GIVEN_UP


@pytest.mark.parametrize(
    ("found", "reason", "said"),
    [
        (standing(), "new_alerts", "opened"),
        (standing(), "severity_raised", "severity_raised"),
        (standing(), "redelivery", "redelivery"),
        (standing(over=True), "opened", "resolved"),
        (standing(**KNOWS_END), "severity_raised", "reopened"),
        (standing(**KNOWS_FIRING), "new_alerts", "severity_raised"),
        (standing(**KNOWS_FIRING | {"known_severity": Severity.CRITICAL}), "new_alerts", "new_alerts"),
    ],
)
def test_a_channel_is_told_the_reason_from_its_own_view(found: Standing, reason: str, said: str) -> None:
    assert reason_to_say(decide(found), found, reason) == said


@pytest.mark.parametrize("ended", ["resolved", "resolved_by_hand", "expired"])
@pytest.mark.parametrize("reason", ["opened", "redelivery", "resolved_by_hand", "expired"])
@pytest.mark.parametrize("found", [standing(over=True), standing(**KNOWS_FIRING, over=True)])
def test_an_end_is_told_as_it_came_about_whichever_run_tells_it(found: Standing, reason: str, ended: str) -> None:
    assert reason_to_say(decide(found), found, reason, ended) == ended


async def test_a_page_and_its_all_clear_are_two_messages_with_keys_of_their_versions(
    services: Services, channel: MemoryChannel
) -> None:
    first, last = await tell(services), await end(services)

    assert (first.status, last.status) == (RunStatus.NOTIFIED, RunStatus.NOTIFIED)
    assert titles(channel) == ["CRITICAL", "RESOLVED"]
    assert [message.idempotency_key for message in channel.messages] == [
        "incident-1/1/notify/memory",
        "incident-1/2/notify/memory",
    ]
    known = (await rows(services.database, "select * from incident_channel"))[0]
    assert (known["version"], known["status"], known["run_id"]) == (2, "resolved", last.run_id)
    assert known["provider_id"] == "m2"


async def test_what_began_and_ended_before_anybody_was_told_is_one_message_that_says_both(
    services: Services, channel: MemoryChannel
) -> None:
    began, ended = await push(services), await push(services, status="resolved")
    statuses = [(await execute(services, run_id)) for run_id in (ended, began)]

    (message,) = channel.messages
    assert message.status is AlertStatus.RESOLVED
    assert "State: it began and ended before this message could be sent" in message.text
    assert [(run.status, run.skip_reason) for run in statuses] == [
        (RunStatus.NOTIFIED, None),
        (RunStatus.SKIPPED, "coalesced"),
    ]


async def test_a_run_that_comes_late_says_nothing_because_another_has_said_what_is_true(
    services: Services, channel: MemoryChannel
) -> None:
    early, late = await push(services, severity="warning"), await push(services, severity="critical")
    await execute(services, late)
    record = await execute(services, early)

    assert titles(channel) == ["CRITICAL"]
    assert (record.status, record.skip_reason) == (RunStatus.SKIPPED, "coalesced")


async def test_while_one_run_sends_another_leaves_it_the_channel_and_the_first_says_the_rest(
    services: Services,
) -> None:
    slow = WaitingChannel()
    services = with_channels(services, slow=slow)
    began = await push(services)
    first = asyncio.create_task(execute(services, began))
    await slow.asked.wait()
    # Only now does it end; the page is on its way.
    second = await execute(services, await push(services, status="resolved"))
    slow.let_go.set()

    assert (second.status, second.skip_reason) == (RunStatus.SKIPPED, "coalesced")
    assert (await first).status is RunStatus.NOTIFIED
    assert titles(slow) == ["CRITICAL", "RESOLVED"]
    assert [row.status for row in await ledger(services.database, began)] == ["sent", "sent"]


async def test_what_was_true_when_the_attempt_began_is_not_said_if_it_has_changed(
    services: Services, channel: MemoryChannel
) -> None:
    async with lease_run(services, await push(services), engine="test") as began:
        await attempt(began, "ingest")
        step = began.plan.steps["notify"]
        as_it_was = await NOTIFY.set_up(began, step)
        async with lease_run(services, await push(services, status="resolved"), engine="test") as ended:
            await attempt(ended, "ingest")
        await NOTIFY.function(began.context(step, 1), as_it_was)

    assert titles(channel) == ["RESOLVED"]


async def test_a_page_that_hangs_while_its_incident_ends_is_never_sent_after_the_end(services: Services) -> None:
    @replace_send
    async def once_hanging(channel: MemoryChannel, message: Message) -> Delivery:
        if not getattr(channel, "hung", False):
            channel.hung = True  # type: ignore[attr-defined]
            await end(services)
            raise busy("it did not answer in time")
        return await MemoryChannel.send(channel, message)

    hanging = once_hanging()
    services = with_channels(services, hanging=hanging)
    record = await tell(services)

    assert titles(hanging) == ["RESOLVED"]
    assert record.status is RunStatus.NOTIFIED
    states = {row.version: row.status for row in await ledger(services.database, record.run_id)}
    assert states == {1: "superseded", 2: "sent"}


def replace_send(send: object) -> type[MemoryChannel]:
    """A kind of channel that sends in this way."""
    return type("Channel", (MemoryChannel,), {"send": send})


async def test_the_run_of_a_dead_process_is_no_reason_to_wait(services: Services, channel: MemoryChannel) -> None:
    began = await push(services)
    await execute(with_channels(services, memory=FailingChannel()), began)
    await change(services.database, "update delivery set status = 'sending'")
    await change(
        services.database,
        "update pipeline_run set lease_owner = 'gone/1/2/3', lease_expires_at = now() - interval '1 s', "
        "status = 'analyzed' where run_id = :run_id",
        run_id=began,
    )
    await end(services)

    assert titles(channel) == ["RESOLVED"]


@pytest.mark.parametrize("answers", [[busy("127.0.0.1 did not answer in time")], []], ids=["no answer", "accepted"])
async def test_a_frozen_worker_does_not_write_over_the_ledger_of_the_one_that_continued(
    services: Services, answers: list[Exception]
) -> None:
    """Finding 9: the first worker is stopped while its message is out; a second one takes the run over and sends."""
    frozen = WaitingChannel(failures=answers)
    healthy = MemoryChannel()
    run_id = await push(services)
    first = asyncio.create_task(execute(with_channels(services, memory=frozen), run_id))
    await frozen.asked.wait()
    await change(services.database, "update pipeline_run set lease_expires_at = now() - interval '1 s'")
    record = await execute(with_channels(services, memory=healthy), run_id)
    frozen.let_go.set()
    with pytest.raises(RunBusy):
        await first

    assert record.status is RunStatus.NOTIFIED
    assert await redeliveries(services.database) == []
    (row,) = await ledger(services.database, run_id)
    assert (row.status, row.error, row.tries) == ("sent", None, 2)
    assert (await rows(services.database, "select failures from channel_health where name = 'memory'"))[0] == {
        "failures": 0
    }


async def test_a_healthy_channel_is_told_once_while_another_is_dead(services: Services) -> None:
    """Case 28: the same alert comes four times, each time after the run before has failed."""
    good, dead = MemoryChannel(), FailingChannel()
    both = with_channels(services, good=good, dead=dead)
    records = [await tell(both) for _ in range(4)]

    assert len(good.messages) == 1
    assert dead.messages == []
    assert records[0].status is RunStatus.FAILED
    assert len(await redeliveries(services.database)) == 1


async def test_two_nodes_of_a_definition_say_their_own_things_on_one_channel(
    services: Services, channel: MemoryChannel
) -> None:
    nodes = [
        {"id": "intake", "type": "ingest"},
        {"id": "first", "type": "notify"},
        {"id": "second", "type": "notify"},
    ]
    alert = {"name": "HighCPU", "severity": "critical", "host": "web-1"}
    options = RunOptions(definition_config={"nodes": nodes})
    (run_id,) = await accept_push(services, alert, source="generic", environment="test", options=options)
    record = await execute(services, run_id)

    assert record.status is RunStatus.NOTIFIED
    assert [message.idempotency_key for message in channel.messages] == [
        "incident-1/1/first/memory",
        "incident-1/1/second/memory",
    ]


async def test_a_message_shows_the_alerts_of_the_incident_not_only_those_of_the_run(
    services: Services, channel: MemoryChannel
) -> None:
    shared = {"group_key": "disks", "runbook_url": "https://wiki.example.com/disks"}
    await tell(services, name="DiskFull", host="db-1", **shared)
    await tell(services, name="DiskSlow", host="db-2", severity="warning", **shared)

    message = channel.messages[-1]
    facts = {fact.label: fact.value for fact in (*message.facts, *message.follow_ups, *message.details)}
    assert facts["Where"] == "db-1, db-2"
    assert message.severity is Severity.CRITICAL
    assert message.links["runbook"] == "https://wiki.example.com/disks"
    assert facts["Alerts"] == "2 firing, 0 resolved"


async def test_a_message_says_what_comes_next(services: Services, channel: MemoryChannel) -> None:
    record = await tell(services)
    (reminder,) = await rows(services.database, "select due_at from pipeline_run where reason = 'reminder'")

    message = channel.messages[0]
    facts = {fact.label: fact.value for fact in (*message.facts, *message.follow_ups, *message.details)}
    moment = f"{reminder['due_at'].astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    assert facts["Next"] == (
        f"a reminder at {moment} UTC, unless somebody acknowledges it: alert-pipeline incidents ack 1"
    )
    assert f"alert-pipeline why {record.run_id}" in channel.messages[0].text


async def test_the_all_clear_also_goes_to_a_channel_that_only_one_run_named(services: Services) -> None:
    usual, named = MemoryChannel(), MemoryChannel()
    services = with_channels(services, {"named": named}, usual=usual)
    alert = {"name": "HighCPU", "severity": "critical", "host": "web-1", "fingerprint": "HighCPU"}
    options = RunOptions(notify_driver="named")
    (run_id,) = await accept_push(services, alert, source="generic", environment="test", options=options)
    await execute(services, run_id)
    await end(services)

    assert titles(named) == ["CRITICAL", "RESOLVED"]
    assert titles(usual) == ["RESOLVED"]


async def test_excepted_channels_are_not_told_and_the_others_are(services: Services) -> None:
    slack, mail = MemoryChannel(), MemoryChannel()
    services = with_channels(services, {"mail": mail}, slack=slack)
    alert = {"name": "HighCPU", "severity": "critical"}
    options = RunOptions(except_channels=["slack"])
    (run_id,) = await accept_push(services, alert, source="generic", environment="test", options=options)
    await execute(services, run_id)

    assert (len(slack.messages), len(mail.messages)) == (0, 1)


async def test_an_excepted_channel_that_was_told_that_it_fires_hears_of_the_end(services: Services) -> None:
    slack, mail = MemoryChannel(), MemoryChannel()
    services = with_channels(services, slack=slack, mail=mail)
    alert = {"name": "HighCPU", "severity": "critical"}
    for status, excepted in (("firing", []), ("resolved", ["slack"])):
        said, options = {**alert, "status": status}, RunOptions(except_channels=excepted)
        (run_id,) = await accept_push(services, said, source="generic", environment="test", options=options)
        await execute(services, run_id)

    assert (titles(slack), titles(mail)) == (["CRITICAL", "RESOLVED"], ["CRITICAL", "RESOLVED"])


async def test_without_any_channel_a_run_is_skipped_and_says_why(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    record = await tell(replace(services, channels=NoChannels()))

    assert (record.status, record.skip_reason) == (RunStatus.SKIPPED, "no_channel")
    assert "nobody is notified, because no channel is set up" in caplog.text


async def test_runs_that_race_for_one_incident_tell_each_version_at_most_once(
    services: Services, channel: MemoryChannel
) -> None:
    runs = [await push(services, group_key="all", name=f"Alert{number}") for number in range(12)]
    records = await asyncio.gather(*(execute(services, run_id) for run_id in runs))

    keys = [message.idempotency_key for message in channel.messages]
    assert len(set(keys)) == len(keys)
    incident = (await rows(services.database, "select version from incident"))[0]
    known = (await rows(services.database, "select version from incident_channel"))[0]
    assert known["version"] == incident["version"] == 12
    assert {run.status for run in records} <= {RunStatus.NOTIFIED, RunStatus.SKIPPED}


async def test_a_sent_row_stays_sent(services: Services) -> None:
    record = await tell(services)
    place = Place(
        run_id=record.run_id,
        node_id="notify",
        channel="memory",
        driver="memory",
        target="memory",
        owner="here/1/2/3",
        lease_seconds=30.0,
        incident_id="1",
    )
    async with services.database.transaction() as tx:
        await tx.exec_driver_sql("update pipeline_run set lease_owner = 'here/1/2/3'")
        assert await deliveries.open_try(tx, place, version=1) is None
