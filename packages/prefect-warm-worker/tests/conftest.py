"""A real Prefect server on the loopback address, and warm workers in this process or beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from prefect import Flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_WORKER_QUERY_SECONDS, temporary_settings
from prefect_warm_worker import AllowedFlows, WarmProcessWorker
from prefect_warm_worker.bench.server import open_server
from prefect_warm_worker.settings import WarmWorkerSettings

T = TypeVar("T")

# A developer's own must not leak into what the tests start.
for _name in [name for name in os.environ if name.startswith(("PREFECT_", "WARM_WORKER_"))]:
    del os.environ[_name]


@pytest.fixture(scope="module", autouse=True)
async def own_services() -> AsyncIterator[None]:
    """What sends events and logs keeps the server of whoever began it, and other tests of this process have another."""

    async def end() -> None:
        for service in (EventsWorker, APILogWorker):
            await service.drain_all(timeout=10, at_exit=False)  # pyright: ignore[reportGeneralTypeIssues]

    await end()
    yield
    await end()


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def api_url(prefect_home: Path) -> Iterator[str]:
    """The server of all tests."""
    with open_server(prefect_home) as url:
        yield url


@pytest.fixture
async def client(api_url: str, prefect_home: Path) -> AsyncIterator[PrefectClient]:
    """A client of the server, which is also that of whatever the test starts."""
    # No test waits for a poll: events and timers have to start what is started.
    seldom: Any = {PREFECT_API_URL: api_url, PREFECT_HOME: prefect_home, PREFECT_WORKER_QUERY_SECONDS: 60.0}
    with temporary_settings(seldom):
        async with get_client() as client:
            yield client


class InMemory(WarmProcessWorker):
    """A worker whose flows are objects of the test."""

    type = "warm-in-memory"
    flows: Mapping[str, Flow[..., Any]] = {}

    def load_flows(self) -> AllowedFlows:
        return AllowedFlows(self.flows)


class Pool:
    """A work pool of the test's own, with its worker in this process."""

    def __init__(self, client: PrefectClient) -> None:
        self.client = client
        self.name = f"pool-{uuid4().hex[:8]}"
        self.worker: InMemory | None = None
        self.said: list[str] = []

    @contextlib.asynccontextmanager
    async def worker_of(self, *flows: Flow[..., Any], limit: int | None = None, **own: Any) -> AsyncIterator[InMemory]:
        """A worker that may run these flows, each under `flows.NAME`. Settings as in the environment, but quicker."""
        settings = WarmWorkerSettings.model_validate({"watch_seconds": 0.5, "grace_seconds": 5, **own})
        worker = self.worker = InMemory(self.name, name=f"worker of {self.name}", limit=limit, own_settings=settings)
        worker.flows = {entrypoint(flow): flow for flow in flows}
        serving = asyncio.create_task(worker.start(printer=lambda *text: self.said.append(" ".join(map(str, text)))))

        async def ready() -> bool:
            if serving.done():
                serving.result()
            return worker.is_setup

        try:
            await eventually(ready, "the worker")
            yield worker
        finally:
            serving.cancel()
            await asyncio.wait({serving})

    async def deploy(self, flow: Flow[..., Any], **more: Any) -> UUID:
        """A deployment of the flow on this pool, as `prefect deploy` makes it."""
        fields: dict[str, Any] = {"entrypoint": entrypoint(flow), "work_pool_name": self.name, **more}
        flow_id = await self.client.create_flow_from_name(flow.name)
        return await self.client.create_deployment(flow_id=flow_id, name=uuid4().hex[:8], **fields)

    async def start(self, flow: Flow[..., Any], parameters: dict[str, Any] | None = None, **more: Any) -> FlowRun:
        """A flow run of a new deployment, as `prefect deployment run` makes it."""
        return await self.client.create_flow_run_from_deployment(
            await self.deploy(flow, **more), parameters=parameters or {}
        )

    async def end_of(self, flow_run: FlowRun, seconds: float = 40) -> State[Any]:
        """The final state of a flow run."""

        async def look() -> State[Any] | None:
            state = (await self.client.read_flow_run(flow_run.id)).state
            return state if state is not None and state.is_final() else None

        return await eventually(look, f"the end of the flow run {flow_run.name}", seconds)


@pytest.fixture
def pool(client: PrefectClient) -> Pool:
    return Pool(client)


def entrypoint(flow: Flow[..., Any]) -> str:
    return f"flows.{flow.name}"


async def eventually(look: Callable[[], Awaitable[T]], what: str, seconds: float = 40) -> T:
    """What `look` returns, once it is something."""
    deadline = time.monotonic() + seconds
    while True:
        if found := await look():
            return found
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        await asyncio.sleep(0.02)


class Cable:
    """What lies between a worker and the server: it can be cut, and repaired."""

    def __init__(self, api_url: str) -> None:
        self._port = int(api_url.split(":")[2].partition("/")[0])
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self.api_url = ""

    async def repair(self) -> None:
        own = int(self.api_url.split(":")[2].partition("/")[0]) if self.api_url else 0
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", own)
        self.api_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/api"

    def cut(self) -> None:
        if self._server is not None:
            self._server.close()
        for end in tuple(self._ends):
            end.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.add(writer)
        with contextlib.suppress(ConnectionError):
            while some := await reader.read(65536):
                writer.write(some)
                await writer.drain()
        self._ends.discard(writer)
        writer.close()


@pytest.fixture
async def cable(api_url: str) -> AsyncIterator[Cable]:
    cable = Cable(api_url)
    await cable.repair()
    yield cable
    cable.cut()
