"""Notify: one message about the run, once on each of its channels."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import cast

from pydantic import Field

from orchestration.contracts import (
    AnalyzeResult,
    CheckResult,
    IngestResult,
    NotifyResult,
    Stage,
    StageContext,
    TransformResult,
)
from orchestration.engine.run import ActiveRun, NodeKind, Step
from orchestration.errors import DeliveryFailed
from orchestration.graph import Name, NodeConfig
from orchestration.message import NamedChannel
from orchestration.store import incidents
from orchestration.store.database import Database
from orchestration.store.story import all_checks
from tasks.notify.ledger import Outside, deliver
from tasks.notify.message import MessageSubject, render_message, with_key


@dataclass(frozen=True, kw_only=True)
class NotifyConfig:
    """What the message says, and where it goes."""

    database: Database
    channels: Sequence[NamedChannel]
    subject: MessageSubject
    outside: Outside = nullcontext
    """Where it waits for a channel, so that a channel that hangs does not keep the run's slot."""


async def notify(_context: StageContext, config: NotifyConfig) -> NotifyResult:
    """Send the message on every channel at once; channels that have it already are not sent it again.

    Raises:
        DeliveryFailed: at least one channel did not take it; the others have it. Worth a retry if it is for
            one of those that failed.
        Unavailable: the ledger cannot be read or written.
    """
    message = render_message(config.subject)
    endings = await asyncio.gather(
        *(
            deliver(config.database, config.subject.node_id, named, with_key(message, named.name), config.outside)
            for named in config.channels
        ),
        # An error on one channel must not leave the others at work while the next attempt begins.
        return_exceptions=True,
    )
    if broken := [ended for ended in endings if isinstance(ended, BaseException)]:
        raise broken[0]
    outcomes = [ended for ended in endings if not isinstance(ended, BaseException)]
    failures = {delivery.channel: failure for delivery, failure in outcomes if failure is not None}
    if failures:
        waits = [failure.retry_after_seconds for failure in failures.values() if failure.retry_after_seconds]
        others = f" ({len(outcomes) - len(failures)} of {len(outcomes)} channels have it)" if len(outcomes) > 1 else ""
        raise DeliveryFailed(
            "; ".join(f"{channel}: {failure}" for channel, failure in failures.items()) + others,
            retryable=any(failure.retryable for failure in failures.values()),
            retry_after_seconds=max(waits, default=None),
        )
    deliveries = [delivery for delivery, _ in outcomes]
    return NotifyResult(
        deliveries=deliveries,
        provider_ids=[delivery.provider_id for delivery in deliveries if delivery.provider_id],
        messages=[message.text] if config.channels else [],
        channels_attempted=len(deliveries),
        channels_succeeded=len(deliveries),
    )


class NotifyNode(NodeConfig):
    """Where the message goes: channels or drivers. Without any: where the run says, else the default channels."""

    driver: Name | None = None
    channel: Name | None = None
    channels: list[Name] = Field(default_factory=list[str], max_length=50)

    @property
    def names(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys(name for name in (*self.channels, self.channel, self.driver) if name))


async def _set_up(run: ActiveRun, step: Step) -> NotifyConfig:
    names = cast("NotifyNode", step.config).names or [run.record.options.notify_driver]
    chosen = [named for name in names for named in await run.services.channels.select(name)]
    return NotifyConfig(
        database=run.services.database,
        channels=list({named.name: named for named in chosen}.values()),
        subject=await _subject_of(run, step),
        outside=partial(run.waits.outside, step.node.id),
    )


async def _subject_of(run: ActiveRun, step: Step) -> MessageSubject:
    record = run.record
    incident, firing, resolved = None, 0, 0
    if record.incident_id is not None:
        async with run.services.database.statement() as tx:
            incident, firing, resolved = await incidents.get_incident_with_counts(tx, record.incident_id)
    ingested = run.found(IngestResult, step.before)
    analyses = run.found(AnalyzeResult, step.before)
    results = {node_id: run.results.get(node_id) for node_id in step.before}
    return MessageSubject(
        run_id=record.run_id,
        trace_id=record.trace_id,
        source=record.source,
        environment=record.environment,
        node_id=step.node.id,
        incident=incident,
        alerts=run.alerts,
        reason=ingested[-1].reason if ingested else "",
        check=all_checks(run.found(CheckResult, step.before)),
        analysis=analyses[-1] if analyses else None,
        extracts={node_id: made.output for node_id, made in results.items() if isinstance(made, TransformResult)},
        firing=firing,
        resolved=resolved,
        title=record.title if record.options.defined else "",
        test=record.options.test,
    )


NOTIFY = NodeKind(
    name="notify",
    stage=Stage.NOTIFY,
    config=NotifyNode,
    result=NotifyResult,
    function=notify,
    set_up=_set_up,
    result_ref="notify_output_ref",
    run_ref="notify_output_ref",
    notifies=True,
)
