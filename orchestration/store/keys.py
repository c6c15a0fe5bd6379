"""Access: API keys, which are shown once and stored as a hash, used signatures, and ended sessions of the admin."""

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
from orchestration.store.database import seconds_ago
from orchestration.store.models import ApiKeyRow, EndedSessionRow, UsedSignatureRow
from orchestration.store.table import columns_of

TOKEN_START = "apk_"  # noqa: S105 - by this a person, and a scanner for leaked secrets, knows a key
SIGNING_START = "aps_"
LONGEST_VENDOR_WINDOW_SECONDS = 300.0
"""For how long a vendor's signature is good, that of Slack. All doors remember signatures in one table."""
_PREFIX_CHARACTERS = len(TOKEN_START) + 8
_NAME_CHARACTERS = 64

_T = ApiKeyRow
_U = UsedSignatureRow
_E = EndedSessionRow


class Scope(StrEnum):
    """A permission of a key."""

    TRIGGER = "trigger"
    READ = "read"
    RESUME = "resume"
    RESPOND = "respond"
    """To acknowledge, resolve, close and snooze incidents, and to add notes."""
    ADMIN = "admin"


class ApiKey(Contract):
    """A stored key."""

    name: str
    prefix: str
    hash: str
    sealed_signing_secret: bytes
    scopes: frozenset[Scope]
    created_at: UtcDatetime
    last_used_at: UtcDatetime | None = None
    revoked_at: UtcDatetime | None = None

    def allows(self, scope: Scope) -> bool:
        """Whether the key has this permission; admin includes all."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def fits(self, token: str) -> bool:
        """Whether this token is the key. The comparison takes the same time for every token."""
        return hmac.compare_digest(self.hash, _hash(token))


class NewKey(Contract):
    """A new key, with its token and its signing secret, which nobody can read later."""

    name: str
    token: str
    signing_secret: str
    scopes: frozenset[Scope]


_COLUMNS = columns_of(_T, ApiKey)


async def create_key(tx: AsyncConnection, name: str, scopes: Collection[Scope], cipher: Cipher) -> NewKey:
    """Create a key of 256 random bits.

    Raises:
        BadInput: the name is invalid, or a key has it, even a revoked one; or no scope is given.
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
        raise BadInput(f"There is a key {name!r} already, or there was one: choose another name")
    return NewKey(name=name, token=token, signing_secret=signing_secret_of(token), scopes=frozenset(scopes))


async def list_keys(tx: AsyncConnection, *, revoked: bool = True) -> list[ApiKey]:
    """The keys, oldest first; with or without revoked keys."""
    query = select(*_COLUMNS).order_by(_T.id)
    found = await tx.execute(query if revoked else query.where(_T.revoked_at.is_(None)))
    return [ApiKey.model_validate(dict(row)) for row in found.mappings()]


async def revoke_key(tx: AsyncConnection, name: str) -> None:
    """Revoke a key; this cannot be undone.

    Raises:
        BadInput: no key of this name is in use.
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
    """Store that these keys are used now."""
    await tx.execute(update(_T).where(_T.name.in_(names)).values(last_used_at=func.clock_timestamp()))


async def use_signature(tx: AsyncConnection, signature: str, *, window_seconds: float) -> bool:
    """Store the signature of a request; False means that it is stored already. Delete signatures of older windows."""
    kept_seconds = 2 * max(window_seconds, LONGEST_VENDOR_WINDOW_SECONDS)
    await tx.execute(delete(_U).where(_U.used_at < seconds_ago(kept_seconds)))
    added = await tx.execute(insert(_U).values(signature=signature).on_conflict_do_nothing().returning(_U.signature))
    return added.first() is not None


async def forget_signature(tx: AsyncConnection, signature: str) -> None:
    """Delete the signature of a request that was not executed, so that its sender can repeat it unchanged."""
    await tx.execute(delete(_U).where(_U.signature == signature))


def prefix_of(token: str) -> str:
    """The start of a token, which identifies the key to the store and to people."""
    return token[:_PREFIX_CHARACTERS]


def signing_secret_of(token: str) -> str:
    """The secret with which the key's owner signs requests, derived one-way from the token with HMAC."""
    return SIGNING_START + hmac.new(token.encode(), b"alert-pipeline request signature", hashlib.sha256).hexdigest()


def _hash(token: str) -> str:
    # 256 random bits cannot be guessed, so the hash need not be slow.
    return hashlib.sha256(token.encode()).hexdigest()


# Sessions of the admin


async def end_session(tx: AsyncConnection, session: str, *, lifetime_seconds: float) -> None:
    """End a session, so that its cookie is refused. Delete sessions that are older than their lifetime."""
    await tx.execute(delete(_E).where(_E.ended_at < seconds_ago(lifetime_seconds)))
    await tx.execute(insert(_E).values(session=session).on_conflict_do_nothing())


async def is_ended(tx: AsyncConnection, session: str) -> bool:
    """Whether this session was signed out."""
    return (await tx.execute(select(_E.session).where(_E.session == session))).first() is not None
