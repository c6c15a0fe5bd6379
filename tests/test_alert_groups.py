"""Groups of Alertmanager: an alert that is in two of them, and an alert that a group has left out."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from orchestration.contracts import IngestResult
from orchestration.engine.lease import lease_run
from orchestration.engine.run import Services
from orchestration.store import incidents
from orchestration.store.actions import Actor, Via, resolve
from orchestration.store.models import AlertRow
from orchestration.store.present import MAX_MEMBERS, read_present
from tests.engine_helpers import attempt
from tests.inbox_helpers import accept_push
from tests.store_helpers import waits_for_a_lock
from tests.worker_helpers import eventually

NOON = datetime.now(UTC) - timedelta(hours=1)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def alert(name: str, begins: float, ends: float | None = None) -> dict[str, Any]:
    return {
        "status": "firing" if ends is None else "resolved",
        "labels": {"alertname": "DiskFull", "instance": name, "severity": "critical"},
        "startsAt": at(begins).isoformat(),
        "endsAt": "0001-01-01T00:00:00Z" if ends is None else at(ends).isoformat(),
        "fingerprint": name,
    }


async def accept(services: Services, group: str, *alerts: dict[str, Any]) -> str:
    status = "firing" if any(one["status"] == "firing" for one in alerts) else "resolved"
    body = {"version": "4", "groupKey": group, "receiver": "us", "status": status, "alerts": list(alerts)}
    (run_id,) = await accept_push(services, body, source="alertmanager", environment="test")
    return run_id


async def ingest(services: Services, run_id: str) -> IngestResult:
    async with lease_run(services, run_id, engine="test") as run:
        return await attempt(run, "ingest")


async def push(services: Services, group: str, *alerts: dict[str, Any]) -> IngestResult:
    return await ingest(services, await accept(services, group, *alerts))


async def status_of(services: Services, found: IngestResult) -> str:
    async with services.database.transaction() as tx:
        return (await incidents.get_incident(tx, found.incident_id or "")).status


async def settle_others(services: Services) -> None:
    """Do what the runs do that an end in another group has queued."""
    async with services.database.statement() as tx:
        query = text("select run_id from pipeline_run where reason = 'member_ended' and status = 'pending'")
        waiting = list((await tx.execute(query)).scalars())
    for run_id in waiting:
        await ingest(services, run_id)


async def test_the_push_that_was_accepted_first_is_recorded_after_that_of_the_other_group(services: Services) -> None:
    by_disk = await accept(services, "by disk", alert("db-1", begins=0))
    by_team = await accept(services, "by team", alert("db-1", begins=0))

    assert (await ingest(services, by_team)).reason == "opened"
    first = await ingest(services, by_disk)
    assert first.reason == "opened", "that the other group has spoken of the alert does not make it old"
    assert await status_of(services, first) == "open"


async def test_an_end_that_the_other_group_has_told_is_not_undone_by_an_earlier_push(services: Services) -> None:
    by_disk = await accept(services, "by disk", alert("db-1", begins=0))
    team = await push(services, "by team", alert("db-1", begins=0))
    assert (await push(services, "by team", alert("db-1", begins=0, ends=5))).reason == "resolved"

    assert (await ingest(services, by_disk)).reason == "stale"
    assert await status_of(services, team) == "resolved"


async def test_a_firing_that_a_person_has_ended_stays_so_whatever_old_pushes_of_its_other_group_say(
    services: Services,
) -> None:
    old = await accept(services, "by team", alert("db-1", begins=-30))
    async with services.database.transaction() as tx:
        await tx.execute(text("update pipeline_run set created_at = :then"), {"then": at(-29)})
    await push(services, "by disk", alert("db-1", begins=-30))
    await push(services, "by disk", alert("db-1", begins=-30, ends=-10))
    disk = await push(services, "by disk", alert("db-1", begins=0))
    async with services.database.transaction() as tx:
        await resolve(tx, disk.incident_id or "", Actor(by="ada", via=Via.CLI))

    assert (await ingest(services, old)).reason == "stale", "what fires now has begun later"
    assert (await push(services, "by team", alert("db-1", begins=0))).reason == "opened"
    assert (await push(services, "by disk", alert("db-1", begins=0))).reason == "repeat"
    assert await status_of(services, disk) == "resolved"


async def test_an_old_end_of_the_group_that_comes_twice_does_not_end_what_began_since(services: Services) -> None:
    group = await push(services, "by disk", alert("db-1", begins=0))
    assert (await push(services, "by disk", alert("db-1", begins=0, ends=5))).reason == "resolved"
    assert (await push(services, "by disk", alert("db-2", begins=10))).reason == "reopened"

    assert (await push(services, "by disk", alert("db-1", begins=0, ends=5))).reason == "repeat"
    assert await status_of(services, group) == "open"
    assert (await push(services, "by disk", alert("db-2", begins=10, ends=15))).reason == "resolved"


async def test_what_the_end_of_its_group_leaves_out_has_ended_in_its_other_group_as_well(services: Services) -> None:
    group = await push(services, "by disk", alert("db-1", begins=0), alert("db-2", begins=1))
    team = await push(services, "by team", alert("db-2", begins=1))

    assert (await push(services, "by disk", alert("db-1", begins=0, ends=5))).reason == "resolved"
    await settle_others(services)
    assert [await status_of(services, one) for one in (group, team)] == ["resolved", "resolved"]
    late = await push(services, "by disk", alert("db-2", begins=2))
    assert late.reason == "stale", "the other server of the pair says late what has ended"


async def test_an_end_that_the_other_group_records_first_still_ends_all_of_its_own_group(services: Services) -> None:
    group = await push(services, "by disk", alert("db-1", begins=0), alert("db-2", begins=1))
    await push(services, "by team", alert("db-2", begins=1))
    by_disk = await accept(services, "by disk", alert("db-2", begins=1, ends=5))
    assert (await push(services, "by team", alert("db-2", begins=1, ends=5))).reason == "resolved"

    assert (await ingest(services, by_disk)).reason == "resolved", "db-1, which the push leaves out, has ended as well"
    assert await status_of(services, group) == "resolved"


async def test_an_alert_that_the_other_group_records_at_the_same_moment_is_compared_with_that(
    services: Services,
) -> None:
    await push(services, "by disk", alert("db-1", begins=0))
    await push(services, "by disk", alert("db-1", begins=0, ends=5))
    by_team = await accept(services, "by team", alert("db-2", begins=0))
    async with services.database.transaction() as tx:
        await tx.execute(text("lock table incident in share mode"))
        recording = asyncio.create_task(ingest(services, by_team))
        await eventually(lambda: waits_for_a_lock(services.database), "the push to be about to open its incident")
        # What db-1 has been through db-2 has, too: its group has said so meanwhile.
        names = ", ".join(one.name for one in AlertRow.__table__.columns if one.name not in ("id", "fingerprint"))
        await tx.execute(text(f"insert into alert (fingerprint, {names}) select 'db-2', {names} from alert"))

    found = await recording
    assert (found.reason, found.incident_id) == ("stale", None)


async def test_a_firing_that_a_person_has_ended_begins_anew_in_both_groups(services: Services) -> None:
    await push(services, "by disk", alert("db-1", begins=0))
    team = await push(services, "by team", alert("db-1", begins=0))
    async with services.database.transaction() as tx:
        await resolve(tx, team.incident_id or "", Actor(by="ada", via=Via.CLI))
    assert (await push(services, "by team", alert("db-1", begins=0))).reason == "repeat"
    async with services.database.statement() as tx:
        await tx.execute(text("update alert set heard_at = :moment"), {"moment": at(10)})

    assert (await push(services, "by disk", alert("db-1", begins=20))).reason == "new_episode"
    assert (await push(services, "by team", alert("db-1", begins=20))).reason == "reopened"


async def test_the_alerts_of_a_large_group_that_a_message_does_not_read_are_counted(services: Services) -> None:
    names = [f"db-{number}" for number in range(MAX_MEMBERS + 3)]
    found = await push(services, "everything", *(alert(name, begins=0) for name in names))
    for ends, counts in ((None, (203, 0)), (30, (0, 203))):
        await push(services, "everything", *(alert(name, 0, ends) for name in names))
        async with services.database.transaction() as tx:
            present = await read_present(tx, found.incident_id or "")
        assert (len(present.alerts), present.unread) == (200, 3)
        assert (present.firing, present.resolved) == counts
