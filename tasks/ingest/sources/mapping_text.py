"""From anything that came from outside to a mapping, or to all that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from orchestration.bounds import out_of_bounds
from orchestration.definitions import NewDefinition
from orchestration.errors import json_kind
from orchestration.policy.document import Document, Path, read_document
from orchestration.policy.problems import BadPolicy, PolicyProblem
from orchestration.problems import BadDocument, explain, path_of
from tasks.ingest.sources.mapping import (
    MAX_BYTES,
    MAX_DEPTH,
    AlertFields,
    Condition,
    Ignored,
    SourceMapping,
    StateWords,
)


class MappingProblem(PolicyProblem):
    """One mistake in a mapping."""

    what: ClassVar[str] = "mapping"


class BadMapping(BadDocument[MappingProblem]):
    """A mapping that cannot be used as it is; `problems` are all that were found, in the order of its lines."""

    what = "mapping"


@dataclass(frozen=True, kw_only=True)
class ReadMapping:
    """A mapping that can be used."""

    mapping: SourceMapping
    written: dict[str, JsonValue]
    """The mapping as its author wrote it, as plain values."""


_PARTS: dict[str, type[BaseModel]] = {
    "": SourceMapping,
    "when": Condition,
    "ignore": Ignored,
    "alert": AlertFields,
    "words": StateWords,
}
"""The models by the field that has them, for the sentence that lists the fields."""


def read_mapping(text: str | bytes) -> ReadMapping:
    """The mapping in a YAML or JSON text.

    Raises:
        BadMapping: all that is wrong, each problem with its line and field.
    """
    if len(text) > MAX_BYTES:
        raise BadMapping(
            [MappingProblem(line=None, field="", message=f"has more than {MAX_BYTES:,} bytes, and no more are read")]
        )
    try:
        document = read_document(text)
    except BadPolicy as error:
        raise BadMapping([_as_mapping(problem) for problem in error.problems]) from None
    return _parsed(document)


def parse_mapping(raw: object) -> SourceMapping:
    """The mapping in a value, such as the store or a block in Prefect has. Its problems have no lines.

    Raises:
        BadMapping: all that is wrong, each problem with its field.
    """
    return _parsed(Document(value=raw, lines={})).mapping


def new_mapping(raw: object) -> NewDefinition:
    """A mapping in a value, on its way into the store.

    Raises:
        BadMapping: all that is wrong, each problem with its field.
    """
    return to_store(_parsed(Document(value=raw, lines={})))


def to_store(read: ReadMapping) -> NewDefinition:
    """A mapping that was read, on its way into the store."""
    return NewDefinition.of_mapping(
        read.written, name=read.mapping.name, description=read.mapping.description or read.mapping.title
    )


def _parsed(document: Document) -> ReadMapping:
    raw, found = document.value, [_as_mapping(problem) for problem in document.problems]
    if (wrong := out_of_bounds(raw, max_bytes=MAX_BYTES, max_depth=MAX_DEPTH)) is not None:
        raise BadMapping([_problem(document, (), wrong)])
    if not isinstance(raw, Mapping):
        expected = f"expected an object with fields such as name, when and alert, got {json_kind(raw)}"
        raise BadMapping([*found, _problem(document, (), expected)])
    given = cast("dict[str, JsonValue]", raw)
    try:
        read = ReadMapping(mapping=SourceMapping.model_validate(given), written=given)
    except ValidationError as error:
        found += [_problem(document, each["loc"], _in_words(each)) for each in error.errors(include_url=False)]
        raise BadMapping(sorted(found, key=lambda problem: problem.line or 0)) from None
    if found:
        raise BadMapping(found)
    return read


def _as_mapping(problem: PolicyProblem) -> MappingProblem:
    return MappingProblem(line=problem.line, field=problem.field, message=problem.message)


def _problem(document: Document, path: Path, message: str) -> MappingProblem:
    # A list of one may be written without the list.
    line = document.lines.get(tuple(part for part in path if part != 0)) or document.line_of(path)
    return MappingProblem(line=line, field=path_of(path), message=message)


def _in_words(error: ErrorDetails) -> str:
    """What pydantic has found, in words."""
    first = next((part for part in error["loc"][:-1] if isinstance(part, str)), "")
    if error["type"] == "string_pattern_mismatch":
        return "is not made of lower-case letters and digits with single dashes between them, such as lamp-watch"
    return explain(error, known=list(_PARTS.get(first, SourceMapping).model_fields))
