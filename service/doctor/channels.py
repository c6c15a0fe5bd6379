"""The channels: is each one set up, and is the way to it open. Nobody gets a message by this."""

from __future__ import annotations

import asyncio

from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from blocks.channels.base import ChannelBlock
from blocks.channels.resolver import ChannelResolver
from orchestration.errors import PipelineError
from orchestration.settings import Settings
from service.doctor.finding import Finding, broken, look, ok, warning

PATIENCE_SECONDS = 15.0
_MEND = "Edit the block in Prefect's UI under Blocks, or its variables (docs/channels.md)"


async def channel_findings(settings: Settings, api_url: str | None) -> list[Finding]:
    """Where messages go that name no channel, and then each channel by itself."""
    with temporary_settings({PREFECT_API_URL: api_url, PREFECT_CLIENT_MAX_RETRIES: 0}):
        book = ChannelResolver(settings, blocks_known=api_url is not None)
        defaults = await look("channels", lambda: _defaults(book, blocks_known=api_url is not None), mend=_MEND)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                found = await book.survey()
        except (PipelineError, TimeoutError):  # the finding above says so
            return [defaults]
    return [defaults, *await asyncio.gather(*(_channel(name, channel) for name, channel in found.items()))]


async def _defaults(book: ChannelResolver, *, blocks_known: bool) -> Finding:
    chosen = await book.select(None)
    told = ", ".join(f"{one.name} ({one.channel.driver} to {one.channel.target})" for one in chosen)
    unseen = "" if blocks_known else "; blocks that are saved in Prefect are not known while it does not run"
    if all(one.channel.driver == "console" for one in chosen):
        mend = "Set one up: docs/channels.md"
        return warning("channels", f"none is set up: messages go to the console{unseen}", mend)
    return ok("channels", f"by default {told}{unseen}")


async def _channel(name: str, channel: ChannelBlock | PipelineError) -> Finding:
    check = f"channel {name}"
    if isinstance(channel, PipelineError):
        return broken(check, str(channel), _MEND)
    if not channel.enabled:
        return ok(check, f"{channel.driver}, switched off")

    async def probe() -> Finding:
        return ok(check, await channel.probe())

    return await look(check, probe, mend=_MEND, patience_seconds=PATIENCE_SECONDS)
