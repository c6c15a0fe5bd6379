"""What is stored of a push has no secrets in it, and identifies the same things as before."""

from __future__ import annotations

from sqlalchemy import text

from flows.upkeep import look_after
from orchestration.engine.run import Services
from orchestration.requests import RunOptions
from orchestration.store.database import Database
from orchestration.store.incidents import get_incident
from orchestration.store.retention import VALUES_DAYS
from orchestration.store.why import read_why
from tasks.ingest.inbox import PushMetadata
from tasks.ingest.sources.registry import parse_push
from tests.api_helpers import alert, run_to_end
from tests.definition_helpers import look
from tests.inbox_helpers import written_push

SECRET = "s3cr3t-Value-91"
IDENTITY = ("incident_key",)
"""Columns with a name of something: equal names must stay equal, and different ones different."""

LEAKY = alert(
    f"x password={SECRET}",
    description=f"login with Bearer {SECRET} failed",
    labels={"db_password": SECRET, "secret_name": "shop-tls", "url": f"https://bob:{SECRET}@example.com/"},
    annotations={"summary": f"curl -u admin:{SECRET} http://h/"},
    token=SECRET,
)


async def rows_with(database: Database, secret: str) -> set[str]:
    """Where the secret is stored: "table.column", but for the keys of incidents."""
    names = "select table_name, column_name from information_schema.columns where table_schema = current_schema()"
    async with database.transaction() as tx:
        places = [(table, column) for table, column in (await tx.execute(text(names))).all() if column not in IDENTITY]
        found: set[str] = set()
        for table, column in places:
            query = f"""select regexp_replace("{column}"::text, '"incident_key": "[^"]*"', '') from "{table}" """
            values = (await tx.execute(text(query))).scalars().all()
            if any(secret in value for value in values if value):
                found.add(f"{table}.{column}")
    return found


async def test_of_a_push_no_secret_is_stored(services: Services, database: Database) -> None:
    push = await written_push(
        services,
        LEAKY,
        source="webhook",
        environment="production",
        trace_id=f"trace token={SECRET}",
        metadata=PushMetadata(sender="bob", idempotency_key=f"key password={SECRET}"),
    )
    run = await run_to_end(services, push.run_ids[0])

    assert await rows_with(database, SECRET) == set()
    assert run.title.startswith("x password=[redacted]")
    async with database.transaction() as tx:
        assert (await get_incident(tx, str(run.incident_id))).title.startswith("x password=[redacted]")


async def test_the_same_push_with_a_secret_in_its_key_is_the_same_push(services: Services) -> None:
    async def take(key: str) -> list[str]:
        metadata = PushMetadata(sender="bob", idempotency_key=key)
        push = await written_push(services, alert(), source="webhook", environment="production", metadata=metadata)
        return list(push.run_ids)

    first = await take("password=one")

    assert await take("password=one") == first
    assert await take("password=two") != first
    assert await take("order-7") == await take("order-7")


async def test_identity_is_read_before_secrets_go(services: Services, database: Database) -> None:
    (sent,) = parse_push(LEAKY, source="webhook").alerts
    push = await written_push(services, LEAKY, source="webhook", environment="production")
    run = await run_to_end(services, push.run_ids[0])

    assert (run.alert_fingerprint, run.incident_key) == (sent.fingerprint, sent.incident_key)
    async with database.transaction() as tx:
        why = await read_why(tx, "secret_name=shop-tls")
    assert run.run_id in why.model_dump_json()


async def test_the_payload_of_a_definition_is_forgotten_when_nothing_can_resume_it(
    services: Services, database: Database
) -> None:
    options = RunOptions(definition_config=look())
    push = await written_push(services, {"token": SECRET}, source="webhook", environment="production", options=options)
    assert "pipeline_run.payload" in await rows_with(database, SECRET), "a run that is not over may be resumed"
    await run_to_end(services, push.run_ids[0])

    async def after_days(status: str) -> set[str]:
        async with database.transaction() as tx:
            ago = f"clock_timestamp() - interval '{VALUES_DAYS + 1} days'"
            await tx.execute(text(f"update pipeline_run set status = '{status}', updated_at = {ago}"))
        await look_after(services)
        return await rows_with(database, SECRET)

    assert "pipeline_run.payload" in await after_days("failed"), "a failed run can be resumed"
    assert await after_days("notified") == set()
