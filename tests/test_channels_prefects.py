"""Blocks of Prefect itself as channels, and our channels as notification blocks of Prefect's automations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from prefect.blocks.abstract import NotificationBlock, NotificationError
from prefect.blocks.notifications import CustomWebhookNotificationBlock, MattermostWebhook, SlackWebhook
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import Event, Resource
from pydantic import SecretStr

from blocks.channels import EmailChannel, GenericChannel, SlackChannel
from blocks.channels.prefects import NotificationChannel, prefects_channel
from blocks.channels.resolver import ChannelResolver
from blocks.prefect_api import SavedBlock
from orchestration.errors import BadInput, DeliveryFailed
from orchestration.settings import load_settings
from service.stack import StackAddresses
from tests.cli_helpers import prefect_of
from tests.receivers import Answer, http_receiver
from tests.stack_fixtures import settings_for
from tests.test_channel_resolver import NOWHERE, Saved
from tests.test_channels import a_message

TOKEN = SavedBlock(name="ops-bot", slug="slack-credentials", data={"token": "xoxb-s3cr3t"})
MAIL = SavedBlock(
    name="ops-mail",
    slug="email-server-credentials",
    data={"username": "ops@example.com", "password": "s3cr3t", "smtp_server": "gmail", "smtp_type": "STARTTLS"},
)


@pytest.fixture
async def saved(stack: StackAddresses) -> AsyncIterator[Saved]:
    blocks = Saved(stack)
    try:
        yield blocks
    finally:
        await blocks.clear()


def test_slack_credentials_are_a_bot_in_the_channel_that_is_named() -> None:
    channel = prefects_channel(TOKEN, "#oncall", load_settings())
    assert isinstance(channel, SlackChannel)
    assert (channel.target, channel.shows_state) == ("#oncall", True)
    of_environment = prefects_channel(TOKEN, "", load_settings({"slack_channel": "#env"}))
    assert of_environment.target == "#env"
    with pytest.raises(BadInput, match="ops-bot/#channel"):
        prefects_channel(TOKEN, "", load_settings())


@pytest.mark.parametrize(
    ("kind", "security", "port"),
    [("STARTTLS", "starttls", 587), (465, "tls", 465), ("SSL", "tls", 465), (25, "none", 25), (None, "tls", 465)],
)
def test_a_mail_servers_credentials_are_e_mail_to_who_is_named(kind: object, security: str, port: int) -> None:
    block = MAIL.model_copy(update={"data": {**MAIL.data, "smtp_type": kind}})
    channel = prefects_channel(block, "oncall@example.com", load_settings())
    assert isinstance(channel, EmailChannel)
    assert (channel.smtp_host, channel.smtp_port, channel.security) == ("smtp.gmail.com", port, security)
    assert (channel.from_address, channel.target) == ("ops@example.com", "oncall@example.com")
    with pytest.raises(BadInput, match="or set EMAIL_TO"):
        prefects_channel(block, "", load_settings())


@pytest.mark.parametrize("slug", ["slack-webhook", "slack-incoming-webhook"])
async def test_a_slack_webhook_gets_our_blocks(slug: str) -> None:
    with http_receiver() as hook:
        block = SavedBlock(name="ops", slug=slug, data={"url": f"{hook.url}/services/T/B/x"})
        await prefects_channel(block, "", load_settings()).send(a_message())
        [request] = hook.requests
    assert request.json["blocks"][0]["type"] == "header"


def test_a_block_that_cannot_be_used_is_named_without_its_secret() -> None:
    broken = SavedBlock(name="ops", slug="slack-credentials", data={"token": "s3cr3t of two words"})
    with pytest.raises(BadInput, match="The block 'ops'") as refused:
        prefects_channel(broken, "#oncall", load_settings())
    assert "s3cr3t" not in str(refused.value)


def custom(url: str, **fields: Any) -> SavedBlock:
    data = {"name": "ops", "url": url, "json_data": {"text": "{{subject}} | {{body}}"}, **fields}
    return SavedBlock(name="ops", slug="custom-webhook", data=data, type_name="Custom Webhook")


async def test_a_notification_block_gets_title_and_text() -> None:
    with http_receiver() as receiver:
        delivery = await NotificationChannel(custom(receiver.url)).send(a_message(text="long " * 1000))
        [request] = receiver.requests
    assert (delivery.driver, delivery.channel, delivery.status) == ("custom-webhook", "Custom Webhook", "sent")
    title, body = request.json["text"].split(" | ")
    assert title == "[CRITICAL] HighCPU on web-1 (production)"
    assert len(body) == 1500


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (429, True), (503, True)])
async def test_the_status_of_a_notification_block_says_whether_a_retry_can_help(status: int, retryable: bool) -> None:
    says = f"Custom Webhook answered {status}"
    with (
        http_receiver(Answer(status, b"", {"Retry-After": "7"})) as receiver,
        pytest.raises(DeliveryFailed, match=says) as failure,
    ):
        await NotificationChannel(custom(receiver.url)).send(a_message())
    assert (failure.value.retryable, failure.value.retry_after_seconds) == (retryable, 7.0)


class _Own(NotificationBlock):
    """A block of somebody's own, with a method as Prefect's documentation shows it."""

    _block_type_slug = "somebodys-own"
    url: SecretStr

    async def notify(self, body: str, subject: str | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        await asyncio.sleep(0)
        if "fails" in self.url.get_secret_value():
            raise ZeroDivisionError(self.url.get_secret_value())


async def test_a_block_of_somebodys_own_is_used_and_its_bugs_are_its_own() -> None:
    own = SavedBlock(name="own", slug="somebodys-own", data={"url": "works"})
    assert (await NotificationChannel(own).send(a_message())).status == "sent"
    with pytest.raises(ZeroDivisionError):  # the ledger records a bug as the failure of this channel
        await NotificationChannel(own.model_copy(update={"data": {"url": "fails"}})).send(a_message())


@pytest.mark.parametrize(
    ("slug", "data", "says"),
    [
        ("not-installed", {}, "is not known here: install its package"),
        ("custom-webhook", {"url": "s3cr3t"}, "is broken: name: Field required"),
        ("slack-credentials", {"token": "s3cr3t"}, "is not known here"),
    ],
)
async def test_a_block_that_cannot_be_loaded_is_a_final_error_in_words(
    slug: str, data: dict[str, Any], says: str
) -> None:
    with pytest.raises(DeliveryFailed, match=says) as failure:
        await NotificationChannel(SavedBlock(name="ops", slug=slug, data=data)).probe()
    assert not failure.value.retryable
    assert "s3cr3t" not in str(failure.value)


async def test_saved_blocks_are_found_by_what_they_can_do(saved: Saved, stack: StackAddresses) -> None:
    with http_receiver() as receiver:
        custom_block = CustomWebhookNotificationBlock(name="x", url=receiver.url, json_data={"text": "{{body}}"})
        teams = await saved.save("teams", custom_block)
        slack = await saved.save("hook", SlackWebhook(url=SecretStr(f"{receiver.url}/services/T/B/x")))
        chat = await saved.save("chat", MattermostWebhook(hostname="127.0.0.1", token=SecretStr("t"), port=1))
        ours = await saved.save("ours", GenericChannel(endpoint=SecretStr(receiver.url)))
        async with prefect_of(stack):
            resolver = ChannelResolver(settings_for(NOWHERE))
            found = {**await resolver.survey(), **await resolver.survey_prefects_own()}
            [to_teams], [to_slack] = await resolver.select(teams), await resolver.select(slack)
            assert [named.name for named in await resolver.others([])] == [ours]
            with pytest.raises(BadInput, match="The driver 'slack' is not set up"):
                await resolver.select("slack")
        await to_teams.channel.send(a_message())
        await to_slack.channel.send(a_message())
        assert [request.path for request in receiver.requests] == ["/", "/services/T/B/x"]
    assert {teams, slack, chat, ours} <= found.keys()
    assert (to_teams.channel.driver, to_slack.channel.driver) == ("custom-webhook", "slack")


async def test_a_channel_of_ours_notifies_as_a_block_of_prefect() -> None:
    with http_receiver(200, 404) as receiver:
        channel = GenericChannel(endpoint=SecretStr(receiver.url))
        assert "notify" in channel.get_block_capabilities()
        await channel.notify("The flow failed: <b>", subject="Flow run x")
        said = receiver.requests[0].json
        assert (said["title"], said["summary"], said["source"]) == ("Flow run x", "The flow failed: <b>", "prefect")
        assert "&lt;b&gt;" in said["html"]
        with pytest.raises(NotificationError):
            await channel.notify("again")


async def test_an_automation_of_prefect_sends_through_a_channel_of_ours(saved: Saved, stack: StackAddresses) -> None:
    mark = uuid4().hex[:8]
    with http_receiver() as receiver:
        await saved.save("automated", GenericChannel(endpoint=SecretStr(receiver.url)))
        async with prefect_of(stack) as client:
            automation = AutomationCore(
                name=f"tell-{mark}",
                trigger=EventTrigger(
                    expect={f"test.{mark}"},
                    posture=Posture.Reactive,
                    threshold=1,
                    within=0,  # pyright: ignore[reportArgumentType]
                ),
                actions=[
                    SendNotification(block_document_id=saved.ids[-1], subject="It is {{ event.event }}", body="b")
                ],
            )
            automation_id = await client.create_automation(automation)
            try:
                event = Event(event=f"test.{mark}", resource=Resource({"prefect.resource.id": f"test.{mark}"}))
                answer = await client.request("POST", "/events", json=[event.model_dump(mode="json")])
                assert answer.status_code == 204
                [request] = await asyncio.to_thread(receiver.wait_for, 1)
            finally:
                await client.delete_automation(automation_id)
    assert request.json["title"] == f"It is test.{mark}"
