"""The API keys in use, cached in memory, so that a request costs no query."""

from __future__ import annotations

import asyncio
import secrets
import time

from orchestration.encryption import Cipher, load_cipher
from orchestration.errors import BadSetting, Unavailable
from orchestration.settings import Settings
from orchestration.signals import logger
from orchestration.store import keys
from orchestration.store.database import Database
from orchestration.store.keys import ApiKey

FRESH_SECONDS = 3.0
"""How old the cached keys may be. A revoked key is refused after this time at the latest."""

_UNKNOWN_KEY_FRESH_SECONDS = 0.25
"""How old the cached keys may be when a request brings a key that is not among them."""

_NOTE_USE_SECONDS = 60.0
"""The last use of a key is written at most this often."""


class KeyRing:
    """The API keys in use, cached in memory, so that a request costs no query."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._cipher: Cipher | None = None
        self._no_secret = b""
        self._by_prefix: dict[str, ApiKey] = {}
        self._by_name: dict[str, ApiKey] = {}
        self._read_at = -1e9
        self._reading = asyncio.Lock()
        self._used: set[str] = set()
        self._noted: dict[str, float] = {}

    async def find(self, token: str) -> ApiKey | None:
        """The key that a token belongs to, or None. Its use is noted.

        Raises:
            Unavailable: the database does not answer.
        """
        prefix = keys.prefix_of(token)
        await self._refresh(FRESH_SECONDS)
        if prefix not in self._by_prefix and token.startswith(keys.TOKEN_START):
            await self._refresh(_UNKNOWN_KEY_FRESH_SECONDS)
        key = self._by_prefix.get(prefix)
        if key is None or not key.fits(token):
            return None
        self.note_use(key)
        return key

    async def named(self, name: str) -> ApiKey | None:
        """The key of this name, or None. The caller notes its use with `note_use()`.

        Raises:
            Unavailable: the database does not answer.
        """
        await self._refresh(FRESH_SECONDS)
        if name not in self._by_name:
            await self._refresh(_UNKNOWN_KEY_FRESH_SECONDS)
        return self._by_name.get(name)

    async def signing_secret(self, key: ApiKey | None) -> str:
        """The secret with which the owner of a key signs its requests.

        Without a key it is a random one, which takes as long to decrypt: nobody learns from the time which keys exist.

        Raises:
            Unavailable: this process cannot decrypt the secret; the error says why.
        """
        try:
            if self._cipher is None:
                self._cipher = await asyncio.to_thread(load_cipher, self._settings)
                self._no_secret = self._cipher.encrypt(secrets.token_hex(34).encode())
            return self._cipher.decrypt(key.sealed_signing_secret if key else self._no_secret).decode()
        except BadSetting as error:
            raise Unavailable(f"Signatures cannot be checked: {error}") from error

    def note_use(self, key: ApiKey) -> None:
        """Remember that a key was used, for the next `write_uses()`."""
        self._used.add(key.name)

    async def write_uses(self) -> None:
        """Write the last use of the keys that were used, each key at most once a minute."""
        now = time.monotonic()
        due = {name for name in self._used if now - self._noted.get(name, -1e9) >= _NOTE_USE_SECONDS}
        self._used -= due
        if not due:
            return
        try:
            async with self._database.transaction() as tx:
                await keys.note_use(tx, due)
            self._noted |= dict.fromkeys(due, now)
        except Unavailable as error:
            logger.debug("The last use of API keys could not be written: %s", error)

    async def _refresh(self, max_age_seconds: float) -> None:
        if time.monotonic() - self._read_at < max_age_seconds:
            return
        async with self._reading:
            # Another request may have read the keys while this one waited for the lock.
            if (began := time.monotonic()) - self._read_at < max_age_seconds:
                return
            async with self._database.transaction() as tx:
                found = await keys.list_keys(tx, revoked=False)
            self._by_prefix = {key.prefix: key for key in found}
            self._by_name = {key.name: key for key in found}
            self._read_at = began
