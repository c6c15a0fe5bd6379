"""The transform stage: extracts from an earlier result what later nodes need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, cast

from pydantic import BeforeValidator, Field, JsonValue

from orchestration.contracts import Stage, StageContext, TransformResult
from orchestration.engine.run import ActiveRun, NodeKind, Step
from orchestration.engine.values import dig, find
from orchestration.errors import BadInput
from orchestration.graph import PAYLOAD, NodeConfig
from orchestration.json_text import to_json

MAX_ITEMS = 1_000
"""Items of a list that a transform works on."""

MAX_BYTES = 64 * 1024
"""The size of what comes out, as JSON."""


NO_SOURCE = "no_result_of"
"""The reason to skip a transform whose source has no result."""

PRIORITIES = ("high", "medium", "low")


def _as_priorities(value: object) -> object:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or any(name not in PRIORITIES for name in cast("list[object]", names)):
        raise ValueError(f"expected one or several of {', '.join(PRIORITIES)}")
    return tuple(cast("list[str]", names))


class TransformConfig(NodeConfig):
    """The config of a transform: what it reads, and what it makes of it."""

    source_node: str = Field(description="The id of an earlier node, or payload.")
    extract: str | None = Field(default=None, min_length=1, max_length=500, description="A dotted path in the source.")
    filter_priority: Annotated[tuple[str, ...], BeforeValidator(_as_priorities)] = Field(
        default=(), description="Keep the items of a list that have one of these priorities: high, medium, low."
    )
    mapping: dict[str, Annotated[str, Field(min_length=1, max_length=500)]] = Field(
        default_factory=dict[str, str], max_length=100, description="New name to dotted path."
    )

    def sources(self) -> Mapping[str, str]:
        """The node that it reads."""
        return {"source_node": self.source_node}


@dataclass(frozen=True, kw_only=True)
class TransformSetup:
    """A transform's source and its config."""

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
        try:
            value = dig(value, config.extract.split("."))
        except BadInput as error:
            raise BadInput(f"extract {config.extract!r} of {config.source_node}: {error}") from None
    if isinstance(value, list) and len(value) > MAX_ITEMS:
        raise BadInput(f"extract: the list has {len(value)} items: a transform works on at most {MAX_ITEMS}")
    if config.filter_priority:
        value = _filter(value, config.filter_priority)
    if config.mapping:
        value = _map(value, config.mapping)
    if (size := len(to_json(value))) > MAX_BYTES:
        raise BadInput(f"what comes out has {size:,} bytes, more than {MAX_BYTES:,}: extract less of it")
    count = len(value) if isinstance(value, list) else int(value is not None)
    return TransformResult(output=value, count=count)


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


async def _set_up(run: ActiveRun, step: Step) -> TransformSetup:
    config = cast("TransformConfig", step.config)
    if config.source_node == PAYLOAD:
        return TransformSetup(source=run.start_value, config=config)
    result = run.results.get(config.source_node)
    if isinstance(result, TransformResult):
        return TransformSetup(source=result.output, config=config)
    return TransformSetup(source=result and result.model_dump(mode="json"), config=config)


async def _reason_to_skip(run: ActiveRun, step: Step) -> str | None:
    source = cast("TransformConfig", step.config).source_node
    return None if source == PAYLOAD or source in run.results else f"{NO_SOURCE}: {source}"


TRANSFORM = NodeKind(
    name="transform",
    stage=Stage.TRANSFORM,
    config=TransformConfig,
    result=TransformResult,
    function=transform,
    set_up=_set_up,
    result_ref="transform_output_ref",
    reason_to_skip=_reason_to_skip,
)
