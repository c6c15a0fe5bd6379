"""The Python API: run a pipeline and wait, start one and go on, resume one that failed.

orchestrator = PipelineOrchestrator()
result = orchestrator.run_pipeline(payload={"payload": alert_data}, source="grafana")
print(f"Pipeline {result.status}: {result.stages_completed}")
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from importlib import import_module
from threading import RLock, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from pydantic import ValidationError

from orchestration.contracts import PipelineOutcome, PipelineResult
from orchestration.errors import BadInput
from orchestration.requests import RunOptions, RunRequest
from orchestration.settings import Settings, load_settings
from orchestration.store.records import new_id
from service.stack import attach

if TYPE_CHECKING:
    from service.worker.bounded import BoundedWorker

T = TypeVar("T")
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class StartedPipeline:
    """A pipeline that runs on while the caller goes on. Its runs are stored already."""

    trace_id: str
    run_ids: list[str]
    results: Future[list[PipelineResult]]

    @property
    def run_id(self) -> str:
        """The first run's id."""
        return self.run_ids[0]

    def wait(self, timeout_seconds: float | None = None) -> list[PipelineResult]:
        """The results, once all runs are over.

        Raises:
            TimeoutError: they are not over in time.
        """
        return self.results.result(timeout_seconds)


class PipelineOrchestrator:
    """Runs pipelines from any Python program, with or without an event loop of its own.

    The stack (PostgreSQL, Prefect) is found or started with the first call, and left with `close()`, at the
    end of a `with` block, or when the program ends. One orchestrator serves many threads.
    """

    def __init__(self, settings: Settings | None = None, *, progress: Progress | None = None) -> None:
        self._settings = settings or load_settings()
        self._progress = progress
        self._open = ExitStack()
        self._portal: BlockingPortal | None = None
        self._worker: BoundedWorker | None = None
        self._opening = RLock()
        self._under_way: set[Future[Any]] = set()

    def run_pipeline(
        self,
        payload: dict[str, Any] | None,
        source: str = "unknown",
        trace_id: str | None = None,
        environment: str = "production",
        **options: Any,
    ) -> PipelineResult:
        """Run a push to its end. Of several incidents in it, all are run; returned is the first that failed,
        or else the first. `run_push()` returns them all.

        Args:
            payload: What the monitoring system sent, as it came or as {"payload": …}. None: a definition that
                takes in no alerts is run.
            source: Who sent it, such as grafana; "webhook", "manual" and the like: recognised by its shape.
            trace_id: The id that all runs of the push share.
            environment: Where it happened.
            options: checker_names, checker_configs, labels, notify_driver; definition, the name of a stored one
                that is run instead of the linear pipeline; or definition_config, one that is not stored.

        Raises:
            BadInput: no alert can be read from the payload, or the definition cannot be run; nothing is written.
            Unavailable: the stack cannot be reached or started.
        """
        results = self.run_push(payload, source, trace_id, environment, **options)
        failed = [result for result in results if result.status is PipelineOutcome.FAILED]
        return (failed or results)[0]

    def run_push(
        self,
        payload: dict[str, Any] | None,
        source: str = "unknown",
        trace_id: str | None = None,
        environment: str = "production",
        **options: Any,
    ) -> list[PipelineResult]:
        """Run a push to its end: one result for each of its incidents. As `run_pipeline()` otherwise."""
        return self.start_pipeline(payload, source, trace_id, environment, **options).wait()

    def start_pipeline(
        self,
        payload: dict[str, Any] | None,
        source: str = "unknown",
        trace_id: str | None = None,
        environment: str = "production",
        **options: Any,
    ) -> StartedPipeline:
        """Store a push and return at once; its runs go on in the background of this program.

        Takes and raises what `run_pipeline()` does. A program that ends waits for its runs.
        """
        trace = trace_id or new_id()
        chosen = _options(options)
        request = RunRequest(payload=payload, source=source, environment=environment, trace_id=trace, options=chosen)
        run_ids = self._call(lambda worker: worker.accept(request))
        return self._start(trace, run_ids)

    def check_health(
        self,
        source: str = "manual",
        trace_id: str | None = None,
        environment: str = "production",
        **options: Any,
    ) -> PipelineResult:
        """Check, analyze and report this host's own health, without an alert."""
        return self.start_health_check(source, trace_id, environment, **options).wait()[0]

    def start_health_check(
        self,
        source: str = "manual",
        trace_id: str | None = None,
        environment: str = "production",
        **options: Any,
    ) -> StartedPipeline:
        """Store a look at this host's own health and return at once, as `start_pipeline()` does."""
        trace = trace_id or new_id()
        chosen = _options(options)
        checking = chosen.model_copy(update={"checks_only": True})
        request = RunRequest(source=source, environment=environment, trace_id=trace, options=checking)
        run_ids = self._call(lambda worker: worker.accept(request))
        return self._start(trace, run_ids)

    def resume_pipeline(self, run_id: str) -> PipelineResult:
        """Go on with a run that failed or was abandoned, at the first stage that has not succeeded.

        The payload comes from the store, attempt numbers go on, and what was delivered is not sent again. The start
        of the run's id is enough.

        Raises:
            RunNotFound: there is no such run.
            RunBusy: another process is at it.
            BadInput: the run is over, or several runs start so.
        """
        return self._call(lambda worker: worker.resume(run_id))

    def close(self) -> None:
        """Wait for the runs that were started, and leave the stack."""
        atexit.unregister(self.close)
        self._portal = self._worker = None
        self._open.close()

    def _cancel(self) -> None:
        for future in list(self._under_way):
            future.cancel()

    def __enter__(self) -> Self:
        self._ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._cancel()
        self.close()

    def _start(self, trace_id: str, run_ids: list[str]) -> StartedPipeline:
        portal, worker = self._ready()
        results = self._noted(portal.start_task_soon(worker.execute_all, run_ids))
        return StartedPipeline(trace_id=trace_id, run_ids=run_ids, results=results)

    def _call(self, work: Callable[[BoundedWorker], Awaitable[T]]) -> T:
        portal, worker = self._ready()

        async def at_work() -> T:
            return await work(worker)

        return self._noted(portal.start_task_soon(at_work)).result()

    def _noted(self, future: Future[T]) -> Future[T]:
        """What `_cancel()` stops when the caller is interrupted."""
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def _ready(self) -> tuple[BlockingPortal, BoundedWorker]:
        with self._opening:
            return self._opened()

    def _opened(self) -> tuple[BlockingPortal, BoundedWorker]:
        if self._portal is None or self._worker is None:
            with ExitStack() as opening:
                # Importing Prefect takes 1.5 s, which starting the stack can share.
                importing = Thread(target=_import_quickly, args=("service.worker.bounded",), daemon=True)
                importing.start()
                addresses = opening.enter_context(attach(self._settings, progress=self._progress))
                importing.join()
                from service.worker.bounded import open_bounded_worker

                portal = opening.enter_context(start_blocking_portal(name="alert-pipeline"))
                worker: AbstractContextManager[BoundedWorker] = portal.wrap_async_context_manager(
                    open_bounded_worker(self._settings, addresses)
                )
                self._worker = opening.enter_context(worker)
                self._portal = portal
                self._open = opening.pop_all()
            atexit.register(self.close)
        return self._portal, self._worker


def _import_quickly(name: str) -> None:
    """Import a module without collecting garbage meanwhile, which for Prefect takes as long as the import itself."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        import_module(name)
    finally:
        if collecting:
            gc.enable()


def _options(given: dict[str, Any]) -> RunOptions:
    try:
        return RunOptions(**given)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise BadInput(f"Wrong options: {problems}") from None


def run_pipeline(payload: dict[str, Any] | None, source: str = "unknown", **options: Any) -> PipelineResult:
    """Run a push to its end, and leave the stack again. As `PipelineOrchestrator.run_pipeline()`."""
    with PipelineOrchestrator() as orchestrator:
        return orchestrator.run_pipeline(payload, source, **options)
