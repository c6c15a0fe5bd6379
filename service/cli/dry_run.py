"""`run_pipeline --dry-run`: shows what a run would do. It starts no stack, writes nothing and sends nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from orchestration.alert import Alert, AlertStatus, Incident, Severity, title_of
from orchestration.analysis import AnalysisInput
from orchestration.contracts import CheckResult, Contract, StageContext
from orchestration.embedded_stack import find_running_stack
from orchestration.engine.plan import INLINE
from orchestration.errors import PipelineError
from orchestration.graph import ConditionConfig, Definition, Graph, NodeDefinition
from orchestration.graph.drawing import draw
from orchestration.message import NamedChannel
from orchestration.requests import RunRequest
from orchestration.settings import Settings
from orchestration.store.records import new_id
from service.cli.definition_input import check_payload, load_definition
from service.cli.prometheus import CommandPrometheus
from service.cli.source_input import known_sources
from service.cli.terminal import as_json, output, show_facts
from tasks.analyze.local import LocalAnalysis
from tasks.analyze.stage import IntelligenceNode
from tasks.check.stage import CheckConfig, ContextNode, check, subject_of
from tasks.ingest.incidents import split_by_incident
from tasks.ingest.sources import Push, parse_push
from tasks.ingest.stage import IngestNode
from tasks.kinds import KINDS
from tasks.notify.message import render_message
from tasks.notify.stage import NotifyNode
from tasks.notify.subject import MessageSubject
from tasks.transform.stage import TransformConfig

_MAX_ALERTS_SHOWN = 20


class RunPreview(Contract):
    """What one run of the linear pipeline would do. The checks and the analysis are real, since they only read."""

    incident_key: str | None
    title: str
    severity: Severity
    status: AlertStatus
    alerts: list[str]
    checks: list[str]
    channels: list[str]
    message: str


class NodePreview(Contract):
    """What one node of a definition would do. Nothing is checked or analyzed for it."""

    id: str
    type: str
    what: str
    next: list[str]
    required: bool


def show_dry_run(settings: Settings, request: RunRequest, *, json: bool) -> None:
    """Print what the runs of a request would do.

    Raises:
        BadInput: a real run would be refused.
        Unavailable: the database with the stored definition does not answer.
    """
    if request.options.defined:
        _dry_run_definition(settings, request, json=json)
    else:
        _dry_run_linear(settings, request, json=json)


def _dry_run_linear(settings: Settings, request: RunRequest, *, json: bool) -> None:
    if request.options.checks_only:
        push = Push(source=request.source, alerts=(), errors=())
    else:
        push = parse_push(request.payload, source=request.source, sources=known_sources(settings))
    previews = asyncio.run(_preview_runs(settings, push, request))
    if json:
        runs = [preview.model_dump(mode="json") for preview in previews]
        as_json({"dry_run": True, "source": push.source, "notes": list(push.errors), "runs": runs})
        return
    _show_head("Source", push.source, push.errors)
    for preview in previews:
        _show_run(preview)


def _dry_run_definition(settings: Settings, request: RunRequest, *, json: bool) -> None:
    definition, version = load_definition(settings, request)
    ingests = check_payload(request, definition)
    push = parse_push(request.payload, source=request.source, sources=known_sources(settings)) if ingests else None
    groups = split_by_incident(push.alerts) if push is not None else []
    previews = asyncio.run(_preview_nodes(settings, definition, groups, request.options.notify_driver))
    name = request.options.definition or INLINE
    runs = [title_of(group) for group in groups] or [definition.description or name]
    notes = push.errors if push else ()
    if json:
        as_json(
            {
                "dry_run": True,
                "definition": name,
                "version": version,
                "source": push.source if push else request.source,
                "notes": list(notes),
                "runs": runs,
                "nodes": [preview.model_dump(mode="json") for preview in previews],
            }
        )
        return
    _show_head("Pipeline", name + (f", version {version}" if version else ""), notes)
    for run in runs:
        show_facts({"Run": run})
    _show_nodes(definition, previews)


async def _preview_runs(settings: Settings, push: Push, request: RunRequest) -> list[RunPreview]:
    channels = await _select_channels(settings, request.options.notify_driver)
    context = StageContext(
        trace_id=request.trace_id or new_id(), run_id=new_id(), environment=request.environment, source=push.source
    )
    previews: list[RunPreview] = []
    groups = split_by_incident(push.alerts) or [[]]
    checked = await asyncio.gather(*(_checked(settings, context, alerts) for alerts in groups))
    for alerts, found in zip(groups, checked, strict=True):
        incident = _new_incident(alerts) if alerts else None
        firing = sum(alert.firing for alert in alerts)
        analysis = None
        if firing or not alerts:
            analysis = await LocalAnalysis().analyze(AnalysisInput(incident=incident, alerts=alerts, check=found))
        subject = MessageSubject(
            run_id=context.run_id,
            trace_id=context.trace_id,
            source=context.source,
            environment=context.environment,
            node_id="notify",
            incident=incident,
            alerts=alerts,
            reason="",
            check=found,
            analysis=analysis,
            firing=firing,
            resolved=len(alerts) - firing,
            test=request.options.test,
        )
        message = render_message(subject)
        previews.append(
            RunPreview(
                incident_key=incident.incident_key if incident else None,
                title=incident.title if incident else "Host health",
                severity=message.severity,
                status=message.status,
                alerts=[f"{alert.name} ({alert.status}, {alert.severity}, {alert.fingerprint})" for alert in alerts],
                checks=[one.name for one in found.checks] if found else [],
                channels=[f"{named.name}: {named.channel.driver} to {named.channel.target}" for named in channels],
                message=message.text,
            )
        )
    return previews


async def _checked(settings: Settings, context: StageContext, alerts: Sequence[Alert]) -> CheckResult | None:
    """The checks of one run; None if it has none: one of resolved alerts checks and analyzes nothing."""
    if alerts and not any(alert.firing for alert in alerts):
        return None
    subject = await subject_of(alerts, settings, CommandPrometheus(settings), environment=context.environment)
    config = CheckConfig.from_settings(settings, subject=subject)
    return await check(context, config) if config.names else None


def _new_incident(alerts: Sequence[Alert]) -> Incident:
    """The incident that the alerts would open if no incident has their key yet."""
    lead = alerts[0]
    return Incident(
        id="new",
        incident_key=lead.incident_key,
        title=title_of(alerts),
        severity=Severity.worst(*(alert.severity for alert in alerts)),
        description=lead.description,
        opened_at=datetime.now(UTC),
    )


async def _preview_nodes(
    settings: Settings, definition: Definition, groups: Sequence[Sequence[Alert]], notify_driver: str | None
) -> list[NodePreview]:
    if notify_driver is not None:
        await _select_channels(settings, notify_driver)  # a real run with a wrong channel is refused as well
    graph = Graph(definition)
    alert_count = sum(len(group) for group in groups)
    return [
        NodePreview(
            id=node_id,
            type=graph.nodes[node_id].type,
            what=await _describe(graph.nodes[node_id], settings, alert_count, notify_driver),
            next=list(graph.successors(node_id)),
            required=graph.nodes[node_id].required,
        )
        for node_id in graph.order
    ]


async def _describe(node: NodeDefinition, settings: Settings, alert_count: int, notify_driver: str | None) -> str:
    config = KINDS.by_type[node.type].config.model_validate(node.config)
    match config:
        case IngestNode():
            return f"ingests {alert_count} {'alert' if alert_count == 1 else 'alerts'}"
        case ContextNode(checker_names=names, checker_configs=configs):
            checks = CheckConfig.from_settings(settings, names=names, configs=configs)
            return f"checks {', '.join(checks.names) or 'nothing'}"
        case IntelligenceNode(provider=provider):
            return f"asks {provider or 'the default provider'} for an analysis"
        case NotifyNode():
            return await _describe_channels(settings, config.names or [notify_driver])
        case TransformConfig():
            texts = [f"reads {config.source_node}{f'.{config.extract}' if config.extract else ''}"]
            if config.filter_priority:
                texts.append(f"keeps items with the priority {' or '.join(config.filter_priority)}")
            if config.mapping:
                texts.append(f"maps them to {', '.join(config.mapping)}")
            return ", ".join(texts)
        case ConditionConfig(expression=expression):
            return f"decides whether {expression}"
        case _:
            return f"runs {node.type}"


async def _describe_channels(settings: Settings, names: Sequence[str | None]) -> str:
    texts: list[str] = []
    for name in names:
        try:
            channels = await _select_channels(settings, name)
            texts += [f"{named.name} ({named.channel.driver} to {named.channel.target})" for named in channels]
        except PipelineError as error:
            texts.append(f"would fail: {error}")
    return f"notifies {', '.join(dict.fromkeys(texts))}"


async def _select_channels(settings: Settings, name: str | None) -> Sequence[NamedChannel]:
    """Find channels in the settings, and among the blocks of a Prefect that already runs. None means the default."""
    from prefect.settings import temporary_settings

    from blocks.channels.resolver import ChannelResolver
    from blocks.prefect_api import address_settings

    stack = find_running_stack(settings)
    url = settings.prefect_api_url or (stack.prefect_api_url if stack else None)
    with temporary_settings(address_settings(settings, url)):
        return await ChannelResolver(settings, blocks_known=url is not None).select(name)


def _show_head(label: str, value: str, notes: Sequence[str]) -> None:
    output.print("Dry run: nothing is written, nothing is sent", style="bold")
    show_facts({label: value})
    for note in notes:
        output.print(f"  {'!':<10} {note}")


def _show_run(preview: RunPreview) -> None:
    shown, more = preview.alerts[:_MAX_ALERTS_SHOWN], len(preview.alerts) - _MAX_ALERTS_SHOWN
    alerts = [*shown, f"and {more} more"] if more > 0 else shown
    facts = {
        "Run": f"{preview.title} ({preview.status}, {preview.severity})",
        "Incident": preview.incident_key or "none",
        "Alerts": f"\n{'':<13}".join(alerts) or "none",
        "Checks": ", ".join(preview.checks) or "none",
        "Channels": ", ".join(preview.channels),
    }
    output.print()
    show_facts(facts)
    output.print("  Message:")
    for line in preview.message.splitlines():
        output.print(f"    │ {line}")


def _show_nodes(definition: Definition, previews: Sequence[NodePreview]) -> None:
    output.print("  Graph", style="bold")
    for line in draw(definition):
        output.print(f"    {line}")
    output.print("  What each node would do", style="bold")
    width = max(len(preview.id) for preview in previews)
    for preview in previews:
        output.print(f"    {preview.id:<{width}}  {preview.what}")
