"""What the routes of one API process share: its services, and the listener for runs that end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import cast

from starlette.requests import Request

from orchestration.engine.run import NodeKinds
from orchestration.errors import Unavailable
from orchestration.metrics import ProcessMetrics
from orchestration.policy.active import ActivePolicy
from orchestration.settings import Settings
from orchestration.signals import Signals, logger
from orchestration.store import runs
from orchestration.store.database import Database, notifications
from orchestration.store.definitions import StoredDefinitions
from orchestration.store.gauges import StateReader
from orchestration.store.mappings import MappingReader, StoredMappings
from orchestration.store.policies import StoredPolicies
from orchestration.store.pushes import PushWriter
from orchestration.store.refused import RefusalLog
from orchestration.store.runs import list_final
from service.api.auth import Guard
from service.api.body import BodiesInMemory
from service.api.presence import Presence
from tasks.ingest.sources import Sources
from tasks.ingest.sources.stored import sources_with
from tasks.kinds import KINDS

_LISTEN_AGAIN_SECONDS = 1.0


class RunWaiter:
    """Waits for runs to end, on one database connection for all callers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._listener: asyncio.Task[None] | None = None

    async def wait_for(self, run_ids: Sequence[str], timeout_seconds: float) -> None:
        """Wait until all of these runs have ended.

        Raises:
            TimeoutError: a run has not ended in this time.
        """
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen())
        futures = {run_id: asyncio.get_running_loop().create_future() for run_id in run_ids}
        for run_id, future in futures.items():
            self._waiting.setdefault(run_id, set()).add(future)
        try:
            async with asyncio.timeout(timeout_seconds):
                # A run may have ended before the listener was connected.
                await self._check(run_ids)
                await asyncio.gather(*futures.values())
        finally:
            for run_id, future in futures.items():
                future.cancel()
                self._waiting[run_id].discard(future)
                if not self._waiting[run_id]:
                    del self._waiting[run_id]

    async def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            try:
                async with aclosing(notifications(self._database.url, runs.DONE_CHANNEL)) as notices:
                    async for run_id in notices:
                        # The first notice is empty. It means that the connection is new and may have missed some.
                        self._wake(run_id) if run_id else await self._check(list(self._waiting))
            except Unavailable as error:
                logger.warning("Cannot listen for the end of runs: %s", error)
            await asyncio.sleep(_LISTEN_AGAIN_SECONDS)

    async def _check(self, run_ids: Sequence[str]) -> None:
        if not run_ids:
            return
        async with self._database.transaction() as tx:
            for run_id in await list_final(tx, run_ids):
                self._wake(run_id)

    def _wake(self, run_id: str) -> None:
        for future in self._waiting.get(run_id, ()):
            if not future.done():
                future.set_result(None)


@dataclass(kw_only=True)
class ApiState:
    """The services of one API process. Pushes are accepted with it (`tasks.ingest.inbox`)."""

    settings: Settings
    database: Database
    signals: Signals
    writer: PushWriter
    definitions: StoredDefinitions
    mappings: MappingReader
    policies: StoredPolicies
    guard: Guard
    kinds: NodeKinds = KINDS
    waiter: RunWaiter
    refusals: RefusalLog
    presence: Presence
    metrics: ProcessMetrics
    state_reader: StateReader
    bodies: BodiesInMemory = field(default_factory=BodiesInMemory)
    schema_problem: str | None = "The database was not asked yet"
    """Why the database schema cannot be used. None means that it is current."""

    @property
    def sources(self) -> Sources:
        """The sources that count now: those that ship, and those of the stored mappings."""
        return sources_with(self.mappings.latest)

    async def stored_mappings(self) -> StoredMappings:
        """The mappings that count now, as they were read last: no push waits for them to be read."""
        return self.mappings.latest

    async def active_policy(self) -> ActivePolicy | None:
        """The policy that counts now, as it was read last: no push waits for it to be read."""
        return self.policies.latest


def state_of(request: Request) -> ApiState:
    """The state of the application that serves this request."""
    return cast("ApiState", request.app.state.api)
