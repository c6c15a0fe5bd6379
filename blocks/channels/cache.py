"""The channel blocks within reach: in memory, refreshed from Prefect, with a sealed copy for when Prefect is away.

A page must not wait for Prefect to say where it goes, and a worker that starts while Prefect is down must
know it as well. The copy holds secrets: it is encrypted with a key that the database does not have.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Protocol

import orjson
from cryptography.fernet import Fernet, InvalidToken

from blocks.channels.saved_blocks import BlockSource, ChannelDocument, read_documents
from orchestration.errors import Unavailable
from orchestration.signals import logger

PATIENCE_SECONDS = 2.0
"""How long Prefect may take to list the blocks."""

AGAIN_SECONDS = 5.0
"""How long nobody asks again, after Prefect did not answer and nothing is known."""


class EncryptedStore(Protocol):
    """Where a sealed copy is kept. It never sees what is in it."""

    async def read(self, name: str) -> bytes | None:
        """What is kept under this name. Raises `Unavailable`."""
        ...

    async def write(self, name: str, content: bytes) -> None:
        """Keep this under the name. Raises `Unavailable`."""
        ...


class ChannelCache:
    """The saved channel blocks, as `ChannelResolver` asks for them, without a request to Prefect."""

    def __init__(self, store: EncryptedStore, key: bytes, *, source: BlockSource = read_documents) -> None:
        self._store = store
        self._fernet = Fernet(key)
        # Workers on hosts with keys of their own do not write over each other's copy.
        self._name = f"channels/{hashlib.sha256(key).hexdigest()[:12]}"
        self._source = source
        self._known: list[ChannelDocument] | None = None
        self._sealed = b""
        self._looking = asyncio.Lock()
        self._not_before = 0.0

    async def __call__(self) -> list[ChannelDocument]:
        """The blocks as they were last seen.

        Raises:
            Unavailable: they were never seen: Prefect does not answer, and there is no copy.
        """
        if self._known is None:
            await self._first_look()
        return self._known or []

    async def refresh(self) -> None:
        """Look at Prefect again; where it does not answer, what is known stays.

        Raises:
            Unavailable: nothing is known, and there is no copy.
        """
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                found = await self._source()
        except (Unavailable, TimeoutError) as error:
            if self._known is None:
                await self.unseal(Unavailable(f"The channel blocks are not known: {error or 'Prefect is too slow'}"))
            return
        self._known = found
        await self._seal(found)

    async def unseal(self, missing: Unavailable | None = None) -> None:
        """Take up the sealed copy, unless the blocks are known.

        Raises:
            Unavailable: `missing`, if there is no copy that this key opens.
        """
        if self._known is not None:
            return
        try:
            sealed = await self._store.read(self._name)
            if sealed is not None:
                opened = self._fernet.decrypt(sealed)
                self._known = [ChannelDocument.model_validate(entry) for entry in orjson.loads(opened)]
                return
        except InvalidToken:
            logger.error("The sealed copy of the channels cannot be opened: it was changed")
        if missing is not None:
            raise missing

    async def _first_look(self) -> None:
        """Look while nothing is known, but not at each page anew: each would wait."""
        async with self._looking:
            if self._known is not None:
                return
            if time.monotonic() < self._not_before:
                raise Unavailable("The channel blocks are not known, and Prefect does not answer")
            try:
                await self.refresh()
            except Unavailable:
                self._not_before = time.monotonic() + AGAIN_SECONDS
                raise

    async def _seal(self, found: list[ChannelDocument]) -> None:
        content = orjson.dumps([document.model_dump(mode="json") for document in found])
        if content == self._sealed:
            return
        try:
            await self._store.write(self._name, self._fernet.encrypt(content))
            self._sealed = content
        except Unavailable as error:
            logger.warning("The copy of the channels could not be renewed: %s", error)
