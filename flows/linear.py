"""The linear pipeline, ingest → check → analyze → notify, as a list that can be read.

Who makes a step's attempts (Prefect's tasks, or a loop of our own) is the caller's matter.
"""

from __future__ import annotations

from typing import Protocol

from orchestration.alert import IncidentStatus
from orchestration.contracts import AnalyzeResult, CheckResult, IngestResult, NotifyResult, Stage
from orchestration.signals import logger
from orchestration.states import RunStatus
from orchestration.store.records import Node
from tasks.analyze.stage import fallback_spec
from tasks.ingest.stage import alerts_of
from tasks.run import ActiveRun
from tasks.stage import StageFailed, run_stage

INGEST, CHECK, ANALYZE, NOTIFY = (Node.of(stage) for stage in Stage)

CHECKS_ONLY = "checks_only"
ALL_CLEAR = "resolved"
CHECKS_OFF = "checkers_skip_all"


class Steps(Protocol):
    """The four stages, each with its retries."""

    async def ingest(self, run: ActiveRun) -> IngestResult: ...

    async def check(self, run: ActiveRun) -> CheckResult: ...

    async def analyze(self, run: ActiveRun) -> AnalyzeResult: ...

    async def notify(self, run: ActiveRun) -> NotifyResult: ...


async def run_linear(run: ActiveRun, steps: Steps) -> None:
    """Carry a run from where it stands to a final status. Stages that are done are not done again."""
    try:
        if not await _ingest(run, steps):
            return
        await _check(run, steps)
        await _analyze(run, steps)
        if run.result(NOTIFY, NotifyResult) is None:
            await steps.notify(run)
    except StageFailed as failure:
        logger.error("Run %s failed at %s", run.run_id, failure)
        await run.finish(RunStatus.FAILED)
    else:
        await run.finish(RunStatus.NOTIFIED)


async def _ingest(run: ActiveRun, steps: Steps) -> bool:
    """Whether the run goes on: False when nobody is told."""
    if run.record.options.checks_only:
        await _skip(run, INGEST, CHECKS_ONLY)
        return True
    ingested = run.result(INGEST, IngestResult) or await steps.ingest(run)
    if ingested.tell:
        return True
    for node in (CHECK, ANALYZE, NOTIFY):
        await _skip(run, node, ingested.reason)
    await run.finish(RunStatus.SKIPPED, skip_reason=ingested.reason)
    return False


async def _check(run: ActiveRun, steps: Steps) -> None:
    if run.result(CHECK, CheckResult) is not None:
        return
    if await _all_clear(run):
        await _skip(run, CHECK, ALL_CLEAR)
    elif run.services.settings.checkers_skip_all:
        await _skip(run, CHECK, CHECKS_OFF)
    else:
        await steps.check(run)


async def _analyze(run: ActiveRun, steps: Steps) -> None:
    if run.result(ANALYZE, AnalyzeResult) is not None:
        return
    if await _all_clear(run):
        await _skip(run, ANALYZE, ALL_CLEAR)
        return
    try:
        await steps.analyze(run)
    except StageFailed as failure:
        if not run.services.settings.intelligence_fallback_enabled:
            raise
        # The failed attempts stay on record; the page goes out without the analysis.
        await run_stage(run, fallback_spec(failure.error), retries_left=0)


async def _skip(run: ActiveRun, node: Node, reason: str) -> None:
    if node.id not in run.skipped:
        await run.skip(node, reason)


async def _all_clear(run: ActiveRun) -> bool:
    """Whether the run is about a resolved incident: then nobody looks at hosts or asks a model.

    Resolved alerts alone do not say so: a run may have to tell of an incident whose page failed, part of which fires.
    """
    alerts = alerts_of(run.payload)
    if not alerts or any(alert.firing for alert in alerts):
        return False
    incident = await run.incident()
    return incident is None or incident.status in (IncidentStatus.RESOLVED, IncidentStatus.CLOSED)
