"""Ingest: the alerts of a run become rows, their incident is opened or updated, and it is decided whether a human is
notified. One transaction, which also keeps the result: a second attempt finds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from orchestration.alert import STORM_KEY, Incident, Severity
from orchestration.contracts import Contract, IngestResult, Stage, StageContext
from orchestration.engine.run import ActiveRun, NodeKind, Step
from orchestration.errors import BadInput, is_retryable
from orchestration.graph import NodeConfig
from orchestration.news import IncidentChange
from orchestration.policy.active import ActivePolicy
from orchestration.policy.model import Timing
from orchestration.reasons import Reason
from orchestration.redaction import redact_text
from orchestration.requests import StoredPush
from orchestration.settings import Settings
from orchestration.signals import logger
from orchestration.states import RunReason
from orchestration.store import actions, incidents, ingest_order, open_storms, runs, storms
from orchestration.store import alerts as alert_store
from orchestration.store.alerts import RecordedAlerts
from orchestration.store.attempts import payload_ref
from orchestration.store.database import Database, Transaction
from orchestration.store.ingest_order import QueuedRun
from orchestration.store.recording import RecordedMeanwhile
from orchestration.store.timers import reschedule, schedule_first
from tasks.ingest import heartbeats
from tasks.ingest.escalate import begin_escalation
from tasks.ingest.follow_up import follow_up
from tasks.ingest.hold import keep_back
from tasks.ingest.incidents import NotifyDecision, decide
from tasks.ingest.storms import route_of

MAX_LATER_RUNS = 50
"""How many runs that were accepted after this one it records, if they wait for their own turn."""

_BY_KEY = (RunReason.PUSH, RunReason.HEARTBEAT)
"""Runs with alerts of their own, which take part in the order of their incident's key. Others follow an incident."""

_HELD_BACK_TOO = (RunReason.MEMBER_ENDED, RunReason.REDELIVERY, RunReason.ACTION)
"""The reasons of runs about which only then is it asked whether something keeps the incident back."""

CHECKS_ONLY = "checks_only"
"""The reason to skip ingest in a run that is about this host's health: there are no alerts."""


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Where ingest writes, and what the run is about."""

    database: Database
    settings: Settings
    policy: ActivePolicy | None = None
    incident_key: str = ""
    reason: RunReason = RunReason.PUSH
    restate: Callable[[dict[str, Any]], None] = lambda _: None
    """Gets what the run is about, if only ingest finds that out."""


async def ingest(context: StageContext, config: IngestConfig) -> IngestResult:
    """Record the alerts of this run, after those of every earlier run of its incident that awaits it.

    So the alerts of an incident are recorded in the order of acceptance, whichever run is claimed first, by whichever
    worker. An earlier run finds its result when it is claimed.

    Raises:
        BadInput: there are none: the run was started for a definition that ingested no alerts then.
        Unavailable: the database does not answer.
    """
    if config.reason not in _BY_KEY:
        return await _follow_up(context, config)
    if config.reason is RunReason.PUSH and not context.payload.get("alerts"):
        raise BadInput(f"Run {context.run_id} was started without an alert: there is nothing to ingest")
    result, follow = None, True
    while result is None:
        result, follow = await _ingest_next(context, config)
    # What was accepted meanwhile is true as well: who is notified hears of it in the same message. But the page of a
    # storm does not wait for thousands that follow.
    for _ in range(MAX_LATER_RUNS):
        if not follow or config.incident_key.startswith(STORM_KEY):
            break
        _, follow = await _ingest_next(context, config)
    return result


async def _ingest_next(context: StageContext, config: IngestConfig) -> tuple[IngestResult | None, bool]:
    """Record the alerts of the next run of this run's incident.

    Returns this run's result, if it has one now, and whether other runs still wait.
    """
    run = None
    try:
        async with config.database.transaction() as tx:
            await incidents.lock_incident(tx, context.environment, config.incident_key)
            # An earlier attempt may have committed this and died before its row was closed; or another run of the
            # incident may have recorded it. To record the alerts again would find nothing new.
            turn = await ingest_order.next_to_ingest(
                tx, context.run_id, environment=context.environment, incident_key=config.incident_key
            )
            own, run = turn.own, turn.next
            result = None if own.ingest_result is None else IngestResult.model_validate(own.ingest_result)
            if run.id == own.id and result is not None:
                return result, turn.more
            payload = context.payload if run.id == own.id else await runs.get_payload(tx, run.run_id)
            if turn.storm_waits and (storm := await _storm_before(tx, run, payload)) is not None:
                run = storm
                if run.awaits_ingest:
                    await _record(tx, run, await runs.get_payload(tx, run.run_id), config)
                return result, True
            if run.id == own.id and config.reason is RunReason.HEARTBEAT:
                return await _look(tx, own, config), turn.more
            recorded = await _record(tx, run, payload, config)
            return recorded if run.id == own.id else result, turn.more
    except RecordedMeanwhile:
        return None, True
    except Exception as error:
        if run is None or run.run_id == context.run_id or is_retryable(error):
            raise
        logger.error("Run %s is left behind by later ones: %s", run.run_id, redact_text(str(error)))
    async with config.database.transaction() as tx:
        await ingest_order.leave_order(tx, run)
    return None, True


async def _storm_before(tx: Transaction, run: QueuedRun, payload: Mapping[str, Any]) -> QueuedRun | None:
    """The run of a storm whose alerts are to be recorded before those of this run, because it has one of them.

    What was folded was accepted before. None means that there is no such run.
    """
    alerts = StoredPush.model_validate(payload).alerts
    if run.incident_key.startswith(STORM_KEY) or not alerts:
        return None
    named = [alert.fingerprint for alert in alerts]
    if (found := await storms.waiting_storm_of(tx, run.environment, alerts[0].source, named)) is None:
        return None
    storm_id, key = found
    # Who records a storm locks its key only; so nobody waits here for somebody who waits for this run's key.
    await incidents.lock_incident(tx, run.environment, key)
    return (await ingest_order.next_to_ingest(tx, storm_id, environment=run.environment, incident_key=key)).next


async def _look(tx: Transaction, run: QueuedRun, config: IngestConfig) -> IngestResult:
    """Record that a heartbeat is missing, if it is, as if somebody had pushed it."""
    found = await heartbeats.look(tx, run)
    if isinstance(found, Reason):
        result = _result(run, StoredPush(), RecordedAlerts(change=IncidentChange()), NotifyDecision(False, found))
        await ingest_order.save_ingest_result(tx, run.run_id, result)
        return result
    payload = found.model_dump(mode="json")
    await runs.change_payload(tx, run.run_id, payload, title=found.alerts[0].title)
    config.restate(payload)
    result = await _record(tx, run, payload, config)
    incident = await incidents.get_incident(tx, str(result.incident_id))
    details = {"text": found.alerts[0].description}
    await actions.note_event(tx, incident, "heartbeat_missing", details, run_id=run.run_id)
    return result


async def _record(tx: Transaction, run: QueuedRun, payload: Mapping[str, Any], config: IngestConfig) -> IngestResult:
    push = StoredPush.model_validate(payload)
    recorded = await alert_store.record_alerts(
        tx,
        push.alerts,
        run,
        all_resolved=push.all_resolved,
        omitted=push.omitted,
        route=partial(route_of, config.policy, push.alerts, run.environment),
    )
    storm = run.incident_key.startswith(STORM_KEY)
    decision = decide(recorded.change, storm=storm)
    if recorded.incident is not None and storm:
        await open_storms.link_folded(tx, push.folded, recorded.incident.id)
        if recorded.change.known and not decision.notify:
            await open_storms.show_growth(tx, recorded.incident.id)
    if recorded.incident is not None:
        decision, incident = await _bring_to_somebody(tx, recorded.incident, recorded.change, decision, config, run)
        recorded = replace(recorded, incident=incident)
        if recorded.change.opened:
            said = Timing() if config.policy is None else config.policy.policy.timing
            await schedule_first(tx, incident, config.settings, run, source=push.alerts[0].source, said=said)
        elif recorded.change.material or recorded.change.severity_lowered or incident.held is not None:
            await reschedule(tx, incident, config.settings, run_id=run.run_id)
    result = _result(run, push, recorded, decision)
    await ingest_order.save_ingest_result(tx, run.run_id, result)
    return result


async def _bring_to_somebody(
    tx: Transaction,
    incident: Incident,
    change: IncidentChange,
    decision: NotifyDecision,
    config: IngestConfig,
    run: QueuedRun,
) -> tuple[NotifyDecision, Incident]:
    """Keep the incident back if something does, else begin its escalation if it has just begun, or got worse."""
    decision, incident = await keep_back(tx, incident, decision, config.policy, run.run_id, flapping=config.settings)
    if decision.notify and change.begins and not incident.status.ended:
        incident = await begin_escalation(tx, incident, config.policy, run.run_id)
    return decision, incident


async def _follow_up(context: StageContext, config: IngestConfig) -> IngestResult:
    """Decide under the incident's lock what a run that nobody pushed is still good for."""
    async with config.database.transaction() as tx:
        run = await ingest_order.get_queued_run(tx, context.run_id)
        if run.ingest_result is not None:
            return IngestResult.model_validate(run.ingest_result)
        incident = await incidents.get_incident(tx, str(run.incident_id))
        await incidents.lock_incident(tx, incident.environment, incident.incident_key)
        incident = await incidents.get_incident(tx, incident.id)
        recorded = RecordedAlerts(change=IncidentChange(known=True), incident=incident)
        match config.reason:
            case RunReason.MEMBER_ENDED:
                recorded = await alert_store.settle_members(tx, int(incident.id), run)
                await reschedule(tx, recorded.incident or incident, config.settings, run_id=run.run_id)
                decision = decide(recorded.change)
            case RunReason.REDELIVERY:
                decision = NotifyDecision(True, Reason.REDELIVERY)
            case RunReason.STATE:
                decision = NotifyDecision(True, Reason.STATE)
            case RunReason.ANALYSIS if incident.status.ended:
                decision = NotifyDecision(False, Reason.ALREADY_RESOLVED)
            case RunReason.ANALYSIS:
                decision = NotifyDecision(True, Reason.ANALYSIS)
            case _:
                decision = await follow_up(tx, incident, run.run_id, config.reason, config.settings, config.policy)
        if decision.notify and config.reason in _HELD_BACK_TOO:
            before = await incidents.get_incident(tx, incident.id)
            flapping = config.settings if _waits_for_quiet(config.reason, before) else None
            decision, after = await keep_back(tx, before, decision, config.policy, run.run_id, flapping=flapping)
            if decision.notify and recorded.change.begins and not after.status.ended:
                after = await begin_escalation(tx, after, config.policy, run.run_id)
            if (after.held, after.escalation) != (before.held, before.escalation):
                await reschedule(tx, after, config.settings, run_id=run.run_id)
        result = _result(run, StoredPush(), recorded, decision)
        await ingest_order.save_ingest_result(tx, run.run_id, result, title=incident.title)
    return result


def _waits_for_quiet(reason: RunReason, incident: Incident) -> bool:
    """Whether what a run says waits while the incident is flapping. What a person has done does not."""
    return reason is RunReason.MEMBER_ENDED or (
        reason is RunReason.REDELIVERY and incident.severity is not Severity.CRITICAL
    )


def _result(run: QueuedRun, push: StoredPush, recorded: RecordedAlerts, decision: NotifyDecision) -> IngestResult:
    change, incident = recorded.change, recorded.incident
    severities = [alert.severity for alert in push.alerts] or ([incident.severity] if incident else [])
    return IngestResult(
        incident_id=incident.id if incident else recorded.kept_by,
        alert_fingerprint=push.alerts[0].fingerprint if push.alerts else None,
        severity=Severity.worst(*severities),
        source=push.alerts[0].source if push.alerts else "unknown",
        normalized_payload_ref=payload_ref(run.run_id),
        alerts_created=recorded.alerts_created,
        alerts_updated=recorded.alerts_updated,
        alerts_resolved=change.newly_resolved,
        incidents_created=int(change.opened),
        incidents_updated=int(not change.opened and change.material),
        errors=push.errors,
        tell=decision.notify,
        reason=decision.reason.value,
        note=decision.note,
    )


async def _set_up(run: ActiveRun, _step: Step) -> IngestConfig:
    return IngestConfig(
        database=run.services.database,
        settings=run.services.settings,
        policy=await run.services.active_policy(),
        incident_key=run.record.incident_key or "",
        reason=run.record.reason,
        restate=run.restate,
    )


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
