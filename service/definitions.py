"""What people do with definitions: apply, enable, disable, roll back, delete. The store first, then what Prefect shows.

Without Prefect all of it works too: a worker brings Prefect in step when it starts, and once a minute.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from orchestration.contracts import Contract
from orchestration.definitions import NewDefinition
from orchestration.errors import Unavailable
from orchestration.store import definitions
from orchestration.store.database import Database
from orchestration.store.definitions import DefinitionRecord

LATER = "a worker writes its block and its deployment when it finds Prefect"


class Outcome(Contract):
    """What became of a definition."""

    change: str
    """created, changed, unchanged, enabled, disabled, rolled_back or deleted."""
    definition: DefinitionRecord
    in_prefect: bool
    """Whether Prefect shows it as it is now."""
    notes: list[str]
    """What a person should know besides."""


@dataclass(frozen=True, kw_only=True)
class DefinitionService:
    """Where definitions are changed. `prefect_api_url` None: there is no Prefect within reach."""

    database: Database
    prefect_api_url: str | None = None

    async def apply(self, new: NewDefinition, *, created_by: str) -> Outcome:
        """Make this what runs under its name. Applied again it changes nothing.

        An edit of the block in Prefect that nobody has run yet is kept as a version first.

        Raises:
            Unavailable: the database does not answer.
        """
        notes: list[str] = []
        lost = await self._with_prefect(lambda: _take_up(self.database, new.name), notes)
        notes += [lost] if lost else []
        async with self.database.transaction() as tx:
            stored = await definitions.store_definition(tx, new, created_by=created_by)
        if not stored.definition.is_active:
            notes.append(f"it is disabled, and runs once it is enabled: alert-pipeline definitions enable {new.name}")
        return await self._outcome(stored.change.value, stored.definition, notes)

    async def set_active(self, name: str, *, active: bool) -> Outcome:
        """Enable or disable a definition.

        Raises:
            DefinitionNotFound: there is none.
            Unavailable: the database does not answer.
        """
        async with self.database.transaction() as tx:
            record = await definitions.set_active(tx, name, active=active)
        return await self._outcome("enabled" if active else "disabled", record, [])

    async def rollback(self, name: str, version: int) -> Outcome:
        """Have an earlier version run again. It keeps its number; raises as `set_active()`."""
        async with self.database.transaction() as tx:
            record = await definitions.activate_version(tx, name, version)
        return await self._outcome("rolled_back", record, [])

    async def delete(self, name: str) -> Outcome:
        """Take a definition away. Its versions are kept for the runs that named them; raises as `set_active()`."""
        async with self.database.transaction() as tx:
            record = await definitions.delete_definition(tx, name)
        return await self._outcome("deleted", record, [])

    async def _outcome(self, change: str, record: DefinitionRecord, notes: list[str]) -> Outcome:
        shown = await self._with_prefect(lambda: _show(self.database, record.name), notes)
        return Outcome(change=change, definition=record, in_prefect=bool(shown), notes=list(dict.fromkeys(notes)))

    async def _with_prefect(self, work: Callable[[], Awaitable[str | None]], notes: list[str]) -> str | None:
        """What `work` says, done at our Prefect; None where it cannot be reached, which is noted."""
        if self.prefect_api_url is None:
            notes.append(f"Prefect does not run here: {LATER}")
            return None
        # Prefect takes 1.5 s to import, which a command without one need not wait for.
        from service.mirror.definitions import at

        try:
            with at(self.prefect_api_url):
                return await work()
        except Unavailable as error:
            notes.append(f"{error}: {LATER}")
            return None


async def _take_up(database: Database, name: str) -> str | None:
    from service.mirror.definitions import take_up

    return await take_up(database, name)


async def _show(database: Database, name: str) -> str:
    from prefect import get_client

    from service.mirror.definitions import show
    from service.mirror.flow_runs import PREFECT_ERRORS

    try:
        async with get_client() as client:
            await show(client, database, name)
    except (*PREFECT_ERRORS, RuntimeError) as error:  # Prefect's client raises RuntimeError where it reaches nothing
        raise Unavailable(f"Prefect's API broke off ({type(error).__name__})") from None
    return "shown"
