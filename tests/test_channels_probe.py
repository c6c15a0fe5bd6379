"""Whether a channel would work, tried without a message to anybody."""

from __future__ import annotations

import pytest
from prefect.types import SecretDict
from pydantic import SecretStr

from blocks.channels import ConsoleChannel, EmailChannel, GenericChannel, SlackChannel
from blocks.channels.resolver import ChannelResolver
from blocks.prefect_api import SavedBlock
from orchestration.errors import DeliveryFailed, PipelineError
from orchestration.settings import load_settings
from tests.receivers import Answer, http_receiver, smtp_receiver

BOT = {"bot_token": SecretStr("xoxb-hunter2"), "channel": "#oncall"}


async def test_a_bot_introduces_itself_and_posts_nothing() -> None:
    with http_receiver(Answer.json({"ok": True, "user": "alerts", "team": "Acme"})) as slack:
        said = await SlackChannel(**BOT, base_url=slack.url).probe()
        [request] = slack.requests
    assert request.path == "/auth.test"
    assert said == "Slack knows the bot alerts of Acme"


async def test_a_bot_that_slack_does_not_know_is_named_without_its_token() -> None:
    unknown = Answer.json({"ok": False, "error": "invalid_auth"})
    says = "Slack does not let the bot in: invalid_auth"
    with http_receiver(unknown) as slack, pytest.raises(DeliveryFailed, match=says) as refused:
        await SlackChannel(**BOT, base_url=slack.url).probe()
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("status", [200, 404, 405])
async def test_of_a_webhook_only_the_host_is_asked(status: int) -> None:
    with http_receiver(default=status) as receiver:
        webhook = SecretStr(f"{receiver.url}/services/T/B/hunter2")
        headers = SecretDict({"Authorization": "Bearer hunter2"})
        for channel in (SlackChannel(webhook_url=webhook), GenericChannel(endpoint=webhook, headers=headers)):
            assert await channel.probe() == "127.0.0.1 answers"
        seen = [(request.method, request.path) for request in receiver.requests]
        assert not any("hunter2" in value for request in receiver.requests for value in request.headers.values())
    assert seen == [("HEAD", "/"), ("HEAD", "/")]


async def test_a_host_that_does_not_answer() -> None:
    with pytest.raises(DeliveryFailed, match=r"127\.0\.0\.1 could not be reached: "):
        await GenericChannel(endpoint=SecretStr("http://127.0.0.1:1/hunter2")).probe()


async def test_a_mail_server_is_greeted_and_gets_no_mail() -> None:
    with smtp_receiver() as server:
        where = {"smtp_host": server.host, "smtp_port": server.port, "to_addresses": ["ops@example.com"]}
        said = await EmailChannel(**where, security="none").probe()
        with pytest.raises(DeliveryFailed, match="STARTTLS"):
            await EmailChannel(**where, security="starttls").probe()
        assert server.mails == []
    assert said == f"{server.host}:{server.port} answers (none)"


async def test_the_console_needs_no_probe() -> None:
    assert "first message" in await ConsoleChannel().probe()


async def test_a_survey_names_every_channel_and_what_is_wrong_with_it() -> None:
    async def saved() -> list[SavedBlock]:
        return [
            SavedBlock(name="ops", slug="generic-channel", data={"endpoint": "https://hooks.example.com/x"}),
            SavedBlock(name="old", slug="email-channel", data={"smtp_host": "mx", "to_addresses": []}),
        ]

    settings = load_settings({"smtp_host": "mx.example.com", "webhook_url": "https://hooks.example.net/y"})
    found = await ChannelResolver(settings, source=saved).survey()

    assert list(found) == ["email", "generic", "ops", "old"]
    assert isinstance(found["generic"], GenericChannel)
    assert isinstance(found["email"], PipelineError)
    assert str(found["email"]).startswith("EMAIL_TO: ")
    assert str(found["old"]).startswith("The channel block 'old' is broken: to_addresses")
