"""Finds the channels of a run: blocks that operators saved in Prefect, and drivers set up by the environment."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from blocks.channels import CHANNELS
from blocks.channels.base import ChannelBlock
from blocks.channels.console import ConsoleChannel
from blocks.channels.saved_blocks import BlockSource, ChannelDocument, read_documents
from orchestration.errors import BadInput, BadSetting, PipelineError, Unavailable
from orchestration.message import NamedChannel
from orchestration.settings import Settings
from orchestration.signals import logger


class BrokenBlock(BadInput):
    """A saved block that its driver cannot read. `default`: whether it would get what names no channel."""

    def __init__(self, message: str, *, default: bool) -> None:
        super().__init__(message)
        self.default = default


Blocks = dict[str, ChannelBlock | BrokenBlock]
"""The channel blocks by name; one that is broken is known by its error."""


class ChannelResolver:
    """The channels of this installation, as `orchestration.message.ChannelSource` asks for them.

    `blocks_known=False` leaves Prefect out, where there is none to ask: then only the environment counts.
    `source` is where the saved blocks come from: each time from Prefect, or from a shelf (`shelf.py`).
    """

    def __init__(self, settings: Settings, *, blocks_known: bool = True, source: BlockSource = read_documents) -> None:
        self._settings = settings
        self._blocks_known = blocks_known
        self._source = source

    async def select(self, name: str | None) -> Sequence[NamedChannel]:
        """The channel of this name or driver; without a name the default ones.

        A block's name comes before a driver's. The defaults are NOTIFY_CHANNELS, else the blocks that are
        marked as default, else the drivers that the environment sets up, else the console.

        Raises:
            BadInput: there is no such channel, it is switched off, or the driver is not set up.
            BadSetting: the environment sets a driver up half.
            Unavailable: Prefect's API does not answer.
        """
        try:
            blocks = await self._load() if self._blocks_known else {}
        except Unavailable as error:
            return self._without_blocks(name, error)
        wanted = [name] if name else self._settings.notify_channels
        return [channel for one in wanted for channel in self._named(one, blocks)] or self._defaults(blocks)

    async def survey(self) -> dict[str, ChannelBlock | PipelineError]:
        """Every channel by name, saved or set up by the environment; one that cannot be used by what is wrong with it.

        Raises:
            Unavailable: Prefect's API does not answer.
        """
        found: dict[str, ChannelBlock | PipelineError] = {}
        for name, driver in CHANNELS.items():
            try:
                channel = driver.from_settings(self._settings) if name != "console" else None
            except BadSetting as error:
                found[name] = error
            else:
                found |= {name: channel} if channel is not None else {}
        return found | (await self._load() if self._blocks_known else {})

    def _without_blocks(self, name: str | None, missing: Unavailable) -> list[NamedChannel]:
        """What the environment alone sets up: a page there is better than none. One to the console would be none."""
        wanted = [name] if name else self._settings.notify_channels
        try:
            channels = [channel for one in wanted for channel in self._named(one, {})]
        except BadInput:
            raise missing from None
        found = channels or self._from_environment()
        if not found:
            raise missing
        return found

    def _defaults(self, blocks: Blocks) -> list[NamedChannel]:
        """Where the messages go that name no channel. A broken block must not silence the others."""
        usable = {name: block for name, block in blocks.items() if isinstance(block, ChannelBlock)}
        marked = [_named(name, block) for name, block in usable.items() if block.default and block.enabled]
        broken = [block for block in blocks.values() if isinstance(block, BrokenBlock) and block.default]
        found = marked or self._from_environment()
        if broken and not found:
            raise broken[0]  # The console would look like a success.
        for error in broken:
            logger.error("%s", error)
        return found or [_named("console", ConsoleChannel())]

    def _named(self, name: str, blocks: Blocks) -> list[NamedChannel]:
        if (block := blocks.get(name)) is not None:
            if isinstance(block, BrokenBlock):
                raise block
            if not block.enabled:
                raise BadInput(f"The channel {name!r} is switched off: enable its block in Prefect, or name another")
            return [_named(name, block)]
        driver = CHANNELS.get(name.lower())
        if driver is None:
            known = ", ".join(dict.fromkeys([*blocks, *CHANNELS]))
            raise BadInput(f"There is no channel or driver {name!r}. Known: {known}")
        if (channel := driver.from_settings(self._settings)) is not None:
            return [_named(name.lower(), channel)]
        of_driver = [_named(n, block) for n, block in blocks.items() if isinstance(block, driver) and block.enabled]
        if of_driver:
            return of_driver
        raise BadInput(
            f"The driver {name!r} is not set up: set {driver.configured_by}, "
            f"or save a {driver.get_block_type_slug()} block in Prefect"
        )

    def _from_environment(self) -> list[NamedChannel]:
        channels = {
            name: driver.from_settings(self._settings) for name, driver in CHANNELS.items() if name != "console"
        }
        return [_named(name, channel) for name, channel in channels.items() if channel is not None]

    async def _load(self) -> Blocks:
        """The saved channel blocks by name."""
        by_slug = {driver.get_block_type_slug(): driver for driver in CHANNELS.values()}
        found: Blocks = {}
        for document in await self._source():
            try:
                found[document.name] = _built(by_slug[document.slug], document)
            except BrokenBlock as error:
                found[document.name] = error
        return found


def _built(driver: type[ChannelBlock], document: ChannelDocument) -> ChannelBlock:
    try:
        return driver.model_validate(document.data)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"]) or "block"
        raise BrokenBlock(
            f"The channel block {document.name!r} is broken: {field}: {problem['msg']}. "
            "Edit it in Prefect's UI under Blocks",
            default=bool(document.data.get("default")) and document.data.get("enabled") is not False,
        ) from None


def _named(name: str, channel: ChannelBlock) -> NamedChannel:
    return NamedChannel(name=name, channel=channel)
