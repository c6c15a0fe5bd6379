"""Every use that this package makes of Prefect's internals. Each fails loudly when Prefect no longer has the name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from types import ModuleType
from typing import Any
from uuid import UUID

from prefect import __version__
from prefect.client.schemas.objects import State

Intent = Callable[[], str | None]

_SUSPENSION = ("prefect._flow_run_suspension", "mark_flow_run_suspension_requested")

_intent: ContextVar[Intent | None] = ContextVar("prefect_warm_worker_intent", default=None)


def keep_own_sigterm_handler() -> None:
    """Stop Prefect's flow engine from installing its SIGTERM handler while a flow runs in this process.

    Raises:
        AttributeError: this version of Prefect has no `capture_sigterm`.
    """
    # Upstream: the engine runs each flow inside `with capture_sigterm()`, whose handler raises TerminationSignal
    # wherever the process is (PrefectHQ/prefect#7887). That suits one process per flow run. Here it would raise in the
    # event loop that executes many runs, and this process ends gracefully on SIGTERM.
    engine = _import_with("prefect.flow_engine", "capture_sigterm")
    setattr(engine, "capture_sigterm", nullcontext)  # noqa: B010 - the type checker refuses a plain assignment


def ask_each_run_for_its_intent() -> None:
    """Let Prefect's flow engine ask the run, and not the process, why it is ended: see `set_intent()`.

    Raises:
        AttributeError: this version of Prefect has no `_termination_intent`.
    """
    # Upstream: the runner tells the one flow run of a process through a socket whether it is ended because somebody
    # cancelled it ("cancel") or to be scheduled again ("reschedule"). The engine then sets the states and calls the
    # hooks, for child flows too. Many runs in one process need one answer each.
    engine = _import_with("prefect.flow_engine", "_termination_intent")
    original = engine._termination_intent
    if original.__module__ == __name__:
        return

    def _termination_intent() -> str | None:
        own = _intent.get()
        return original() if own is None else own()

    setattr(engine, "_termination_intent", _termination_intent)  # noqa: B010


def set_intent(intent: Intent) -> None:
    """Say for the current context, and those copied from it, how to learn why its run is ended."""
    _intent.set(intent)


def ensure_suspension() -> None:
    """Check that `suspend()` can do its work.

    Raises:
        AttributeError: this version of Prefect has no `mark_flow_run_suspension_requested`.
    """
    _import_with(*_SUSPENSION)


def suspend(flow_run_id: UUID, state: State[Any]) -> bool:
    """Let a flow run of this process stop at its next task, since it was suspended. False means that it does not run.

    Raises:
        AttributeError: this version of Prefect has no `mark_flow_run_suspension_requested`.
    """
    # Upstream: the engine itself watches for that with a thread and a websocket for each run of a deployment.
    mark: Callable[[UUID, State[Any]], bool] = getattr(_import_with(*_SUSPENSION), _SUSPENSION[1])
    return mark(flow_run_id, state)


def _import_with(name: str, attribute: str) -> ModuleType:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        module = None
    if module is None or not hasattr(module, attribute):
        raise AttributeError(
            f"Prefect {__version__} has no {name}.{attribute}, which prefect-warm-worker uses: install a version of "
            "Prefect that it was tried with, or a newer prefect-warm-worker."
        )
    return module
