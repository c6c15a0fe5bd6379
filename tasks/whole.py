"""Writes that a cancellation does not cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def whole(writing: Coroutine[Any, Any, T]) -> tuple[T, bool]:
    """What a write gives, and whether its task was cancelled meanwhile.

    A statement that is cut off may have been done all the same: then the run would be another one in the store than
    here. A second cancellation does not wait.
    """
    task = asyncio.ensure_future(writing)
    try:
        return await asyncio.shield(task), False
    except asyncio.CancelledError:
        try:
            return await asyncio.shield(task), True
        except Exception as error:
            raise asyncio.CancelledError from error


def ensure_going(cancelled: bool) -> None:
    """Let the cancellation have its way, now that the write is through."""
    if cancelled:
        raise asyncio.CancelledError
