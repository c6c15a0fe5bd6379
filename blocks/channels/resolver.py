"""Which channels a run notifies: blocks that operators saved in Prefect, and drivers that the environment sets up.

A page must not wait for Prefect to say where it goes, and a worker that starts while Prefect is down must know it as
well. So a worker resolves names with a `ChannelCache`: in memory, refreshed from Prefect, with an encrypted copy in
the database. The copy contains secrets; its key is not in the database.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

import orjson
from cryptography.fernet import Fernet, InvalidToken
from pydantic import TypeAdapter, ValidationError

from blocks.analysis_model import AnalysisModel, known_models
from blocks.channels import CHANNELS
from blocks.channels.base import ChannelBlock, ConsoleChannel
from blocks.channels.prefects import CAPABILITY, SLUGS, AnyChannel, prefects_channel
from blocks.dependencies import ServiceDependencies
from blocks.prefect_api import BlockSource, SavedBlock, broken_block, read_blocks_with, read_saved_blocks
from orchestration.errors import BadInput, BadSetting, PipelineError, Unavailable
from orchestration.message import NamedChannel
from orchestration.settings import Settings
from orchestration.signals import logger
from orchestration.store.encrypted_cache import CHANNEL_NAMES, MODELS, EncryptedCache

READ_TIMEOUT_SECONDS = 2.0
"""How long Prefect may take to list the blocks."""

RETRY_AFTER_SECONDS = 5.0
"""How long the cache does not ask again after Prefect did not answer, while it knows no blocks. Then it asks in the
background."""

_BY_SLUG = {driver.get_block_type_slug(): driver for driver in CHANNELS.values()}
_SAVED_BLOCKS = TypeAdapter(list[SavedBlock])


_OTHERS = (AnalysisModel.get_block_type_slug(), ServiceDependencies.get_block_type_slug())
"""The types of blocks of ours that are no channels. They are read and cached together with the channels."""


async def read_channel_blocks() -> list[SavedBlock]:
    """The blocks saved in Prefect that a run may need, sorted by name: what is ours, then Prefect's own.

    Raises:
        PrefectUnavailable: Prefect's API does not answer.
    """
    ours, others = await asyncio.gather(read_saved_blocks([*_BY_SLUG, *_OTHERS, *SLUGS]), read_blocks_with(CAPABILITY))
    found = {(saved.slug, saved.name): saved for saved in (*ours, *others)}
    return sorted(found.values(), key=lambda saved: (saved.slug not in _BY_SLUG, saved.name))


def configured_drivers(settings: Settings) -> list[str]:
    """The drivers that the environment sets up, and the console, which needs nothing."""
    names: list[str] = []
    for name, driver in CHANNELS.items():
        # A driver that is only half set up has a name too: notify says what is missing.
        with suppress(BadSetting):
            if driver.from_settings(settings) is None:
                continue
        names.append(name)
    return names


class BrokenBlock(BadInput):
    """A saved block that its driver cannot read. `default` says whether the block is marked as a default channel."""

    def __init__(self, message: str, *, default: bool) -> None:
        super().__init__(message)
        self.default = default


Blocks = dict[str, ChannelBlock | BrokenBlock]
"""The channel blocks by name; the error of a broken one stands in its place."""


class ChannelResolver:
    """Finds channels by name or driver, as `orchestration.message.ChannelSource` requires.

    `blocks_known=False` leaves Prefect out where none runs: only the environment counts then.
    `source` lists the saved blocks: a request to Prefect each time, or a `ChannelCache`.
    `console=False` is for services: nobody reads their console, so it is a channel only where a run names it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        blocks_known: bool = True,
        source: BlockSource = read_channel_blocks,
        console: bool = True,
    ) -> None:
        self._settings = settings
        self._console = console
        self._blocks_known = blocks_known
        self._source = source

    async def select(self, name: str | None) -> Sequence[NamedChannel]:
        """The channel of this name or driver; without a name the default ones.

        A block's name comes before a driver's. The defaults are NOTIFY_CHANNELS, else the blocks that are
        marked as default, else the drivers that the environment sets up, else the console. A service has no console,
        and so perhaps no channel.

        Raises:
            BadInput: there is no such channel, it is switched off, or the driver is not set up.
            BadSetting: the environment sets up only half of a driver.
            Unavailable: Prefect's API does not answer.
        """
        try:
            saved = await self._saved()
        except Unavailable as error:
            return self._without_blocks(name, error)
        return self._requested(name, saved) or _named(self._defaults(_ours(saved)))

    async def others(self, names: Collection[str]) -> Sequence[NamedChannel]:
        """Every usable channel but the console and these: enabled blocks, and drivers that the environment sets up.

        Prefect's own blocks are left out: they are saved for other purposes, and get only what names them. While
        Prefect does not answer, all blocks are left out.
        """
        try:
            blocks = _ours(await self._saved())
        except Unavailable as error:
            logger.warning("The saved channels are not known: %s", error)
            blocks = Blocks()
        found = _usable(self._drivers()) | _usable(blocks)
        return _named(
            {name: channel for name, channel in found.items() if channel.driver != "console" and name not in names}
        )

    async def survey(self) -> dict[str, ChannelBlock | PipelineError]:
        """Every channel of ours by name, saved or set up by the environment. An unusable one has its error as value.

        Raises:
            Unavailable: Prefect's API does not answer.
        """
        return self._drivers() | _ours(await self._saved())

    async def saved_names(self) -> set[str]:
        """The names of our channel blocks.

        Raises:
            Unavailable: Prefect's API does not answer.
        """
        return set(_ours(await self._saved()))

    async def survey_prefects_own(self) -> dict[str, AnyChannel | PipelineError]:
        """Prefect's own blocks by name, which are channels for what names them. An unusable one has its error as value.

        Raises:
            Unavailable: Prefect's API does not answer.
        """
        return {block.name: self._prefects_own(block) for block in await self._saved() if block.slug not in _BY_SLUG}

    def _requested(self, name: str | None, saved: Sequence[SavedBlock]) -> list[NamedChannel]:
        names = [name] if name else self._settings.notify_channels
        return [channel for each in names for channel in _named(self._find(each, saved))]

    def _without_blocks(self, name: str | None, missing: Unavailable) -> list[NamedChannel]:
        """The drivers of the environment: a page there is better than none. The console would reach nobody."""
        try:
            found = self._requested(name, ()) or _named(self._from_environment())
        except BadInput:
            raise missing from None
        if not found:
            raise missing
        return found

    def _defaults(self, blocks: Blocks) -> dict[str, ChannelBlock]:
        """The channels of messages that name none. A broken block must not silence the others."""
        marked = {name: block for name, block in blocks.items() if block.default}
        broken = [block for block in marked.values() if isinstance(block, BrokenBlock)]
        found = _usable(marked) or self._from_environment()
        if broken and not found:
            raise broken[0]  # The console would look like a success.
        for error in broken:
            logger.error("%s", error)
        return found or ({"console": ConsoleChannel()} if self._console else {})

    def _find(self, name: str, saved: Sequence[SavedBlock]) -> Mapping[str, AnyChannel]:
        blocks = _ours(saved)
        if (block := blocks.get(name)) is not None:
            if isinstance(block, BrokenBlock):
                raise block
            if not block.enabled:
                raise BadInput(f"The channel {name!r} is switched off: enable its block in Prefect, or name another")
            return {name: block}
        driver = CHANNELS.get(name.lower())
        if driver is not None:
            if (channel := driver.from_settings(self._settings)) is not None:
                return {name.lower(): channel}
            if of_driver := {n: block for n, block in blocks.items() if isinstance(block, driver) and block.enabled}:
                return of_driver
        if (found := self._find_prefects_own(name, saved)) is not None:
            return {name: found}
        if driver is None:
            known = ", ".join(dict.fromkeys([*(block.name for block in saved), *CHANNELS]))
            raise BadInput(f"There is no channel or driver {name!r}. Known: {known}")
        raise BadInput(
            f"The driver {name!r} is not set up: set {driver.configured_by}, "
            f"or save a {driver.get_block_type_slug()} block in Prefect"
        )

    def _find_prefects_own(self, name: str, saved: Sequence[SavedBlock]) -> AnyChannel | None:
        """The channel of one of Prefect's own blocks: NAME, or NAME/WHERE for credentials."""
        block_name, _, where = name.partition("/")
        for block in saved:
            if block.name == block_name and block.slug not in _BY_SLUG:
                return prefects_channel(block, where, self._settings)
        return None

    def _prefects_own(self, block: SavedBlock) -> AnyChannel | PipelineError:
        try:
            return prefects_channel(block, "", self._settings)
        except BadInput as error:
            return error

    def _from_environment(self) -> dict[str, ChannelBlock]:
        drivers = {name: driver for name, driver in CHANNELS.items() if name != "console"}
        channels = {name: driver.from_settings(self._settings) for name, driver in drivers.items()}
        return {name: channel for name, channel in channels.items() if channel is not None}

    def _drivers(self) -> dict[str, ChannelBlock | PipelineError]:
        """The drivers that the environment sets up, without the console. One that is half set up has its error."""
        found: dict[str, ChannelBlock | PipelineError] = {}
        for name, driver in CHANNELS.items():
            try:
                channel = driver.from_settings(self._settings) if name != "console" else None
            except BadSetting as error:
                found[name] = error
            else:
                found |= {name: channel} if channel is not None else {}
        return found

    async def _saved(self) -> Sequence[SavedBlock]:
        found = await self._source() if self._blocks_known else ()
        return [block for block in found if block.slug not in _OTHERS]


class ChannelCache:
    """The saved channel blocks for a `ChannelResolver`, without a request to Prefect for each run.

    It stores an encrypted copy and, for the API, which asks no Prefect, the names of the channels, those of `drivers`,
    and the models. With `drivers` None it stores nothing.
    """

    def __init__(
        self,
        store: EncryptedCache,
        key: bytes,
        *,
        source: BlockSource = read_channel_blocks,
        drivers: Collection[str] | None = tuple(CHANNELS),
        timeout_seconds: float = READ_TIMEOUT_SECONDS,
    ) -> None:
        self._store = store
        self._drivers = drivers
        self._timeout_seconds = timeout_seconds
        self._fernet = Fernet(key)
        # Workers on hosts with different keys must not overwrite each other's copy.
        self._name = f"channels/{hashlib.sha256(key).hexdigest()[:12]}"
        self._source = source
        self._known: list[SavedBlock] | None = None
        self._stored = b""
        self._reading = asyncio.Lock()
        self._reading_again: asyncio.Task[None] | None = None
        self._failed_at: float | None = None

    async def __call__(self) -> list[SavedBlock]:
        """The blocks as they were last read.

        Raises:
            Unavailable: they were never read: Prefect does not answer, and there is no copy.
        """
        async with self._reading:
            if self._known is None and self._failed_at is None:
                await self._read()
        if self._known is None:
            self._read_again()  # in the background: a page that comes now must not wait for Prefect
            raise Unavailable("The channel blocks are not known, and Prefect does not answer")
        return self._known

    async def _read(self) -> None:
        try:
            await self.refresh()
        except Unavailable:
            self._failed_at = time.monotonic()
            raise

    def _read_again(self) -> None:
        """Try again, if the last try is long enough ago."""
        is_reading = self._reading_again is not None and not self._reading_again.done()
        if is_reading or time.monotonic() < (self._failed_at or 0.0) + RETRY_AFTER_SECONDS:
            return

        async def read() -> None:
            with suppress(Unavailable):
                await self._read()

        self._reading_again = asyncio.create_task(read())

    async def refresh(self) -> None:
        """Read the blocks from Prefect again. If Prefect does not answer, the known ones stay.

        Raises:
            Unavailable: no blocks are known, and there is no copy.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                found = await self._source()
        except (Unavailable, TimeoutError) as error:
            if not await self.restore():
                why = str(error) or "Prefect is too slow"  # a TimeoutError has no text
                raise Unavailable(f"The channel blocks are not known: {why}") from None
            return
        self._known = found
        content = _SAVED_BLOCKS.dump_json(found)
        if content == self._stored or self._drivers is None:
            return
        try:
            await self._store.write(self._name, self._fernet.encrypt(content))
            await self._store.write(CHANNEL_NAMES, orjson.dumps(_names(found, self._drivers)))
            await self._store.write(MODELS, orjson.dumps([one.model_dump() for one in known_models(found)]))
            self._stored = content
        except Unavailable as error:
            logger.warning("The encrypted copy of the channel blocks could not be renewed: %s", error)

    async def restore(self) -> bool:
        """Read the encrypted copy, unless the blocks are known already. Returns whether they are known now.

        Raises:
            Unavailable: the database does not answer.
        """
        if self._known is None and (encrypted := await self._store.read(self._name)) is not None:
            try:
                self._known = _SAVED_BLOCKS.validate_json(self._fernet.decrypt(encrypted))
            except (InvalidToken, ValidationError):
                logger.error("The encrypted copy of the channel blocks cannot be read: it was changed")
        return self._known is not None


def _names(found: list[SavedBlock], drivers: Collection[str]) -> list[str]:
    """Every name that a run may give for its channel: blocks, and drivers that have settings or a block."""
    found = [saved for saved in found if saved.slug not in _OTHERS]
    slugs = {saved.slug for saved in found}
    with_block = [name for name, driver in CHANNELS.items() if driver.get_block_type_slug() in slugs]
    return list(dict.fromkeys([*(saved.name for saved in found), *drivers, *with_block]))


def _ours(saved: Sequence[SavedBlock]) -> Blocks:
    return {block.name: _built(block) for block in saved if block.slug in _BY_SLUG}


def _built(saved: SavedBlock) -> ChannelBlock | BrokenBlock:
    try:
        return _BY_SLUG[saved.slug].model_validate(saved.data)
    except ValidationError as error:
        return BrokenBlock(
            broken_block("channel block", saved, error),
            default=bool(saved.data.get("default")) and saved.data.get("enabled") is not False,
        )


def _usable(channels: Mapping[str, ChannelBlock | PipelineError]) -> dict[str, ChannelBlock]:
    """Those that are neither broken nor switched off."""
    return {name: one for name, one in channels.items() if isinstance(one, ChannelBlock) and one.enabled}


def _named(channels: Mapping[str, AnyChannel]) -> list[NamedChannel]:
    return [NamedChannel(name=name, channel=channel) for name, channel in channels.items()]
