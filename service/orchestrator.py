"""The Python API: run a pipeline and wait for it, start one, resume one that failed.

orchestrator = PipelineOrchestrator()
result = orchestrator.run_pipeline(payload={"payload": alert_data}, source="grafana")
print(f"Pipeline {result.status}: {result.stages_completed}")
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from importlib import import_module
from threading import RLock, Thread
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from pydantic import ValidationError

from orchestration.contracts import PipelineOutcome, PipelineResult
from orchestration.errors import BadInput
from orchestration.requests import RunOptions, RunRequest
from orchestration.settings import Settings, load_settings
from orchestration.store.records import new_id
from service.stack import attach

T = TypeVar("T")
Progress = Callable[[str], None]


class OwnWorker(Protocol):
    """What is used here of `service.worker.bounded`, whose import takes as long as Prefect's: 1.5 s."""

    async def accept(self, request: RunRequest) -> list[str]:
        """Store the runs of a request; their ids."""
        ...

    async def execute_all(self, run_ids: Sequence[str]) -> list[PipelineResult]:
        """Execute accepted runs; their results in the same order."""
        ...

    async def resume(self, id_prefix: str) -> PipelineResult:
        """Execute one run from where it stands to its end."""
        ...


@dataclass(frozen=True, kw_only=True)
class StartedPipeline:
    """A pipeline that is executed in the background. Its runs are stored already."""

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

    The first call finds the stack (PostgreSQL, Prefect) or starts it. `close()`, the end of a `with` block, or the end
    of the program leaves it. One orchestrator serves many threads.

    Without any channel a run ends as SKIPPED with the reason no_channel. With `console`, its message goes to standard
    error instead, as that of a command does. `progress` is called with what happens while the stack starts.
    """

    def __init__(
        self, settings: Settings | None = None, *, progress: Progress | None = None, console: bool = False
    ) -> None:
        self._settings = settings or load_settings()
        self._progress = progress
        self._console = console
        self._open = ExitStack()
        self._portal: BlockingPortal | None = None
        self._worker: OwnWorker | None = None
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
        """Execute the runs of a push to their ends; the result of the first that failed, or else of the first run.

        Args:
            payload: What the monitoring system sent, as it came or as {"payload": …}. None means that a definition
                without an ingest node is executed, or with `checks_only` that this host is checked.
            source: Who sent it, such as grafana; "webhook", "manual" and the like: recognized by its shape.
            trace_id: The id that all runs of the push share. None means a new one.
            environment: Where it happened.
            options: The fields of `orchestration.requests.RunOptions`, such as checker_names or notify_driver.

        Raises:
            BadInput: the payload has no alert, an option is wrong, or the definition is broken; nothing is written.
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
        """Execute the runs of a push to their ends; one result for each of its incidents.

        Takes and raises what `run_pipeline()` does.
        """
        return self.start_pipeline(payload, source, trace_id, environment, **options).wait()

    def start_pipeline(
        self,
        payload: dict[str, Any] | None,
        source: str = "unknown",
        trace_id: str | None = None,
        environment: str = "production",
        **options: Any,
    ) -> StartedPipeline:
        """Store a push and return at once; this program executes its runs in the background.

        Takes and raises what `run_pipeline()` does. A program that ends waits for its runs.
        """
        return self.start(
            RunRequest(
                payload=payload, source=source, environment=environment, trace_id=trace_id, options=_options(options)
            )
        )

    def start(self, request: RunRequest) -> StartedPipeline:
        """Store the runs of a request and return at once; this program executes them in the background.

        Raises what `run_pipeline()` does.
        """
        traced = request.model_copy(update={"trace_id": request.trace_id or new_id()})
        run_ids = self._call(lambda worker: worker.accept(traced))
        portal, worker = self._ready()
        results = self._track(portal.start_task_soon(worker.execute_all, run_ids))
        return StartedPipeline(trace_id=str(traced.trace_id), run_ids=run_ids, results=results)

    def resume_pipeline(self, run_id: str) -> PipelineResult:
        """Resume a run that failed or was abandoned, at the first stage that has not succeeded.

        The payload comes from the store, attempt numbers continue, and a delivered message is not sent again. The
        first characters of the run's id are enough.

        Raises:
            RunNotFound: there is no such run.
            RunBusy: another process executes it.
            BadInput: the run is over, or several ids start so.
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

    def _call(self, work: Callable[[OwnWorker], Awaitable[T]]) -> T:
        portal, worker = self._ready()

        async def call() -> T:
            return await work(worker)

        return self._track(portal.start_task_soon(call)).result()

    def _track(self, future: Future[T]) -> Future[T]:
        """Remember the future, so that `_cancel()` stops it when the caller is interrupted."""
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def _ready(self) -> tuple[BlockingPortal, OwnWorker]:
        with self._opening:
            return self._opened()

    def _opened(self) -> tuple[BlockingPortal, OwnWorker]:
        if self._portal is None or self._worker is None:
            with ExitStack() as opening:
                # Importing Prefect takes 1.5 s, which starting the stack can share.
                importing = Thread(target=_import_quickly, args=("service.worker.bounded",), daemon=True)
                importing.start()
                addresses = opening.enter_context(attach(self._settings, progress=self._progress))
                importing.join()
                from service.worker.bounded import open_bounded_worker

                portal = opening.enter_context(start_blocking_portal(name="alert-pipeline"))
                worker: AbstractContextManager[OwnWorker] = portal.wrap_async_context_manager(
                    open_bounded_worker(self._settings, addresses, console=self._console)
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
    """Execute the runs of a push to their ends, and leave the stack. Takes what `PipelineOrchestrator` takes."""
    with PipelineOrchestrator() as orchestrator:
        return orchestrator.run_pipeline(payload, source, **options)
