"""What the nodes of a run can ask of what came before them: values by dotted paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from pydantic import JsonValue

from orchestration.contracts import TransformResult
from orchestration.errors import BadInput
from orchestration.graph import Reference
from orchestration.requests import StoredPush

if TYPE_CHECKING:
    from tasks.run import ActiveRun

PAYLOAD, RUN = "payload", "run"
"""Names that stand for what the run was started with, and for the run itself."""


def dig(value: object, path: Sequence[str]) -> JsonValue:
    """What stands at a path: a key of an object, the number of an item of a list, or the `name` of one.

    Raises:
        BadInput: naming the first part that is not there, and what is.
    """
    at: Any = value
    for depth, part in enumerate(path):
        found = _step(at, part)
        if found is _NOTHING:
            way = ".".join(path[: depth + 1])
            raise BadInput(f"there is no {way!r}: {_contents(at)}")
        at = found
    return at


def find(value: object, path: Sequence[str]) -> JsonValue:
    """The same; null where there is nothing."""
    try:
        return dig(value, path)
    except BadInput:
        return None


_NOTHING = object()


def _step(value: object, part: str) -> object:
    if isinstance(value, dict):
        return cast("dict[str, object]", value).get(part, _NOTHING)
    if isinstance(value, list):
        items = cast("list[object]", value)
        if part.isdecimal():
            return items[int(part)] if len(part) < 10 and int(part) < len(items) else _NOTHING
        objects = [cast("dict[str, object]", item) for item in items if isinstance(item, dict)]
        return next((item for item in objects if item.get("name") == part), _NOTHING)
    return _NOTHING


def _contents(value: object) -> str:
    if isinstance(value, dict):
        return f"there are {', '.join(map(str, list(cast('dict[str, object]', value))[:20])) or 'no fields'}"
    if isinstance(value, list):
        return f"there is a list of {len(cast('list[object]', value))} items"
    return "there is nothing to look into"


def value_of(run: ActiveRun, reference: Reference) -> JsonValue:
    """What an expression asks for; null where there is nothing."""
    first = reference.path[0]
    match reference.node:
        case "payload":
            return find(payload_of(run.payload), reference.path)
        case "run":
            return find(_facts(run), reference.path)
        case node:
            if first == "has_errors":
                return run.has_errors(node)
            if first == "skipped":
                return node in run.skipped
            result = run.results.get(node)
            return None if result is None else find(result.model_dump(mode="json"), reference.path)


def source_of(run: ActiveRun, node: str) -> JsonValue:
    """What a transform works on: an earlier node's result, of a transform its output; null if it has none."""
    if node == PAYLOAD:
        return payload_of(run.payload)
    result = run.results.get(node)
    if isinstance(result, TransformResult):
        return result.output
    return None if result is None else result.model_dump(mode="json")


def payload_of(stored: dict[str, Any]) -> JsonValue:
    """What a run was started with: the value itself, or the alerts that were read from it."""
    push = StoredPush.model_validate(stored)
    return push.data if push.data is not None else push.model_dump(mode="json", include={"alerts", "errors"})


def _facts(run: ActiveRun) -> dict[str, object]:
    record = run.record
    return {
        "environment": record.environment,
        "labels": record.options.labels,
        "severity": record.severity.value,
        "source": record.source,
        "title": record.title,
    }
