"""What the tests of the worker share: a worker in this process or beside it, Prefect servers to break, alerts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.store import runs
from orchestration.store.database import Database
from orchestration.store.records import RunRecord
from service.prefect_patches import send_what_is_queued
from service.stack import StackAddresses
from service.stack.paths import stack_paths
from service.stack.prefect_server import PrefectServer
from service.worker.process import open_worker
from service.worker.worker import Worker
from tests.conftest import clean_environment
from tests.inbox_helpers import accept_push
from tests.receivers import HttpReceiver
from tests.stack_fixtures import get, settings_for, until

T = TypeVar("T")

NOWHERE = "http://127.0.0.1:9/api"
"""An address where nobody listens: Prefect is down."""


def worker_settings(home: Path, receiver: HttpReceiver, **more: object) -> Settings:
    """Settings of a worker that sends to the receiver; retries do not take seconds."""
    usual: dict[str, object] = {
        "backoff_factor": 0.05,
        "checkers_enabled": ("memory",),
        "notify_channels": ("generic",),
        "webhook_url": receiver.url,
        "worker_grace_seconds": 5.0,
    }
    return settings_for(home, **{**usual, **more})


@contextlib.asynccontextmanager
async def working(settings: Settings, database_url: str, prefect_api_url: str | None) -> AsyncIterator[Worker]:
    """A worker at work in this process."""
    await send_what_is_queued(0)  # an earlier test's Prefect may be gone, which a worker's process never outlives
    async with open_worker(settings, database_url=database_url, prefect_api_url=prefect_api_url) as worker:
        worker.start()
        yield worker


async def push(services: Services, name: str, *, severity: str = "critical", **labels: str) -> str:
    """One alert into the inbox, as the door does it; the id of its run."""
    alert = {"alertname": name, "severity": severity, "instance": "web-1", **labels}
    (run_id,) = await accept_push(services, alert, source="generic", environment="test")
    return run_id


async def record_of(database: Database, run_id: str) -> RunRecord:
    async with database.transaction() as tx:
        return await runs.get_run(tx, run_id)


async def eventually(look: Callable[[], Awaitable[T]], what: str, seconds: float = 40) -> T:
    """What `look` returns, once it is something."""
    deadline = time.monotonic() + seconds
    while True:
        if found := await look():
            return found
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        await asyncio.sleep(0.02)


async def over(database: Database, run_id: str, seconds: float = 40) -> RunRecord:
    """The run, once it is over."""

    async def look() -> RunRecord | None:
        record = await record_of(database, run_id)
        return record if record.status.final else None

    return await eventually(look, f"the end of run {run_id}", seconds)


async def at_stage(database: Database, run_id: str, stage: str) -> RunRecord:
    """The run, once it is at this stage."""

    async def look() -> RunRecord | None:
        record = await record_of(database, run_id)
        return record if record.current_stage == stage else None

    return await eventually(look, f"run {run_id} at {stage}")


def titles(receiver: HttpReceiver) -> list[str]:
    """The titles of the messages that the receiver was sent."""
    return [str(request.json["title"]) for request in receiver.requests]


def keys(receiver: HttpReceiver) -> list[str]:
    """The idempotency keys of the messages that the receiver was sent."""
    return [request.headers["idempotency-key"] for request in receiver.requests]


@contextlib.asynccontextmanager
async def prefect_at(where: StackAddresses | str | None) -> AsyncIterator[PrefectClient]:
    """A client of this Prefect server: a stack's, or one without a credential at this address."""
    with temporary_settings(client_settings(where)):
        async with get_client() as client:
            yield client


def client_settings(where: StackAddresses | str | None) -> dict[Any, Any]:
    """Prefect's settings for a client of this server."""
    if not isinstance(where, StackAddresses):
        return {PREFECT_API_URL: where}
    return {PREFECT_API_URL: where.prefect_api_url, PREFECT_API_AUTH_STRING: where.prefect_auth_string}


def prefect_variables(stack: StackAddresses) -> dict[str, str]:
    """The environment of a program that is a client of this server, as `alert-pipeline env` prints it."""
    return {
        "PREFECT_API_URL": stack.prefect_api_url or NOWHERE,
        "PREFECT_API_AUTH_STRING": stack.prefect_auth_string or "",
    }


class WorkerProcess:
    """`alert-pipeline worker` beside the test, or another command that is a worker."""

    command: Sequence[str] = ("alert-pipeline", "worker")

    def __init__(self, settings: Settings, addresses: StackAddresses, log: Path, **environment: str) -> None:
        self.log = log
        own = {
            "ALERT_PIPELINE_HOME": str(settings.home),
            "DATABASE_URL": addresses.database_url,
            "PREFECT_API_URL": addresses.prefect_api_url or NOWHERE,
            "ORCHESTRATION_BACKOFF_FACTOR": "0.05",
            "CHECKERS_ENABLED": "memory",
            "NOTIFY_CHANNELS": "generic",
            "NOTIFY_WEBHOOK_URL": settings.webhook_url.get_secret_value() if settings.webhook_url else "",
            "WORKER_GRACE_SECONDS": "5",
            **environment,
        }
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).parent / self.command[0]), *self.command[1:]],
                env={**clean_environment(), **own},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL: it can do nothing more."""
        self.process.kill()
        self.process.wait(30)

    def end(self) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()


@contextlib.contextmanager
def beside(*workers: WorkerProcess) -> Iterator[Sequence[WorkerProcess]]:
    """The worker processes are gone when the body is through."""
    try:
        yield workers
    finally:
        for worker in workers:
            worker.close()


class BreakableServer:
    """A Prefect server of the test's own, on the session's database, that can be stopped and started again.

    It asks for no credential, like many a server that operators run themselves.
    """

    def __init__(self, home: Path, log: Path) -> None:
        self._server = PrefectServer(stack_paths(home), None)
        self._log = log
        self.api_url = self._server.api_url
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it answers."""
        server: Any = self._server
        environment = {**server._environment()}
        del environment["PREFECT_SERVER_API_AUTH_STRING"]
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                server._command(),
                env=environment,
                pass_fds=(server._listener.fileno(),),
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/tmp",
            )
        until(lambda: get(f"{self.api_url}/health")[0] == 200, "Prefect's server")

    def stop(self) -> None:
        """SIGKILL. Its port stays open, and nobody answers there: the worst kind of an outage."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
        self._server.close()


class DeafHost:
    """A host that takes no connection and refuses none: whoever checks it waits until the check's time is over."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self._callers: list[socket.socket] = []
        for _ in range(4):
            # Once the queue is full, the kernel ignores who calls.
            caller = socket.socket()
            caller.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                caller.connect(self._listener.getsockname())
            self._callers.append(caller)

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        for one in (*self._callers, self._listener):
            one.close()


def own_pid() -> int:
    return os.getpid()
