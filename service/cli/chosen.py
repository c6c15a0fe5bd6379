"""The definition that `run_pipeline` was told to run: one of the store, or one from a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, cast

from orchestration.errors import BadInput
from orchestration.graph import Definition
from orchestration.settings import Settings
from orchestration.store import definitions
from orchestration.store.database import Database
from orchestration.store.definitions import DefinitionRecord
from service.cli.definition_file import read_definition
from service.cli.dry_run_definition import show_definition_dry_run
from service.cli.reader import read
from tasks.ingest.sources import parse_push
from tasks.ingest.stage import INGEST
from tasks.kinds import validate_definition


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A definition by its name in the store; or, with `written`, one from a file, which is stored nowhere."""

    name: str
    definition: Definition | None = None
    written: dict[str, Any] | None = None

    @classmethod
    def of_file(cls, file: str) -> Self:
        """The definition in a file.

        Raises:
            BadInput: it cannot be read, or cannot be run: all that is wrong.
        """
        definition, written = read_definition(file)
        return cls(name=definition.name or file, definition=definition, written=cast("dict[str, Any]", written))

    @property
    def options(self) -> dict[str, Any]:
        """What the Python API is told of it."""
        if self.definition is None:
            return {"definition": self.name}
        return {"definition": self.definition.name, "definition_config": self.written}

    @property
    def ingests(self) -> bool | None:
        """Whether it takes in alerts; None: only the store knows."""
        if self.definition is None:
            return None
        return any(node.type == INGEST.name for node in self.definition.nodes)

    def check_input(self, payload: dict[str, Any] | None, source: str) -> None:
        """Whether what is known of it here can be run with this payload.

        Raises:
            BadInput: it takes in alerts, and there is none.
        """
        if payload is None and self.ingests:
            raise BadInput(f"{self.name} takes in alerts: give it one with --sample, --payload or --file")
        if payload is not None and self.ingests:
            parse_push(payload, source=source)

    def show_dry_run(self, settings: Settings, payload: dict[str, Any] | None, *, source: str, **call: Any) -> int:
        """Show what it would do with this payload.

        Raises:
            BadInput: what would be refused.
            Unavailable: the database, where it is stored, does not answer.
        """
        version: int | None = None
        definition = self.definition
        if definition is None:
            record = read(settings, self._load)
            definition, version = validate_definition(record.config), record.version
        known = Chosen(name=self.name, definition=definition)
        known.check_input(payload, source)
        pushed = payload if known.ingests else None
        return show_definition_dry_run(
            settings, definition, pushed, name=self.name, version=version, source=source, **call
        )

    async def _load(self, database: Database) -> DefinitionRecord:
        async with database.transaction() as tx:
            return await definitions.get_active(tx, self.name)
