"""Checks of the channels: whether each one is set up and its provider answers. No message is sent."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from blocks.channels.base import ChannelBlock
from blocks.channels.resolver import ChannelResolver
from blocks.prefect_api import address_settings
from orchestration.errors import BadInput, PipelineError, Unavailable
from orchestration.message import NamedChannel
from orchestration.settings import Settings
from service.doctor import Finding, broken, ok, run_check, warning
from service.prefect_patches import limit_answers

TIMEOUT_SECONDS = 15.0

_EDIT = "Edit the block in Prefect's UI under Blocks, or its variables (docs/channels.md)"
_SET_UP = (
    "Set SLACK_WEBHOOK_URL, SMTP_HOST and EMAIL_TO, PAGERDUTY_ROUTING_KEY, or NOTIFY_WEBHOOK_URL, or save a block: "
    "docs/channels.md"
)
_NO_PREFECT = "blocks that are saved in Prefect are not known while it does not run"
_OUTAGE = "blocks that are saved in Prefect are not known while it does not answer"


async def channel_findings(settings: Settings, api_url: str | None) -> list[Finding]:
    """The default channels first, then each channel. `api_url` None means that no Prefect server runs."""
    limit_answers()
    with temporary_settings({**address_settings(settings, api_url), PREFECT_CLIENT_MAX_RETRIES: 0}):
        channels, unknown = await _read_channels(settings, api_url)
        resolver = ChannelResolver(settings, blocks_known=not unknown)
        defaults = await run_check("channels", lambda: _defaults(resolver, unknown), fix=_EDIT)
        return [defaults, *await asyncio.gather(*(_channel(name, found) for name, found in channels.items()))]


async def _read_channels(
    settings: Settings, api_url: str | None
) -> tuple[dict[str, ChannelBlock | PipelineError], str]:
    """The channels, or why one cannot be used, and the reason why saved ones are missing (empty if they are not)."""
    if api_url is not None:
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await ChannelResolver(settings).survey(), ""
    return await ChannelResolver(settings, blocks_known=False).survey(), _NO_PREFECT if api_url is None else _OUTAGE


async def _defaults(resolver: ChannelResolver, unknown: str) -> Finding:
    try:
        chosen = list(await resolver.select(None))
    except BadInput:
        if unknown != _OUTAGE:
            raise
        chosen = list[NamedChannel]()  # NOTIFY_CHANNELS names a saved block
    note = f"; {unknown}" if unknown else ""
    if any(named.channel.driver != "console" for named in chosen):
        shown = ", ".join(f"{named.name} ({named.channel.driver} to {named.channel.target})" for named in chosen)
        return ok("channels", f"by default {shown}{note}")
    if unknown == _OUTAGE:
        return broken("channels", _OUTAGE, "Repair Prefect: see `prefect` above")
    say = warning if unknown else broken
    return say("channels", f"none is set up: a worker notifies nobody{note}", _SET_UP)


async def _channel(name: str, channel: ChannelBlock | PipelineError) -> Finding:
    check = f"channel {name}"
    if isinstance(channel, PipelineError):
        return broken(check, str(channel), _EDIT)
    if not channel.enabled:
        return ok(check, f"{channel.driver}, switched off")

    async def probe() -> Finding:
        return ok(check, await channel.probe())

    return await run_check(check, probe, fix=_EDIT, timeout_seconds=TIMEOUT_SECONDS)
