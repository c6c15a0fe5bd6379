"""The flow `alert-pipeline`: ingest → check → analyze → notify, one run for one incident of a push."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.flow_run import LINEAR_FLOW, final_state, open_run, returns_state
from orchestration.engine.perform import finish, perform
from orchestration.requests import RunOptions, RunRequest
from tasks.analyze.task import analyze
from tasks.check.task import check
from tasks.ingest.task import ingest
from tasks.notify.task import notify
from tasks.retries import with_retries


@returns_state
@flow(name=LINEAR_FLOW, persist_result=False, validate_parameters=True)
async def alert_pipeline(
    run_id: str | None = None,
    payload: dict[str, Any] | None = None,
    source: str = "unknown",
    environment: str = "production",
    trace_id: str | None = None,
    checker_names: list[str] | None = None,
    checker_configs: dict[str, dict[str, Any]] | None = None,
    labels: dict[str, str] | None = None,
    notify_driver: str | None = None,
    options: RunOptions | None = None,
) -> State[Any]:
    """Bring one incident's alerts to the person on call.

    Args:
        run_id: A stored run. Either this or a payload is given.
        payload: What a monitoring system sent, as it came. Each of its incidents becomes a run.
        source: Who sent it (alertmanager, grafana, generic); any other word: it is recognized by its shape.
        environment: Where it happened, such as production or staging.
        trace_id: The id that all runs of this payload share. None means a new one.
        checker_names: The checkers to run, instead of those of the settings.
        checker_configs: Options by checker, such as {"disk": {"paths": ["/data"]}}.
        labels: Labels that are kept with the run.
        notify_driver: The name of a channel block, or of a driver.
        options: Further options, such as {"provider": "local"}; the parameters above override them.
    """
    given = {"checker_names": checker_names, "checker_configs": checker_configs, "labels": labels}
    request = RunRequest(
        payload=payload,
        source=source,
        environment=environment,
        trace_id=trace_id,
        options=(options or RunOptions()).with_given(**given, notify_driver=notify_driver),
    )
    async with open_run(alert_pipeline, run_id, request) as run:
        for stage in (ingest, check, analyze, notify):
            await perform(run, with_retries(stage, run))
        await finish(run)
    return final_state(run.record)
