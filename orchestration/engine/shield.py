"""Writes that a cancellation does not cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def shielded_write(writing: Coroutine[Any, Any, T]) -> tuple[T, bool]:
    """The write's result, and whether the present task was cancelled meanwhile.

    A statement that is cut off may have been committed all the same: then the run would differ between the store and
    this process. A second cancellation does not wait.
    """
    task = asyncio.ensure_future(writing)
    try:
        return await asyncio.shield(task), False
    except asyncio.CancelledError:
        try:
            return await asyncio.shield(task), True
        except Exception as error:
            raise asyncio.CancelledError from error


def raise_if_cancelled(cancelled: bool) -> None:
    """Continue a cancellation that a `shielded_write()` has delayed."""
    if cancelled:
        raise asyncio.CancelledError
