"""Hears from Prefect at once what concerns this worker: runs to start, and runs that were cancelled or suspended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter

from prefect_warm_worker.blocking import Logger
from prefect_warm_worker.execution import Execution
from prefect_warm_worker.internals import suspend

FLOW_RUN = "prefect.flow-run."
"""How the names of events, and of their resources, begin."""

STARTING = ("Scheduled", "Late", "AwaitingRetry", "Resuming")
"""The states in which a flow run may be started."""

STOPPING = ("Cancelling", "Cancelled", "Suspended")
"""The states in which a flow run that this process executes has to stop."""

LISTEN_AGAIN_SECONDS = 5.0
"""How long the worker waits before it listens again after a failure. Until then it polls."""


async def listen(
    work_pool_name: str, *, starting: Callable[[UUID], None], stopping: Callable[[], None], logger: Logger
) -> None:
    """Call back whenever a flow run of the work pool may be started, with its id, or has to stop, until cancelled.

    One subscription to Prefect's events serves all runs. Polling is needed all the same: a server may send no events,
    and one may be lost.
    """
    names = [f"{FLOW_RUN}{state}" for state in (*STARTING, *STOPPING)]
    while True:
        wanted = EventFilter(  # a new one each time: it contains the present moment
            event=EventNameFilter(name=names),
            any_resource=EventAnyResourceFilter.model_validate(
                {"labels": {"prefect.resource.role": "work-pool", "prefect.resource.name": work_pool_name}}
            ),
        )
        try:
            async with get_events_subscriber(filter=wanted) as events:
                logger.debug("Listening to Prefect's events")
                stopping()  # Prefect sends the events of the last minute again, so that nothing is missed
                async for event in events:
                    if event.event.endswith(STOPPING):
                        stopping()
                    else:
                        starting(UUID(event.resource.id.removeprefix(FLOW_RUN)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker polls
            logger.debug("No events from Prefect for now: %s: %s", type(error).__name__, error)
        await asyncio.sleep(LISTEN_AGAIN_SECONDS)


async def stop_what_was_stopped(client: PrefectClient, executions: Collection[Execution]) -> None:
    """Stop the runs that somebody cancelled or suspended. One request asks for all of them.

    Raises whatever Prefect's client raises.
    """
    live = {execution.id: execution for execution in executions if execution.stopped is None}
    if not live:
        return
    types = ["CANCELLING", "CANCELLED", "PAUSED"]
    wanted = FlowRunFilter.model_validate({"id": {"any_": list(live)}, "state": {"type": {"any_": types}}})
    for flow_run in await client.read_flow_runs(flow_run_filter=wanted):
        _stop(live[flow_run.id], flow_run)


def _stop(execution: Execution, flow_run: FlowRun) -> None:
    state = flow_run.state
    if state is None:
        return
    if state.is_cancelling() or state.is_cancelled():
        execution.stop("cancel")
    elif state.is_paused() and state.name == "Suspended":
        suspend(flow_run.id, state)
