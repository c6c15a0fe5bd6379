"""The life of an incident, as the tests drive it: pushes, people, and time that passes."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text

from orchestration.alert import Incident
from orchestration.engine.run import Services
from orchestration.store.actions import Actor, Via
from orchestration.store.database import Database
from orchestration.store.incidents import IncidentStory, get_incident, read_incident
from orchestration.store.records import RunRecord
from orchestration.store.timers import list_upcoming
from tests.api_helpers import alert, run_of, run_to_end
from tests.inbox_helpers import accept_push

ADA = Actor(by="ada", via=Via.CLI)
BOB = Actor(by="bob", via=Via.HTTP, key="pager")


async def push(services: Services, name: str = "HighCPU", **more: object) -> RunRecord:
    """An alert that is pushed, and its run brought to its end."""
    payload = alert(name, **more)
    (run_id,) = await accept_push(services, payload, source="webhook", environment="production")
    return await run_to_end(services, run_id)


async def opened(services: Services, name: str = "HighCPU", **more: object) -> str:
    """The id of an incident that a push has opened, and of which its channel has heard."""
    run = await push(services, name, **more)
    assert run.incident_id is not None
    await heard_everywhere(services.database, run.incident_id)
    return run.incident_id


async def heard_everywhere(database: Database, incident_id: str) -> None:
    """The channel knows what is true of the incident now."""
    async with database.transaction() as tx:
        await tx.execute(
            text(
                """
                insert into incident_channel (incident_id, channel, driver, version, status, sent_at)
                select id, 'memory', 'memory', version, 'firing', clock_timestamp() from incident where id = :id
                on conflict (incident_id, channel) do update
                set version = excluded.version, sent_at = excluded.sent_at
                """
            ),
            {"id": int(incident_id)},
        )


async def let_pass(database: Database, passed: timedelta) -> None:
    """Let time pass: every moment that decides what comes next lies so much further back."""
    moments = {
        "incident": ("opened_at", "heard_at", "acknowledged_at", "snoozed_until", "resolved_at"),
        "incident_channel": ("sent_at",),
        "membership": ("joined_at",),
        "alert": ("started_at", "ended_at"),
        "pipeline_run": ("due_at", "created_at"),
        "history": ("at",),
    }
    async with database.transaction() as tx:
        for table, columns in moments.items():
            changes = ", ".join(f"{column} = {column} - :passed" for column in columns)
            await tx.execute(text(f"update {table} set {changes}"), {"passed": passed})
        for column, moment in (("escalation", "began_at"), ("held", "until"), ("held", "said_at")):
            moved = f"to_jsonb(cast({column}->>'{moment}' as timestamptz) - :passed)"
            query = f"update incident set {column} = coalesce(jsonb_set({column}, '{{{moment}}}', {moved}), {column})"
            await tx.execute(text(query), {"passed": passed})


async def upcoming(database: Database, incident_id: str | None = None) -> list[RunRecord]:
    """The runs that wait for their time."""
    async with database.transaction() as tx:
        return await list_upcoming(tx, incident_id=incident_id)


async def next_of(database: Database, incident_id: str) -> str:
    """What comes next for an incident, and in how many minutes: `reminder 60`; "nothing" if nothing does."""
    found = await upcoming(database, incident_id)
    if not found:
        return "nothing"
    (run,) = found
    async with database.transaction() as tx:
        now = (await tx.execute(text("select clock_timestamp()"))).scalar_one()
    assert run.due_at is not None
    return f"{run.reason} {round((run.due_at - now).total_seconds() / 60)}"


async def execute_timer(services: Services, incident_id: str) -> RunRecord:
    """Execute the run that comes next for an incident, as a worker does when it is due."""
    (run,) = await upcoming(services.database, incident_id)
    await run_to_end(services, run.run_id)
    return await run_of(services.database, run.run_id)


async def incident_of(database: Database, incident_id: str) -> Incident:
    """An incident as it is stored."""
    async with database.transaction() as tx:
        return await get_incident(tx, incident_id)


async def story_of(database: Database, incident_id: str) -> IncidentStory:
    """An incident with all that belongs to it."""
    async with database.transaction() as tx:
        story = await read_incident(tx, int(incident_id))
    assert story is not None
    return story


async def events_of(database: Database, incident_id: str) -> list[str]:
    """The names of the events of an incident, oldest first, without those of its alerts."""
    story = await story_of(database, incident_id)
    return [line.event for line in reversed(story.history) if line.alert_id is None]
