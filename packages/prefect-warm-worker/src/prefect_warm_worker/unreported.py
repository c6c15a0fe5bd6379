"""Flow runs whose end Prefect's engine could not report: Prefect was away, or the run was stopped before it began."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort, ObjectNotFound
from prefect.states import AwaitingRetry, Cancelled, Crashed
from prefect.utilities.engine import propose_state

from prefect_warm_worker.execution import Execution

CANCELLED = "Flow run was cancelled."
ENDED = "The worker ended before the run did."


class Unreported:
    """Flow runs whose end is still to be reported."""

    def __init__(self) -> None:
        self._wanted: dict[UUID, State[Any] | None] = {}

    def add(self, execution: Execution, problem: str | None) -> None:
        """Report the end of this run, unless its engine has done so."""
        if problem is not None or execution.stopped is not None or execution.aborted:
            self._wanted[execution.id] = _end_of(execution, problem)

    async def report(self, client: PrefectClient) -> None:
        """Give each of them its state. What fails stays, and is tried again the next time.

        Raises whatever Prefect's client raises.
        """
        for flow_run_id, wanted in tuple(self._wanted.items()):
            with suppress(ObjectNotFound):
                await _set_state(client, flow_run_id, wanted)
            self._wanted.pop(flow_run_id, None)


def _end_of(execution: Execution, problem: str | None) -> State[Any] | None:
    """The state that the flow run gets. None means that it gets one only if somebody has cancelled it: another worker
    may execute it."""
    if execution.aborted:
        return None
    if execution.stopped == "cancel":
        return Cancelled(message=CANCELLED)
    if execution.stopped == "reschedule":
        return AwaitingRetry(message=ENDED)
    return Crashed(message=problem or ENDED)


async def _set_state(client: PrefectClient, flow_run_id: UUID, wanted: State[Any] | None) -> None:
    known = (await client.read_flow_run(flow_run_id)).state
    if known is None or known.is_final() or known.is_paused() or known.is_scheduled():
        return
    if known.is_cancelling() or (wanted is not None and wanted.is_cancelled()):
        await client.set_flow_run_state(flow_run_id, Cancelled(message=CANCELLED), force=True)
    elif wanted is not None:
        with suppress(Abort):
            await propose_state(client, wanted, flow_run_id=flow_run_id)
