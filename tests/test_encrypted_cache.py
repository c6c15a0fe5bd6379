"""The channel blocks within reach: known without Prefect, secret in the database, and where pages still go."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from blocks.channels.generic import GenericChannel
from blocks.channels.resolver import ChannelCache, ChannelResolver
from blocks.prefect_api import SavedBlock
from orchestration.encryption import load_key
from orchestration.errors import BadSetting, Unavailable
from orchestration.settings import Settings, load_settings
from orchestration.states import RunStatus
from orchestration.store.database import Database
from orchestration.store.encrypted_cache import EncryptedCache, find_channel_names
from tests.api_helpers import eventually
from tests.receivers import HttpReceiver
from tests.worker_helpers import NOWHERE, over, push, worker_settings, working

SECRET = "https://hooks.example.com/services/T0/B0/very-secret"
SLUG = GenericChannel.get_block_type_slug()
ONCALL = SavedBlock(name="oncall", slug=SLUG, data={"endpoint": SECRET, "default": True})


class Prefect:
    """Where the blocks come from; down when it is told so."""

    def __init__(self, *documents: SavedBlock) -> None:
        self.documents = list(documents)
        self.down = False
        self.asked = 0

    async def __call__(self) -> list[SavedBlock]:
        self.asked += 1
        if self.down:
            raise Unavailable("Prefect's API does not answer")
        return self.documents


def key(settings: Settings) -> bytes:
    return load_key(settings)


async def test_a_page_needs_no_request(database: Database, settings: Settings) -> None:
    prefect = Prefect(ONCALL)
    cache = ChannelCache(EncryptedCache(database), key(settings), source=prefect)
    resolver = ChannelResolver(settings, source=cache)
    await cache.refresh()
    prefect.down = True

    for _ in range(3):
        assert [channel.name for channel in await resolver.select(None)] == ["oncall"]

    assert prefect.asked == 1


async def test_the_copy_is_there_when_prefect_is_not(database: Database, settings: Settings) -> None:
    await ChannelCache(EncryptedCache(database), key(settings), source=Prefect(ONCALL)).refresh()
    later = Prefect()
    later.down = True

    cache = ChannelCache(EncryptedCache(database), key(settings), source=later)

    assert await cache() == [ONCALL]


async def test_what_is_in_the_database_is_unreadable(database: Database, settings: Settings) -> None:
    await ChannelCache(EncryptedCache(database), key(settings), source=Prefect(ONCALL)).refresh()

    async with database.transaction() as tx:
        query = text("select content from sealed_copy where name <> 'channel-names'")
        contents = [bytes(content) for content in (await tx.execute(query)).scalars().all()]

    assert contents
    assert not any(b"very-secret" in content or b"oncall" in content for content in contents)


async def test_another_key_opens_nothing(database: Database, settings: Settings, home: Path) -> None:
    await ChannelCache(EncryptedCache(database), key(settings), source=Prefect(ONCALL)).refresh()
    other = load_settings({"home": home, "secret_key": "another secret of 16 or more"})
    prefect = Prefect()
    prefect.down = True

    cache = ChannelCache(EncryptedCache(database), key(other), source=prefect)

    with pytest.raises(Unavailable):
        await cache()


async def test_a_copy_that_was_changed_is_not_believed(database: Database, settings: Settings) -> None:
    await ChannelCache(EncryptedCache(database), key(settings), source=Prefect(ONCALL)).refresh()
    async with database.transaction() as tx:
        await tx.execute(text("update sealed_copy set content = 'forged'"))
    prefect = Prefect()
    prefect.down = True

    with pytest.raises(Unavailable):
        await ChannelCache(EncryptedCache(database), key(settings), source=prefect)()


async def test_a_deleted_block_is_forgotten_and_a_new_one_known(database: Database, settings: Settings) -> None:
    prefect = Prefect(ONCALL)
    cache = ChannelCache(EncryptedCache(database), key(settings), source=prefect)
    await cache.refresh()
    night = ONCALL.model_copy(update={"name": "night"})
    prefect.documents = [night]

    await cache.refresh()

    assert await cache() == [night]


async def test_nobody_waits_again_and_again_while_nothing_is_known(database: Database, settings: Settings) -> None:
    prefect = Prefect()
    prefect.down = True
    cache = ChannelCache(EncryptedCache(database), key(settings), source=prefect)

    for _ in range(3):
        with pytest.raises(Unavailable):
            await cache()

    assert prefect.asked == 1


async def test_a_page_does_not_wait_while_a_prefect_that_was_down_is_asked_again(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocks.channels.resolver.RETRY_AFTER_SECONDS", 0.0)
    answers = asyncio.Event()
    asked = list[str]()

    async def read() -> list[SavedBlock]:
        asked.append("blocks")
        if len(asked) == 1:
            raise Unavailable("down")
        await answers.wait()
        return [ONCALL]

    cache = ChannelCache(EncryptedCache(database), key(settings), source=read)
    for _ in range(5):  # the second of these asks again, and none of them waits for the answer
        with pytest.raises(Unavailable):
            await asyncio.wait_for(cache(), 1)
        await asyncio.sleep(0)
    answers.set()

    async def is_known() -> bool:
        with suppress(Unavailable):
            return await cache() == [ONCALL]
        return False

    await eventually(is_known)
    assert len(asked) == 2


async def test_a_prefect_that_hangs_is_none(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocks.channels.resolver.READ_TIMEOUT_SECONDS", 0.05)

    async def hang() -> list[SavedBlock]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(Unavailable):
        await ChannelCache(EncryptedCache(database), key(settings), source=hang)()


async def test_without_blocks_a_page_goes_where_the_environment_says(settings: Settings, home: Path) -> None:
    prefect = Prefect()
    prefect.down = True
    configured = load_settings({"home": home, "webhook_url": "https://hooks.example.com/x"})

    (channel,) = await ChannelResolver(configured, source=prefect).select(None)

    assert channel.name == "generic"
    with pytest.raises(Unavailable):  # the console would look like a success, and nobody would be told
        await ChannelResolver(settings, source=prefect).select(None)
    with pytest.raises(Unavailable):
        await ChannelResolver(configured, source=prefect).select("oncall")


async def test_a_worker_that_starts_while_prefect_is_down_still_pages_the_saved_channel(
    database: Database, home: Path, receiver: HttpReceiver
) -> None:
    settings = worker_settings(home, receiver, notify_channels=(), webhook_url=None)
    saved = ONCALL.model_copy(update={"data": {"endpoint": receiver.url, "default": True}})
    await ChannelCache(EncryptedCache(database), key(settings), source=Prefect(saved)).refresh()

    async with working(settings, database.url, NOWHERE) as worker:
        run_id = await push(worker.services, "Down")
        await asyncio.to_thread(receiver.wait_for, 1)
        assert (await over(database, run_id)).status is RunStatus.NOTIFIED


def test_the_key_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    settings = load_settings({"home": tmp_path / "home"})

    first = load_key(settings)

    path = tmp_path / "home" / "secret.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(settings) == first
    path.chmod(0o644)
    with pytest.raises(BadSetting, match="chmod 600"):
        load_key(settings)


async def test_a_database_without_our_tables_names_no_channels(database: Database) -> None:
    assert await find_channel_names(database) is None
    elsewhere = make_url(database.url).update_query_dict({"options": "-csearch_path=nowhere"})
    other = Database(elsewhere.render_as_string(hide_password=False))
    try:
        assert await find_channel_names(other) is None
    finally:
        await other.close()
