"""What a run waits for: its next attempt, or somebody outside. While it only waits, others may use its slot."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar

OUTSIDE_SECONDS = 0.5
"""How long a run waits for somebody outside before others may use its slot. Most answers are there sooner."""


class Slot:
    """The place of one run among those that a process executes at the same time."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called when the slot becomes idle, and when it is needed again."""
        self.idle = False
        self._changed = changed

    def set_idle(self, idle: bool) -> None:
        """The run only waits, or works again."""
        if idle is not self.idle:
            self.idle = idle
            self._changed()


_current: ContextVar[Slot | None] = ContextVar("alert_pipeline_slot", default=None)


@contextmanager
def use_slot(slot: Slot) -> Generator[None]:
    """Runs that are leased within the body have this slot, one after the other."""
    token = _current.set(slot)
    try:
        yield
    finally:
        _current.reset(token)


class Waits:
    """What the nodes of one run wait for. The run only waits if each node that it is at does."""

    def __init__(self) -> None:
        self._slot = _current.get() or Slot()
        self._performed: Counter[str] = Counter()
        self._outside: Counter[str] = Counter()
        self._due: dict[str, float] = {}

    @property
    def for_retry(self) -> bool:
        """Whether a node waits for its next attempt."""
        return bool(self._due)

    @property
    def seconds_until_retry(self) -> float | None:
        """The time until the next attempt at any node, in seconds. None means that no node waits for one."""
        return max(min(self._due.values()) - time.monotonic(), 0.0) if self._due else None

    def at(self, node_id: str) -> AbstractContextManager[None]:
        """The run is at this node within the body."""
        return self._counted(self._performed, node_id)

    def retry_in(self, node_id: str, seconds: float) -> None:
        """The node waits for its next attempt, so many seconds from now."""
        self._due[node_id] = time.monotonic() + seconds
        self._look()

    async def until_due(self, node_id: str) -> None:
        """Return when the node's next attempt may begin; at once if it does not wait for one."""
        if (due := self._due.get(node_id)) is not None:
            await asyncio.sleep(due - time.monotonic())

    def begin(self, node_id: str) -> None:
        """An attempt at the node begins."""
        self._due.pop(node_id, None)
        self._look()

    @asynccontextmanager
    async def outside(self, node_id: str) -> AsyncGenerator[None]:
        """Within the body the node waits for somebody outside; if for long, others may use the run's slot."""
        with ExitStack() as left:
            counted = self._counted(self._outside, node_id)
            timer = asyncio.get_running_loop().call_later(OUTSIDE_SECONDS, left.enter_context, counted)
            try:
                yield
            finally:
                timer.cancel()

    def end(self) -> None:
        """The run is not executed here any more."""
        self._slot.set_idle(False)

    @contextmanager
    def _counted(self, nodes: Counter[str], node_id: str) -> Generator[None]:
        nodes[node_id] += 1
        self._look()
        try:
            yield
        finally:
            nodes[node_id] -= 1
            self._look()

    def _look(self) -> None:
        waiting = self._due.keys() | (+self._outside).keys()
        self._slot.set_idle(bool(waiting) and (+self._performed).keys() <= waiting)
