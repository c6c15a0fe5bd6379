"""Waiting for runs to be over, on one connection for all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from orchestration.errors import Unavailable
from orchestration.signals import logger
from orchestration.store import runs
from orchestration.store.database import Database, notifications
from orchestration.store.runs import list_final

_AGAIN_SECONDS = 1.0


class Bell:
    """Rings when runs are over."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._listener: asyncio.Task[None] | None = None

    async def wait_for(self, run_ids: Sequence[str], timeout_seconds: float) -> None:
        """Wait until all of these runs are over.

        Raises:
            TimeoutError: they are not, in this time.
        """
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen())
        futures = {run_id: asyncio.get_running_loop().create_future() for run_id in run_ids}
        for run_id, future in futures.items():
            self._waiting.setdefault(run_id, set()).add(future)
        try:
            async with asyncio.timeout(timeout_seconds):
                # They may have come to their end before this was listening.
                await self._look(run_ids)
                await asyncio.gather(*futures.values())
        finally:
            for run_id, future in futures.items():
                future.cancel()
                self._waiting[run_id].discard(future)
                if not self._waiting[run_id]:
                    del self._waiting[run_id]

    async def close(self) -> None:
        """Listen no more."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            try:
                async with aclosing(notifications(self._database.url, runs.DONE_CHANNEL)) as heard:
                    async for run_id in heard:
                        # The first notice is empty: what was missed before it is looked up.
                        self._ring(run_id) if run_id else await self._look(list(self._waiting))
            except Unavailable as error:
                logger.warning("Nothing is heard of runs that end: %s", error)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _look(self, run_ids: Sequence[str]) -> None:
        if not run_ids:
            return
        async with self._database.transaction() as tx:
            for run_id in await list_final(tx, run_ids):
                self._ring(run_id)

    def _ring(self, run_id: str) -> None:
        for future in self._waiting.get(run_id, ()):
            if not future.done():
                future.set_result(None)
