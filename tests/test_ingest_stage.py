"""The inbox and the ingest stage: a push becomes runs, their alerts become rows once, and it is decided who is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, select

from orchestration.contracts import IngestResult, StageContext
from orchestration.engine.lease import lease_run
from orchestration.engine.run import Services
from orchestration.errors import BadInput
from orchestration.requests import RunOptions, StoredPush
from orchestration.states import RunStatus
from orchestration.store import attempts, runs
from orchestration.store.database import Database
from orchestration.store.incidents import get_incident
from orchestration.store.models import AlertRow, PipelineRunRow
from orchestration.store.records import RunRecord
from tasks.ingest.stage import IngestConfig, ingest
from tests.conftest import MemoryChannel
from tests.engine_helpers import attempt, execute
from tests.inbox_helpers import accept_health_check, accept_push
from tests.store_helpers import history_of, note_notified


def alert(name: str = "HighCPU", **more: Any) -> dict[str, Any]:
    return {"name": name, "severity": "critical", "host": "web-1"} | more


async def accept(services: Services, payload: object, **more: Any) -> list[str]:
    return await accept_push(services, payload, **{"source": "generic", "environment": "test"} | more)


async def record_of(services: Services, run_id: str) -> RunRecord:
    async with services.database.transaction() as tx:
        return await runs.get_run(tx, run_id)


async def ingest_run(services: Services, run_id: str, *, ends: RunStatus = RunStatus.NOTIFIED) -> IngestResult:
    """Take a run through ingest alone."""
    async with lease_run(services, run_id, engine="test") as run:
        result = await attempt(run, "ingest")
        await run.end(ends)
    if ends is RunStatus.NOTIFIED:
        async with services.database.transaction() as tx:
            await note_notified(tx, result.incident_id)
    return result


async def ingest_push(services: Services, payload: object, **more: Any) -> IngestResult:
    (run_id,) = await accept(services, payload)
    return await ingest_run(services, run_id, **more)


async def count(database: Database, table: type[AlertRow | PipelineRunRow]) -> int:
    async with database.transaction() as tx:
        return (await tx.execute(select(func.count()).select_from(table))).scalar_one()


# The inbox


async def test_a_push_is_a_pending_run_before_anything_else_happens(services: Services) -> None:
    (run_id,) = await accept(services, alert(title="CPU of web-1"), trace_id="trace-1", environment="staging")

    run = await record_of(services, run_id)
    assert (run.status, run.trace_id, run.source, run.environment) == ("pending", "trace-1", "generic", "staging")
    assert (run.title, run.severity, run.max_retries) == ("CPU of web-1", "critical", 3)
    assert run.incident_key
    assert run.alert_fingerprint
    assert run.incident_id is None


async def test_a_push_over_twelve_incidents_is_twelve_runs_of_one_trace(services: Services) -> None:
    alerts = [alert(f"Alert {n % 12}", host=f"web-{n}", incident_key=str(n % 12)) for n in range(36)]
    run_ids = await accept(services, {"alerts": alerts})

    records = [await record_of(services, run_id) for run_id in run_ids]
    assert len(set(run_ids)) == len({run.incident_key for run in records}) == 12
    assert len({run.trace_id for run in records}) == 1
    async with services.database.transaction() as tx:
        payloads = [await runs.get_payload(tx, run_id) for run_id in run_ids]
    assert [[one.name for one in StoredPush.model_validate(payload).alerts] for payload in payloads] == [
        [f"Alert {n}"] * 3 for n in range(12)
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"payload": {}},
        {"payload": []},
        {"payload": None},
        {"payload": {"what": "is this"}},
        {"trace_id": "x" * 129},
        {"trace_id": "two\nlines"},
        {"trace_id": "nul\x00"},
        {"trace_id": "\ud800"},
        {"trace_id": "\x1b[2J"},
        {"environment": ""},
        {"environment": "x" * 129},
        {"environment": "pro\x00duction"},
        {"environment": "\u202eprod"},
        {"source": "nobody"},
    ],
)
async def test_nothing_is_written_of_a_push_that_is_bad(services: Services, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as refused:
        await accept(services, **{"payload": {"alerts": [alert(), alert("Other")]}} | wrong)

    assert await count(services.database, PipelineRunRow) == 0
    assert len(str(refused.value).splitlines()) == 1
    assert str(refused.value).isprintable()


async def test_names_in_any_language_are_taken(services: Services) -> None:
    (run_id,) = await accept(services, alert(), trace_id="Störung 7", environment="本番")

    run = await record_of(services, run_id)
    assert (run.trace_id, run.environment) == ("Störung 7", "本番")


async def test_an_empty_trace_id_is_as_good_as_none(services: Services) -> None:
    (run_id,) = await accept(services, alert(), trace_id="")

    assert len((await record_of(services, run_id)).trace_id) == 32


async def test_a_push_over_the_size_limit_is_refused_with_the_settings_name(services: Services) -> None:
    small = replace(services, settings=services.settings.model_copy(update={"max_payload_bytes": 2048}))

    with pytest.raises(BadInput, match=r"2,0\d\d bytes, more than ORCHESTRATION_MAX_PAYLOAD_BYTES=2048"):
        await accept(small, alert(description="x" * 2000))
    assert await count(services.database, PipelineRunRow) == 0


async def test_the_size_is_that_of_the_bytes_which_came(services: Services) -> None:
    small = replace(services, settings=services.settings.model_copy(update={"max_payload_bytes": 2048}))

    assert await accept(small, alert(description="漢" * 600))  # 1,800 bytes; 3,600 if each were escaped


async def test_what_postgresql_cannot_hold_is_replaced(services: Services) -> None:
    hostile = "a\x00b\ud800c"
    options = RunOptions(labels={hostile: hostile}, checker_configs={"disk": {"paths": [hostile]}})
    (run_id,) = await accept(services, alert(description=hostile, labels={hostile: hostile}), options=options)

    (stored,) = StoredPush.model_validate(await payload_of(services, run_id)).alerts
    assert stored.description == "a\ufffdb\ufffdc"
    run = await record_of(services, run_id)
    assert run.options.labels == {"a\ufffdb\ufffdc": "a\ufffdb\ufffdc"}
    assert (await ingest_run(services, run_id)).reason == "opened"


async def payload_of(services: Services, run_id: str) -> dict[str, Any]:
    async with services.database.transaction() as tx:
        return await runs.get_payload(tx, run_id)


@pytest.mark.parametrize("value", [1e20, -1.8446744073709552e19, 1.7e308, 2**64 - 1, 10**300, 5e-324])
async def test_a_number_of_any_size_costs_no_page(services: Services, channel: MemoryChannel, value: float) -> None:
    # A counter below zero, as Grafana sends it; PostgreSQL makes an integer of more than 64 bits of such a float.
    (run_id,) = await accept(services, alert(value=value))

    assert (await execute(services, run_id)).status is RunStatus.NOTIFIED
    assert len(channel.messages) == 1


async def test_values_that_only_python_knows_become_text(services: Services) -> None:
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    (run_id,) = await accept(services, alert(started_at=moment))

    assert StoredPush.model_validate(await payload_of(services, run_id)).alerts[0].started_at == moment


async def test_a_payload_that_contains_itself_is_refused(services: Services) -> None:
    endless = alert()
    endless["labels"] = endless

    with pytest.raises(BadInput, match="not JSON"):
        await accept(services, endless)


async def test_what_the_caller_asked_for_is_kept_for_a_resume(services: Services) -> None:
    options = RunOptions(
        checker_names=["disk"],
        checker_configs={"disk": {"paths": ["/data"]}},
        labels={"team": "db"},
        notify_driver="slack",
    )
    run_ids = await accept(services, {"alerts": [alert("A"), alert("B")]}, options=options)

    assert [(await record_of(services, run_id)).options for run_id in run_ids] == [options, options]


async def test_a_health_check_is_a_run_without_an_alert(services: Services) -> None:
    run_id = await accept_health_check(
        services, source="cli", environment="test", trace_id=None, options=RunOptions(labels={"a": "b"})
    )

    run = await record_of(services, run_id)
    assert (run.status, run.title, run.source) == ("pending", "Host health", "cli")
    assert run.options == RunOptions(labels={"a": "b"}, checks_only=True)
    assert StoredPush.model_validate(await payload_of(services, run_id)).alerts == []


# The stage


async def test_a_first_push_tells_that_an_incident_was_opened(services: Services) -> None:
    (run_id,) = await accept(
        services, {"alerts": [alert(host="web-1", incident_key="k"), alert(host="web-2", incident_key="k")]}
    )
    result = await ingest_run(services, run_id)

    assert (result.tell, result.reason) == (True, "opened")
    assert (result.alerts_created, result.alerts_updated, result.alerts_resolved) == (2, 0, 0)
    assert (result.incidents_created, result.incidents_updated) == (1, 0)
    assert (result.source, result.severity) == ("generic", "critical")
    assert result.normalized_payload_ref == attempts.payload_ref(run_id)
    assert result.duration_ms > 0


async def test_who_is_told_over_an_incidents_life(services: Services) -> None:
    def one(host: str, **more: Any) -> dict[str, Any]:
        return alert(host=host, incident_key="web") | more

    story = [
        (one("web-1", severity="warning"), True, "opened"),
        (one("web-1", severity="warning"), False, "repeat"),
        (one("web-2", severity="warning"), True, "new_alerts"),
        (one("web-2", severity="critical"), True, "severity_raised"),
        (one("web-1", status="resolved"), False, "some_resolved"),
        (one("web-2", status="resolved"), True, "resolved"),
        (one("web-2", status="resolved"), False, "repeat"),
        (one("web-1"), True, "reopened"),
        (alert("Unknown", host="web-9", status="resolved"), False, "nothing_open"),
    ]
    for payload, tell, reason in story:
        result = await ingest_push(services, payload, ends=RunStatus.NOTIFIED if tell else RunStatus.SKIPPED)
        assert (result.tell, result.reason) == (tell, reason)


async def test_after_a_failed_page_a_repeat_is_told(services: Services) -> None:
    await ingest_push(services, alert(), ends=RunStatus.FAILED)
    again = await ingest_push(services, alert())

    assert (again.tell, again.reason) == (True, "untold")
    assert (await ingest_push(services, alert())).reason == "repeat"


async def test_a_second_try_after_the_commit_gives_the_same_result_and_still_tells(services: Services) -> None:
    (run_id,) = await accept(services, alert())
    context = StageContext(trace_id="t", run_id=run_id, source="generic", payload=await payload_of(services, run_id))
    config = IngestConfig(database=services.database, settings=services.settings)

    first = await ingest(context, config)
    second = await ingest(context, config)  # the process died before the attempt's row was settled

    assert second == first
    assert (second.tell, second.reason) == (True, "opened")
    async with services.database.transaction() as tx:
        assert len(await history_of(tx, str(first.incident_id))) == 2


async def test_a_run_belongs_to_its_own_incident_and_not_to_the_latest(services: Services) -> None:
    (mine,) = await accept(services, alert("Mine", incident_key="mine"))
    (other,) = await accept(services, alert("Other", incident_key="other"))
    await ingest_run(services, other)
    (again,) = await accept(services, alert("Mine", host="web-2", incident_key="mine"))
    await ingest_run(services, mine)
    await ingest_push(services, alert("Newest", incident_key="newest"))
    await ingest_run(services, again)

    titles = {}
    for run_id in (mine, other, again):
        run = await record_of(services, run_id)
        async with services.database.transaction() as tx:
            titles[run_id] = (await get_incident(tx, str(run.incident_id))).incident_key
    assert titles == {mine: "generic:mine", other: "generic:other", again: "generic:mine"}


async def test_of_two_pushes_at_once_exactly_one_opens_the_incident(services: Services) -> None:
    run_ids = [(await accept(services, alert(host=f"web-{n}", incident_key="k")))[0] for n in range(4)]

    results = await asyncio.gather(*(ingest_run(services, run_id) for run_id in run_ids))

    assert sorted(result.reason for result in results) == ["new_alerts", "new_alerts", "new_alerts", "opened"]
    assert sum(result.incidents_created for result in results) == 1
    assert len({result.incident_id for result in results}) == 1


async def test_what_was_wrong_with_a_push_is_kept_beside_what_was_not(services: Services) -> None:
    result = await ingest_push(services, {"alerts": [alert(), {"severity": "critical"}, 7]})

    assert result.alerts_created == 1
    assert len(result.errors) == 2
