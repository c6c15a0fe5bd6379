"""Every change that this project makes to Prefect, beside what prefect-warm-worker does. Each fails loudly.

Prefect is imported inside the functions: it takes seconds, and processes that call none of them need no Prefect.
"""

from __future__ import annotations

import asyncio
import importlib
from types import ModuleType
from typing import Any

SERVICES_END_SECONDS = 5.0
"""How long Prefect's services may go on sending their queues after they were stopped."""


def patch_slow_end_of_triggers() -> None:
    """Patch Prefect so that its server stops at once, even while it evaluates triggers.

    Raises:
        AttributeError: this version of Prefect has no `periodic_evaluation`.
    """
    # Upstream: `evaluate_periodically` calls `periodic_evaluation` in a loop with `finally: await asyncio.sleep(5)`.
    # A cancellation during the evaluation therefore sleeps for five more seconds. Every third short command met that.
    # A second cancellation ends the sleep. No upstream issue is known (Prefect 3.8.8).
    triggers = _import_with("prefect.server.events.triggers", "periodic_evaluation")
    original = triggers.periodic_evaluation

    async def periodic_evaluation(*args: Any, **kwargs: Any) -> None:
        try:
            await original(*args, **kwargs)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.cancel()
            raise

    setattr(triggers, "periodic_evaluation", periodic_evaluation)  # noqa: B010


def limit_end_of_services() -> None:
    """Patch Prefect so that its services, which send events and log lines, end `SERVICES_END_SECONDS` after their stop.

    Raises:
        AttributeError: this version of Prefect has no `_drain` in its services.
    """
    # Upstream: each service sends from a thread of its own, and waits for its server at the exit of the interpreter,
    # without a limit. A server that takes connections and answers none kept every command for one minute after its
    # result was printed. `send_what_is_queued` cannot prevent that alone: the last log line of a cancelled flow starts
    # another service at the exit.
    services = _import_with("prefect._internal.concurrency.services", "_QueueServiceBase")
    base = services._QueueServiceBase
    original = getattr(base, "_drain", None)
    if original is None:
        raise _missing(f"{services.__name__}._QueueServiceBase", "_drain")
    if original.__module__ == __name__:
        return

    def _drain(service: Any, at_exit: bool = False) -> Any:
        loop, task = service._loop, service._task
        stopping = original(service, at_exit=at_exit)
        if task is not None and not task.done():
            loop.call_soon_threadsafe(loop.call_later, SERVICES_END_SECONDS, task.cancel)
        return stopping

    base._drain = _drain


def limit_answers() -> None:
    """Patch Prefect so that its clients read only so much of an answer, for so long, as `service/answer_limit.py` says.

    Raises:
        AttributeError: this version of Prefect has no such clients.
    """
    # Upstream: httpx reads an answer into memory until it ends, and an address that is not Prefect's may never end it.
    # The worker's timeouts end the request after seconds, in which a server on the same machine sends gigabytes.
    for name in ("PrefectHttpxAsyncClient", "PrefectHttpxSyncClient"):
        client = getattr(_import_with("prefect.client.base", name), name)
        if client.__init__.__module__ != __name__:
            client.__init__ = _with_limits(client.__init__)


def _with_limits(original: Any) -> Any:
    def __init__(client: Any, *args: Any, **kwargs: Any) -> None:
        original(client, *args, **kwargs)
        _limit_answers_of(client)

    return __init__


def _limit_answers_of(client: Any) -> None:
    """Limit the answers that one client of httpx reads.

    Raises:
        AttributeError: this version of httpx has its network elsewhere.
    """
    import httpx

    from service.answer_limit import LimitedNetwork, LimitedNetworkNow, read_limited, read_limited_now

    is_async = isinstance(client, httpx.AsyncClient)
    client.headers["Accept-Encoding"] = "identity"
    client.event_hooks["response"].append(read_limited if is_async else read_limited_now)
    limited = LimitedNetwork if is_async else LimitedNetworkNow
    for transport in (client._transport, *client._mounts.values()):
        # Others have no network: an application in this process, or the addresses that need no proxy.
        if isinstance(transport, httpx.AsyncHTTPTransport | httpx.HTTPTransport):
            _replace_network(transport, limited)


def _replace_network(transport: Any, limited: Any) -> None:
    pool = transport._pool
    pool._network_backend = limited(pool._network_backend)


async def send_what_is_queued(seconds: float) -> None:
    """Wait until Prefect's services have sent their events and log lines, and drop what is left after `seconds`.

    0 drops everything at once: for a Prefect that is known not to answer.

    Raises:
        AttributeError: this version of Prefect has no such services, or they keep their tasks elsewhere.
    """
    for module, name in (("prefect.events.worker", "EventsWorker"), ("prefect.logging.handlers", "APILogWorker")):
        service = getattr(_import_with(module, name), name)
        running = [(instance._loop, instance._task) for instance in tuple(service._instances.values())]
        if seconds > 0 and running:
            await service.drain_all(timeout=seconds, at_exit=False)
        for loop, task in running:
            if task is not None and not task.done():
                loop.call_soon_threadsafe(task.cancel)


def _import_with(name: str, attribute: str) -> ModuleType:
    module = importlib.import_module(name)
    if not hasattr(module, attribute):
        raise _missing(name, attribute)
    return module


def _missing(owner: str, attribute: str) -> AttributeError:
    version = importlib.import_module("prefect").__version__
    return AttributeError(
        f"Prefect {version} has no {owner}.{attribute}, which service/prefect_patches.py replaces: "
        "install the Prefect version that this project pins, or adapt the patch."
    )
