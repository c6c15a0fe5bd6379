"""Definitions as the command line gets them: from files, from the samples, and by name from the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows.samples import sample_names, sample_text
from orchestration.definitions import NewDefinition
from orchestration.errors import BadInput
from orchestration.graph import MAX_BYTES, BadDefinition, Definition, DefinitionProblem, decode_definition
from service.cli.payload import read_file
from tasks.kinds import validate_definition

STDIN = "-"


class BadFile(BadDefinition):
    """A file whose definition cannot be used; its problems, and which file it is."""

    def __init__(self, file: str, error: BadDefinition) -> None:
        self.file = file
        self._said = str(error)
        super().__init__(error.problems)

    def _text(self) -> str:
        return f"{self.file}: {self._said}"


def read_definition(file: str) -> tuple[Definition, object]:
    """The definition in a file, `-` for standard input, and the value as it was written.

    Raises:
        BadInput: the file cannot be read.
        BadFile: what is in it is no definition that can run: all that is wrong.
    """
    text = read_file(file, MAX_BYTES)
    if len(text) > MAX_BYTES:
        large = f"is too large: a definition has at most {MAX_BYTES:,} bytes"
        raise BadFile(file, BadDefinition([DefinitionProblem(node=None, field="definition", message=large)]))
    return _validated(file, text)


def new_definitions(files: Sequence[str], *, samples: bool, name: str | None) -> list[NewDefinition]:
    """What is to be applied: all of it is valid, or nothing is returned.

    A definition without a name has that of its file.

    Raises:
        BadInput, BadFile: as `read_definition()`; or two definitions have one name.
    """
    found = [_new(file, *read_definition(file), name=name) for file in files]
    if samples:
        found += [_new(one, *_validated(one, sample_text(one).encode())) for one in sample_names()]
    names = [one.name for one in found]
    if twice := [one for one in names if names.count(one) > 1]:
        raise BadInput(f"Two of these definitions are called {twice[0]!r}: each needs a name of its own")
    return found


def _validated(file: str, text: bytes) -> tuple[Definition, object]:
    try:
        written = decode_definition(text)
        return validate_definition(written), written
    except BadDefinition as error:
        raise BadFile(file, error) from None


def _new(file: str, definition: Definition, written: object, *, name: str | None = None) -> NewDefinition:
    of_file = None if file == STDIN else Path(file).stem
    try:
        return NewDefinition.of(definition, written, name=name or definition.name or of_file)
    except BadInput as error:
        raise BadInput(f"{file}: {error}") from None


def is_file(text: str) -> bool:
    """Whether a command's argument means a file and not a stored definition's name."""
    return text == STDIN or "/" in text or text.endswith(".json") or Path(text).is_file()
