"""Where `run_pipeline` gets its payload: --payload, else --file, else --sample."""

from __future__ import annotations

import sys
from codecs import BOM_UTF8
from pathlib import Path
from secrets import token_hex
from typing import Any, cast

import orjson

from orchestration.errors import BadInput
from tasks.ingest.sources import SOURCES, source_named

DEFAULT_SAMPLE = "alertmanager"


def read_payload(text: str | None, file: str | None, *, sample: bool, source: str, limit: int) -> dict[str, Any] | None:
    """The payload that the command line names; None if it names none.

    Raises:
        BadInput: it cannot be read, is too large, is not JSON, or is no object.
    """
    if text is not None:
        return parse_json(text.encode(errors="surrogateescape"), "--payload", limit)
    if file is not None:
        return parse_json(read_file(file, limit), file, limit)
    if sample:
        return sample_of(source)
    return None


def parse_json(text: bytes, where: str, limit: int) -> dict[str, Any]:
    """A JSON object.

    Raises:
        BadInput: saying where the text goes wrong.
    """
    if len(text) > limit:
        raise BadInput(f"{where} has more than the {limit:,} bytes that ORCHESTRATION_MAX_PAYLOAD_BYTES allows")
    try:
        value: object = orjson.loads(text.removeprefix(BOM_UTF8))  # some editors write one
    except orjson.JSONDecodeError as error:
        raise BadInput(f"{where} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadInput(f'{where} holds a JSON {_kind(value)}; an alert is a JSON object, such as {{"name": "HighCPU"}}')
    return cast("dict[str, Any]", value)


def sample_of(source: str) -> dict[str, Any]:
    """A sample alert of a source, of Alertmanager where the name is no source's; each one a new incident."""
    known = source.lower() if source.lower() in SOURCES else DEFAULT_SAMPLE
    return source_named(known).sample(token_hex(2))


def read_file(name: str, limit: int) -> bytes:
    """A file, or `-` for standard input; of one with more than `limit` bytes one byte more than that.

    Raises:
        BadInput: it cannot be read.
    """
    try:
        if name == "-":
            return sys.stdin.buffer.read(limit + 1)
        with Path(name).open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror}") from None


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case list():
            return "list"
        case str():
            return "string"
        case bool():
            return "boolean"
        case _:
            return "number"
