"""What commands and the keeper say to each other: one JSON object a line, over a Unix socket."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar, cast

POSTGRES = "postgres"
PREFECT = "prefect"

BUSY_EXIT = 75
"""Exit code of a keeper that found another one at work."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A command's first and only line. Its connection stays open for as long as it uses the stack."""

    need: list[str]
    prefect_port: int | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """A line of the keeper."""

    kind: Literal["hello", "progress", "ready", "notice", "unavailable", "bad_setting", "stays"]
    """`hello` comes first; `stays` is the last word to a client whose leaving does not end the stack."""
    text: str = ""
    pid: int = 0
    database_url: str = ""
    prefect_api_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class State:
    """What runs, as written to the state file."""

    pid: int
    parts: dict[str, int]
    """Process id of each part that runs."""
    database_url: str
    prefect_api_url: str | None
    started_at: str


Message = TypeVar("Message", Request, Report, State)


def encode(message: Request | Report | State) -> bytes:
    """The message as a line."""
    return json.dumps(asdict(message)).encode() + b"\n"


def decode(kind: type[Message], line: bytes | str) -> Message:
    """The message in a line. Fields that are not known are passed over.

    Raises:
        ValueError: the line is no such message.
    """
    value: Any = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    known = {field.name for field in fields(kind)}
    try:
        return kind(**{key: item for key, item in cast("dict[str, Any]", value).items() if key in known})
    except TypeError as error:
        raise ValueError(str(error)) from None
