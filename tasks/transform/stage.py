"""The transform stage: takes out of an earlier result what later nodes need. It knows no Prefect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
from pydantic import JsonValue

from orchestration.contracts import StageContext, TransformResult
from orchestration.errors import BadInput
from orchestration.graph import TransformConfig
from tasks.values import dig, find

MAX_ITEMS = 1_000
"""Items of a list that a transform works on."""

MAX_BYTES = 64 * 1024
"""The size of what comes out, as JSON."""


@dataclass(frozen=True, kw_only=True)
class TransformSetup:
    """What is made of what."""

    source: JsonValue
    config: TransformConfig


async def transform(_context: StageContext, setup: TransformSetup) -> TransformResult:
    """Extract, then filter, then map.

    `extract` must be there; a path of `mapping` that is not there gives null. A list is mapped item by item.

    Raises:
        BadInput: the path is not there, what it leads to cannot be filtered or mapped, or it is too much.
    """
    config = setup.config
    value = setup.source
    if config.extract is not None:
        value = _extract(value, config)
    if isinstance(value, list) and len(value) > MAX_ITEMS:
        raise BadInput(f"extract: the list has {len(value)} items: a transform works on at most {MAX_ITEMS}")
    if config.filter_priority:
        value = _filter(value, config.filter_priority)
    if config.mapping:
        value = _map(value, config.mapping)
    if (size := len(orjson.dumps(value))) > MAX_BYTES:
        raise BadInput(f"what comes out has {size:,} bytes, more than {MAX_BYTES:,}: extract less of it")
    return TransformResult(output=value, count=_count(value))


def _extract(value: JsonValue, config: TransformConfig) -> JsonValue:
    path = (config.extract or "").split(".")
    try:
        return dig(value, path)
    except BadInput as error:
        raise BadInput(f"extract {config.extract!r} of {config.source_node}: {error}") from None


def _filter(value: JsonValue, priorities: Sequence[str]) -> JsonValue:
    if not isinstance(value, list):
        raise BadInput("filter_priority: there is no list to filter: extract one, such as recommendations")
    return [item for item in value if isinstance(item, dict) and str(item.get("priority")).lower() in priorities]


def _map(value: JsonValue, mapping: Mapping[str, str]) -> JsonValue:
    if isinstance(value, list):
        return [_picked(item, mapping) for item in value]
    if not isinstance(value, dict):
        raise BadInput("mapping: there is no object to pick fields from: extract one, or a list of them")
    return _picked(value, mapping)


def _picked(value: JsonValue, mapping: Mapping[str, str]) -> JsonValue:
    return {name: find(value, path.split(".")) for name, path in mapping.items()}


def _count(value: JsonValue) -> int:
    return len(value) if isinstance(value, list) else int(value is not None)
