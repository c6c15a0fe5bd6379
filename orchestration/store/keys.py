"""API keys: made once, shown once, kept as a hash. And the signatures that were used."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection
from enum import StrEnum

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestration.alert import UtcDatetime
from orchestration.contracts import Contract
from orchestration.encryption import Cipher
from orchestration.errors import BadInput
from orchestration.store.clock import in_seconds
from orchestration.store.models import ApiKeyRow, UsedSignatureRow

TOKEN_START = "apk_"  # noqa: S105 - by this a person, and a scanner for leaked secrets, knows a key
SIGNING_START = "aps_"
_PREFIX_CHARACTERS = len(TOKEN_START) + 8
_NAME_CHARACTERS = 64

_T = ApiKeyRow
_U = UsedSignatureRow


class Scope(StrEnum):
    """What a key allows."""

    TRIGGER = "trigger"
    READ = "read"
    RESUME = "resume"
    ADMIN = "admin"


class ApiKey(Contract):
    """A key as it is stored. `allows()` says what for."""

    name: str
    prefix: str
    hash: str
    sealed_signing_secret: bytes
    scopes: frozenset[Scope]
    created_at: UtcDatetime
    last_used_at: UtcDatetime | None = None
    revoked_at: UtcDatetime | None = None

    def allows(self, scope: Scope) -> bool:
        """Whether the key may do this; admin may do all."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def fits(self, token: str) -> bool:
        """Whether this token is the key. Takes as long for a wrong one as for the right one."""
        return hmac.compare_digest(self.hash, _hash(token))


class NewKey(Contract):
    """A key just made: the only time that its token and its signing secret are there to be seen."""

    name: str
    token: str
    signing_secret: str
    scopes: frozenset[Scope]


_COLUMNS = [column for name, column in _T.__table__.columns.items() if name in ApiKey.model_fields]


async def create_key(tx: AsyncConnection, name: str, scopes: Collection[Scope], cipher: Cipher) -> NewKey:
    """Make a key of 256 random bits.

    Raises:
        BadInput: the name is no good, or taken, also by a key that was revoked; or there is no scope.
    """
    if not name.isprintable() or not 1 <= len(name) <= _NAME_CHARACTERS or ":" in name:
        raise BadInput(f"A key's name has 1 to {_NAME_CHARACTERS} printable characters and no colon, not {name[:80]!r}")
    if not scopes:
        raise BadInput(f"A key needs at least one scope: {', '.join(Scope)}")
    token = TOKEN_START + secrets.token_urlsafe(32)
    row = insert(_T).values(
        name=name,
        prefix=prefix_of(token),
        hash=_hash(token),
        sealed_signing_secret=cipher.encrypt(signing_secret_of(token).encode()),
        scopes=sorted(scopes),
    )
    made = await tx.execute(row.on_conflict_do_nothing(index_elements=[_T.name]).returning(_T.id))
    if made.first() is None:
        raise BadInput(f"There is a key {name!r} already, or there was one: take another name")
    return NewKey(name=name, token=token, signing_secret=signing_secret_of(token), scopes=frozenset(scopes))


async def list_keys(tx: AsyncConnection, *, revoked: bool = True) -> list[ApiKey]:
    """The keys, oldest first; with or without those that were revoked."""
    query = select(*_COLUMNS).order_by(_T.id)
    found = await tx.execute(query if revoked else query.where(_T.revoked_at.is_(None)))
    return [ApiKey.model_validate(dict(row)) for row in found.mappings()]


async def revoke_key(tx: AsyncConnection, name: str) -> None:
    """Take a key out of use, for good.

    Raises:
        BadInput: there is none of this name in use.
    """
    revoked = await tx.execute(
        update(_T)
        .where(_T.name == name, _T.revoked_at.is_(None))
        .values(revoked_at=func.clock_timestamp())
        .returning(_T.id)
    )
    if revoked.first() is None:
        raise BadInput(f"There is no key {name!r} in use; `alert-pipeline keys list` shows them")


async def note_use(tx: AsyncConnection, names: Collection[str]) -> None:
    """These keys were used just now."""
    await tx.execute(update(_T).where(_T.name.in_(names)).values(last_used_at=func.clock_timestamp()))


async def use_signature(tx: AsyncConnection, signature: str, *, window_seconds: float) -> bool:
    """Note that a signed request was taken. False: it was taken before. What no window covers is forgotten."""
    await tx.execute(delete(_U).where(_U.used_at < in_seconds(-2 * window_seconds)))
    added = await tx.execute(insert(_U).values(signature=signature).on_conflict_do_nothing().returning(_U.signature))
    return added.first() is not None


async def forget_signature(tx: AsyncConnection, signature: str) -> None:
    """The request came to nothing: its sender may send it again as it is."""
    await tx.execute(delete(_U).where(_U.signature == signature))


def prefix_of(token: str) -> str:
    """The start of a token, by which its row is found and by which people tell keys apart."""
    return token[:_PREFIX_CHARACTERS]


def signing_secret_of(token: str) -> str:
    """The secret with which the key's holder signs. It follows from the token, and not the token from it."""
    return SIGNING_START + hmac.new(token.encode(), b"alert-pipeline request signature", hashlib.sha256).hexdigest()


def _hash(token: str) -> str:
    # 256 random bits need no slow hash: there is nothing to guess.
    return hashlib.sha256(token.encode()).hexdigest()
