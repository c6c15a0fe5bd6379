"""`--dry-run` of a definition: its graph, and what each of its nodes would do. Nothing is checked, asked or sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from orchestration.alert import Alert
from orchestration.contracts import Contract
from orchestration.errors import PipelineError
from orchestration.graph import ConditionConfig, Definition, Graph, NodeDefinition, NodeType, TransformConfig
from orchestration.graph.drawing import draw
from orchestration.settings import Settings
from service.cli.dry_run import channels_of
from service.cli.terminal import as_json, output
from tasks.check.stage import CheckConfig
from tasks.ingest.inbox import title_of
from tasks.ingest.incidents import split_by_incident
from tasks.ingest.sources import parse_push
from tasks.nodes import ContextNode, IntelligenceNode, NotifyNode


class NodePreview(Contract):
    """What one node would do."""

    id: str
    type: str
    what: str
    next: list[str]
    required: bool


async def _previews(
    settings: Settings, definition: Definition, groups: Sequence[Sequence[Alert]], notify_driver: str | None
) -> list[NodePreview]:
    graph = Graph(definition)
    teller = _Teller(settings, groups, notify_driver)
    return [
        NodePreview(
            id=node_id,
            type=graph.nodes[node_id].type.value,
            what=await teller.what(graph.nodes[node_id]),
            next=list(graph.successors(node_id)),
            required=graph.nodes[node_id].required,
        )
        for node_id in graph.order
    ]


class _Teller:
    """Says in words what nodes would do."""

    def __init__(self, settings: Settings, groups: Sequence[Sequence[Alert]], notify_driver: str | None) -> None:
        self._settings = settings
        self._groups = groups
        self._notify_driver = notify_driver

    async def what(self, node: NodeDefinition) -> str:
        match node.type:
            case NodeType.INGEST:
                alerts = sum(len(group) for group in self._groups)
                return f"takes in {alerts} {'alert' if alerts == 1 else 'alerts'}"
            case NodeType.CONTEXT:
                own = ContextNode.model_validate(node.config)
                config = CheckConfig.from_settings(self._settings, names=own.checker_names, configs=own.checker_configs)
                return f"checks {', '.join(config.names) or 'nothing'}"
            case NodeType.INTELLIGENCE:
                provider = IntelligenceNode.model_validate(node.config).provider
                return f"asks {provider or 'the usual provider'} for an analysis"
            case NodeType.NOTIFY:
                return await self._channels(NotifyNode.model_validate(node.config))
            case NodeType.TRANSFORM:
                return _transform(TransformConfig.model_validate(node.config))
            case NodeType.CONDITION:
                return f"decides whether {ConditionConfig.model_validate(node.config).expression}"

    async def _channels(self, own: NotifyNode) -> str:
        said: list[str] = []
        for name in own.names or [self._notify_driver]:
            try:
                chosen = await channels_of(self._settings, name)
            except PipelineError as error:
                said.append(f"would fail: {error}")
            else:
                said += [f"{named.name} ({named.channel.driver} to {named.channel.target})" for named in chosen]
        return f"tells {', '.join(dict.fromkeys(said))}"


def _transform(own: TransformConfig) -> str:
    words = [f"reads {own.source_node}{f'.{own.extract}' if own.extract else ''}"]
    if own.filter_priority:
        words.append(f"keeps what has the priority {' or '.join(own.filter_priority)}")
    if own.mapping:
        words.append(f"makes {', '.join(own.mapping)} of it")
    return ", ".join(words)


def show_definition_dry_run(
    settings: Settings,
    definition: Definition,
    payload: dict[str, Any] | None,
    *,
    name: str,
    version: int | None,
    source: str,
    notify_driver: str | None,
    as_json_text: bool,
) -> int:
    """Print what would happen; nothing is written and nothing is sent.

    Raises:
        BadInput: what would be refused.
    """
    push = None if payload is None else parse_push(payload, source=source)
    groups = split_by_incident(push.alerts) if push is not None else []
    previews = asyncio.run(_previews(settings, definition, groups, notify_driver))
    runs = [title_of(group) for group in groups] or [definition.description or name]
    if as_json_text:
        as_json(
            {
                "dry_run": True,
                "definition": name,
                "version": version,
                "source": push.source if push else source,
                "notes": list(push.errors) if push else [],
                "runs": runs,
                "nodes": [preview.model_dump(mode="json") for preview in previews],
            }
        )
        return 0
    output.print("Dry run: nothing is written, nothing is sent", style="bold", markup=False)
    output.print(f"  Definition: {name}{f', version {version}' if version else ''}", markup=False)
    for note in push.errors if push else ():
        output.print(f"  !           {note}", markup=False)
    for run in runs:
        output.print(f"  Run:        {run}", markup=False)
    output.print("  Graph", style="bold")
    for line in draw(definition):
        output.print(f"    {line}", markup=False)
    output.print("  What each node would do", style="bold")
    width = max(len(preview.id) for preview in previews)
    for preview in previews:
        output.print(f"    {preview.id:<{width}}  {preview.what}", markup=False)
    return 0
