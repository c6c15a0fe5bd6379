"""Blocking calls away from the event loop, in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar, cast

T = TypeVar("T")

_lock = threading.Lock()
_underway: dict[tuple[Hashable, ...], Future[Any]] = {}


async def in_daemon_thread(function: Callable[..., T], *args: Hashable) -> T:
    """What `function(*args)` returns or raises, computed in a daemon thread.

    Unlike `asyncio.to_thread`, a call that never returns (a hung network disk) keeps neither the loop nor the
    process from ending: whoever stops waiting leaves the thread behind. So that a disk that hangs for hours does
    not cost a thread an alert, a call that is under way with the same function and arguments is joined, not
    started again. The result may therefore be shared: treat it as read-only.
    """
    return await asyncio.wrap_future(_join_or_start(function, args))


def _join_or_start(function: Callable[..., T], args: tuple[Hashable, ...]) -> Future[T]:
    key = (function, *args)
    with _lock:
        if key in _underway:
            return cast("Future[T]", _underway[key])
        future: Future[T] = Future()
        # A running future cannot be cancelled: one waiter that gives up takes nothing from the others.
        future.set_running_or_notify_cancel()
        thread = threading.Thread(target=_work, args=(key, future, function, args), name="blocking-call", daemon=True)
        thread.start()
        _underway[key] = future
    return future


def _work(key: tuple[Hashable, ...], future: Future[T], function: Callable[..., T], args: tuple[Hashable, ...]) -> None:
    try:
        result = function(*args)
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits, in the loop's thread
        _forget(key)
        future.set_exception(error)
    else:
        _forget(key)
        future.set_result(result)


def _forget(key: tuple[Hashable, ...]) -> None:
    with _lock:
        _underway.pop(key, None)
