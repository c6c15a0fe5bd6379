"""Correlation ids in the log, also while several runs are executed at the same time."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from orchestration.analysis import AnalysisInput
from orchestration.contracts import AnalyzeResult
from orchestration.engine.execution import Execution
from orchestration.engine.lease import lease_run
from orchestration.engine.run import Services
from orchestration.errors import Unavailable
from orchestration.signals import correlated, logger
from tests.inbox_helpers import accept_push


class BrokenAnalysis:
    """A model that is down."""

    name = "model"

    async def analyze(self, case: AnalysisInput) -> AnalyzeResult:
        raise Unavailable("the model answered 503")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="alert_pipeline")
    return caplog


async def test_every_line_of_a_run_says_its_trace_and_its_run(
    services: Services, lines: pytest.LogCaptureFixture
) -> None:
    quick = {"max_retries_per_stage": 0, "intelligence_fallback_enabled": False}
    services = replace(services, analysis=BrokenAnalysis(), settings=services.settings.model_copy(update=quick))

    async def execute(name: str) -> str:
        where: dict[str, Any] = {"source": "generic", "environment": "test", "trace_id": f"trace of {name}"}
        (run_id,) = await accept_push(services, {"name": name}, **where)
        async with lease_run(services, run_id, engine="test") as run:
            await Execution(run).execute_directly()
        return run_id

    first, second = await asyncio.gather(execute("One"), execute("Two"))

    told = [record.getMessage() for record in lines.records if "failed in stage" in record.getMessage()]
    assert sorted(line[line.index("trace_id=") :] for line in told) == sorted(
        [f'trace_id="trace of One" run_id={first}', f'trace_id="trace of Two" run_id={second}']
    )


async def test_threads_and_tasks_of_a_run_say_it_too_and_what_follows_does_not(
    lines: pytest.LogCaptureFixture,
) -> None:
    with correlated(trace_id="t1", run_id="r1"):
        await asyncio.to_thread(logger.info, "%d %% full", 99)
        await asyncio.create_task(asyncio.to_thread(logger.info, "100% full"))
    logger.info("idle")

    assert [record.getMessage() for record in lines.records] == [
        "99 % full trace_id=t1 run_id=r1",
        "100% full trace_id=t1 run_id=r1",
        "idle",
    ]
    assert lines.records[0].__dict__["run_id"] == "r1"
