"""The table of encrypted copies: bytes by name, which the caller encrypts and decrypts."""

from __future__ import annotations

from pydantic import Field, TypeAdapter
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.contracts import Contract
from orchestration.store.database import Database, NoTables
from orchestration.store.models import SealedCopyRow

_T = SealedCopyRow


CHANNEL_NAMES = "channel-names"
"""Workers keep the names of their channels under this name, as a JSON list. Names are no secret: it is plain text."""

MODELS = "analysis-models"
"""Workers keep the `KnownModel`s under this name, as plain JSON."""

DEFAULT_CHANNELS = "default-channels"
"""Workers keep `DefaultChannels` under this name, as plain JSON."""


class DefaultChannels(Contract):
    """Where the messages go that name no channel."""

    names: list[str] = Field(default_factory=list[str])
    """The channels. The console, which nobody reads, does not count."""
    problem: str = ""
    """Why the channels cannot be used; "" if they can, or if there are none."""


class KnownModel(Contract):
    """A model that a block names, without its key."""

    name: str
    """The name of the block."""
    api: str = ""
    model: str = ""
    enabled: bool = True


class EncryptedCache:
    """The table `sealed_copy`. It never sees the plain text of what is encrypted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, name: str) -> bytes | None:
        """The bytes under this name; None if there are none.

        Raises:
            Unavailable: the database does not answer.
        """
        async with self._database.transaction() as tx:
            return (await tx.execute(select(_T.content).where(_T.name == name))).scalar_one_or_none()

    async def write(self, name: str, content: bytes) -> None:
        """Store the bytes under this name, and replace older ones.

        Raises:
            Unavailable: the database does not answer.
        """
        row = insert(_T).values(name=name, content=content)
        newer = {"content": content, "updated_at": func.clock_timestamp()}
        async with self._database.transaction() as tx:
            await tx.execute(row.on_conflict_do_update(index_elements=[_T.name], set_=newer))


async def read_default_channels(tx: AsyncConnection) -> DefaultChannels | None:
    """The default channels, as a worker found them last. None means that no worker has looked yet."""
    content = (await tx.execute(select(_T.content).where(_T.name == DEFAULT_CHANNELS))).scalar_one_or_none()
    return None if content is None else DefaultChannels.model_validate_json(content)


async def read_channel_names(tx: AsyncConnection) -> list[str] | None:
    """The names of all channels, as a worker found them last. None means that no worker has looked yet."""
    content = (await tx.execute(select(_T.content).where(_T.name == CHANNEL_NAMES))).scalar_one_or_none()
    return None if content is None else TypeAdapter(list[str]).validate_json(content)


async def read_models(tx: AsyncConnection) -> list[KnownModel] | None:
    """The models that blocks name, as a worker found them last. None means that no worker has looked yet."""
    content = (await tx.execute(select(_T.content).where(_T.name == MODELS))).scalar_one_or_none()
    return None if content is None else TypeAdapter(list[KnownModel]).validate_json(content)


async def find_channel_names(database: Database) -> list[str] | None:
    """The same for a database that may not have our tables yet.

    Raises:
        Unavailable: the database does not answer.
    """
    try:
        async with database.transaction() as tx:
            return await read_channel_names(tx)
    except NoTables:
        return None
