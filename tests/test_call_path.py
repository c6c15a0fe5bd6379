"""The way from a claimed run to the channel, counted in frames of this project from real stack traces."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from orchestration.contracts import Delivery
from orchestration.message import Message
from orchestration.settings import Settings
from orchestration.states import RunStatus
from orchestration.store.database import Database
from service.stack import StackAddresses
from service.worker.process import open_worker
from tests.conftest import MemoryChannels
from tests.receivers import http_receiver
from tests.worker_helpers import NOWHERE, over, push, worker_settings

ROOT = Path(__file__).parent.parent
OURS = ("flows", "tasks", "blocks", "orchestration", "service")
MAX_FRAMES = 15
ROOTS = ("RunExecutor.execute", "alert_pipeline")
"""What the tasks on the way have in their stacks: the worker's, and the flow's if Prefect executes the run."""

pytestmark = pytest.mark.usefixtures("patient")


@dataclass
class TracingChannel:
    """A channel that keeps the stack on which its message came."""

    stacks: list[list[CodeType]] = field(default_factory=list[list[CodeType]])
    driver: str = "tracing"
    target: str = "tracing"
    shows_state: bool = False

    async def send(self, message: Message) -> Delivery:
        stack: list[CodeType] = [frame.f_code for frame in _frames_above(sys._getframe(1))]
        for waiting in _tasks_that_wait():
            stack += [frame.f_code for frame in waiting]
        self.stacks.append(stack)
        return Delivery(driver="tracing", provider="tracing", channel="tracing", status="sent")


def _frames_above(frame: Any) -> list[Any]:
    """The frames of the running task, from the channel outward."""
    found = []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found


def _tasks_that_wait() -> list[list[Any]]:
    """The frames of the other tasks on the way: the channel is called in a task of its own, and a flow is one too."""
    current = asyncio.current_task()
    stacks = []
    for task in asyncio.all_tasks():
        frames, coroutine = [], task.get_coro()
        while coroutine is not None and hasattr(coroutine, "cr_frame"):
            if coroutine.cr_frame is not None:
                frames.append(coroutine.cr_frame)
            coroutine = coroutine.cr_await
        if task is not current and any(frame.f_code.co_qualname in ROOTS for frame in frames):
            stacks.append(frames)
    return stacks


def own_frames(stack: list[CodeType]) -> list[str]:
    """`file: function` of this project's frames, each once in the order of the stack."""
    found: list[str] = []
    for code in stack:
        path = Path(code.co_filename)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in OURS:
            found.append(f"{path.relative_to(ROOT)}: {code.co_qualname}")
    return found


@pytest.mark.parametrize("engine", ["prefect", "direct"])
async def test_a_claimed_run_is_at_most_fifteen_frames_from_its_channel(
    engine: str, settings: Settings, stack: StackAddresses, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    channel = TracingChannel()
    api_url = stack.prefect_api_url if engine == "prefect" else NOWHERE
    with http_receiver() as receiver:
        own = worker_settings(settings.home, receiver)
        async with open_worker(own, database_url=stack.database_url, prefect_api_url=api_url) as worker:
            object.__setattr__(worker.services, "channels", MemoryChannels({"tracing": channel}))  # type: ignore[dict-item]
            worker.start()
            run_id = await push(worker.services, "Path")
            record = await over(database, run_id)

    assert (record.status, record.engine) == (RunStatus.NOTIFIED, engine)
    (trace,) = channel.stacks
    frames = own_frames(trace)
    with capsys.disabled():
        sys.stdout.write(f"\n{engine}: {len(frames)} own frames from claim to channel\n  " + "\n  ".join(frames) + "\n")
    assert len(frames) <= MAX_FRAMES, frames
    assert any("worker.py" in frame for frame in frames)
