"""`--dry-run`: what a push would do, without a stack, a row or a message."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from orchestration.alert import Alert, AlertStatus, Incident, Severity
from orchestration.analysis import AnalysisInput
from orchestration.contracts import CheckResult, Contract, StageContext
from orchestration.embedded_stack import find_running_stack
from orchestration.message import Message, NamedChannel
from orchestration.settings import Settings
from orchestration.store.records import new_id
from service.cli.terminal import as_json, output
from tasks.analyze.local import LocalAnalysis
from tasks.check.stage import CheckConfig, check
from tasks.ingest.inbox import title_of
from tasks.ingest.incidents import split_by_incident
from tasks.ingest.sources import Push, parse_push
from tasks.notify.message import MessageSubject, render_message


class Preview(Contract):
    """What one run would do. The checks and the analysis are real; they only look."""

    incident_key: str | None
    title: str
    severity: Severity
    status: AlertStatus
    alerts: list[str]
    checks: list[str]
    channels: list[str]
    message: str


def show_dry_run(
    settings: Settings,
    payload: dict[str, Any] | None,
    *,
    source: str,
    environment: str,
    notify_driver: str | None,
    as_json_text: bool,
) -> int:
    """Print what would happen; nothing is written and nothing is sent.

    Raises:
        BadInput: what would be refused.
    """
    push = Push(source=source, alerts=(), errors=()) if payload is None else parse_push(payload, source=source)
    previews = asyncio.run(_preview_all(settings, push, environment, notify_driver))
    if as_json_text:
        runs = [preview.model_dump(mode="json") for preview in previews]
        as_json({"dry_run": True, "source": push.source, "notes": list(push.errors), "runs": runs})
        return 0
    output.print("Dry run: nothing is written, nothing is sent", style="bold", markup=False)
    output.print(f"  Source:    {push.source}", markup=False)
    for note in push.errors:
        output.print(f"  !          {note}", markup=False)
    for preview in previews:
        _show(preview)
    return 0


async def _preview_all(settings: Settings, push: Push, environment: str, notify_driver: str | None) -> list[Preview]:
    channels = await channels_of(settings, notify_driver)
    checks = CheckConfig.from_settings(settings)
    context = StageContext(trace_id=new_id(), run_id=new_id(), environment=environment, source=push.source)
    checked = await check(context, checks) if checks.names else None
    groups = split_by_incident(push.alerts) or [[]]
    return [await _preview(context, group, checked, checks.names, channels) for group in groups]


async def _preview(
    context: StageContext,
    alerts: Sequence[Alert],
    checked: CheckResult | None,
    checks: Sequence[str],
    channels: Sequence[NamedChannel],
) -> Preview:
    incident = _incident(alerts)
    resolved = bool(alerts) and not any(alert.firing for alert in alerts)
    if resolved:
        checked, checks = None, ()
    analysis = (
        None
        if resolved
        else await LocalAnalysis().analyze(AnalysisInput(incident=incident, alerts=alerts, check=checked))
    )
    message = render_message(
        MessageSubject(
            run_id=context.run_id,
            trace_id=context.trace_id,
            source=context.source,
            environment=context.environment,
            node_id="notify",
            incident=incident,
            alerts=alerts,
            reason="",
            check=checked,
            analysis=analysis,
            firing=sum(alert.firing for alert in alerts),
            resolved=sum(not alert.firing for alert in alerts),
        )
    )
    return _described(alerts, checks, channels, message)


def _described(
    alerts: Sequence[Alert], checks: Sequence[str], channels: Sequence[NamedChannel], message: Message
) -> Preview:
    return Preview(
        incident_key=alerts[0].incident_key if alerts else None,
        title=title_of(alerts) if alerts else "Host health",
        severity=message.severity,
        status=message.status,
        alerts=[f"{alert.name} ({alert.status}, {alert.severity}, {alert.fingerprint})" for alert in alerts],
        checks=list(checks),
        channels=[f"{named.name}: {named.channel.driver} to {named.channel.target}" for named in channels],
        message=message.text,
    )


def _incident(alerts: Sequence[Alert]) -> Incident | None:
    """The incident that the alerts would open, if they are the first of their key."""
    if not alerts:
        return None
    lead = alerts[0]
    return Incident(
        id="new",
        incident_key=lead.incident_key,
        title=title_of(alerts),
        severity=Severity.worst(*(alert.severity for alert in alerts)),
        description=lead.description,
        opened_at=datetime.now(UTC),
    )


async def channels_of(settings: Settings, name: str | None) -> Sequence[NamedChannel]:
    """The channels as the environment has them, and as a Prefect that runs already has them.

    Raises what `ChannelResolver.select()` does.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from blocks.channels.resolver import ChannelResolver

    stack = find_running_stack(settings)
    url = settings.prefect_api_url or (stack.prefect_api_url if stack else None)
    with temporary_settings({PREFECT_API_URL: url}):
        return await ChannelResolver(settings, blocks_known=url is not None).select(name)


def _show(preview: Preview) -> None:
    output.print()
    rows = {
        "Run": f"{preview.title} ({preview.status}, {preview.severity})",
        "Incident": preview.incident_key or "none",
        "Alerts": "\n             ".join(preview.alerts[:20]) or "none",
        "Checks": ", ".join(preview.checks) or "none",
        "Channels": ", ".join(preview.channels),
    }
    if len(preview.alerts) > 20:
        rows["Alerts"] += f"\n             and {len(preview.alerts) - 20} more"
    for label, value in rows.items():
        output.print(f"  {label + ':':<10} {value}", markup=False)
    output.print("  Message:", markup=False)
    for line in preview.message.splitlines():
        output.print(f"    │ {line}", markup=False)
