"""When a worker looks for flow runs beside its polling: as an event or a free slot says so, or at their time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

LOOK_AGAIN_SECONDS = (0.2, 0.4, 0.8, 1.6, 3.2)
"""When the worker looks again for a flow run of which an event spoke: the server sends events before it commits."""

GATHER_SECONDS = 0.05
"""How long a worker with more runs than slots waits for further slots before it asks for the next runs."""


class NextLook:
    """The next moment to look for flow runs. It belongs to the event loop of its worker."""

    def __init__(self) -> None:
        self._is_due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._announced: dict[UUID, int] = {}
        """Flow runs of which an event spoke and that were not found yet, with how often the worker has looked."""

    def announce(self, flow_run_id: UUID) -> None:
        """Look now: an event said that this flow run may be started."""
        self._announced[flow_run_id] = 0
        self._is_due.set()

    def at(self, moment: datetime | None) -> None:
        """Look at this moment, and not at the one that was given before. None means that no flow run waits."""
        if self._timer is not None:
            self._timer.cancel()
        seconds = None if moment is None else (moment - datetime.now(UTC)).total_seconds()
        self._timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self._is_due.set)

    def soon(self) -> None:
        """Look in a moment: a slot became free, and others may follow."""
        asyncio.get_running_loop().call_later(GATHER_SECONDS, self._is_due.set)

    async def wait(self) -> tuple[UUID, ...]:
        """Wait until it is time to look. Returns the flow runs of which an event spoke."""
        looked = min(self._announced.values(), default=None)
        with suppress(TimeoutError):
            async with asyncio.timeout(None if looked is None else LOOK_AGAIN_SECONDS[looked]):
                await self._is_due.wait()
        self._is_due.clear()
        return tuple(self._announced)

    def note_found(self, flow_run_ids: Iterable[UUID]) -> None:
        """These flow runs were found: no event has to be waited for."""
        for flow_run_id in flow_run_ids:
            self._announced.pop(flow_run_id, None)

    def note_looked(self, flow_run_ids: Iterable[UUID], *, started: Collection[UUID]) -> None:
        """Look again for those of these flow runs that were not found, and that this worker has not started.

        A flow run that was looked for often enough is another worker's.
        """
        for flow_run_id in flow_run_ids:
            looked = self._announced.pop(flow_run_id, None)
            if looked is not None and looked + 1 < len(LOOK_AGAIN_SECONDS) and flow_run_id not in started:
                self._announced[flow_run_id] = looked + 1
