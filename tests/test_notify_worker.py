"""A worker and a real receiver: what a channel refuses for some time arrives when it works again, once each."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestration.store import deliveries, standings
from orchestration.store.database import Database
from tests.notify_helpers import push, rows
from tests.receivers import Answer, Received, http_receiver
from tests.worker_helpers import NOWHERE, eventually, worker_settings, working


async def test_a_channel_that_fails_for_a_while_is_told_of_every_incident_once_when_it_works(
    database: Database, home: Path
) -> None:
    with http_receiver(default=500) as receiver:
        settings = worker_settings(home, receiver, backoff_factor=0.2, max_retries_per_stage=0)
        async with working(settings, database.url, NOWHERE) as worker:
            services = worker.services
            fires = [await push(services, name=f"Fires{number}") for number in range(10)]
            for number in range(5):
                await push(services, name=f"Ends{number}")
            await _failed(database, len(fires) + 5)
            for number in range(5):
                await push(services, name=f"Ends{number}", status="resolved")
            await _failed(database, len(fires) + 10)
            receiver.answer_with(Answer(200))

            async def all_told() -> bool:
                found = await rows(
                    database,
                    "select 1 from incident join incident_channel as known on known.incident_id = incident.id "
                    "where known.version = incident.version and known.failing_since is null",
                )
                return len(found) == 15

            # 30 s is what is promised; a busy machine gets more.
            await eventually(all_told, "everything to be told", 60)
        accepted = [request for request in receiver.requests if request.answered == 200]

    told = Counter(str(request.json["title"]) for request in accepted)
    assert told == {
        **{f"[CRITICAL] Fires{number} on web-1 (test)": 1 for number in range(10)},
        **{f"[RESOLVED] Ends{number} on web-1 (test)": 1 for number in range(5)},
    }


async def _failed(database: Database, count: int) -> None:
    async def failed() -> bool:
        return (
            len(await rows(database, "select 1 from pipeline_run where status = 'failed' and reason = 'push'")) >= count
        )

    await eventually(failed, f"{count} runs to fail")


ASKED_SECONDS = 1.0
TOLERANCE_SECONDS = 0.05


async def test_every_message_to_a_busy_channel_arrives_once_and_never_earlier_than_asked(
    database: Database, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"Busy{number}" for number in range(8)]
    tries = Tries(monkeypatch)
    busy = Answer(429, headers={"Retry-After": f"{ASKED_SECONDS:g}"})
    with http_receiver(*[busy, Answer(200)] * len(names)) as receiver:
        settings = worker_settings(home, receiver, backoff_factor=1.0)
        async with working(settings, database.url, NOWHERE) as worker, working(settings, database.url, NOWHERE):
            await asyncio.gather(*(push(worker.services, name=name) for name in names))

            async def all_sent() -> bool:
                return len(await rows(database, "select 1 from delivery where status = 'sent'")) == len(names)

            await eventually(all_sent, "all messages", 120)
        requests = receiver.requests

    accepted = [request.json["title"] for request in requests if request.answered == 200]
    assert sorted(accepted) == sorted(f"[CRITICAL] {name} on web-1 (test)" for name in names)
    assert sum(request.answered == 429 for request in requests) >= len(names) // 2
    assert tries.early(requests) == []


class Tries:
    """When each try looked at its channel, and when its refusal was on record for all workers; by key.

    Some tries end without a request, when their process has heard a refusal meanwhile.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._looked: dict[asyncio.Task[Any] | None, float] = {}
        self._begun: dict[str, list[float]] = {}
        self._recorded: dict[str, list[float]] = {}
        for module, name in ((standings, "lock_and_look"), (deliveries, "open_try"), (deliveries, "settle_failed")):
            monkeypatch.setattr(module, name, partial(getattr(self, name), getattr(module, name)))

    async def lock_and_look(self, look: Any, *args: Any) -> Any:
        self._looked[asyncio.current_task()] = time.monotonic()
        return await look(*args)

    async def open_try(self, open_try: Any, *args: Any, **options: Any) -> Any:
        opened = await open_try(*args, **options)
        self._begun.setdefault(opened.key, []).append(self._looked[asyncio.current_task()])
        return opened

    async def settle_failed(self, settle: Any, tx: Any, tried: Any, *args: Any, **options: Any) -> None:
        await settle(tx, tried, *args, **options)
        self._recorded.setdefault(tried.key, []).append(time.monotonic())

    def early(self, requests: Sequence[Received]) -> list[str]:
        """The requests that came too early by the receiver's clock, although it was on record when they were begun.

        What was on its way, or what nobody could know yet, is none of these.
        """
        refusals: list[tuple[float, float]] = []
        found: list[str] = []
        for request in requests:
            key = request.headers["idempotency-key"]
            began = max(moment for moment in self._begun[key] if moment <= request.at)
            for refused_at, on_record in refusals:
                if began > on_record and request.at < refused_at + ASKED_SECONDS - TOLERANCE_SECONDS:
                    found.append(f"{request.json['title']} came {request.at - refused_at:.2f} s after a 429")
            if request.answered == 429:
                refusals.append((request.at, min(moment for moment in self._recorded[key] if moment >= request.at)))
        return found
