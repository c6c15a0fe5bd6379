"""Pipeline definitions, the policy and the mappings of senders.

All versions are kept, one version of a name is current, and it is active unless disabled.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import JsonValue
from sqlalchemy import ColumnElement, Executable, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from orchestration.alert import UtcDatetime
from orchestration.contracts import Contract
from orchestration.definitions import POLICY_NAME, Kind, NewDefinition
from orchestration.errors import DefinitionDisabled, DefinitionNotFound
from orchestration.graph import StoredDefinition
from orchestration.policy.model import Timing, timing_of
from orchestration.redaction import one_line
from orchestration.store.database import Database
from orchestration.store.models import DefinitionRow
from orchestration.store.table import columns_of

_T = DefinitionRow


class DefinitionRecord(Contract):
    """A row of `definition`: one version of one definition."""

    kind: Kind = Kind.PIPELINE
    name: str
    version: int
    description: str = ""
    config: dict[str, JsonValue]
    content_hash: str
    tags: list[str]
    is_current: bool
    is_active: bool
    created_by: str
    created_at: UtcDatetime
    updated_at: UtcDatetime

    @property
    def node_count(self) -> int:
        """How many nodes the graph has."""
        nodes = self.config.get("nodes")
        return len(nodes) if isinstance(nodes, list) else 0


class Change(StrEnum):
    """How storing a definition changed the store."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


class Stored(Contract):
    """A definition after it was stored, and how that changed the store."""

    change: Change
    definition: DefinitionRecord


_COLUMNS = columns_of(_T, DefinitionRecord)


async def store_definition(tx: AsyncConnection, definition: NewDefinition, *, created_by: str) -> Stored:
    """Store a new version and make it current, unless the current version has the same content.

    A definition that an operator disabled stays disabled: its new version is stored, and no run executes it.
    """
    kind, name = definition.kind, definition.name
    await _lock(tx, kind, name)
    current = await find_definition(tx, name, kind=kind)
    if current is not None and current.content_hash == definition.content_hash:
        return Stored(change=Change.UNCHANGED, definition=current)
    await _retire(tx, kind, name)
    known = select(func.coalesce(func.max(_T.version), 0) + 1).where(_T.kind == kind, _T.name == name)
    row = insert(_T).values(
        kind=kind,
        name=name,
        version=(await tx.execute(known)).scalar_one(),
        description=definition.description,
        config=definition.config,
        content_hash=definition.content_hash,
        tags=definition.tags,
        is_current=True,
        is_active=current is None or current.is_active,
        created_by=created_by,
    )
    (stored,) = await _read(tx, row.returning(*_COLUMNS))
    return Stored(change=Change.CREATED if current is None else Change.CHANGED, definition=stored)


async def get_definition(
    tx: AsyncConnection, name: str, version: int | None = None, *, kind: Kind = Kind.PIPELINE
) -> DefinitionRecord:
    """A version of a definition; None means the current version. Old versions are never deleted.

    Raises:
        DefinitionNotFound: there is no such version, or the definition was deleted and `version` is None.
    """
    found = await find_definition(tx, name, version, kind=kind)
    if found is None:
        raise await _missing(tx, kind, name, version)
    return found


async def get_active(tx: AsyncConnection, name: str) -> DefinitionRecord:
    """The version that runs of this definition execute.

    Raises:
        DefinitionNotFound: there is no such definition, or it was deleted.
        DefinitionDisabled: an operator disabled it.
    """
    found = await get_definition(tx, name)
    if not found.is_active:
        raise disabled(name)
    return found


def disabled(name: str) -> DefinitionDisabled:
    """The error for a definition that an operator disabled."""
    return DefinitionDisabled(
        f"The definition {name!r} is disabled and runs nothing: enable it with "
        f"`alert-pipeline definitions enable {name}`, or choose another"
    )


async def find_definition(
    tx: AsyncConnection, name: str, version: int | None = None, *, kind: Kind = Kind.PIPELINE
) -> DefinitionRecord | None:
    """A version of a definition; without a number the current version. None means that there is no such version."""
    found = await _versions(tx, kind, name, _T.is_current if version is None else _T.version == version)
    return found[0] if found else None


async def list_definitions(
    tx: AsyncConnection, *, include_inactive: bool = False, kind: Kind = Kind.PIPELINE
) -> list[DefinitionRecord]:
    """The current version of each definition, by name; with or without disabled definitions."""
    shown = _T.is_current if include_inactive else _T.is_active
    return await _read(tx, select(*_COLUMNS).where(_T.kind == kind, shown).order_by(_T.name))


async def list_versions(tx: AsyncConnection, name: str, *, kind: Kind = Kind.PIPELINE) -> list[DefinitionRecord]:
    """All versions of a definition, newest first, also of a deleted definition."""
    return await _versions(tx, kind, name)


async def set_active(tx: AsyncConnection, name: str, *, active: bool) -> DefinitionRecord:
    """Enable or disable a pipeline definition. Returns its current version after that.

    Raises:
        DefinitionNotFound: there is no such definition, or it was deleted.
    """
    await _lock(tx, Kind.PIPELINE, name)
    found = await get_definition(tx, name)
    if found.is_active is active:
        return found
    return await _mark(tx, found, is_active=active)


async def activate_version(
    tx: AsyncConnection, name: str, version: int, *, kind: Kind = Kind.PIPELINE
) -> DefinitionRecord:
    """Make this version current and active again. This also restores a disabled or deleted definition.

    Raises:
        DefinitionNotFound: there is no such version.
    """
    await _lock(tx, kind, name)
    found = await get_definition(tx, name, version, kind=kind)
    await _retire(tx, kind, name)
    return await _mark(tx, found, is_current=True, is_active=True)


async def delete_definition(tx: AsyncConnection, name: str, *, kind: Kind = Kind.PIPELINE) -> DefinitionRecord:
    """Delete a definition. Returns the version that was current. Its old runs can still be resumed.

    Raises:
        DefinitionNotFound: there is no such definition, or it was deleted before.
    """
    await _lock(tx, kind, name)
    found = await get_definition(tx, name, kind=kind)
    await _retire(tx, kind, name)
    return found


async def _lock(tx: AsyncConnection, kind: Kind, name: str) -> None:
    """Lock the definition until the transaction ends; wait for another process that has the lock."""
    await tx.execute(text("select pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"{kind.word}/{name}"})


async def _read(tx: AsyncConnection, query: Executable) -> list[DefinitionRecord]:
    return [DefinitionRecord.model_validate(dict(row)) for row in (await tx.execute(query)).mappings()]


async def _versions(
    tx: AsyncConnection, kind: Kind, name: str, *conditions: ColumnElement[bool] | InstrumentedAttribute[bool]
) -> list[DefinitionRecord]:
    """The versions of a definition that meet these conditions, newest first."""
    if "\x00" in name:  # PostgreSQL does not accept it in a parameter, and the name may come from any user
        return []
    query = select(*_COLUMNS).where(_T.kind == kind, _T.name == name, *conditions)
    return await _read(tx, query.order_by(_T.version.desc()))


async def _retire(tx: AsyncConnection, kind: Kind, name: str) -> None:
    await tx.execute(
        update(_T)
        .where(_T.kind == kind, _T.name == name, _T.is_current)
        .values(is_current=False, is_active=False, updated_at=func.clock_timestamp())
    )


async def _mark(tx: AsyncConnection, found: DefinitionRecord, **marks: bool) -> DefinitionRecord:
    change = update(_T).where(_T.kind == found.kind, _T.name == found.name, _T.version == found.version)
    query = change.values(**marks, updated_at=func.clock_timestamp()).returning(*_COLUMNS)
    return (await _read(tx, query))[0]


async def _missing(tx: AsyncConnection, kind: Kind, name: str, version: int | None) -> DefinitionNotFound:
    kept = [stored.version for stored in await list_versions(tx, name, kind=kind)]
    if kind is Kind.POLICY:
        return _no_policy(kept, version)
    if kind is Kind.SOURCE:
        return await _no_mapping(tx, name, kept, version)
    if not kept:
        known = ", ".join(stored.name for stored in await list_definitions(tx, include_inactive=True)) or "none"
        return DefinitionNotFound(f"There is no definition {one_line(name, 80)!r}; stored are: {known}")
    if version is None:
        return DefinitionNotFound(
            f"The definition {name!r} was deleted: "
            f"`alert-pipeline definitions rollback {name} {kept[0]}` brings it back"
        )
    versions = ", ".join(str(number) for number in reversed(kept))
    return DefinitionNotFound(f"The definition {name!r} has no version {version}; it has: {versions}")


async def _no_mapping(tx: AsyncConnection, name: str, kept: list[int], version: int | None) -> DefinitionNotFound:
    if not kept:
        stored = await list_definitions(tx, include_inactive=True, kind=Kind.SOURCE)
        known = ", ".join(mapping.name for mapping in stored) or "none"
        return DefinitionNotFound(f"There is no mapping {one_line(name, 80)!r}; stored are: {known}")
    if version is None:
        return DefinitionNotFound(
            f"The mapping {name!r} was deleted: `alert-pipeline sources rollback {name} {kept[0]}` brings it back"
        )
    versions = ", ".join(str(number) for number in reversed(kept))
    return DefinitionNotFound(f"The mapping {name!r} has no version {version}; it has: {versions}")


def _no_policy(kept: list[int], version: int | None) -> DefinitionNotFound:
    if not kept:
        return DefinitionNotFound(
            "There is no policy: everybody is notified on the default channels. Store one with "
            "`alert-pipeline policy apply FILE`"
        )
    if version is None:
        return DefinitionNotFound(f"The policy was deleted: `alert-pipeline policy rollback {kept[0]}` brings it back")
    versions = ", ".join(str(number) for number in reversed(kept))
    return DefinitionNotFound(f"The policy has no version {version}; it has: {versions}")


async def find_policy(tx: AsyncConnection) -> DefinitionRecord | None:
    """The current version of the policy. None means that there is none: the default channels."""
    return await find_definition(tx, POLICY_NAME, kind=Kind.POLICY)


POLICY_TIMING = f"""
    (select config -> 'timing' from definition where kind = '{Kind.POLICY}' and name = '{POLICY_NAME}' and is_current)
"""
"""The `timing` of the current policy, for a query; null if there is none. `timing_of()` reads it."""


async def read_policy_timing(tx: AsyncConnection) -> Timing:
    """What the current policy says of reminders and expiry."""
    return timing_of((await tx.execute(text(f"select {POLICY_TIMING}"))).scalar_one())


class StoredDefinitions:
    """The definitions of the store, for a process that does not ask Prefect for them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, name: str, version: int | None = None) -> StoredDefinition:
        """A version of a definition; None means the active version.

        Raises:
            DefinitionNotFound: there is no such version.
            DefinitionDisabled: `version` is None, and an operator disabled the definition.
            Unavailable: the database does not answer.
        """
        async with self._database.transaction() as tx:
            found = await get_active(tx, name) if version is None else await get_definition(tx, name, version)
        return StoredDefinition(name=found.name, version=found.version, config=dict(found.config))
