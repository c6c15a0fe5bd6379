"""Storms: many incidents that open on one route at once are one, from its first page to its one all-clear."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from orchestration.engine.run import Services
from orchestration.states import RunStatus
from orchestration.store.database import Database
from orchestration.store.records import RunRecord
from tasks.ingest.storms import fold_storms
from tests.api_helpers import alert, run_to_end
from tests.conftest import MemoryChannel
from tests.inbox_helpers import accept_push
from tests.notify_helpers import rows


async def accept(services: Services, count: int, *, first: int = 0, **more: object) -> list[str]:
    """A push with so many distinct alerts, each an incident of its own."""
    alerts = [alert(f"DiskFull{n % 3}", instance=f"db-{n}", **more) for n in range(first, first + count)]
    return await accept_push(services, {"alerts": alerts}, source="generic", environment="production")


async def work(services: Services) -> list[RunRecord]:
    """What a worker does with all that waits: fold, then execute. Returns the runs that it has executed."""
    done: list[RunRecord] = []
    while True:
        while await fold_storms(services):
            pass
        waiting = await rows(
            services.database,
            "select run_id from pipeline_run where status = 'pending' and due_at is null order by priority desc, id",
        )
        if not waiting:
            return done
        done.append(await run_to_end(services, waiting[0]["run_id"]))


async def statuses(database: Database) -> Mapping[str, int]:
    found = await rows(
        database,
        "select status || ' ' || coalesce(skip_reason, '') as s, count(*) as n from pipeline_run "
        "where reason = 'push' group by 1",
    )
    return {row["s"].strip(): row["n"] for row in found}


async def test_a_storm_is_one_incident_from_its_first_page_to_its_all_clear(
    services: Services, channel: MemoryChannel
) -> None:
    for batch in range(6):
        await accept(services, 100, first=100 * batch, severity="warning")
    await work(services)
    assert await statuses(services.database) == {"notified": 1, "skipped folded": 598, "skipped storm_grew": 1}
    (message,) = channel.messages
    assert message.title.startswith("[WARNING, storm] ")
    (storm,) = await rows(services.database, "select * from incident")
    members = await rows(services.database, "select 1 from membership where status = 'firing'")
    assert (storm["status"], len(members)) == ("open", 600)
    linked = await rows(services.database, "select 1 from pipeline_run where incident_id is null")
    assert linked == []

    await accept(services, 1, first=5, severity="warning")  # a repeat of a member
    (repeat,) = await work(services)
    assert (repeat.status, repeat.skip_reason) == (RunStatus.SKIPPED, "kept_elsewhere")

    for batch in range(6):
        await accept(services, 100, first=100 * batch, severity="warning", status="resolved")
    await work(services)
    assert [message.status for message in channel.messages] == ["firing", "resolved"]
    (storm,) = await rows(services.database, "select * from incident")
    assert storm["status"] == "resolved"
    assert await rows(services.database, "select 1 from alert where status = 'firing'") == []
