"""What somebody does in PagerDuty with an incident of ours is done here, and opens no second incident."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from blocks.channels import PagerDutyChannel
from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.states import RunReason
from orchestration.store import actions
from orchestration.store.database import Database
from orchestration.store.keys import Scope
from tests import vendors
from tests.api_helpers import all_runs, open_api
from tests.auth_helpers import FAR, PUBLIC, bearer, make_key
from tests.conftest import MemoryChannel
from tests.life_helpers import ADA, incident_of, story_of
from tests.notify_helpers import end, execute_follow_up, rows, tell, titles, with_channels
from tests.payloads import body
from tests.vendors import ROUTING_KEY, WEBHOOK_SECRET, PagerDuty, signed_by_pagerduty

PATH = "/pagerduty/webhook/"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"pagerduty_webhook_secret": SecretStr(WEBHOOK_SECRET)})


@pytest.fixture
def pagerduty() -> Iterator[PagerDuty]:
    with vendors.pagerduty() as vendor:
        yield vendor


@pytest.fixture
def services(services: Services, settings: Settings, pagerduty: PagerDuty, channel: MemoryChannel) -> Services:
    pager = PagerDutyChannel(routing_key=SecretStr(ROUTING_KEY), url=pagerduty.url)
    return replace(with_channels(services, pagerduty=pager, mail=channel), settings=settings)


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """The API as PagerDuty sees it: without a key, from somewhere else."""
    async with open_api(settings, database.url, host=PUBLIC, client=FAR) as client:
        yield client


async def opened(services: Services) -> str:
    """The id of an incident that PagerDuty shows."""
    return (await tell(services)).incident_id or ""


async def status_of(services: Services, incident_id: str) -> tuple[str, str | None]:
    incident = await incident_of(services.database, incident_id)
    return incident.status.value, incident.acknowledged_by


async def test_acknowledged_unacknowledged_and_resolved_in_pagerduty(
    services: Services, pagerduty: PagerDuty, channel: MemoryChannel, api: httpx.AsyncClient
) -> None:
    incident_id = await opened(services)
    [shown] = pagerduty.incidents
    answer = await api.post(PATH, **signed_by_pagerduty(shown.webhook("acknowledged")))
    assert answer.status_code == 200
    assert answer.json()["status"] == "done"
    assert "is acknowledged by Grace Hopper" in answer.json()["message"]
    assert await status_of(services, incident_id) == ("acknowledged", "Grace Hopper")
    await execute_follow_up(services, RunReason.STATE)
    assert titles(channel) == ["CRITICAL"]

    # PagerDuty's acknowledgement times out: nobody did it.
    assert (await api.post(PATH, **signed_by_pagerduty(shown.webhook("unacknowledged", None)))).status_code == 200
    assert await status_of(services, incident_id) == ("open", None)
    await execute_follow_up(services, RunReason.STATE)
    assert (await api.post(PATH, **signed_by_pagerduty(shown.webhook("resolved")))).status_code == 200
    await execute_follow_up(services, RunReason.ACTION)
    assert titles(channel) == ["CRITICAL", "RESOLVED"]
    assert channel.messages[-1].fact("Resolved by") == "Grace Hopper"
    history = [line.in_words for line in reversed((await story_of(services.database, incident_id)).history)]
    said = [line for line in history if "pagerduty," in line or "(pagerduty" in line]
    assert said == [
        "acknowledged by Grace Hopper (pagerduty, PGRACE1)",
        "unacknowledged by PagerDuty (pagerduty)",
        "resolved by Grace Hopper (pagerduty, PGRACE1)",
    ]
    assert [len(await rows(services.database, "select id from incident")), len(pagerduty.incidents)] == [1, 1]


async def test_the_echo_of_our_own_events_changes_nothing_and_opens_nothing(
    services: Services, pagerduty: PagerDuty, api: httpx.AsyncClient
) -> None:
    incident_id = await opened(services)
    [shown] = pagerduty.incidents
    for event, user in (
        ("triggered", None),
        ("acknowledged", None),
        ("resolved", None),
        ("escalated", "Grace Hopper"),
        ("reassigned", "Grace Hopper"),
        ("priority_updated", "Grace Hopper"),
        ("annotated", "Grace Hopper"),
    ):
        answer = await api.post(PATH, **signed_by_pagerduty(shown.webhook(event, user)))
        assert (answer.status_code, answer.json()["status"]) == (200, "ignored"), event
    assert await status_of(services, incident_id) == ("open", None)
    assert len(await all_runs(services.database)) == 1


async def test_an_event_that_comes_twice_or_late_changes_nothing(
    services: Services, pagerduty: PagerDuty, api: httpx.AsyncClient
) -> None:
    incident_id = await opened(services)
    [shown] = pagerduty.incidents
    now = time.time()
    first, second = shown.webhook("acknowledged", at=now), shown.webhook("unacknowledged", at=now + 1)
    early, ancient = shown.webhook("acknowledged", at=now - 1), shown.webhook("resolved", at=now - 600)
    timeless = shown.webhook("resolved")
    del timeless["event"]["occurred_at"]
    for event in (first, second, first, second, early, ancient, timeless):
        assert (await api.post(PATH, **signed_by_pagerduty(event))).status_code == 200
    assert await status_of(services, incident_id) == ("open", None)
    async with services.database.transaction() as tx:
        await actions.acknowledge(tx, incident_id, ADA, services.settings)
    await end(services)
    late = await api.post(PATH, **signed_by_pagerduty(shown.webhook("acknowledged", at=now + 5)))
    assert (late.status_code, late.json()["status"]) == (200, "ignored")
    assert (await status_of(services, incident_id))[0] == "resolved"


async def test_what_pagerduty_has_not_signed_is_refused(
    services: Services, pagerduty: PagerDuty, api: httpx.AsyncClient
) -> None:
    incident_id = await opened(services)
    event = pagerduty.incidents[0].webhook("resolved")
    signed = signed_by_pagerduty(event)
    headers = signed["headers"]
    wrong: list[tuple[dict[str, Any], int]] = [
        ({"json": event}, 401),
        ({"json": event, "headers": {"X-PagerDuty-Signature": "v1="}}, 401),
        ({"json": event, "headers": {"X-PagerDuty-Signature": b"v1=\xe9"}}, 401),
        ({"content": signed["content"] + b" ", "headers": headers}, 401),
        (signed_by_pagerduty(event, secret="another"), 401),
        (signed_by_pagerduty(b"{"), 400),
        (signed_by_pagerduty([]), 422),
        (signed_by_pagerduty({}), 422),
        (signed_by_pagerduty({"event": 7}), 422),
    ]
    for request, status in wrong:
        answer = await api.post(PATH, **request)
        assert answer.status_code == status, (request, answer.text)
    assert await status_of(services, incident_id) == ("open", None)


async def test_other_incidents_of_pagerduty_are_pushes(services: Services, api: httpx.AsyncClient) -> None:
    answer = await api.post(f"{PATH}?environment=eu", **signed_by_pagerduty(body("pagerduty_triggered")))
    assert answer.status_code == 202
    [run] = await all_runs(services.database)
    assert (run.source, run.environment) == ("pagerduty", "eu")
    stranger = vendors.PagerDutyIncident("triggered", "critical", "x", {}, f"1-{'0' * 32}")
    assert (await api.post(PATH, **signed_by_pagerduty(stranger.webhook("acknowledged")))).status_code == 202


async def test_without_a_secret_the_address_says_so(settings: Settings, database: Database) -> None:
    plain = settings.model_copy(update={"pagerduty_webhook_secret": None})
    async with open_api(plain, database.url, host=PUBLIC, client=FAR) as api:
        answer = await api.post(PATH, **signed_by_pagerduty({}))
    assert answer.status_code == 404
    assert "PAGERDUTY_WEBHOOK_SECRET is not set" in answer.json()["error"]


@pytest.mark.parametrize("path", ["/alerts/webhook/", "/alerts/webhook/pagerduty/"])
async def test_through_the_webhooks_with_a_key_it_needs_the_right_to_respond(
    services: Services, settings: Settings, database: Database, pagerduty: PagerDuty, api: httpx.AsyncClient, path: str
) -> None:
    incident_id = await opened(services)
    event = pagerduty.incidents[0].webhook("acknowledged")
    sender = await make_key(settings, database, Scope.TRIGGER, name="sender")
    responder = await make_key(settings, database, Scope.TRIGGER, Scope.RESPOND, name="responder")
    answer = await api.post(path, json=event, headers=bearer(sender))
    assert (answer.status_code, answer.json()["status"]) == (200, "ignored")
    assert "scope respond" in answer.json()["message"]
    assert await status_of(services, incident_id) == ("open", None)
    answer = await api.post(path, json=event, headers=bearer(responder))
    assert (answer.status_code, answer.json()["status"]) == (200, "done")
    assert await status_of(services, incident_id) == ("acknowledged", "Grace Hopper")
    assert len(await all_runs(database)) == 1
