"""Blocking calls in daemon threads, away from the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")

_lock = threading.Lock()
_in_progress: dict[tuple[Hashable, ...], Future[Any]] = {}


async def in_daemon_thread(function: Callable[..., T], *args: Hashable) -> T:
    """Call `function(*args)` in a daemon thread; returns its result or raises its error.

    Unlike with `asyncio.to_thread`, a call that never returns (a hung network disk) does not keep the loop or the
    process from ending: a caller can stop waiting and leave the thread behind. A second call with the same function
    and arguments joins the call in progress, so that a disk that hangs for hours costs one thread, not one for each
    alert. Callers may share a result: treat it as read-only.
    """
    return await asyncio.wrap_future(_join_or_start(function, args))


async def in_own_thread(function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Call the function in a daemon thread that no other call shares; returns its result or raises its error.

    The threads of `asyncio.to_thread` are few, and a handful of calls that hang would keep all others from starting.
    A caller can stop waiting; the thread then ends by itself.
    """
    context = contextvars.copy_context()
    return await asyncio.wrap_future(_start(partial(context.run, function, *args, **options)))


def _start(call: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()
    # A running future cannot be cancelled: a caller that stops waiting disturbs nobody who shares it.
    future.set_running_or_notify_cancel()
    threading.Thread(target=_settle, args=(future, call), name="blocking-call", daemon=True).start()
    return future


def _settle(future: Future[T], call: Callable[[], T]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - the caller gets it, in the thread of its loop
        future.set_exception(error)
    else:
        future.set_result(result)


def _join_or_start(function: Callable[..., T], args: tuple[Hashable, ...]) -> Future[T]:
    key = (function, *args)

    def call() -> T:
        try:
            return function(*args)
        finally:
            # Before anybody gets the result: who calls again then starts a new call.
            with _lock:
                _in_progress.pop(key, None)

    with _lock:
        if key not in _in_progress:
            _in_progress[key] = _start(call)
        return cast("Future[T]", _in_progress[key])
