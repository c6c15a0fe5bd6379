"""A worker and a real receiver: what a channel refuses for some time arrives when it works again, once each."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from orchestration.store.database import Database
from tests.notify_helpers import push, rows
from tests.receivers import Answer, http_receiver
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


async def test_every_message_to_a_busy_channel_arrives_once_and_never_earlier_than_asked(
    database: Database, home: Path
) -> None:
    busy = Answer(429, headers={"Retry-After": "1"})
    with http_receiver(*[busy, Answer(200)] * 12) as receiver:
        settings = worker_settings(home, receiver, backoff_factor=1.0)
        async with working(settings, database.url, NOWHERE) as worker:
            await asyncio.gather(*(push(worker.services, name=f"Busy{number}") for number in range(12)))

            async def all_sent() -> bool:
                return len(await rows(database, "select 1 from delivery where status = 'sent'")) == 12

            await eventually(all_sent, "all messages", 120)
        accepted = [request.json["title"] for request in receiver.requests if request.answered == 200]

    assert sorted(accepted) == sorted(f"[CRITICAL] Busy{number} on web-1 (test)" for number in range(12))
