"""The Python API, from a program of one's own: with and without an event loop, on a real stack."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestration.contracts import PipelineOutcome
from orchestration.errors import BadInput
from orchestration.states import RunStatus
from orchestration.store.database import Database
from service import orchestrator as module
from service.cli.run_views import show_results
from service.orchestrator import PipelineOrchestrator
from service.stack import StackAddresses
from tests.cli_helpers import HIGH_CPU, Orchestrators, all_runs, row_counts, three_incidents
from tests.payloads import body
from tests.receivers import Answer, http_receiver

pytest_plugins = ["tests.cli_helpers"]


async def test_the_specs_own_example(orchestrators: Orchestrators, database: Database) -> None:
    alert_data = body("grafana_unified")
    orchestrator = orchestrators()
    # From here on as the spec has it; this test runs within an event loop, as a caller may.
    result = orchestrator.run_pipeline(
        payload={"payload": alert_data},
        source="grafana",
        trace_id="custom-trace-123",
    )
    assert f"Pipeline {result.status}: {result.stages_completed}" == (
        "Pipeline COMPLETED: ['ingest', 'check', 'analyze', 'notify']"
    )
    assert result.trace_id == "custom-trace-123"
    assert {(run.trace_id, run.source) for run in await all_runs(database)} == {("custom-trace-123", "grafana")}


async def test_a_payload_without_its_wrapper_and_a_name_that_is_no_source(
    orchestrators: Orchestrators, database: Database
) -> None:
    result = orchestrators().run_pipeline(HIGH_CPU, source="webhook", environment="staging", labels={"team": "sre"})
    assert (result.status, result.ingest and result.ingest.severity) == (PipelineOutcome.COMPLETED, "critical")
    (run,) = await all_runs(database)
    assert (run.environment, run.options.labels) == ("staging", {"team": "sre"})


async def test_started_runs_have_the_ids_that_were_given_out(orchestrators: Orchestrators, database: Database) -> None:
    with http_receiver(Answer(hang=True)) as receiver:
        orchestrator = orchestrators(webhook_url=f"{receiver.url}/")
        started = orchestrator.start_pipeline(HIGH_CPU)
        (pending,) = await all_runs(database)
        assert [pending.run_id] == started.run_ids
        receiver.wait_for(1)
        assert not started.results.done()
        with pytest.raises(TimeoutError):
            started.wait(0.01)
    (result,) = started.wait(40)  # the receiver has gone away: the tries after it fail
    assert (result.run_id, result.trace_id, result.status) == (started.run_id, started.trace_id, "FAILED")


async def test_closing_waits_for_what_was_started(orchestrators: Orchestrators, database: Database) -> None:
    orchestrator = orchestrators()
    started = orchestrator.start_pipeline(three_incidents())
    orchestrator.close()
    assert started.results.done()
    assert [run.status for run in await all_runs(database)] == [RunStatus.NOTIFIED] * 3
    assert orchestrator.run_pipeline(HIGH_CPU).status == "COMPLETED"  # and it can be used again


def test_of_several_incidents_the_one_that_failed_is_returned(
    orchestrators: Orchestrators, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    with http_receiver(404) as receiver:  # one of the three is refused for good
        orchestrator = orchestrators(webhook_url=receiver.url)
        result = orchestrator.run_pipeline(three_incidents())
        assert (result.status, len(receiver.requests)) == ("FAILED", 3)
        show_results(orchestrator.run_push({"alerts": [{"name": "One"}, {"name": "Two"}]}))
    shown = capsys.readouterr().out
    assert shown.count("✓ Pipeline COMPLETED") == 2
    assert shown.endswith("2 runs, 0 failed\n")
    assert result.final_error is not None
    assert not result.final_error.retryable


async def test_many_threads_share_one_orchestrator(
    stack: StackAddresses, database: Database, home: Path, orchestrators: Orchestrators
) -> None:
    opened = orchestrators()
    opened.close()  # so that the threads race to open it
    with ThreadPoolExecutor(4) as pool:
        alerts = [{"name": f"Alert{n}", "host": f"web-{n}"} for n in range(4)]
        results = list(pool.map(opened.run_pipeline, alerts))
    assert {result.status for result in results} == {PipelineOutcome.COMPLETED}
    assert len({result.run_id for result in results}) == 4


@pytest.mark.parametrize(
    ("payload", "options", "said"),
    [
        ({}, {}, "the payload is an empty object"),
        (None, {}, "the payload is null"),
        ([HIGH_CPU], {}, "the payload is a list"),
        ({"payload": {}}, {}, "no source recognizes the payload"),
        (HIGH_CPU, {"trace_id": "two\nlines"}, "The trace id 'two\\nlines' is not 1 to 128 printable characters"),
        (HIGH_CPU, {"environment": "x" * 129}, "The environment 'xxxx"),
        (HIGH_CPU, {"notify_driver": "pigeon"}, "There is no channel or driver 'pigeon'"),
        (HIGH_CPU, {"checker": "disk"}, "Wrong options: checker: Extra inputs are not permitted"),
    ],
)
async def test_what_is_refused_is_said_and_leaves_nothing(
    orchestrators: Orchestrators, database: Database, payload: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput) as refused:
        orchestrators().run_pipeline(payload, **options)
    assert said in str(refused.value)
    assert await row_counts(database) == {}


async def test_the_function_of_the_module_and_its_own_settings(
    stack: StackAddresses, home: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_PIPELINE_HOME", str(home))
    monkeypatch.setenv("CHECKERS_ENABLED", "memory")
    with http_receiver() as receiver:
        monkeypatch.setenv("NOTIFY_WEBHOOK_URL", receiver.url)
        result = await asyncio.to_thread(module.run_pipeline, HIGH_CPU, environment="test")
        with PipelineOrchestrator() as orchestrator:
            health = orchestrator.run_pipeline(None, environment="test", checks_only=True)
    assert (result.status, len(receiver.requests)) == ("COMPLETED", 2)
    assert (health.status, health.ingest) == ("COMPLETED", None)
    assert health.check is not None
    assert list(health.check.timings) == ["memory"]
