"""Somebody answers a page with a button in Slack: who it was is on record, and the message shows it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from pydantic import SecretStr

from blocks.channels import SlackChannel
from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.states import RunReason
from orchestration.store.database import Database
from tests import vendors
from tests.api_helpers import open_api
from tests.auth_helpers import FAR, PUBLIC
from tests.life_helpers import incident_of, story_of
from tests.notify_helpers import end, execute_follow_up, rows, tell, with_channels
from tests.receivers import http_receiver
from tests.vendors import SIGNING_SECRET, SLACK_TOKEN, Slack, SlackMessage, signed_by_slack

PATH = "/slack/interactions/"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"slack_signing_secret": SecretStr(SIGNING_SECRET)})


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slack]:
    monkeypatch.setattr(SlackChannel, "seconds_between_messages", 0.0)
    with vendors.slack() as vendor:
        yield vendor


@pytest.fixture
def services(services: Services, settings: Settings, slack: Slack) -> Services:
    bot = SlackChannel(bot_token=SecretStr(SLACK_TOKEN), channel="#oncall", base_url=slack.url)
    return replace(with_channels(services, slack=bot), settings=settings)


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """The API as Slack sees it: without a key, from somewhere else."""
    async with open_api(settings, database.url, host=PUBLIC, client=FAR) as client:
        yield client


def labels(post: SlackMessage) -> list[str]:
    """The texts of the buttons of a message."""
    blocks = (block for block in post.blocks if block["type"] == "actions")
    return [button["text"]["text"] for block in blocks for button in block["elements"]]


async def incidents(services: Services) -> list[dict[str, Any]]:
    return await rows(services.database, "select id, status, acknowledged_by from incident order by id")


async def test_pressing_acknowledge_says_who_has_it(services: Services, slack: Slack, api: httpx.AsyncClient) -> None:
    incident_id = (await tell(services)).incident_id or ""
    [post] = slack.posts
    assert labels(post) == ["Acknowledge", "Snooze 30 min", "Resolve"]
    answer = await api.post(PATH, **slack.press(post, "Acknowledge"))
    assert (answer.status_code, answer.content) == (200, b"")
    await execute_follow_up(services, RunReason.STATE)
    assert "*Acknowledged by*\\nada" in post.words
    assert labels(post) == ["Snooze 30 min", "Resolve"]
    assert "the acknowledgement ends at " in post.words
    history = [line.in_words for line in (await story_of(services.database, incident_id)).history]
    assert "acknowledged by ada (slack, U01ADA in acme)" in history


async def test_snooze_and_resolve(services: Services, slack: Slack, api: httpx.AsyncClient) -> None:
    incident_id = (await tell(services)).incident_id or ""
    [post] = slack.posts
    assert (await api.post(PATH, **slack.press(post, "Snooze 30 min"))).status_code == 200
    await execute_follow_up(services, RunReason.STATE)
    incident = await incident_of(services.database, incident_id)
    assert incident.snoozed_until is not None
    assert "*Snoozed until*" in post.words
    assert "the snooze ends at " in post.words
    late = slack.press(post, "Acknowledge")
    assert (await api.post(PATH, **slack.press(post, "Resolve"))).status_code == 200
    await execute_follow_up(services, RunReason.ACTION)
    assert (post.text.split("]")[0], labels(post)) == ("🟢 [RESOLVED", [])
    assert [(reply.text.split("]")[0], reply.broadcast) for reply in slack.replies_to(post)] == [
        ("🟢 [RESOLVED", False)
    ]

    answer = await api.post(PATH, **late)
    assert answer.status_code == 409
    assert "it cannot be acknowledged" in answer.json()["error"]


async def test_a_request_is_good_once_and_for_five_minutes(
    services: Services, slack: Slack, api: httpx.AsyncClient
) -> None:
    await tell(services)
    pressed = slack.press(slack.posts[0], "Acknowledge")
    assert (await api.post(PATH, **pressed)).status_code == 200
    answer = await api.post(PATH, **pressed)
    assert answer.status_code == 409
    assert answer.json() == {"error": "This request was accepted before: press the button again"}
    for age in (301.0, -301.0):
        old = signed_by_slack(pressed["content"], at=time.time() - age)
        assert (await api.post(PATH, **old)).status_code == 401


async def test_what_slack_has_not_signed_is_refused_and_does_nothing(
    services: Services, slack: Slack, api: httpx.AsyncClient
) -> None:
    await tell(services)
    pressed = slack.press(slack.posts[0], "Resolve")
    body, headers = pressed["content"], pressed["headers"]
    forged: list[dict[str, Any]] = [
        {"content": body},
        {"content": body + b"&more=1", "headers": headers},
        {"content": b"\xff\xfe", "headers": headers},
        {"content": body, "headers": headers | {"X-Slack-Signature": "v0=é".encode("latin-1")}},
        {"content": body, "headers": headers | {"X-Slack-Signature": ""}},
        {"content": body, "headers": headers | {"X-Slack-Request-Timestamp": "soon"}},
        {"content": body, "headers": headers | {"X-Slack-Request-Timestamp": "9" * 40}},
        signed_by_slack(body, secret="another"),
    ]
    for one in forged:
        answer = await api.post(PATH, **one)
        assert answer.status_code == 401, one
        assert answer.json()["error"]
    assert [one["status"] for one in await incidents(services)] == ["open"]


def press_of(value: object, action_id: object = "alert-pipeline/resolve", **more: object) -> dict[str, Any]:
    """An interaction with a button of this value."""
    action = {"type": "button", "action_id": action_id, "value": value}
    return {"type": "block_actions", "user": {"id": "U1", "name": "eve"}, "actions": [action], **more}


async def test_what_slack_has_signed_but_is_no_press_of_ours_is_refused(
    services: Services, slack: Slack, api: httpx.AsyncClient
) -> None:
    incident = await incident_of(services.database, (await tell(services)).incident_id or "")
    key = incident.public_key
    wrong: list[tuple[object, int]] = [
        (b"", 400),
        (b"payload=%7B", 400),
        (b"&".join(b"a=1" for _ in range(50)), 400),
        (urlencode({"payload": "[]"}).encode(), 400),
        (urlencode({"payload": "[" * 5000}).encode(), 400),
        ({}, 422),
        ({"type": "view_submission"}, 422),
        (press_of(key, type="shortcut"), 422),
        (press_of(key, "another-app/resolve"), 422),
        (press_of(key, "alert-pipeline/delete"), 422),
        (press_of(key, 7), 422),
        (press_of(17), 422),
        (press_of(key, actions={"0": 1}), 422),
        (press_of(incident.id), 404),
        (press_of(f"{incident.id}-{'0' * 32}"), 404),
        (press_of("999-" + key.partition("-")[2]), 404),
        (press_of("9" * 2000), 404),
        (press_of("\x00"), 404),
    ]
    for payload, status in wrong:
        answer = await api.post(PATH, **signed_by_slack(payload))
        assert answer.status_code == status, (payload, answer.text)
        assert answer.json()["error"]
    assert (await api.get(PATH)).status_code == 405
    assert [one["status"] for one in await incidents(services)] == ["open"]


async def test_a_body_that_is_too_large_is_not_read(settings: Settings, database: Database) -> None:
    small = settings.model_copy(update={"max_payload_bytes": 1024})
    async with open_api(small, database.url, host=PUBLIC, client=FAR) as api:
        answer = await api.post(PATH, **signed_by_slack(press_of("x" * 5000)))
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ({"name": "", "username": ""}, "U01ADA"),
        ({"name": "x" * 500}, "x" * 63 + "…"),
        ({"name": "ada\n\x00\u202elovelace"}, None),
    ],
)
async def test_any_name_is_put_on_record(
    services: Services, slack: Slack, api: httpx.AsyncClient, user: dict[str, str], name: str | None
) -> None:
    await tell(services)
    assert (await api.post(PATH, **slack.press(slack.posts[0], "Acknowledge", **user))).status_code == 200
    [incident] = await incidents(services)
    assert incident["acknowledged_by"].isprintable()
    assert name is None or incident["acknowledged_by"] == name


async def test_without_the_signing_secret_there_are_no_buttons(
    services: Services, slack: Slack, database: Database
) -> None:
    plain = services.settings.model_copy(update={"slack_signing_secret": None})
    await tell(replace(services, settings=plain))
    assert labels(slack.posts[0]) == []
    async with open_api(plain, database.url, host=PUBLIC, client=FAR) as api:
        answer = await api.post(PATH, **signed_by_slack({}))
    assert answer.status_code == 404
    assert answer.json() == {"error": "This address is not set up: SLACK_SIGNING_SECRET is not set"}


async def test_a_webhook_gets_the_link_and_a_bot_the_buttons(services: Services, slack: Slack) -> None:
    with http_receiver() as hook:
        webhook = SlackChannel(webhook_url=SecretStr(f"{hook.url}/services/T/B/x"))
        bot = SlackChannel(bot_token=SecretStr(SLACK_TOKEN), channel="#oncall", base_url=slack.url)
        with_url = services.settings.model_copy(update={"api_public_url": "https://alerts.example.com"})
        await tell(replace(with_channels(services, bot=bot, webhook=webhook), settings=with_url))
        blocks = json.dumps(hook.requests[0].json["blocks"])
    assert ("alert-pipeline/acknowledge" in blocks, "/respond/" in blocks) == (False, True)
    assert ("alert-pipeline/acknowledge" in slack.posts[0].words, "/respond/" in slack.posts[0].words) == (True, False)


async def test_an_incident_that_is_over_before_anybody_was_told_has_no_buttons(
    services: Services, slack: Slack
) -> None:
    await tell(services)
    await end(services)
    assert labels(slack.posts[0]) == []
