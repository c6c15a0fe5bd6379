"""Mappings, bodies and sources as commands get them: from files, and from the store if it answers."""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import cast

import orjson

from orchestration.errors import BadInput
from orchestration.requests import RunRequest
from orchestration.settings import Settings, load_settings
from orchestration.store.database import Database
from orchestration.store.mappings import StoredMappings, read_mappings
from service.cli.reader import look
from service.cli.terminal import read_file
from tasks.ingest.sources import SOURCES, Sources, parse_push
from tasks.ingest.sources.mapped import source_of
from tasks.ingest.sources.mapping import MAX_BYTES
from tasks.ingest.sources.mapping_text import BadMapping, MappingProblem, ReadMapping, read_mapping
from tasks.ingest.sources.stored import name_problem, sources_with


class BadMappingFile(BadMapping):
    """The mapping in a file cannot be used. The error has the file's name and all problems."""

    def __init__(self, file: str, error: BadMapping) -> None:
        super().__init__(error.problems)
        self.more = error.more
        self.args = (f"{file}: {error}",)


def read_mapping_file(file: str) -> ReadMapping:
    """The mapping in a file; `-` is standard input.

    Raises:
        BadInput: the file cannot be read.
        BadMappingFile: it holds no valid mapping; the error lists all problems.
    """
    try:
        read = read_mapping(read_file(file, MAX_BYTES))
        if (problem := name_problem(read.mapping.name)) is not None:
            raise BadMapping([MappingProblem(line=None, field="name", message=problem)])
    except BadMapping as error:
        raise BadMappingFile(file, error) from None
    return read


def read_body(file: str, limit: int) -> object:
    """The JSON of a body in a file; `-` is standard input.

    Raises:
        BadInput: the file cannot be read, is too large, or is no JSON.
    """
    return parse_body(read_file(file, limit), file, limit)


def parse_body(text: bytes, name: str, limit: int) -> object:
    """The JSON of a body. `name` says where it comes from.

    Raises:
        BadInput: it is too large, or no JSON.
    """
    if len(text) > limit:
        raise BadInput(f"{name} has more than the {limit:,} bytes that ORCHESTRATION_MAX_PAYLOAD_BYTES allows")
    try:
        return cast("object", orjson.loads(text.removeprefix(BOM_UTF8)))  # some editors write one
    except orjson.JSONDecodeError as error:
        raise BadInput(f"{name} is not JSON: {error}") from None


def stored_mappings(settings: Settings) -> StoredMappings | None:
    """The mappings of the store. None means that the database does not run, or does not answer."""

    async def query(database: Database) -> StoredMappings:
        async with database.transaction() as tx:
            return await read_mappings(tx)

    return look(settings, query)


def known_sources(settings: Settings) -> Sources:
    """The sources that ship, with those of the stored mappings if the database answers."""
    return sources_with(stored_mappings(settings) or ())


def check_readable(request: RunRequest) -> None:
    """Check that a source can read the payload: one that ships, or else one of a stored mapping.

    Raises:
        BadInput: none can.
    """
    try:
        parse_push(request.payload, source=request.source)
    except BadInput:  # the database is looked at only where it can help
        parse_push(request.payload, source=request.source, sources=known_sources(load_settings()))


def sources_and(read: ReadMapping, sources: Sources = SOURCES) -> Sources:
    """The sources with that of a mapping that is not stored."""
    return {**sources, read.mapping.name: source_of(read.mapping)}
