"""Which channels there are, whether they work, and a test of one: what `alert-pipeline channels` shows."""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

from prefect.settings import temporary_settings

from blocks.channels.prefects import AnyChannel
from blocks.channels.resolver import ChannelResolver
from blocks.prefect_api import address_settings
from orchestration.alert import AlertStatus, UtcDatetime
from orchestration.contracts import Contract
from orchestration.errors import BadInput, BadSetting, DeliveryFailed, PipelineError, Unavailable, error_in_words
from orchestration.message import Fact, Message, NamedChannel, plain_message
from orchestration.redaction import redact_text
from orchestration.settings import Settings
from orchestration.store.channels import Health

TEST_SOURCE = "alert-pipeline"


class ChannelView(Contract):
    """A channel as the list shows it."""

    name: str
    kind: str
    """The driver, or the type of Prefect's block; "" if the channel cannot be used."""
    target: str
    origin: str
    """block (a channel block), environment, or prefect (a block of Prefect's own, which gets only what names it)."""
    default: bool
    """Whether it gets what names no channel."""
    state: str
    """works, failing, paused (it has asked for that), unused (nothing was ever sent), off, or unusable."""
    problem: str | None = None
    """Why it is failing, or unusable."""
    failing_since: UtcDatetime | None = None
    paused_until: UtcDatetime | None = None
    sent_at: UtcDatetime | None = None
    """When it accepted a message last."""


class ChannelList(Contract):
    """The channels, and what is missing in the list."""

    channels: list[ChannelView]
    unknown: str | None = None
    """Why saved blocks are not in the list; None if they are."""
    problem: str | None = None
    """Why a message that names no channel reaches nobody; None if it reaches somebody."""


class Tested(Contract):
    """The result of a test message on one channel."""

    name: str
    kind: str
    target: str
    ok: bool
    said: str
    """What the vendor says of the message, or why it was not sent."""
    provider_id: str | None = None
    seconds: float


@asynccontextmanager
async def _resolver(settings: Settings, api_url: str | None) -> AsyncGenerator[ChannelResolver]:
    with temporary_settings(address_settings(settings, api_url)):
        yield ChannelResolver(settings, blocks_known=api_url is not None, console=False)


async def list_channels(settings: Settings, api_url: str | None, health: Mapping[str, Health]) -> ChannelList:
    """Every channel, the default ones first. `api_url` None means that no Prefect runs: only the environment counts."""
    unknown = None if api_url is not None else "Prefect does not run: blocks that are saved there are not known"
    async with _resolver(settings, api_url) as resolver:
        try:
            found = await _survey(resolver)
        except Unavailable as error:
            unknown = f"{error}: blocks that are saved there are not known"
            resolver = ChannelResolver(settings, blocks_known=False, console=False)
            found = await _survey(resolver)
        chosen, problem = await _defaults(resolver)
    origins = {name: origin for origin, channels in found.items() for name in channels}
    channels = {name: one for group in found.values() for name, one in group.items()}
    channels |= {named.name: cast("AnyChannel", named.channel) for named in chosen}
    defaults = {named.name for named in chosen}
    views = [
        _view(name, one, origins.get(name, "prefect"), name in defaults, health.get(name))
        for name, one in channels.items()
    ]
    return ChannelList(
        channels=sorted(views, key=lambda view: (not view.default, view.origin == "prefect", view.name)),
        unknown=unknown,
        problem=problem,
    )


async def _survey(resolver: ChannelResolver) -> dict[str, Mapping[str, AnyChannel | PipelineError]]:
    """The channels by name, under their origin. A name that is there twice belongs to the last origin."""
    ours = await resolver.survey()
    saved = await resolver.saved_names()
    return {
        "prefect": await resolver.survey_prefects_own(),
        "environment": {name: one for name, one in ours.items() if name not in saved},
        "block": {name: one for name, one in ours.items() if name in saved},
    }


async def _defaults(resolver: ChannelResolver) -> tuple[Sequence[NamedChannel], str | None]:
    try:
        chosen = await resolver.select(None)
    except (BadInput, BadSetting, Unavailable) as error:
        return [], str(error)
    return chosen, None if chosen else "no channel is a default: a message that names no channel reaches nobody"


def _view(
    name: str, channel: AnyChannel | PipelineError, origin: str, default: bool, health: Health | None
) -> ChannelView:
    if isinstance(channel, PipelineError):
        return ChannelView(
            name=name, kind="", target="", origin=origin, default=default, state="unusable", problem=str(channel)
        )
    failing = health is not None and health.failures > 0
    return ChannelView(
        name=name,
        kind=channel.driver,
        target=channel.target,
        origin=origin,
        default=default,
        state=_state(health, enabled=channel.enabled),
        problem=health.last_error if health is not None and failing else None,
        failing_since=health.failing_since if health is not None else None,
        paused_until=health.not_before if health is not None else None,
        sent_at=health.sent_at if health is not None else None,
    )


def _state(health: Health | None, *, enabled: bool) -> str:
    if not enabled:
        return "off"
    if health is None:
        return "unused"
    if health.failures:
        return "failing"
    if health.not_before is not None:
        return "paused"
    return "works" if health.sent_at is not None else "unused"


async def send_tests(settings: Settings, api_url: str | None, name: str) -> list[Tested]:
    """Send a test message to the channel of this name, or to all channels of this driver.

    Raises:
        BadInput: there is no such channel, or it is switched off.
        BadSetting: the environment sets up only half of a driver.
        Unavailable: Prefect does not answer.
    """
    async with _resolver(settings, api_url) as resolver:
        return [await _test(named) for named in await resolver.select(name)]


async def _test(named: NamedChannel) -> Tested:
    channel = cast("AnyChannel", named.channel)
    first = _test_message(named.name)
    started = time.monotonic()
    provider_id = None
    try:
        delivery = await channel.send(first)
        provider_id = delivery.provider_id
        said, ok = await channel.read_back(delivery), True
        if channel.shows_state:
            await channel.send(_end_of(first, delivery.thread))
            said += "; then the test was ended there"
    except DeliveryFailed as error:
        said, ok = (f"{error}" if provider_id is None else f"it was accepted, but: {error}"), False
    except Exception as error:  # noqa: BLE001 - the code of a block of somebody's own
        said, ok = error_in_words(type(error).__name__, redact_text(str(error), limit=200)), False
    return Tested(
        name=named.name,
        kind=channel.driver,
        target=channel.target,
        ok=ok,
        said=said,
        provider_id=provider_id,
        seconds=round(time.monotonic() - started, 3),
    )


def _test_message(name: str) -> Message:
    """A message that says in its first words that nothing has happened."""
    who = f"{getpass.getuser()} on {socket.gethostname()}"
    said = (
        f"This is a test of the channel {name}: nothing has happened, and there is nothing to do. "
        f"{who} sent it with `alert-pipeline channels test`."
    )
    message = plain_message(said, f"[TEST] alert-pipeline reaches the channel {name}", source=TEST_SOURCE)
    facts = [Fact(label="What", value="a test: nothing has happened"), Fact(label="Sent by", value=who)]
    return message.model_copy(update={"facts": facts})


def _end_of(first: Message, thread: str | None) -> Message:
    """The end of a test, so that no channel that shows a state goes on showing an incident."""
    ended = {"status": AlertStatus.RESOLVED, "thread": thread, "idempotency_key": f"{first.idempotency_key}/end"}
    return first.model_copy(update={**ended, "title": f"{first.title}: the test is over"})
