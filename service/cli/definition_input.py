"""Definitions as commands get them: from files, from the samples, and by name from the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows.samples import sample_names, sample_text
from orchestration.definitions import NewDefinition
from orchestration.errors import BadInput
from orchestration.graph import MAX_BYTES, BadDefinition, Definition, DefinitionProblem, decode_definition
from orchestration.requests import RunRequest
from orchestration.settings import Settings
from orchestration.store import definitions
from orchestration.store.definitions import DefinitionRecord
from service.cli.reader import read
from service.cli.source_input import check_readable
from service.cli.terminal import STDIN, read_file
from tasks.ingest.stage import INGEST
from tasks.kinds import validate_definition


class BadFile(BadDefinition):
    """The definition in a file cannot be used. The error has the file's name and all problems."""

    def __init__(self, file: str, error: BadDefinition) -> None:
        super().__init__(error.problems)
        self.args = (f"{file}: {error}",)


def read_definition(file: str) -> tuple[Definition, object]:
    """Read the definition in a file; `-` is standard input. Also returns the JSON value as it was written.

    Raises:
        BadInput: the file cannot be read.
        BadFile: it holds no valid definition; the error lists all problems.
    """
    text = read_file(file, MAX_BYTES)
    if len(text) > MAX_BYTES:
        large = f"is too large: a definition has at most {MAX_BYTES:,} bytes"
        raise BadFile(file, BadDefinition([DefinitionProblem(node=None, field="definition", message=large)]))
    return _validated(file, text)


def read_new_definitions(files: Sequence[str], *, samples: bool, name: str | None) -> list[NewDefinition]:
    """Read the definitions to apply. If one of them is invalid, none is returned.

    A definition without a name gets the name of its file.

    Raises:
        BadInput: a file cannot be read, or two definitions have the same name.
        BadFile: a file holds no valid definition; the error lists all problems.
    """
    found = [_new_definition(file, *read_definition(file), name=name) for file in files]
    if samples:
        found += [_new_definition(each, *_validated(each, sample_text(each).encode())) for each in sample_names()]
    names = [new.name for new in found]
    if repeated := [each for each in names if names.count(each) > 1]:
        raise BadInput(f"Two of these definitions are called {repeated[0]!r}: give each its own name")
    return found


def read_stored(settings: Settings, name: str, version: int | None) -> DefinitionRecord:
    """Read a version of a stored definition; None means the current version.

    Raises:
        DefinitionNotFound: there is no such definition or version.
        Unavailable: the database does not answer.
    """
    return read(settings, lambda tx: definitions.get_definition(tx, name, version))


def load_definition(settings: Settings, request: RunRequest) -> tuple[Definition, int | None]:
    """The definition that a request names, and its version; a definition that is not stored has none.

    Raises:
        BadInput: no stored definition has this name, it is disabled, or it is not valid.
        Unavailable: the database does not answer.
    """
    options = request.options
    if options.definition_config is not None:
        return validate_definition(options.definition_config), None
    record = read(settings, lambda tx: definitions.get_active(tx, options.definition or ""))
    return validate_definition(record.config), record.version


def check_payload(request: RunRequest, definition: Definition) -> bool:
    """Check that a definition can run with the request's payload. Returns whether it ingests alerts.

    Raises:
        BadInput: it has an ingest node, and the payload has no alert that can be read.
    """
    ingests = any(node.type == INGEST.name for node in definition.nodes)
    if ingests and request.payload is None:
        name = definition.name or "The definition"
        raise BadInput(f"{name} needs an alert: give it one with --sample, --payload or --file")
    if ingests:
        check_readable(request)
    return ingests


def _validated(file: str, text: bytes) -> tuple[Definition, object]:
    try:
        written = decode_definition(text)
        return validate_definition(written), written
    except BadDefinition as error:
        raise BadFile(file, error) from None


def _new_definition(file: str, definition: Definition, written: object, *, name: str | None = None) -> NewDefinition:
    file_name = None if file == STDIN else Path(file).stem
    try:
        return NewDefinition.of(definition, written, name=name or definition.name or file_name)
    except BadInput as error:
        raise BadInput(f"{file}: {error}") from None


def is_file(text: str) -> bool:
    """Whether an argument names a file, and not a stored definition."""
    return text == STDIN or "/" in text or text.endswith(".json") or Path(text).is_file()
