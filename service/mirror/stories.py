"""The stories of runs in Prefect: an artifact of each flow run, written when nobody waits for the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

from prefect.client.orchestration import PrefectClient

from flows.flow_run import write_story
from orchestration.signals import logger
from orchestration.store.database import Database
from orchestration.store.records import RunRecord

MOST_WAITING = 2_000
"""How many stories wait. Past that the oldest are not written; `alert-pipeline trace` tells them all the same."""

LOOK_SECONDS = 0.1
"""How often the writer looks whether the worker has nothing else to do, while stories wait."""

END_SECONDS = 5.0
"""How long a worker that ends goes on writing stories."""


class StoryWriter:
    """Writes stories one after the other. Before it writes one, it waits until no run needs the worker or Prefect."""

    def __init__(self, client: PrefectClient, database: Database) -> None:
        self._client = client
        self._database = database
        self._waiting: dict[UUID, RunRecord] = {}
        self._more = asyncio.Event()
        self._dropped = 0

    def add(self, flow_run_id: UUID, record: RunRecord) -> None:
        """Write the story of a run, which is over, when there is time."""
        self._waiting[flow_run_id] = record
        if len(self._waiting) > MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
            self._dropped += 1
        self._more.set()

    async def run(self, is_idle: Callable[[], bool]) -> None:
        """Write whatever comes, until cancelled."""
        while True:
            await self._more.wait()
            while self._waiting:
                while not is_idle():  # noqa: ASYNC110 - nothing announces it
                    await asyncio.sleep(LOOK_SECONDS)
                await self._write_next()
            self._more.clear()
            if self._dropped:
                logger.warning(
                    "%d runs have no artifact in Prefect: runs end faster than artifacts are written", self._dropped
                )
                self._dropped = 0

    async def end(self) -> None:
        """Write what waits, for `END_SECONDS` at most."""
        try:
            async with asyncio.timeout(END_SECONDS):
                while self._waiting:
                    await self._write_next()
        except TimeoutError:
            logger.warning("%d runs have no artifact in Prefect: the worker ends", len(self._waiting))

    async def _write_next(self) -> None:
        flow_run_id = next(iter(self._waiting))
        await write_story(self._client, self._database, self._waiting.pop(flow_run_id), flow_run_id)
