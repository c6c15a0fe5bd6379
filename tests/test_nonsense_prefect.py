"""An address that answers and is not Prefect's: the worker lives, and every alert is told without Prefect."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

from flows.services import open_services
from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.store import workers
from orchestration.store.database import Database, open_database
from service.mirror.deployments import POOL_NAME, register
from service.prefect_patches import send_what_is_queued
from service.stack import StackAddresses
from service.worker.warm import WarmWorker
from tests.api_helpers import all_runs
from tests.nonsense import ANSWERS, Proxy, proxy
from tests.oncall_helpers import switch_storms_off
from tests.receivers import HttpReceiver, http_receiver
from tests.worker_helpers import eventually, prefect_at, push, worker_settings

MAIN = [
    *("html", "empty object", "empty list", "other JSON", "wrong version", "half an answer"),
    *("empty", "no content", "endless", "redirect to itself", "401", "binary"),
    *("huge, compressed", "continues for ever", "millions of objects"),
]
"""The answers that are tried at the start and while the worker works; of the others only the latter."""

AT_START = MAIN if "NONSENSE_ALL" in os.environ else ["html", "empty object", "endless", "401"]
"""At the start each needs a worker of its own, which takes seconds. By hand all of them:

    NONSENSE_ALL=1 uv run pytest -n 0 tests/test_nonsense_prefect.py
"""

EACH = 10 if "NONSENSE_ALL" in os.environ else 3
"""How many critical alerts, and how many others, are sent with each of these answers."""


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """The worker asks Prefect more often, so that it meets the nonsense wherever it asks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.worker.watch.WATCH_SECONDS", 0.15)
        patch.setattr("service.worker.watch.RENEW_SECONDS", 0.5)
        patch.setattr("service.worker.worker.HEARTBEAT_SECONDS", 0.1)
        patch.setattr("service.worker.warm.SYNC_SECONDS", 0.5)
        patch.setattr("service.worker.warm.RETRY_AFTER_SECONDS", 0.3)
        yield


@asynccontextmanager
async def serving(settings: Settings, database_url: str, api_url: str) -> AsyncIterator[asyncio.Task[None]]:
    """`alert-pipeline worker` in this process, with that address as its Prefect."""
    await send_what_is_queued(0)  # an earlier test's Prefect may be gone, which a worker's process never outlives
    addresses = StackAddresses(database_url=database_url, prefect_api_url=api_url, embedded=frozenset())
    warm = WarmWorker(POOL_NAME, name="warm nonsense", settings=settings, addresses=addresses)
    task = asyncio.create_task(warm.start(printer=lambda *_: None))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
        await send_what_is_queued(0)


async def pages_all(
    services: Services, receiver: HttpReceiver, about: str, worker: asyncio.Task[None], *, each: int = EACH
) -> None:
    """So many critical alerts, and as many others, are each told once, while the worker lives."""
    wanted = {f"{about} {severity} {number}": severity for severity in ("critical", "info") for number in range(each)}
    before = len(receiver.requests)
    for name, severity in wanted.items():
        await push(services, name, severity=severity, instance=name)

    async def told() -> bool:
        return worker.done() or len(receiver.requests) - before >= len(wanted)

    await eventually(told, f"{len(wanted)} messages, with {about}", 30)
    assert not worker.done(), worker
    said = " ".join(str(request.json["title"]) for request in receiver.requests[before:])
    assert [name for name in wanted if said.count(f"{name} on") != 1] == []


@pytest.mark.parametrize("name", AT_START)
async def test_nonsense_at_the_start_pages_everybody(
    database: Database, home: Path, receiver: HttpReceiver, name: str
) -> None:
    settings = worker_settings(home, receiver, worker_grace_seconds=0)
    async with proxy() as address, open_services(settings, database.url) as services:
        address.answer_with(ANSWERS[name])
        async with serving(settings, database.url, address.url) as worker:
            await pages_all(services, receiver, name, worker)
        assert address.answered

    assert {run.engine for run in await all_runs(database)} == {"direct"}


async def test_a_bug_in_any_part_of_the_worker_ends_no_worker(
    database: Database, home: Path, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: dict[str, int] = {}
    # What makes more runs claimable fails for ever: the runs that are claimable already do not wait for it.
    for_ever = ["service.worker.worker:look_after_channels", "orchestration.store.claims:list_lease_owners"]

    def fail(name: str) -> None:
        owner, _, attribute = name.rpartition(":")
        module = importlib.import_module(owner.partition(".Watch")[0])
        place: Any = module.Watch if owner.endswith(".Watch") else module
        original = getattr(place, attribute)

        def call(*arguments: Any, **options: Any) -> Any:
            failed[name] = failed.get(name, 0) + 1
            if failed[name] <= 2 or name in for_ever:
                raise KeyError(name)
            return original(*arguments, **options)

        monkeypatch.setattr(place, attribute, call)

    parts = [*for_ever, "service.worker.worker:notifications"]
    parts += ["service.worker.worker:look_after_incidents", "service.worker.watch.Watch:_poll_forever"]
    parts += ["orchestration.store.claims:claim_runs", "orchestration.store.workers:beat"]
    parts += ["orchestration.store.claims:seconds_until_due"]
    monkeypatch.setattr("service.worker.worker.POLL_SECONDS", 0.05)
    for part in parts:
        fail(part)
    async with proxy() as address, open_services(settings := worker_settings(home, receiver), database.url) as services:
        address.answer_with(ANSWERS["html"])
        async with serving(settings, database.url, address.url) as worker:
            await pages_all(services, receiver, "bugs", worker)

            async def all_failed() -> bool:
                return worker.done() or min(failed.get(part, 0) for part in parts) > 2

            await eventually(all_failed, "every part to fail three times, or to work again")
            assert not worker.done()


class Running:
    """A worker that has worked with Prefect for a while."""

    def __init__(self, address: Proxy, services: Services, receiver: HttpReceiver, worker: asyncio.Task[None]) -> None:
        self.address, self.services, self.receiver, self.worker = address, services, receiver, worker

    async def use_prefect(self) -> None:
        """Prefect answers at the address; return when the worker uses it."""
        self.address.answer_with(None)

        async def used() -> bool:
            async with self.services.database.transaction() as tx:
                return self.worker.done() or any(one.prefect_ok for one in await workers.list_workers(tx))

        await eventually(used, "the worker to use Prefect")


@pytest.fixture(scope="module")
async def running(home: Path, stack: StackAddresses, postgres_url: str) -> AsyncIterator[Running]:
    """One worker for all kinds of nonsense, one after the other."""
    async with prefect_at(stack) as client:
        await register(client)
    with http_receiver() as receiver, temporary_settings({PREFECT_API_AUTH_STRING: stack.prefect_auth_string}):
        settings = worker_settings(home, receiver, worker_grace_seconds=0)
        async with open_database(postgres_url) as database:
            await switch_storms_off(database)
        async with (
            proxy(stack.prefect_api_url) as address,
            open_services(settings, postgres_url) as services,
            serving(settings, postgres_url, address.url) as worker,
        ):
            yield Running(address, services, receiver, worker)


@pytest.mark.parametrize("name", MAIN)
async def test_nonsense_while_the_worker_works_pages_everybody(running: Running, name: str) -> None:
    await running.use_prefect()
    running.address.answer_with(ANSWERS[name])
    asked = running.address.answered

    await pages_all(running.services, running.receiver, f"running {name}", running.worker)

    assert running.address.answered > asked


@pytest.mark.skipif("NONSENSE_ALL" not in os.environ, reason="by hand: NONSENSE_ALL=1")
async def test_no_other_nonsense_is_different(running: Running) -> None:
    for name in ANSWERS.keys() - MAIN:
        await running.use_prefect()
        running.address.answer_with(ANSWERS[name])
        await pages_all(running.services, running.receiver, f"running {name}", running.worker, each=1)
