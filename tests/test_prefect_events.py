"""Prefect hears of us: what is committed becomes events, in order and once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from prefect import get_client
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import PrefectClient
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
    temporary_settings,
)
from sqlalchemy import text

from blocks.prefect_api import PrefectUnavailable
from orchestration.engine.run import Services
from orchestration.errors import BadInput
from orchestration.store import actions, event_cursor
from orchestration.store.actions import Actor, Via
from orchestration.store.database import Database
from service.mirror.automations import OWN_SET, delete_set
from service.mirror.events import send_events
from service.mirror.own_automations import apply_own
from service.stack import StackAddresses
from service.worker.breaker import Breaker
from service.worker.events import EventReporter
from tests.api_helpers import eventually
from tests.cli_helpers import prefect_of
from tests.conftest import MemoryChannel
from tests.notify_helpers import busy, end, refused, tell
from tests.receivers import HttpReceiver

ADA = Actor(by="ada", via=Via.HTTP)


@dataclass
class Listening:
    """A worker's reporter, and a server that takes Prefect's events."""

    reporter: EventReporter
    receiver: HttpReceiver
    breaker: Breaker = field(default_factory=Breaker)

    async def catch_up(self) -> None:
        """Report all that is committed."""
        async with asyncio.timeout(60):
            while await self.reporter.look() < 1:  # noqa: ASYNC110 - Prefect's transactions, in the same cluster, may go on
                await asyncio.sleep(0.02)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that were taken."""
        return [event for request in self.receiver.requests if request.answered < 300 for event in request.json]

    @property
    def names(self) -> list[str]:
        return [event["event"].removeprefix("alert-pipeline.") for event in self.events]


@pytest.fixture
async def client(receiver: HttpReceiver) -> AsyncIterator[PrefectClient]:
    """A client of the receiver, as if it were Prefect."""
    alone = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False}
    plain = {**alone, PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False}
    with temporary_settings({PREFECT_API_URL: f"{receiver.url}/api", **plain}):
        async with get_client() as opened:
            yield opened


@pytest.fixture
async def listening(database: Database, client: PrefectClient, receiver: HttpReceiver) -> Listening:
    found = Listening(EventReporter(database, client, Breaker(), "host/1/a"), receiver)
    await found.catch_up()
    return found


async def test_an_incident_is_told_from_its_page_to_its_end(services: Services, listening: Listening) -> None:
    run = await tell(services)
    assert run.incident_id is not None
    async with services.database.transaction() as tx:
        await actions.acknowledge(tx, str(run.incident_id), ADA, services.settings)
    await end(services)
    await listening.catch_up()
    assert sorted(listening.names) == sorted(
        ["incident.opened", "page.sent", "incident.acknowledged", "incident.resolved", "page.sent"]
    )
    opened = next(event for event in listening.events if event["event"] == "alert-pipeline.incident.opened")
    assert opened["resource"] == {
        "prefect.resource.id": f"alert-pipeline.incident.{run.incident_id}",
        "prefect.resource.name": "HighCPU on web-1",
        "alert-pipeline.incident": str(run.incident_id),
        "alert-pipeline.severity": "critical",
        "alert-pipeline.status": "resolved",
        "alert-pipeline.environment": "test",
        "alert-pipeline.source": "generic",
        "alert-pipeline.route": "default",
    }
    assert {"prefect.resource.id": "prefect.tag.alert-pipeline", "prefect.resource.role": "tag"} in opened["related"]
    acknowledged = next(event for event in listening.events if event["event"].endswith("acknowledged"))
    assert acknowledged["payload"] == {
        "title": "HighCPU on web-1",
        "run_id": None,
        "by": "ada",
        "via": "http",
        "because": "acknowledged",
    }
    page = next(event for event in listening.events if event["event"].endswith("page.sent"))
    assert page["resource"]["alert-pipeline.channel"] == "memory"
    assert page["payload"]["run_id"] == run.run_id
    occurred = [event["occurred"] for event in listening.events]
    assert occurred == sorted(occurred)

    before = len(listening.events)
    await listening.catch_up()
    assert len(listening.events) == before


async def test_a_row_that_is_committed_after_a_later_one_is_not_passed_over(
    database: Database, services: Services, listening: Listening
) -> None:
    line = text(
        "insert into history (event, details) "
        "values ('canary_delivered', jsonb_build_object('channel', cast(:name as text)))"
    )
    async with database.transaction() as slow:
        await slow.execute(line, {"name": "slow"})
        async with database.transaction() as quick:
            await quick.execute(line, {"name": "quick"})
        for _ in range(4):
            await listening.reporter.look()
        assert listening.events == []
    await listening.catch_up()
    assert [event["payload"]["channel"] for event in listening.events] == ["slow", "quick"]


async def test_a_final_error_is_told_at_once_and_another_after_half_a_minute(
    services: Services, channel: MemoryChannel, listening: Listening
) -> None:
    channel.failures = [refused()]
    await tell(services, name="Final")
    await listening.catch_up()
    assert listening.names == ["incident.opened", "page.failed"]
    assert listening.events[-1]["payload"]["error"] == "it answered 404"

    channel.failures = [busy()] * 10
    await tell(services, name="Busy")
    await listening.catch_up()
    assert listening.names[2:] == ["incident.opened"]
    async with services.database.transaction() as tx:
        await tx.execute(text("update delivery set created_at = created_at - interval '31 s' where status = 'failed'"))
    await listening.catch_up()
    assert listening.names[3:] == ["page.failed"]
    await listening.catch_up()
    assert listening.names[4:] == []

    async with services.database.transaction() as tx:
        await tx.execute(text("update delivery set status = 'sent' where error = 'it answered 503'"))
    await listening.catch_up()
    assert listening.names[4:] == ["page.sent"]


async def test_what_happens_while_prefect_is_away_is_told_later(
    services: Services, receiver: HttpReceiver, listening: Listening
) -> None:
    receiver.answer_with(503)
    await tell(services)
    with pytest.raises(PrefectUnavailable):
        await listening.catch_up()
    receiver.answer_with(200)
    await listening.catch_up()
    assert listening.names == ["incident.opened", "page.sent"]


async def test_after_a_long_outage_what_is_old_is_left_out_with_one_line(
    services: Services, listening: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        await tell(services, name=f"Old{number}")
    async with services.database.transaction() as tx:
        await tx.execute(text("update history set at = at - interval '2 h'"))
        await tx.execute(text("update delivery set settled_at = settled_at - interval '2 h'"))
    await tell(services, name="New")
    with caplog.at_level(logging.WARNING, "alert_pipeline"):
        await listening.catch_up()
    assert [event["payload"]["title"] for event in listening.events] == ["New on web-1"] * 2
    assert [one.getMessage() for one in caplog.records if "older than an hour" in one.getMessage()] == [
        "6 events are not sent to Prefect: they are older than an hour"
    ]


async def test_an_event_that_prefect_refuses_keeps_no_other_from_it(
    client: PrefectClient, receiver: HttpReceiver
) -> None:
    receiver.answer_next(422, 200, 422, 422, 200)  # four; the first two; the last two; the third; the fourth
    await send_events(client, [{"event": f"e{number}", "id": str(number)} for number in range(4)])
    taken = [event["event"] for request in receiver.requests if request.answered == 200 for event in request.json]
    assert taken == ["e0", "e1", "e3"]


async def test_one_worker_tells_and_another_goes_on_after_it(
    database: Database, services: Services, client: PrefectClient, listening: Listening, receiver: HttpReceiver
) -> None:
    other = Listening(EventReporter(database, client, Breaker(), "host/2/b"), receiver)
    await tell(services, name="First")
    assert await other.reporter.look() > 1
    await listening.catch_up()
    assert listening.names == ["incident.opened", "page.sent"]

    async with database.transaction() as tx:
        await event_cursor.release(tx, "host/1/a")
    await tell(services, name="Second")
    await other.catch_up()
    assert [event["payload"]["title"] for event in other.events[2:]] == ["Second on web-1"] * 2


async def test_a_closed_breaker_is_needed(services: Services, client: PrefectClient, receiver: HttpReceiver) -> None:
    breaker = Breaker()
    breaker.trip("a test")
    assert await EventReporter(services.database, client, breaker, "host/1/a").look() > 1
    assert receiver.requests == []


async def test_prefect_makes_one_event_of_a_batch_that_comes_twice_and_its_own_block_hears_of_a_failed_page(
    services: Services, stack: StackAddresses, channel: MemoryChannel, receiver: HttpReceiver
) -> None:
    async with prefect_of(stack) as prefect:
        name = f"ops-{uuid4().hex[:6]}"
        block = CustomWebhookNotificationBlock(
            name="ops", url=receiver.url, json_data={"subject": "{{subject}}", "body": "{{body}}"}
        )
        block_id = await block.asave(name, client=prefect)
        try:
            await apply_own(prefect, f"custom-webhook/{name}")
            reporter = EventReporter(services.database, prefect, Breaker(), "host/1/a")
            listening = Listening(reporter, receiver)
            await listening.catch_up()
            channel.failures = [refused("it answered 404")]
            run = await tell(services, name=f'Bad "{name}" {{{{ x }}}}')
            await listening.catch_up()
            (notice,) = await asyncio.to_thread(receiver.wait_for, 1)
            assert notice.json["subject"].startswith('alert-pipeline: a page failed: Bad "')
            assert "Channel memory: it answered 404" in notice.json["body"]
            assert f"alert-pipeline why {run.run_id}" in notice.json["body"]

            async with services.database.transaction() as tx:
                await tx.execute(text("update event_cursor set history_id = 0, delivery_id = 0, unsettled = '{}'"))
            again = Listening(EventReporter(services.database, prefect, Breaker(), "host/1/a"), receiver)
            await again.catch_up()
            wanted = {"filter": {"resource": {"labels": {"alert-pipeline.incident": [str(run.incident_id)]}}}}

            async def recorded() -> object:
                answer = (await prefect.request("POST", "/events/filter", json=wanted)).json()
                mine = [one["event"] for one in answer["events"] if name in one["resource"]["prefect.resource.name"]]
                return sorted(mine) == ["alert-pipeline.incident.opened", "alert-pipeline.page.failed"]

            await eventually(recorded)
            assert len(receiver.requests) == 1
        finally:
            await delete_set(prefect, OWN_SET)
            await prefect.delete_block_document(block_id)


async def test_the_block_of_prefect_has_to_be_there_and_none_of_ours(stack: StackAddresses) -> None:
    async with prefect_of(stack) as prefect:
        for named, said in (
            ("ops", "names no block"),
            ("slack-webhook/nobody", "has no block"),
            ("pager-duty-webhook/x/y", "names no block"),
        ):
            with pytest.raises(BadInput, match=said):
                await apply_own(prefect, named)


async def test_a_canary_is_told_as_a_canary(database: Database, listening: Listening) -> None:
    async with database.transaction() as tx:
        said = {"channel": "memory", "problem": "late"}
        await event_cursor.note_canary(tx, event_cursor.CANARY_MISSED, said, run_id=None)
    await listening.catch_up()
    (event,) = listening.events
    assert event["event"] == "alert-pipeline.canary.missed"
    assert event["resource"]["prefect.resource.id"] == "alert-pipeline.canary.memory"
    assert event["payload"]["problem"] == "late"


async def test_a_storm_and_an_escalation_are_told_with_what_is_known_of_them(
    database: Database, services: Services, listening: Listening
) -> None:
    run = await tell(services)
    async with database.transaction() as tx:
        about = {"id": int(run.incident_id or 0)}
        await tx.execute(text("update incident set incident_key = 'policy:storm:default' where id = :id"), about)
        line = text("insert into history (incident_id, event, details) values (:id, :event, cast(:details as jsonb))")
        escalated = '{"to": "ada", "number": 2, "escalation": "payments", "people": ["ada"]}'
        await tx.execute(line, {**about, "event": "incident_escalated", "details": escalated})
        await tx.execute(line, {**about, "event": "incident_expired", "details": "{}"})
        await tx.execute(line, {**about, "event": "incident_note", "details": '{"text": "nobody else hears of it"}'})
    await listening.catch_up()
    told = [name for name in listening.names if name != "page.sent"]
    assert told == ["incident.opened", "storm.began", "incident.escalated", "incident.resolved", "storm.ended"]
    facts = {event["event"].rpartition(".")[2]: event["payload"] for event in listening.events}
    assert (facts["escalated"]["to"], facts["escalated"]["number"]) == ("ada", 2)
    assert facts["resolved"]["because"] == "expired"
    assert len({event["id"] for event in listening.events}) == len(listening.events)
