"""Values of a run by dotted paths, as expressions and transforms name them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pydantic import JsonValue

from orchestration.engine.run import ActiveRun
from orchestration.errors import BadInput
from orchestration.graph import HAS_ERRORS, SKIPPED, Reference


def dig(value: object, path: Sequence[str]) -> JsonValue:
    """The value at a path of keys of objects, and of numbers or `name`s of the items of lists.

    Raises:
        BadInput: it names the first part that is missing, and what there is instead.
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
    """The value at a path; null where there is none."""
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
    """The value that an expression refers to; null where there is none."""
    first = reference.path[0]
    match reference.node:
        case "payload":
            return find(run.start_value, reference.path)
        case "run":
            return find(_facts(run), reference.path)
        case node:
            if first == HAS_ERRORS:
                return run.has_errors(node)
            if first == SKIPPED:
                return node in run.skipped
            result = run.results.get(node)
            return None if result is None else find(result.model_dump(mode="json"), reference.path)


def _facts(run: ActiveRun) -> dict[str, object]:
    record = run.record
    return {
        "environment": record.environment,
        "labels": record.options.labels,
        "severity": record.severity.value,
        "source": record.source,
        "title": record.title,
    }
