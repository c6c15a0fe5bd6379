"""What people do with definitions, the policy and the mappings: apply, enable, disable, roll back, delete.

First the store, then Prefect. Everything works without Prefect too: a worker brings Prefect up to date when it starts,
and once a minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestration.contracts import Contract
from orchestration.definitions import Kind, NewDefinition
from orchestration.errors import Unavailable
from orchestration.settings import Settings
from orchestration.store import definitions
from orchestration.store.database import Database
from orchestration.store.definitions import DefinitionRecord

_LATER = {
    Kind.PIPELINE: "a worker writes its block and its deployment when Prefect answers",
    Kind.POLICY: "a worker writes its block when Prefect answers",
    Kind.SOURCE: "a worker writes its block when Prefect answers",
}


class Outcome(Contract):
    """The result of a change to a definition."""

    change: str
    """created, changed, unchanged, enabled, disabled, rolled_back or deleted."""
    definition: DefinitionRecord
    in_prefect: bool
    """Whether Prefect shows the definition as it is now."""
    notes: list[str]
    """Sentences for the person who made the change."""


@dataclass(frozen=True, kw_only=True)
class DefinitionService:
    """Changes definitions of one kind, and shows them in Prefect.

    `prefect_api_url` None means that no Prefect can be reached.
    Each method raises `Unavailable` if the database does not answer.
    """

    database: Database
    settings: Settings
    prefect_api_url: str | None = None
    kind: Kind = Kind.PIPELINE

    async def apply(self, new: NewDefinition, *, created_by: str) -> Outcome:
        """Store this as the version that runs. Applied again it changes nothing.

        An edit of the block in Prefect that no run has used yet is stored as a version first.
        """
        notes: list[str] = []
        await self._in_prefect("store_edit", new.name, notes)
        async with self.database.transaction() as tx:
            stored = await definitions.store_definition(tx, new, created_by=created_by)
        if not stored.definition.is_active:
            notes.append(f"it is disabled, and runs once it is enabled: alert-pipeline definitions enable {new.name}")
        return await self._outcome(stored.change.value, stored.definition, notes)

    async def set_active(self, name: str, *, active: bool) -> Outcome:
        """Enable or disable a pipeline definition.

        Raises:
            DefinitionNotFound: there is none.
        """
        async with self.database.transaction() as tx:
            record = await definitions.set_active(tx, name, active=active)
        return await self._outcome("enabled" if active else "disabled", record, [])

    async def rollback(self, name: str, version: int) -> Outcome:
        """Run an earlier version again. It keeps its number.

        Raises:
            DefinitionNotFound: there is no such definition, or no such version.
        """
        async with self.database.transaction() as tx:
            record = await definitions.activate_version(tx, name, version, kind=self.kind)
        return await self._outcome("rolled_back", record, [])

    async def delete(self, name: str) -> Outcome:
        """Delete a definition. Its versions are kept for the runs that used them.

        Raises:
            DefinitionNotFound: there is none.
        """
        async with self.database.transaction() as tx:
            record = await definitions.delete_definition(tx, name, kind=self.kind)
        return await self._outcome("deleted", record, [])

    async def _outcome(self, change: str, record: DefinitionRecord, notes: list[str]) -> Outcome:
        shown = await self._in_prefect("show", record.name, notes)
        return Outcome(change=change, definition=record, in_prefect=shown, notes=list(dict.fromkeys(notes)))

    async def _in_prefect(self, step: Literal["store_edit", "show"], name: str, notes: list[str]) -> bool:
        """Do this step at our Prefect. Returns whether Prefect answered; a note says why not."""
        if self.prefect_api_url is None:
            notes.append(f"Prefect does not run here: {_LATER[self.kind]}")
            return False
        # Prefect takes 1.5 s to import. A command without Prefect must not wait for that.
        from prefect.settings import temporary_settings

        from blocks.prefect_api import address_settings
        from service.mirror.definitions import show, store_edit
        from service.prefect_patches import limit_answers

        limit_answers()
        try:
            with temporary_settings(address_settings(self.settings, self.prefect_api_url)):
                if step == "store_edit":
                    notes += await store_edit(self.database, self.kind, name)
                else:
                    await show(self.database, self.kind, name)
        except Unavailable as error:
            notes.append(f"{error}: {_LATER[self.kind]}")
            return False
        return True
