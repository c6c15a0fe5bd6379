"""The channel resolver with blocks that are really saved in Prefect: what a run's messages go to, and why."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.blocks.core import Block
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

import blocks.channels
from blocks.channels import CHANNELS, GenericChannel, SlackChannel
from blocks.channels.base import ChannelBlock
from blocks.channels.resolver import ChannelResolver
from orchestration.errors import BadInput, BadSetting, Unavailable
from orchestration.signals import LOGGER_NAME
from service.stack import StackAddresses
from tests.cli_helpers import Orchestrators, prefect_of
from tests.conftest import clean_environment
from tests.receivers import http_receiver
from tests.stack_fixtures import settings_for

pytest_plugins = ["tests.cli_helpers"]


NOWHERE = Path("/nonexistent")
"""A home that is not looked at: the resolver asks Prefect and the environment."""


class Saved:
    """Blocks that are gone when the test is."""

    def __init__(self, stack: StackAddresses) -> None:
        self._stack = stack
        self._mark = uuid4().hex[:6]
        self.ids: list[Any] = []

    async def save(self, name: str, block: Block) -> str:
        """Save a block under a name that no other test has; that name."""
        return await self.save_as(f"{name}-{self._mark}", block)

    async def save_as(self, name: str, block: Block) -> str:
        async with prefect_of(self._stack) as client:
            self.ids.append(await block.save(name, client=client))
        return name

    async def spoil(self, name: str, **data: Any) -> None:
        """Change a saved block as somebody could with Prefect's API, past the block's own checks."""
        async with prefect_of(self._stack) as client:
            slug = GenericChannel.get_block_type_slug()
            document = await client.read_block_document_by_name(name, slug)
            update = BlockDocumentUpdate(data=data, merge_existing_data=False, block_schema_id=document.block_schema_id)
            await client.update_block_document(document.id, update)

    async def claim(self, name: str, driver: type[ChannelBlock]) -> None:
        """Delete this block too, which somebody else has saved."""
        async with prefect_of(self._stack) as client:
            self.ids.append((await client.read_block_document_by_name(name, driver.get_block_type_slug())).id)

    async def clear(self) -> None:
        async with prefect_of(self._stack) as client:
            for one in self.ids:
                await client.delete_block_document(one)


@pytest.fixture
async def saved(stack: StackAddresses) -> AsyncIterator[Saved]:
    blocks = Saved(stack)
    try:
        yield blocks
    finally:
        await blocks.clear()


def webhook(url: str = "https://hooks.example.com/x", **more: Any) -> GenericChannel:
    return GenericChannel(endpoint=SecretStr(url), **more)


async def selected(stack: StackAddresses, name: str | None = None, **settings: Any) -> list[tuple[str, str]]:
    """Name and driver of what the resolver gives."""
    async with prefect_of(stack):
        resolver = ChannelResolver(settings_for(NOWHERE, **settings))
        return [(named.name, named.channel.driver) for named in await resolver.select(name)]


async def test_a_block_is_found_by_its_name(saved: Saved, stack: StackAddresses) -> None:
    oncall = await saved.save("oncall", webhook())
    assert await selected(stack, oncall) == [(oncall, "generic")]
    assert await selected(stack, "generic") == [(oncall, "generic")]  # the driver, of which this is the only one
    assert await selected(stack) == [("console", "console")]  # a block that is no default gets what names it


async def test_the_default_blocks_get_what_names_none(saved: Saved, stack: StackAddresses) -> None:
    first = await saved.save("a-default", webhook(default=True))
    slack = SlackChannel(bot_token=SecretStr("xoxb-1"), channel="#ops", default=True)
    second = await saved.save("b-default", slack)
    await saved.save("c-off", webhook(default=True, enabled=False))
    await saved.save("d-other", webhook())
    assert await selected(stack) == [(first, "generic"), (second, "slack")]
    # Blocks come before the environment, and NOTIFY_CHANNELS before both.
    assert await selected(stack, webhook_url="https://env.example.com/") == [(first, "generic"), (second, "slack")]
    assert await selected(stack, notify_channels=(second, "console")) == [(second, "slack"), ("console", "console")]


async def test_a_block_that_is_switched_off_is_refused(saved: Saved, stack: StackAddresses) -> None:
    off = await saved.save("off", webhook(enabled=False))
    with pytest.raises(BadInput, match=f"The channel '{off}' is switched off"):
        await selected(stack, off)
    with pytest.raises(BadInput, match="The driver 'generic' is not set up"):
        await selected(stack, "generic")


async def test_a_broken_block_does_not_silence_the_others(
    saved: Saved, stack: StackAddresses, caplog: pytest.LogCaptureFixture
) -> None:
    broken = await saved.save("broken", webhook(default=True))
    await saved.spoil(broken, endpoint="ftp://user:hunter2@example.com", default=True)
    with pytest.raises(BadInput, match=f"The channel block '{broken}' is broken: endpoint: ") as refused:
        await selected(stack, broken)
    assert "hunter2" not in str(refused.value)
    with pytest.raises(BadInput, match="is broken"):  # the only default: silence would look like success
        await selected(stack)
    working = await saved.save("working", webhook(default=True))
    logger = logging.getLogger(LOGGER_NAME)
    logger.addHandler(caplog.handler)
    try:
        assert await selected(stack) == [(working, "generic")]
    finally:
        logger.removeHandler(caplog.handler)
    assert {record.levelname for record in caplog.records if broken in record.getMessage()} == {"ERROR"}
    # Nor does it silence the environment; and one that is no default is nobody's business until it is named.
    env = {"webhook_url": "https://env.example.com/"}
    await saved.spoil(working, endpoint="ftp://example.com", default=False)
    assert await selected(stack, **env) == [("generic", "generic")]
    await saved.spoil(broken, endpoint="ftp://example.com", default=False)
    assert await selected(stack) == [("console", "console")]


async def test_the_environment_and_at_last_the_console(stack: StackAddresses) -> None:
    webhook_url = {"webhook_url": "https://env.example.com/"}
    slack = {"slack_webhook_url": "https://hooks.slack.com/services/x"}
    assert await selected(stack) == [("console", "console")]
    assert await selected(stack, **webhook_url, **slack) == [("slack", "slack"), ("generic", "generic")]
    assert await selected(stack, "SLACK", **webhook_url, **slack) == [("slack", "slack")]
    assert await selected(stack, "console", **slack) == [("console", "console")]
    with pytest.raises(BadSetting, match="SMTP_HOST"):
        await selected(stack, email_to=("oncall@example.com",))


async def test_the_name_of_a_block_comes_before_the_name_of_a_driver(saved: Saved, stack: StackAddresses) -> None:
    await saved.save_as("slack", webhook())
    assert await selected(stack, "slack", slack_webhook_url="https://hooks.slack.com/services/x") == [
        ("slack", "generic")
    ]


async def test_a_prefect_that_fails_is_an_outage() -> None:
    with http_receiver(default=500) as receiver, temporary_settings({PREFECT_API_URL: f"{receiver.url}/api"}):
        with pytest.raises(Unavailable, match="Prefect's API does not answer"):
            await ChannelResolver(settings_for(NOWHERE)).select(None)
        assert receiver.requests


async def test_a_run_goes_to_the_block_that_it_names(
    saved: Saved, stack: StackAddresses, orchestrators: Orchestrators, database: Any
) -> None:
    with http_receiver() as receiver:
        team = await saved.save("team", webhook(f"{receiver.url}/team/{'s' * 20}"))
        result = orchestrators().run_pipeline({"name": "QueueStuck"}, notify_driver=team)
        assert [request.path for request in receiver.requests] == [f"/team/{'s' * 20}"]
    assert result.notify is not None
    assert [(one.channel, one.driver, one.status) for one in result.notify.deliveries] == [(team, "generic", "sent")]
    assert "s" * 20 not in result.model_dump_json()


async def test_the_command_of_the_docs_saves_a_channel(home: Path, stack: StackAddresses, saved: Saved) -> None:
    page = (Path(__file__).parent.parent / "docs" / "channels.md").read_text()
    (command,) = re.findall(r"```bash\n(eval .*?)```", page, re.DOTALL)
    mine = command.replace(".venv/bin", str(Path(sys.executable).parent))
    environment = {**clean_environment(), "ALERT_PIPELINE_HOME": str(home)}

    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", mine], env=environment, capture_output=True, text=True, timeout=100
    )

    assert done.returncode == 0, done.stderr
    await saved.claim("oncall", SlackChannel)
    assert await selected(stack, "oncall") == [("oncall", "slack")]


async def test_the_base_of_the_channels_is_no_block_that_prefect_offers() -> None:
    offered = [cls for _, cls in inspect.getmembers(blocks.channels) if Block.is_block_class(cls)]

    assert set(offered) == set(CHANNELS.values())
