"""Ingest: the alerts of a run become rows, their incident is opened or updated, and it is decided whether a human is
notified. One transaction, which also keeps the result: a second attempt finds it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestration.alert import Incident, Severity
from orchestration.contracts import Contract, IngestResult, Stage, StageContext
from orchestration.engine.run import ActiveRun, NodeKind, Step
from orchestration.errors import BadInput
from orchestration.graph import NodeConfig
from orchestration.reasons import Reason
from orchestration.requests import StoredPush
from orchestration.states import RunReason
from orchestration.store import alerts as alert_store
from orchestration.store import runs
from orchestration.store.alerts import RecordedAlerts
from orchestration.store.attempts import payload_ref
from orchestration.store.database import Database
from tasks.ingest.incidents import IncidentChange, NotifyDecision, decide

CHECKS_ONLY = "checks_only"
"""The reason to skip ingest in a run that is about this host's health: there are no alerts."""


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Where ingest writes."""

    database: Database
    redelivers: Incident | None = None
    """The incident of a run that only sends again what was refused: nothing is recorded."""


async def ingest(context: StageContext, config: IngestConfig) -> IngestResult:
    """Record the alerts of this run.

    Raises:
        BadInput: there are none: the run was started for a definition that ingested no alerts then.
        Unavailable: the database does not answer.
    """
    if (incident := config.redelivers) is not None:
        return IngestResult(
            incident_id=incident.id,
            alert_fingerprint=context.alert_fingerprint,
            severity=incident.severity,
            source=context.source,
            reason=Reason.REDELIVERY,
        )
    push = StoredPush.model_validate(context.payload)
    if not push.alerts:
        raise BadInput(f"Run {context.run_id} was started without an alert: there is nothing to ingest")
    async with config.database.transaction() as tx:
        # An earlier attempt may have committed this and died before its row was closed. Recording the alerts again
        # would find nothing new, and nobody would be notified.
        if earlier := await runs.ingest_result(tx, context.run_id):
            return earlier
        recorded = await alert_store.record_alerts(
            tx, push.alerts, run_id=context.run_id, environment=context.environment
        )
        result = _result(context, push, recorded, decide(_change(recorded)))
        await runs.save_ingest_result(tx, context.run_id, result)
    return result


def _change(recorded: RecordedAlerts) -> IncidentChange:
    return IncidentChange(
        opened=recorded.opened,
        reopened=recorded.reopened,
        severity_raised=recorded.severity_raised,
        new_firing=recorded.new_firing,
        newly_resolved=recorded.newly_resolved,
        still_firing=recorded.still_firing,
        resolved=recorded.resolved,
        known=recorded.known,
        notified_before=recorded.told_before,
    )


def _result(
    context: StageContext, push: StoredPush, recorded: RecordedAlerts, decision: NotifyDecision
) -> IngestResult:
    changed = recorded.reopened or recorded.severity_raised or recorded.resolved or bool(recorded.new_firing)
    return IngestResult(
        incident_id=recorded.incident.id if recorded.incident else None,
        alert_fingerprint=push.alerts[0].fingerprint,
        severity=Severity.worst(*(alert.severity for alert in push.alerts)),
        source=context.source,
        normalized_payload_ref=payload_ref(context.run_id),
        alerts_created=recorded.alerts_created,
        alerts_updated=recorded.alerts_updated,
        alerts_resolved=recorded.newly_resolved,
        incidents_created=int(recorded.opened),
        incidents_updated=int(not recorded.opened and changed),
        errors=push.errors,
        tell=decision.notify,
        reason=decision.reason.value,
    )


async def _set_up(run: ActiveRun, _step: Step) -> IngestConfig:
    redelivers = await run.incident() if run.record.reason is RunReason.REDELIVERY else None
    return IngestConfig(database=run.services.database, redelivers=redelivers)


async def _reason_to_skip(run: ActiveRun, _step: Step) -> str | None:
    return CHECKS_ONLY if run.record.options.checks_only else None


def _silences(result: Contract) -> str | None:
    return result.reason if isinstance(result, IngestResult) and not result.tell else None


class IngestNode(NodeConfig):
    """Ingest works on what the run was started with, and needs no config."""


INGEST = NodeKind(
    name="ingest",
    stage=Stage.INGEST,
    config=IngestNode,
    result=IngestResult,
    once=True,
    function=ingest,
    set_up=_set_up,
    result_ref="normalized_payload_ref",
    run_ref="normalized_payload_ref",
    reason_to_skip=_reason_to_skip,
    silences=_silences,
)
