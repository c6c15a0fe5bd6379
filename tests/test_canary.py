"""The canary: an alert that is sent through the door, the queue, the stages and a channel, and measured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from flows import round_trip
from flows.canary import canary
from flows.round_trip import CanaryOrder, CanaryResult, send_canary
from flows.services import use_services
from orchestration.engine.execution import DIRECT, Execution
from orchestration.engine.lease import lease_run
from orchestration.engine.run import Services
from orchestration.errors import BadInput, RunBusy, RunNotFound
from orchestration.local_key import load_local_key
from orchestration.settings import Settings
from orchestration.store.claims import claim_runs
from tests.api_helpers import eventually, serve_api
from tests.conftest import MemoryChannel
from tests.notify_helpers import FailingChannel, refused, rows, with_channels, with_settings
from tests.receivers import HttpReceiver

NOWHERE = "http://127.0.0.1:1"


@asynccontextmanager
async def working(services: Services) -> AsyncGenerator[None]:
    """Somebody executes what is due, as a worker does."""

    async def work() -> None:
        while True:
            async with services.database.statement() as tx:
                found = await claim_runs(tx, process="a/1/b", limit=5, lease_seconds=30, deadline_seconds=30)
            for claim in found:
                with suppress(RunBusy, RunNotFound, BadInput):  # as a worker leaves such a run alone
                    async with lease_run(services, claim.run_id, engine=DIRECT, owner=claim.owner) as run:
                        await Execution(run).execute_directly()
            await asyncio.sleep(0.02)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def order(settings: Settings, **given: Any) -> CanaryOrder:
    given = {"channel": "memory", "within_seconds": 30.0, **given}
    return CanaryOrder.of(settings, **given)


async def send(services: Services, **given: Any) -> CanaryResult:
    return await send_canary(services.database, services.settings, services.signals, order(services.settings, **given))


async def open_incidents(services: Services) -> list[dict[str, Any]]:
    return await rows(services.database, "select * from incident where status not in ('resolved', 'closed')")


async def test_a_canary_goes_all_the_way_is_measured_ends_itself_and_pings(
    services: Services, channel: MemoryChannel, receiver: HttpReceiver
) -> None:
    async with serve_api(services.settings, services.database.url) as (host, port), working(services):
        result = await send(services, api_url=f"http://{host}:{port}", ping_url=receiver.url)
        assert (result.arrived, result.problem, result.way, result.engine) == (True, "", "http", "direct")
        assert [step.name for step in result.steps] == [
            *("accepted", "claimed", "ingested", "checked", "analyzed", "sent")
        ]
        moments = [step.after_ms for step in result.steps]
        assert moments == sorted(moments)
        assert result.total_ms == moments[-1]
        assert (result.ping, result.ping_problem) == ("127.0.0.1", "")
        assert [request.method for request in receiver.requests] == ["GET"]

        async def ended() -> bool:
            return not await open_incidents(services) and len(channel.messages) == 2

        await eventually(ended)
    assert "test" in channel.messages[0].text.lower()
    assert [row["environment"] for row in await rows(services.database, "select environment from incident")] == [
        "canary"
    ]
    assert await rows(services.database, "select 1 from pipeline_run where reason <> 'push'") == []


async def test_a_canary_that_does_not_arrive_says_where_it_is_and_pings_nobody(
    services: Services, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_trip, "DEFAULT_API", NOWHERE)
    result = await send(services, within_seconds=0.5, ping_url=receiver.url)
    assert not result.arrived
    assert result.problem == "not within 0.5 s; its run is pending: no worker has finished its first stage"
    assert result.way == "queue"
    assert "no API answers at" in result.through
    assert receiver.requests == []
    # Whoever executes them later finds a canary that has ended: it is critical for nobody.
    async with working(services):
        await eventually(lambda: _no_runs_left(services))
    assert await open_incidents(services) == []


async def _no_runs_left(services: Services) -> bool:
    return not await rows(services.database, "select 1 from pipeline_run where status not in ('notified', 'skipped')")


async def test_a_door_that_is_named_and_does_not_answer_is_no_reason_to_go_around_it(services: Services) -> None:
    result = await send(services, api_url=NOWHERE)
    assert not result.arrived
    assert result.problem.startswith("it was not accepted: All connection attempts failed")
    assert await rows(services.database, "select 1 from pipeline_run") == []


async def test_what_is_no_alert_pipeline_or_refuses_the_canary_is_named(
    services: Services, receiver: HttpReceiver
) -> None:
    result = await send(services, api_url=receiver.url)
    assert "what answers is no alert-pipeline" in result.problem
    wrong = with_settings(services, canary_api_key=SecretStr("apk_" + "x" * 43))
    async with serve_api(services.settings, services.database.url) as (host, port):
        result = await send(wrong, api_url=f"http://{host}:{port}")
    assert "the API answered 401: The API key is unknown or revoked" in result.problem


async def test_a_message_that_only_another_channel_accepted_has_not_arrived(
    services: Services, channel: MemoryChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_trip, "DEFAULT_API", NOWHERE)
    broken = FailingChannel(error=refused())
    two = with_channels(services, {"memory": channel}, broken=broken)
    async with working(two):
        result = await send(two, channel="broken")
    assert not result.arrived
    assert "failed at notify: broken: it answered 404" in result.problem


async def test_a_ping_that_fails_is_said(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_trip, "DEFAULT_API", NOWHERE)
    async with working(services):
        result = await send(services, ping_url=f"{NOWHERE}/secret-path")
    assert result.arrived
    assert result.ping_problem == "127.0.0.1 could not be reached: All connection attempts failed"
    assert "secret-path" not in result.model_dump_json()


def test_a_canary_needs_a_channel_by_name(settings: Settings) -> None:
    with pytest.raises(BadInput, match="--channel NAME or CANARY_CHANNEL"):
        CanaryOrder.of(settings)
    with pytest.raises(BadInput, match="no http or https URL"):
        CanaryOrder.of(settings, channel="slack", ping_url="file:///etc/passwd")
    assert CanaryOrder.of(settings, default_channels=True).channel is None
    configured = settings.model_copy(
        update={"canary_channel": "slack", "canary_ping_url": SecretStr("https://x.test/1")}
    )
    assert CanaryOrder.of(configured).channel == "slack"
    assert CanaryOrder.of(configured).ping_url == "https://x.test/1"
    # The local key is for this machine alone.
    assert CanaryOrder.of(configured, api_url="https://alerts.example.com").api_key is None
    assert CanaryOrder.of(configured).api_key == load_local_key(settings)


async def test_the_flow_ends_as_its_canary_did(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_trip, "DEFAULT_API", NOWHERE)
    asked = replace(services, settings=services.settings.model_copy(update={"canary_channel": "memory"}))
    with use_services(asked):
        async with working(asked):
            arrived = await canary.fn()
        late = await canary.fn(within_seconds=0.3)
    assert (arrived.name, arrived.is_completed()) == ("Arrived", True)
    assert "The canary arrived on memory (accepted" in (arrived.message or "")
    assert late.is_failed()
    assert "did not arrive on memory: not within 0.3 s" in (late.message or "")
