"""What is stored of a push has no secrets in it, and identifies the same things as before."""

from __future__ import annotations

from urllib.parse import quote, unquote

from sqlalchemy import text

from flows.upkeep import look_after
from orchestration.engine.run import Services
from orchestration.requests import RunOptions
from orchestration.store import actions
from orchestration.store.database import Database
from orchestration.store.incidents import get_incident
from orchestration.store.records import RunRecord
from orchestration.store.retention import VALUES_DAYS
from orchestration.store.why import read_why
from tasks.ingest.inbox import PushMetadata
from tests.api_helpers import alert, run_to_end
from tests.conftest import MemoryChannel
from tests.definition_helpers import look
from tests.inbox_helpers import written_push
from tests.life_helpers import ADA

SECRET = "s3cr3t-Value-91"
LEAKY = alert(
    f"x password={SECRET}",
    description=f"login with Bearer {SECRET} failed",
    labels={"db_password": SECRET, "secret_name": "shop-tls", "url": f"https://bob:{SECRET}@example.com/"},
    annotations={"summary": f"curl -u admin:{SECRET} http://h/"},
    token=SECRET,
)


async def rows_with(database: Database, secret: str) -> set[str]:
    """Where the secret is stored: "table.column"."""
    names = "select table_name, column_name from information_schema.columns where table_schema = current_schema()"
    async with database.transaction() as tx:
        found: set[str] = set()
        for table, column in (await tx.execute(text(names))).all():
            values = (await tx.execute(text(f'select "{column}"::text from "{table}"'))).scalars().all()
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


async def test_what_identifies_an_alert_identifies_it_without_its_secrets(
    services: Services, channel: MemoryChannel, database: Database
) -> None:
    async def send(secret: str, status: str) -> RunRecord:
        names = {"name": f"x {secret}", "fingerprint": f"f:{secret}", "incident_key": f"k/{secret}"}
        push = await written_push(services, alert(**names, status=status), source="webhook", environment="production")
        return await run_to_end(services, push.run_ids[0])

    one, other = (f"ghp_{letter * 36}" for letter in "ab")
    first, second, end = await send(one, "firing"), await send(other, "firing"), await send(one, "resolved")

    assert first.incident_id == end.incident_id != second.incident_id
    assert str(first.incident_key).startswith("generic:sha256:")
    assert (len(channel.messages), channel.messages[-1].status) == (3, "resolved")
    assert await rows_with(database, one) | await rows_with(database, other) == set()


async def test_links_lose_secrets_however_they_are_encoded(services: Services, channel: MemoryChannel) -> None:
    token, twice = f"ghp_{'c' * 36}", f"glpat-{'d' * 20}"
    labels = {"alertname": "Leak", "severity": "critical", "note": f"a {token} b", "db_password": SECRET}
    source = f"https://p/login?next={quote(quote(f'/graph?x=user {twice}'))}&expr=up%7Bjob%3D%22auth%22%7D"
    body = {"alerts": [{"labels": labels, "status": "firing", "generatorURL": source}], "externalURL": "http://am"}
    push = await written_push(services, body, source="alertmanager", environment="production")
    await run_to_end(services, push.run_ids[0])

    said = channel.messages[0].model_dump_json()
    assert "http://am/#/silences/new?filter=%7Balertname" in said
    assert "expr=up%7Bjob%3D%22auth%22%7D" in said
    assert not [secret for secret in (token, twice, SECRET) if secret in unquote(unquote(said))]


async def test_labels_of_a_run_and_notes_of_people_lose_their_secrets(services: Services, database: Database) -> None:
    options = RunOptions(labels={"token": SECRET, "team": "shop"})
    push = await written_push(services, alert(), source="webhook", environment="production", options=options)
    run = await run_to_end(services, push.run_ids[0])
    async with database.transaction() as tx:
        await actions.note(tx, str(run.incident_id), ADA, f"New password={SECRET}, see the wiki")

    assert run.options.labels == {"token": "[redacted]", "team": "shop"}
    assert await rows_with(database, SECRET) == set()


async def test_a_page_is_found_by_the_name_of_a_secret(services: Services, database: Database) -> None:
    push = await written_push(services, LEAKY, source="webhook", environment="production")
    run = await run_to_end(services, push.run_ids[0])

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
            moved = f"created_at = {ago}, updated_at = {ago}"
            await tx.execute(text(f"update pipeline_run set status = '{status}', {moved}"))
        await look_after(services)
        return await rows_with(database, SECRET)

    assert "pipeline_run.payload" in await after_days("failed"), "a failed run can be resumed"
    assert await after_days("notified") == set()
