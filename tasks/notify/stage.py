"""Notify: one message about the run, once on each of its channels."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestration.contracts import (
    AnalyzeResult,
    CheckResult,
    IngestResult,
    NotifyResult,
    Stage,
    StageContext,
    TransformResult,
)
from orchestration.errors import DeliveryFailed
from orchestration.message import NamedChannel
from orchestration.requests import alerts_of
from orchestration.store import incidents
from orchestration.store.database import Database
from orchestration.store.records import Node
from orchestration.store.story import all_checks
from tasks.notify.ledger import deliver
from tasks.notify.message import MessageSubject, render_message
from tasks.stage import StageSpec

if TYPE_CHECKING:
    from tasks.run import ActiveRun


@dataclass(frozen=True, kw_only=True)
class NotifyConfig:
    """What is told, and where."""

    database: Database
    channels: Sequence[NamedChannel]
    subject: MessageSubject


async def notify(_context: StageContext, config: NotifyConfig) -> NotifyResult:
    """Send the message on every channel at once; channels that have it already are left alone.

    Raises:
        DeliveryFailed: at least one channel did not take it; the others have it. Worth a retry if it is for
            one of those that failed.
        Unavailable: the ledger cannot be read or written.
    """
    messages = [render_message(config.subject, channel=named.name) for named in config.channels]
    endings = await asyncio.gather(
        *(
            deliver(config.database, config.subject.node_id, named, message)
            for named, message in zip(config.channels, messages, strict=True)
        ),
        # One that breaks off must not leave the others at work behind the next try's back.
        return_exceptions=True,
    )
    if broken := [ended for ended in endings if isinstance(ended, BaseException)]:
        raise broken[0]
    outcomes = [ended for ended in endings if not isinstance(ended, BaseException)]
    failures = {delivery.channel: failure for delivery, failure in outcomes if failure is not None}
    if failures:
        told = f" ({len(outcomes) - len(failures)} of {len(outcomes)} channels have it)" if len(outcomes) > 1 else ""
        raise DeliveryFailed(
            "; ".join(f"{channel}: {failure}" for channel, failure in failures.items()) + told,
            retryable=any(failure.retryable for failure in failures.values()),
        )
    deliveries = [delivery for delivery, _ in outcomes]
    return NotifyResult(
        deliveries=deliveries,
        provider_ids=[delivery.provider_id for delivery in deliveries if delivery.provider_id],
        messages=[messages[0].text] if messages else [],
        channels_attempted=len(deliveries),
        channels_succeeded=len(deliveries),
    )


async def configure(run: ActiveRun) -> NotifyConfig:
    """The channels that the run asks for, each once, and what there is to tell."""
    channels = await run.services.channels.select(run.record.options.notify_driver)
    return NotifyConfig(
        database=run.services.database,
        channels=list({named.name: named for named in channels}.values()),
        subject=await subject_of(run, Node.of(Stage.NOTIFY)),
    )


async def subject_of(run: ActiveRun, node: Node, before: Sequence[str] | None = None) -> MessageSubject:
    """Everything that the message is made of. `before` are the nodes that it tells of; None: all that are done."""
    record = run.record
    incident, firing, resolved = None, 0, 0
    if record.incident_id is not None:
        async with run.services.database.statement() as tx:
            incident, firing, resolved = await incidents.get_incident_with_counts(tx, record.incident_id)
    ingested = run.found(IngestResult, before)
    analyses = run.found(AnalyzeResult, before)
    done = run.results if before is None else [one for one in before if one in run.results]
    return MessageSubject(
        run_id=record.run_id,
        trace_id=record.trace_id,
        source=record.source,
        environment=record.environment,
        node_id=node.id,
        incident=incident,
        alerts=alerts_of(run.payload),
        reason=ingested[-1].reason if ingested else "",
        check=all_checks(run.found(CheckResult, before)),
        analysis=analyses[-1] if analyses else None,
        extracts={one: made.output for one in done if isinstance(made := run.results[one], TransformResult)},
        firing=firing,
        resolved=resolved,
        title=record.title if record.options.defined else "",
    )


NOTIFY = StageSpec(stage=Stage.NOTIFY, function=notify, configure=configure)
