"""The direct engine: the same nodes with the same retries, without Prefect.

A worker uses it when Prefect does not answer, or when a critical alert would wait too long.
"""

from __future__ import annotations

import asyncio

from orchestration.contracts import Contract
from orchestration.redaction import redact_text
from orchestration.signals import logger
from tasks.run import ActiveRun
from tasks.stage import StageFailed, Step, try_step

ENGINE = "direct"


class DirectSteps:
    """The nodes as plain calls, which retry as their definition or the settings say."""

    async def take(self, run: ActiveRun, step: Step) -> Contract:
        """Try a node until it succeeds, its error is not worth a retry, or all retries are used up.

        Raises:
            StageFailed: the last attempt's.
        """
        delays = run.services.settings.delays(step.retries(run.services.settings))
        for retry, delay in enumerate(delays):
            try:
                return await try_step(run, step, retries_left=len(delays) - retry)
            except StageFailed as failure:
                if not failure.retryable:
                    raise
                logger.info("Run %s tries again in %g s: %s", run.run_id, delay, redact_text(str(failure)))
                await asyncio.sleep(delay)
        return await try_step(run, step, retries_left=0)
