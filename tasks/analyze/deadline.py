"""A page waits for a model until its deadline. Then the local analysis goes into the page, and the answer follows it.

What follows is a run of the one queue. It waits there while the model is asked, is due as soon as the model has
answered, and is executed without its answer, and so asks again, if the process that asked has died.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

from orchestration.analysis import MODEL, AnalysisInput
from orchestration.contracts import AnalyzeResult
from orchestration.engine.run import ActiveRun, Step
from orchestration.errors import ModelUnavailable, Unavailable
from orchestration.signals import logger
from orchestration.states import RunReason
from orchestration.store.follow_ups import add_follow_up, hasten
from orchestration.store.model_questions import find_answer
from tasks.analyze.model.provider import NOTE, ModelAnalysis

_SPARE_SECONDS = 5.0
"""How much later than the end of the question its run is due, if nobody says that the question has ended."""

_SHARE_OF_THE_STAGE = 0.9
"""The part of the time limit of a stage that a model gets; the rest is for the local analysis."""


@dataclass(frozen=True, kw_only=True)
class PatientAnalysis:
    """Asks the model of one run's node, and waits for its answer until the deadline of the run's page."""

    model: ModelAnalysis
    run: ActiveRun
    step: Step

    name = MODEL

    async def analyze(self, case: AnalysisInput) -> AnalyzeResult:
        """The model's analysis, or at the deadline the local one, with a word that the model's follows.

        Raises:
            ModelUnavailable: the model gave none. It is worth a retry only if that begins before the deadline.
            BadSetting: the packages that ask models are not installed.
            Unavailable: the database does not answer.
        """
        if (found := await self._answered()) is not None:
            return found
        key = self.model.key(case)
        pending = self.run.services.pending_answers
        asked = pending.ask(key, lambda: self.model.analyze(case))
        async with self.run.waits.outside(self.step.node.id):
            await asyncio.wait({asked}, timeout=max(self._seconds_left(), 0.0))
        if not asked.done():
            return await self._meanwhile(case, key, asked)
        try:
            return asked.result()
        except ModelUnavailable as error:
            raise self._in_time(error) from error

    async def _answered(self) -> AnalyzeResult | None:
        """The answer for which this run was queued; None if it was queued for none, or there is none."""
        if (key := self.run.record.options.answer) is None:
            return None
        async with self.run.services.database.statement() as tx:
            return await find_answer(tx, key)

    def _seconds_left(self) -> float:
        """The time until the deadline. A run that only brings messages up to date has that of its stage."""
        settings = self.run.services.settings
        seconds = (self.step.timeout_seconds or settings.stage_timeout_seconds) * _SHARE_OF_THE_STAGE
        if self._page_waits:
            spent = time.monotonic() - self.run.tries[self.step.node.id].began_at
            seconds = min(settings.analyze_timeout_seconds - spent, seconds)
        return seconds

    @property
    def _page_waits(self) -> bool:
        return not self.run.record.reason.disturbs_nobody

    def _in_time(self, error: ModelUnavailable) -> ModelUnavailable:
        """The error, which is final if the next attempt would begin after the deadline."""
        tries = self.run.tries[self.step.node.id].count
        delay = max(self.run.services.settings.backoff_factor**tries, error.retry_after_seconds or 0.0)
        if not error.retryable or not self._page_waits or delay < self._seconds_left():
            return error
        return ModelUnavailable(str(error), retryable=False)

    async def _meanwhile(self, case: AnalysisInput, key: str, asked: asyncio.Task[AnalyzeResult]) -> AnalyzeResult:
        """The local analysis, while the question goes on."""
        local = await self.model.local.analyze(case)
        note = f"the model {self.model.options.model!r} has not answered yet"
        run_id = await self._queue(key) if self._page_waits else None
        if run_id is not None:
            self.run.services.pending_answers.then(asked, lambda: self._hasten(run_id))
        said = {NOTE: note, "awaits": MODEL, "follows": run_id is not None}
        return local.model_copy(update={"model_info": {**local.model_info, **said}})

    async def _queue(self, key: str) -> str | None:
        """Queue the run that brings the answer into the messages; None if the run is about no incident."""
        record = self.run.record
        if record.incident_id is None:
            return None
        async with self.run.services.database.transaction() as tx:
            return await add_follow_up(
                tx,
                int(record.incident_id),
                RunReason.ANALYSIS,
                follows=record.run_id,
                due_in_seconds=self.model.options.seconds + _SPARE_SECONDS,
                options={"follows": record.run_id, "answer": key},
            )

    async def _hasten(self, run_id: str) -> None:
        with suppress(Unavailable):  # then it is due at its time
            async with self.run.services.database.transaction() as tx:
                await hasten(tx, run_id)
            logger.info("The model has ended its late answer: run %s brings it into the messages", run_id)
