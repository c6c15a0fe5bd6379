"""Upkeep deletes what is over and old, and nothing that somebody may still have to hear of."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import text

from bench.seed import seed
from flows.upkeep import look_after
from orchestration.engine.run import Services
from orchestration.store import actions
from orchestration.store.database import Database
from orchestration.store.incidents import read_incident
from tests.life_helpers import ADA, events_of, push, story_of

KEPT_DAYS = 30.0
MOMENTS = {
    "pipeline_run": ("created_at", "updated_at"),
    "alert": ("updated_at", "heard_at"),
    "history": ("at",),
    "incident": ("opened_at", "updated_at"),
}


async def make_old(database: Database) -> None:
    """Everything on record happened longer ago than it is kept."""
    async with database.transaction() as tx:
        for table, columns in MOMENTS.items():
            changes = ", ".join(f"{column} = {column} - make_interval(days => 40)" for column in columns)
            await tx.execute(text(f"update {table} set {changes}"))


async def clean_up(services: Services) -> dict[str, int]:
    """What an upkeep deletes, by table."""
    settings = services.settings.model_copy(update={"retention_days": KEPT_DAYS})
    return (await look_after(replace(services, settings=settings))).deleted


async def resolve(database: Database, incident_id: str) -> None:
    async with database.transaction() as tx:
        await actions.resolve(tx, incident_id, ADA)
        await tx.execute(text("update pipeline_run set status = 'skipped' where reason = 'action'"))


async def test_an_alert_stays_while_it_fires_in_one_of_its_incidents(services: Services, database: Database) -> None:
    first = (await push(services, fingerprint="disk", incident_key="team-a")).incident_id
    second = (await push(services, fingerprint="disk", incident_key="team-b")).incident_id
    assert first is not None
    assert second is not None
    assert first != second
    await resolve(database, second)
    await make_old(database)

    deleted = await clean_up(services)

    assert (deleted["alert"], deleted["incident"]) == (0, 1)
    assert [alert.fingerprint for alert in (await story_of(database, first)).alerts] == ["disk"]
    await push(services, fingerprint="disk", incident_key="team-a", status="resolved")
    assert (await events_of(database, first))[-1] == "incident_resolved"


async def test_what_is_over_and_old_goes(services: Services, database: Database) -> None:
    over = (await push(services, "Over")).incident_id
    await push(services, "Over", status="resolved")
    fires = (await push(services, "Fires")).incident_id
    assert over is not None
    assert fires is not None
    await make_old(database)

    deleted = await clean_up(services)

    assert (deleted["alert"], deleted["incident"]) == (1, 1)
    async with database.transaction() as tx:
        assert await read_incident(tx, int(over)) is None
    assert [alert.name for alert in (await story_of(database, fires)).alerts] == ["Fires"]


async def test_the_runs_and_the_history_of_an_open_incident_stay_however_old(
    services: Services, database: Database
) -> None:
    fires = (await push(services, "Fires")).incident_id
    over = (await push(services, "Over")).incident_id
    await push(services, "Over", status="resolved")
    assert fires is not None
    assert over is not None
    async with database.transaction() as tx:
        await tx.execute(text("update pipeline_run set status = 'notified' where status not in ('skipped', 'failed')"))
    before = await story_of(database, fires)
    await make_old(database)

    deleted = await clean_up(services)

    assert deleted["pipeline_run"] > 0
    after = await story_of(database, fires)
    assert [run.run_id for run in after.runs] == [run.run_id for run in before.runs]
    assert [event.event for event in after.history] == [event.event for event in before.history]
    async with database.transaction() as tx:
        assert await read_incident(tx, int(over)) is None


REFERENCES = (
    ("stage_execution", "pipeline_run_id", "pipeline_run"),
    ("delivery", "pipeline_run_id", "pipeline_run"),
    ("delivery", "incident_id", "incident"),
    ("pipeline_run", "incident_id", "incident"),
    ("membership", "alert_id", "alert"),
    ("membership", "incident_id", "incident"),
    ("history", "alert_id", "alert"),
    ("history", "incident_id", "incident"),
    ("incident_channel", "incident_id", "incident"),
)
"""The columns that refer to a row of another table. No foreign key guards them."""


async def counted(database: Database, query: str) -> int:
    async with database.statement() as tx:
        return (await tx.execute(text(query))).scalar_one()


async def test_all_that_refers_to_what_went_goes_with_it_and_nothing_else(
    services: Services, database: Database
) -> None:
    seed(database.url, 5000, days=180)
    of_young = f"""
        select count(*) from stage_execution join pipeline_run as run on run.id = pipeline_run_id
        where run.created_at > now() - make_interval(days => {KEPT_DAYS:.0f})
    """
    young = await counted(database, of_young)

    deleted = await clean_up(services)

    assert 4100 < deleted["pipeline_run"] < 4180
    assert {table for table in ("alert", "incident", "refused_push", "change_event") if not deleted[table]} == set()
    for table, column, other in REFERENCES:
        lost = f"{column} is not null and not exists (select from {other} where id = {table}.{column})"
        assert await counted(database, f"select count(*) from {table} where {lost}") == 0, (table, column)
    assert await counted(database, of_young) == young == await counted(database, "select count(*) from stage_execution")


async def test_a_row_that_somebody_works_with_is_not_waited_for_and_goes_the_next_time(
    services: Services, database: Database
) -> None:
    over = (await push(services, "Over")).incident_id
    await push(services, "Over", status="resolved")
    assert over is not None
    async with database.transaction() as tx:
        await tx.execute(text("update pipeline_run set status = 'notified' where status not in ('skipped', 'failed')"))
    await make_old(database)
    stored = await counted(database, "select count(*) from pipeline_run")

    async with database.transaction() as tx:
        await tx.execute(text("select from pipeline_run order by id limit 1 for update"))
        while_locked = await clean_up(services)
    afterwards = await clean_up(services)

    assert (while_locked["pipeline_run"], while_locked["incident"]) == (stored - 1, 0)
    assert (afterwards["pipeline_run"], afterwards["incident"]) == (1, 1)
