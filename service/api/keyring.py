"""The API keys in memory: fresh enough that a revoked one is refused within seconds, without a query a request."""

from __future__ import annotations

import asyncio
import time

from orchestration.encryption import Cipher, load_cipher
from orchestration.errors import BadSetting, Unavailable
from orchestration.settings import Settings
from orchestration.signals import logger
from orchestration.store import keys
from orchestration.store.database import Database
from orchestration.store.keys import ApiKey

FRESH_SECONDS = 3.0
"""How old the keys may be: a revoked key is refused after this time at the latest."""

_UNKNOWN_FRESH_SECONDS = 0.25
_NOTE_SECONDS = 60.0
"""A key's last use is written at most this often."""


class KeyRing:
    """Knows the keys in use."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._cipher: Cipher | None = None
        self._by_prefix: dict[str, ApiKey] = {}
        self._by_name: dict[str, ApiKey] = {}
        self._read_at = -1e9
        self._reading = asyncio.Lock()
        self._used: set[str] = set()
        self._noted: dict[str, float] = {}

    async def find(self, token: str) -> ApiKey | None:
        """The key that this token is; None if it is none.

        Raises:
            Unavailable: the database does not answer.
        """
        prefix = keys.prefix_of(token)
        await self._refresh(FRESH_SECONDS)
        if prefix not in self._by_prefix and token.startswith(keys.TOKEN_START):
            await self._refresh(_UNKNOWN_FRESH_SECONDS)
        key = self._by_prefix.get(prefix)
        return self._use(key) if key is not None and key.fits(token) else None

    async def named(self, name: str) -> ApiKey | None:
        """The key of this name; raises as `find()`. Call `note_use()` when it was used."""
        await self._refresh(FRESH_SECONDS)
        if name not in self._by_name:
            await self._refresh(_UNKNOWN_FRESH_SECONDS)
        return self._by_name.get(name)

    async def signing_secret(self, key: ApiKey) -> str:
        """The secret with which the key's holder signs.

        Raises:
            Unavailable: this process cannot open it; it says why.
        """
        try:
            if self._cipher is None:
                self._cipher = await asyncio.to_thread(load_cipher, self._settings)
            return self._cipher.decrypt(key.sealed_signing_secret).decode()
        except BadSetting as error:
            raise Unavailable(f"Signatures cannot be checked: {error}") from error

    def note_use(self, key: ApiKey) -> None:
        """The key was used."""
        self._use(key)

    async def write_uses(self) -> None:
        """Write when keys were used, those that it has not been written of lately."""
        now = time.monotonic()
        due = {name for name in self._used if now - self._noted.get(name, -1e9) >= _NOTE_SECONDS}
        self._used -= due
        if not due:
            return
        try:
            async with self._database.transaction() as tx:
                await keys.note_use(tx, due)
            self._noted |= dict.fromkeys(due, now)
        except Unavailable as error:
            logger.debug("The use of keys could not be noted: %s", error)

    def _use(self, key: ApiKey) -> ApiKey:
        self._used.add(key.name)
        return key

    async def _refresh(self, seconds: float) -> None:
        if time.monotonic() - self._read_at < seconds:
            return
        async with self._reading:
            # Whoever waited for the lock finds the keys fresh.
            if (began := time.monotonic()) - self._read_at < seconds:
                return
            async with self._database.transaction() as tx:
                found = await keys.list_keys(tx, revoked=False)
            self._by_prefix = {key.prefix: key for key in found}
            self._by_name = {key.name: key for key in found}
            self._read_at = began
