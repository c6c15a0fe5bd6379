"""What happened to people, played from the vendor's body to the channel: sequences out of public bug reports.

A push is accepted as the API accepts it; then every run that is due is executed, in the order in which a worker claims.
"""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from orchestration.engine.run import Services
from orchestration.errors import DeliveryFailed
from orchestration.message import Message
from orchestration.requests import RunOptions
from orchestration.settings import Settings
from orchestration.states import RunStatus
from orchestration.store import claims
from orchestration.store.records import RunRecord
from orchestration.store.runs import get_run
from tests.conftest import MemoryChannel, MemoryChannels
from tests.engine_helpers import execute
from tests.inbox_helpers import accept_push
from tests.life_helpers import execute_timer, let_pass
from tests.notify_helpers import change

Json = dict[str, Any]


class Installation:
    """A pipeline that is pushed at, and its channels."""

    def __init__(self, services: Services, **channels: MemoryChannel) -> None:
        self.services = services
        self.channels = channels
        if channels:
            self.services = replace(services, channels=MemoryChannels(channels))

    async def push(self, body: Json, source: str = "webhook", environment: str = "production") -> list[str]:
        """Accept a push, as the API does."""
        return await accept_push(
            self.services, body, source=source, environment=environment, skip_duplicates=True, options=RunOptions()
        )

    async def work(self) -> list[RunRecord]:
        """Execute what is due until nothing is, as a worker claims it."""
        done: list[RunRecord] = []
        while True:
            async with self.services.database.transaction() as tx:
                claimed = await claims.claim_runs(
                    tx, process="test/1/1", limit=1, lease_seconds=30, deadline_seconds=30
                )
                for claim in claimed:
                    await claims.release(tx, claim.run_id, owner=claim.owner)
            if not claimed:
                return done
            done.append(await execute(self.services, claimed[0].run_id))

    async def receive(self, body: Json, **more: Any) -> list[RunRecord]:
        """Accept a push, and execute what is due."""
        await self.push(body, **more)
        return await self.work()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Seconds stand for hours: nothing is a duplicate at the door, and no retry waits."""
    return settings.model_copy(
        update={"duplicate_window_seconds": 0.0, "backoff_factor": 0.0, "checkers_skip_all": True}
    )


@pytest.fixture
def here(services: Services) -> Installation:
    return Installation(services)


def said(channel: MemoryChannel) -> list[str]:
    return [f"{message.status} {message.severity}" for message in channel.messages]


def fact(message: Message, label: str) -> str:
    return next(
        (one.value for one in (*message.facts, *message.follow_ups, *message.details) if one.label == label), ""
    )


def alertmanager(*alerts: Json, group: str = '{}:{alertname="X"}', status: str | None = None, omitted: int = 0) -> Json:
    worst = "firing" if any(alert["status"] == "firing" for alert in alerts) else "resolved"
    return {
        "version": "4",
        "groupKey": group,
        "truncatedAlerts": omitted,
        "status": status or worst,
        "receiver": "pipeline",
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://am.example.com",
        "alerts": list(alerts),
    }


def one(
    fingerprint: str, starts: str, ends: str | None = None, *, name: str = "BackupStale", severity: str = "critical"
) -> Json:
    return {
        "status": "resolved" if ends else "firing",
        "labels": {"alertname": name, "severity": severity, "instance": "nas-4"},
        "annotations": {"summary": f"{name} summary"},
        "startsAt": starts,
        "endsAt": ends or "0001-01-01T00:00:00Z",
        "generatorURL": "http://prom.example.com/graph?g0.expr=x",
        "fingerprint": fingerprint,
    }


async def test_an_alert_whose_end_was_silenced_is_paged_the_next_night(
    here: Installation, channel: MemoryChannel
) -> None:
    await here.receive(alertmanager(one("a1", "2026-11-25T22:10:00Z")))
    (run,) = await here.receive(alertmanager(one("a1", "2026-11-26T03:41:00Z")))
    assert run.status is RunStatus.NOTIFIED
    assert "began again" in fact(channel.messages[-1], "Why now")

    await here.receive(alertmanager(one("a1", "2026-11-26T03:41:00Z", "2026-11-26T04:00:00Z")))
    assert said(channel) == ["firing critical", "firing critical", "resolved critical"]


async def test_a_start_that_moves_a_little_is_no_second_page(here: Installation, channel: MemoryChannel) -> None:
    for second in ("00", "25", "10"):
        await here.receive(alertmanager(one("a1", f"2026-11-26T03:41:{second}Z")))
    assert said(channel) == ["firing critical"]


async def test_production_is_paged_while_staging_has_the_same_alert(here: Installation, channel: MemoryChannel) -> None:
    await here.receive(alertmanager(one("b1", "2026-11-25T22:10:00Z")), environment="staging")
    await here.receive(alertmanager(one("b1", "2026-11-26T02:00:00Z")), environment="production")
    assert [message.environment for message in channel.messages] == ["staging", "production"]

    over = alertmanager(one("b1", "2026-11-25T22:10:00Z", "2026-11-26T02:05:00Z"))
    await here.receive(over, environment="staging")
    repeat = await here.receive(alertmanager(one("b1", "2026-11-26T02:00:00Z")), environment="production")
    assert [run.skip_reason for run in repeat] == ["repeat"]
    assert [(message.environment, message.status) for message in channel.messages[2:]] == [("staging", "resolved")]


@pytest.mark.parametrize(
    ("down", "up"),
    [("down", "up"), ("CRITICAL", "OK"), ("failing", "passing"), ("offline", "online"), ("red", "green")],
)
async def test_down_and_up_and_down_again(here: Installation, channel: MemoryChannel, down: str, up: str) -> None:
    body = {"name": "nightly-dump", "tags": "prod db", "timestamp": "2026-11-26T01:00:00+00:00"}
    for status in (down, up, down):
        await here.receive({**body, "status": status})
    assert [message.status for message in channel.messages] == ["firing", "resolved", "firing"]

    host = {"alertname": "Host check", "state": up.upper(), "host": "gw-2", "message": "PING OK"}
    assert [run.skip_reason for run in await here.receive(host)] == ["nothing_open"]


async def test_notes_and_pings_are_recorded_and_page_nobody(here: Installation, channel: MemoryChannel) -> None:
    def event(kind: str, data: Json) -> Json:
        return {"event": {"id": "01", "event_type": kind, "occurred_at": "2026-11-26T02:00:01Z", "data": data}}

    incident = {"id": "Q3", "type": "incident", "title": "Orders are not confirmed", "status": "triggered"}
    await here.receive(event("incident.triggered", incident))
    for kind, data in (
        ("incident.annotated", {"type": "incident_note", "id": "PN1", "content": "looking"}),
        ("incident.responder.added", {"type": "incident_responder", "state": "pending"}),
        ("pagey.ping", {"type": "ping", "message": "Hello"}),
        ("service.updated", {"type": "service", "id": "PSVC1"}),
    ):
        (run_id,) = await here.push(event(kind, data), source="pagerduty")
        async with here.services.database.transaction() as tx:
            assert (await get_run(tx, run_id)).skip_reason == "ignored"
    assert await here.work() == []
    assert said(channel) == ["firing warning"]


async def test_a_datadog_monitor_with_a_priority_is_one_incident(here: Installation, channel: MemoryChannel) -> None:
    for moment, state in enumerate(("Triggered", "Re-Triggered", "Recovered")):
        stamp = str(1795652000000 + 600000 * moment)
        body = {"id": stamp, "last_updated": stamp, "date": stamp, "event_type": "query_alert_monitor"}
        title = f"[P2] [{state} on {{host:api-9}}] Load is high"
        await here.receive({**body, "title": title, "org": {"id": "77", "name": "Acme"}, "body": "load is high"})
    assert said(channel) == ["firing critical", "resolved critical"]


async def test_what_ended_while_no_worker_was_there_is_said_in_one_message(
    here: Installation, channel: MemoryChannel
) -> None:
    for number in range(6):
        group = f'{{}}:{{alertname="Backlog{number}"}}'
        await here.push(alertmanager(one(f"c{number}", "2026-11-26T01:00:00Z"), group=group))
        over = one(f"c{number}", "2026-11-26T01:00:00Z", "2026-11-26T01:30:00Z")
        await here.push(alertmanager(over, group=group))
        pagerduty = {"id": f"QBACK{number}", "type": "incident", "title": f"Backlog PD {number}"}
        for status, urgency, clock in (("triggered", "low", "02:00:01"), ("resolved", "high", "02:09:00")):
            event = {
                "event_type": f"incident.{status}",
                "occurred_at": f"2026-11-26T{clock}Z",
                "data": {**pagerduty, "status": status, "urgency": urgency},
            }
            await here.push({"event": event})
    await here.work()

    assert [message.status for message in channel.messages] == ["resolved"] * 12
    assert len({message.dedup_key for message in channel.messages}) == 12


async def test_one_alert_in_two_groups_is_two_incidents_and_its_repeats_are_silent(
    here: Installation, channel: MemoryChannel
) -> None:
    groups = ('{}/{severity="critical"}:{alertname="Checkout"}', '{}/{team="shop"}:{alertname="Checkout"}')
    for _ in range(3):
        for group in groups:
            await here.receive(alertmanager(one("d1", "2026-11-25T22:10:00Z"), group=group))
    assert said(channel) == ["firing critical"] * 2

    for group in groups:
        await here.receive(alertmanager(one("d1", "2026-11-25T22:10:00Z", "2026-11-26T04:00:00Z"), group=group))
    assert said(channel)[2:] == ["resolved critical"] * 2
    assert len({message.dedup_key for message in channel.messages}) == 2


async def test_a_live_value_in_the_name_of_a_trigger_is_no_new_incident(
    here: Installation, channel: MemoryChannel
) -> None:
    event = {"event_id": "8812", "trigger_id": "40021", "host": "fs-3", "event_severity": "High"}
    event |= {"event_date": "2026.11.26", "event_time": "02:10:11"}
    for value, full, more in (
        ("1", "91.2", {"event_update_status": "0"}),
        ("1", "92.0", {"event_update_status": "1", "event_update_message": "on it"}),
        ("1", "92.4", {"event_update_status": "1"}),
        ("0", "60.3", {"event_recovery_date": "2026.11.26", "event_recovery_time": "02:40:00"}),
    ):
        name = f"Disk D: is {full} % full"
        await here.receive({**event, "event_value": value, "event_name": name, "trigger_name": name, **more})
    assert said(channel) == ["firing critical", "resolved critical"]


async def test_what_fell_off_a_truncated_list_is_neither_firing_for_ever_nor_forgotten(
    here: Installation, channel: MemoryChannel
) -> None:
    a, b, c = ("e1", "e2", "e3")
    start, end = "2026-11-26T01:00:00Z", "2026-11-26T02:00:00Z"
    await here.receive(alertmanager(one(a, start), one(c, start)))
    await here.receive(alertmanager(one(a, start), one(b, start), omitted=1))
    assert "1 more" in channel.messages[-1].text

    (repeat,) = await here.receive(alertmanager(one(a, start), one(b, start), omitted=1))
    assert repeat.skip_reason == "repeat"
    await here.receive(alertmanager(one(a, start), one(b, start), omitted=7))
    assert "7 more" in channel.messages[-1].text
    assert "more alerts joined the incident" in channel.messages[-1].text
    for listed, omitted in (([a], 8), ([a, c], 7), ([a, b, c], 6)):
        (as_many,) = await here.receive(alertmanager(*(one(each, start) for each in listed), omitted=omitted))
        assert as_many.skip_reason == "repeat", "the list is another one, and as many fire"

    await here.receive(alertmanager(one(a, start, end), one(b, start, end), omitted=1))
    assert said(channel)[-1] == "resolved critical", "the group says that all of it is over"
    await here.receive(alertmanager(one(c, "2026-11-26T05:00:00Z")))
    assert said(channel) == ["firing critical"] * 3 + ["resolved critical", "firing critical"]


async def test_a_group_that_fires_is_not_over_because_all_of_its_list_is(
    here: Installation, channel: MemoryChannel
) -> None:
    start, end, other = "2026-11-26T01:00:00Z", "2026-11-26T02:00:00Z", '{}/{team="shop"}:{}'
    await here.receive(alertmanager(one("e1", start), omitted=3))
    await here.receive(alertmanager(one("e1", start), group=other))
    listed_is_over, *_ = await here.receive(alertmanager(one("e1", start, end), omitted=3, status="firing"))
    assert listed_is_over.skip_reason == "some_resolved"
    assert said(channel) == ["firing critical"] * 2 + ["resolved critical"], "the other group is over"

    await here.receive(alertmanager(one("e1", start, end), omitted=3, status="resolved"))
    assert said(channel)[3:] == ["resolved critical"]


async def test_a_reminder_of_a_truncated_group_says_so_too(
    here: Installation, channel: MemoryChannel, services: Services
) -> None:
    await here.receive(alertmanager(one("e1", "2026-11-26T01:00:00Z"), omitted=4))
    await let_pass(services.database, timedelta(hours=1))
    await execute_timer(services, "1")
    assert "Alerts: 1 firing, 0 resolved, and 4 more that the sender left out" in channel.messages[-1].text
    await here.receive(alertmanager(one("e1", "2026-11-26T01:00:00Z"), one("e2", "2026-11-26T01:00:00Z")))
    assert "left out" not in channel.messages[-1].text


async def test_a_late_end_of_all_does_not_end_what_has_begun_since(here: Installation, channel: MemoryChannel) -> None:
    ended = one("g1", "2026-11-26T01:00:00Z", "2026-11-26T02:00:00Z")
    fires = one("g2", "2026-11-26T02:30:00Z")
    await here.receive(alertmanager(one("g1", "2026-11-26T01:00:00Z")))
    await here.receive(alertmanager(ended, fires))
    await here.receive(alertmanager(ended, omitted=1))
    await here.receive(alertmanager(fires))
    assert said(channel) == ["firing critical"] * 2, "its sender tried the end of 02:00 again after 02:30"

    await here.receive(alertmanager(one("g2", "2026-11-26T02:30:00Z", "2026-11-26T03:00:00Z")))
    assert said(channel)[2:] == ["resolved critical"]


async def test_what_an_end_of_all_leaves_out_has_ended_in_every_group(
    here: Installation, channel: MemoryChannel
) -> None:
    start, end = "2026-11-26T01:00:00Z", "2026-11-26T02:00:00Z"
    await here.receive(alertmanager(one("h1", start), one("h2", start)))
    await here.receive(alertmanager(one("h2", start), group='{}/{team="shop"}:{}'))
    await here.receive(alertmanager(one("h1", start, end), omitted=1))

    assert said(channel) == ["firing critical"] * 2 + ["resolved critical"] * 2
    assert len({message.dedup_key for message in channel.messages[2:]}) == 2


async def test_the_late_end_of_the_time_before_is_no_all_clear(here: Installation, channel: MemoryChannel) -> None:
    await here.receive(alertmanager(one("f1", "2026-11-26T01:20:00Z")))
    (late,) = await here.receive(alertmanager(one("f1", "2026-11-26T01:00:00Z", "2026-11-26T01:10:00Z")))
    assert late.skip_reason == "stale"
    assert said(channel) == ["firing critical"]


async def test_a_rule_that_cannot_be_evaluated_is_named_with_its_error(
    here: Installation, channel: MemoryChannel
) -> None:
    labels = {"alertname": "DatasourceError", "rulename": "Order backlog", "ref_id": "A", "severity": "critical"}
    error = "failed to execute query [A]: dial tcp 192.0.2.9:9090: connect: connection refused"
    annotations = {"Error": error, "summary": "{{ $labels.queue }} is longer than {{ $values.B }}"}
    alert = one("f12", "2026-11-26T01:00:00Z") | {"labels": labels, "annotations": annotations}
    alert |= {"values": None, "valueString": "", "silenceURL": "https://graf.example.com/silence", "orgId": 1}
    await here.receive({**alertmanager(alert), "version": "1", "orgId": 1})

    (message,) = channel.messages
    assert "Order backlog" in message.title
    assert error in message.text
    assert "{{" not in fact(message, "What")


async def test_of_three_channels_only_the_broken_one_is_tried_again(services: Services) -> None:
    busy = [DeliveryFailed("answered 429", retryable=True) for _ in range(200)]
    slack, mail, hook = MemoryChannel(failures=busy), MemoryChannel(), MemoryChannel()
    here = Installation(services, slack=slack, mail=mail, hook=hook)
    for _ in range(4):
        await here.receive(alertmanager(one("28", "2026-11-25T22:10:00Z")))
    assert (len(slack.messages), len(mail.messages), len(hook.messages)) == (0, 1, 1)

    slack.failures.clear()
    await change(services.database, "update channel_health set not_before = null")
    await change(services.database, "update pipeline_run set due_at = now() where reason = 'redelivery'")
    await here.work()
    assert (said(slack), len(mail.messages), len(hook.messages)) == (["firing critical"], 1, 1)


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_claimed_first_the_last_word_is_true(
    here: Installation, channel: MemoryChannel, seed: int
) -> None:
    dice = random.Random(seed)
    truth: dict[str, str] = {}
    for _ in range(30):
        host, status = f"h-{dice.randrange(4)}", dice.choice(["firing", "resolved"])
        severity = dice.choice(["critical", "warning", "info"])
        await here.push({"name": "Flap", "host": host, "status": status, "severity": severity})
        truth[host] = status
        if dice.random() < 0.3:
            await here.work()
    await here.work()
    last = {message.title.split(" on ")[1].split()[0]: message.status for message in channel.messages}
    assert all(last.get(host, "resolved") == status for host, status in truth.items())
