"""Executes one flow run in this process: an async flow in the event loop, any other in a thread of its own."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import threading
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Abort, Pause, TerminationSignal
from prefect.filesystems import LocalFileSystem
from prefect.flow_engine import run_flow
from prefect.results import aget_default_result_storage, should_persist_result
from prefect.settings import get_current_settings

from prefect_warm_worker.allowed import AnyFlow
from prefect_warm_worker.internals import set_intent

Why = Literal["cancel", "reschedule", "crash"]
"""Why a run is stopped: somebody cancelled it, or the worker ends and the run is executed again, or not."""


def without_own_watch(flow_run: FlowRun) -> FlowRun:
    """A copy for Prefect's engine that names no deployment.

    For a run of a deployment the engine opens a thread and a websocket, only to learn that it was suspended. On the
    server the flow run keeps its deployment, and the engine reads it from there.
    """
    return flow_run.model_copy(update={"deployment_id": None})


class Execution:
    """One flow run that this process executes."""

    def __init__(self, flow_run: FlowRun, flow: AnyFlow) -> None:
        self.flow_run = flow_run
        self.stopped: Why | None = None
        self.aborted = False
        """Whether Prefect refused that it runs, as when somebody cancelled it first or another worker has it."""
        self._flow = flow
        self._task: asyncio.Task[Any] | None = None
        self._thread: _FlowThread | None = None

    @property
    def id(self) -> UUID:
        """The id of the flow run."""
        return self.flow_run.id

    async def run(self) -> str | None:
        """Execute the flow run to its end, which Prefect's engine reports to the server.

        Returns:
            What went wrong when the engine could not report an end. None means that nothing is left to report.
        """
        set_intent(lambda: None if self.stopped == "crash" else self.stopped)
        self._task = asyncio.current_task()
        if self.stopped is not None:
            return "It was stopped before it began"
        try:
            await self._run()
        except Abort:
            self.aborted = True
        except Pause:
            pass  # it goes on as another run of the same flow run
        except (asyncio.CancelledError, TerminationSignal) as error:
            if self.stopped is None:
                if isinstance(error, TerminationSignal) or (self._task is not None and self._task.cancelling()):
                    raise
                return "CancelledError: the flow cancelled itself"
        except BaseException as error:  # noqa: BLE001 - whatever it is, it ends this run alone
            return f"{type(error).__name__}: {error}"
        return None

    async def _run(self) -> None:
        bare = without_own_watch(self.flow_run)
        if self._flow.isasync:
            await cast("Awaitable[Any]", run_flow(self._flow, flow_run=bare, return_type="state"))
            return
        self._thread = _FlowThread(lambda: run_flow(self._flow, flow_run=bare, return_type="state"), str(bare.name))
        await self._thread.end()

    def stop(self, why: Why) -> None:
        """Stop the flow where it stands. A flow in a thread stops at the next line of Python that it executes."""
        if self.stopped is not None:
            return
        self.stopped = why
        if self._thread is not None:
            self._thread.interrupt()
        elif self._task is not None:
            self._task.cancel()

    def abandon(self) -> None:
        """Stop waiting for it."""
        if self._task is not None:
            self._task.cancel()


class _Interrupted(TerminationSignal):
    """What a thread is interrupted with. Prefect's engine reads it as the signal that ends one flow run's process."""

    def __init__(self) -> None:
        super().__init__(signal.SIGTERM)


class _FlowThread:
    """A thread of one flow run, so that what interrupts it late cannot meet the next run. It keeps no process alive."""

    def __init__(self, body: Callable[[], object], name: str) -> None:
        self._body = body
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._lock = threading.Lock()
        self._running = True
        context = copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._execute,), name=name, daemon=True)
        self._thread.start()

    async def end(self) -> None:
        """Wait for the end of the thread; raises what the body raised."""
        await self._ended

    def interrupt(self) -> None:
        """Raise `_Interrupted` in the body."""
        with self._lock:
            if self._running and self._thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread.ident), ctypes.py_object(_Interrupted)
                )

    def _execute(self) -> None:
        problem: BaseException | None = None
        try:
            self._body()
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits for the thread
            problem = error
        with self._lock:
            self._running = False
        try:
            self._loop.call_soon_threadsafe(self._report, problem)
        except RuntimeError:
            return  # the event loop was closed: the worker waits for this thread no more

    def _report(self, problem: BaseException | None) -> None:
        if self._ended.done():
            return
        if problem is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(problem)


async def name_result_storage(client: PrefectClient) -> Callable[[AnyFlow], AnyFlow]:
    """Ask the server once where results go, instead of twice for each run. Returns what names it in a flow.

    Raises whatever Prefect's client raises.
    """
    default = get_current_settings().results.default_storage_block
    if default is None:
        default = (await client.read_server_default_result_storage()).default_result_storage_block_id
    persists = should_persist_result() or default is not None
    storage: Any = await aget_default_result_storage()
    if default is None and isinstance(storage, LocalFileSystem):
        storage = Path(storage.basepath or "")  # a flow takes a block only if it is saved

    @cache
    def named(flow: AnyFlow) -> AnyFlow:
        changed: dict[str, Any] = {}
        if flow.result_storage is None:
            changed["result_storage"] = storage
        if flow.persist_result is None:
            changed["persist_result"] = persists
        return flow.with_options(**changed) if changed else flow

    return named
