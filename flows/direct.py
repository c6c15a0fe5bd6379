"""The direct engine: the same four stages with the same retries, without Prefect.

A worker uses it when Prefect does not answer, or when a critical alert would wait too long.
"""

from __future__ import annotations

import asyncio

from orchestration.contracts import AnalyzeResult, CheckResult, IngestResult, NotifyResult
from orchestration.redaction import redact_text
from orchestration.signals import logger
from tasks.analyze.stage import ANALYZE
from tasks.check.stage import CHECK
from tasks.ingest.stage import INGEST
from tasks.notify.stage import NOTIFY
from tasks.run import ActiveRun
from tasks.stage import ConfigT, ResultT, StageFailed, StageSpec, run_stage

ENGINE = "direct"


class DirectSteps:
    """The stages as plain calls, which retry as the settings say."""

    async def ingest(self, run: ActiveRun) -> IngestResult:
        return await try_stage(run, INGEST)

    async def check(self, run: ActiveRun) -> CheckResult:
        return await try_stage(run, CHECK)

    async def analyze(self, run: ActiveRun) -> AnalyzeResult:
        return await try_stage(run, ANALYZE)

    async def notify(self, run: ActiveRun) -> NotifyResult:
        return await try_stage(run, NOTIFY)


async def try_stage(run: ActiveRun, spec: StageSpec[ConfigT, ResultT]) -> ResultT:
    """Try a stage until it succeeds, its error is not worth a retry, or all retries are used up.

    Raises:
        StageFailed: the last attempt's.
    """
    delays = run.services.settings.retry_delays
    for retry, delay in enumerate(delays):
        try:
            return await run_stage(run, spec, retries_left=len(delays) - retry)
        except StageFailed as failure:
            if not failure.retryable:
                raise
            logger.info("Run %s tries again in %g s: %s", run.run_id, delay, redact_text(str(failure)))
            await asyncio.sleep(delay)
    return await run_stage(run, spec, retries_left=0)
