"""Alerts are recorded in the order of acceptance, whichever run is executed first."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from orchestration.contracts import IngestResult
from orchestration.engine.lease import lease_run
from orchestration.engine.run import Services
from orchestration.states import RunStatus
from orchestration.store import claims, incidents, runs
from tests.engine_helpers import attempt
from tests.inbox_helpers import accept_push


def alert(status: str = "firing", **more: Any) -> dict[str, Any]:
    return {"name": "QueueStuck", "severity": "critical", "host": "mq-1", "status": status, "incident_key": "mq"} | more


async def accept(services: Services, *payloads: dict[str, Any], environment: str = "test") -> list[str]:
    found: list[str] = []
    for payload in payloads:
        found += await accept_push(services, payload, source="generic", environment=environment)
    return found


async def ingest(services: Services, run_id: str) -> IngestResult:
    async with lease_run(services, run_id, engine="test") as run:
        return await attempt(run, "ingest")


async def status_of(services: Services, incident_id: str | None) -> str:
    async with services.database.transaction() as tx:
        return (await incidents.get_incident(tx, incident_id or "")).status


async def test_an_end_that_is_claimed_first_is_recorded_after_its_beginning(services: Services) -> None:
    beginning, end = await accept(services, alert(severity="warning"), alert("resolved"))

    assert (await ingest(services, end)).reason == "resolved"
    first = await ingest(services, beginning)
    assert first.reason == "opened"
    assert await status_of(services, first.incident_id) == "resolved"


async def test_a_firing_between_two_others_is_not_lost(services: Services) -> None:
    run_ids = await accept(services, alert(), alert("resolved", severity="info"), alert())

    results = {run_id: await ingest(services, run_id) for run_id in (run_ids[2], run_ids[0], run_ids[1])}
    assert [results[run_id].reason for run_id in run_ids] == ["opened", "resolved", "reopened"]
    assert await status_of(services, results[run_ids[2]].incident_id) == "open"


@pytest.mark.parametrize("seed", range(4))
async def test_many_runs_of_a_few_incidents_executed_side_by_side_in_any_order(services: Services, seed: int) -> None:
    random = Random(seed)
    truth: dict[str, str] = {}
    run_ids: list[tuple[str, str]] = []
    for _ in range(40):
        key, status = f"key-{random.randrange(4)}", random.choice(["firing", "resolved"])
        truth[key] = status
        severity = random.choice(["critical", "warning", "info"])
        (run_id,) = await accept(services, alert(status, severity=severity, incident_key=key, host=key))
        run_ids.append((run_id, key))
    random.shuffle(run_ids)

    results = await asyncio.gather(*(ingest(services, run_id) for run_id, _ in run_ids))
    last = {key: result.incident_id for (_, key), result in zip(run_ids, results, strict=True) if result.incident_id}
    for key, incident_id in last.items():
        assert (await status_of(services, incident_id) == "open") == (truth[key] == "firing")


async def test_another_environment_is_another_incident(services: Services) -> None:
    (staging,) = await accept(services, alert(), environment="staging")
    (production,) = await accept(services, alert(), environment="production")

    first, second = await ingest(services, staging), await ingest(services, production)
    assert (first.reason, second.reason) == ("opened", "opened")
    (over,) = await accept(services, alert("resolved"), environment="staging")
    assert (await ingest(services, over)).incident_id == first.incident_id
    assert await status_of(services, second.incident_id) == "open"


async def test_a_run_that_failed_before_ingest_and_is_resumed_says_nothing_new(services: Services) -> None:
    late, over = await accept(services, alert(), alert("resolved"))
    async with services.database.transaction() as tx:
        await runs.finish(tx, late, RunStatus.FAILED)

    assert (await ingest(services, over)).reason == "nothing_open"
    assert (await ingest(services, late)).reason == "stale"


async def test_a_run_whose_alerts_cannot_be_recorded_does_not_stop_the_others(services: Services) -> None:
    broken, good = await accept(services, alert(), alert(severity="info"))
    async with services.database.transaction() as tx:
        payload = await runs.get_payload(tx, broken)
        payload["alerts"][0]["severity"] = "unheard-of"
        await runs.change(tx, broken, values={"payload": payload})

    assert (await ingest(services, good)).reason == "opened"
    assert not (await ingest_row(services, broken)).awaits_ingest


async def ingest_row(services: Services, run_id: str) -> Any:
    from sqlalchemy import select

    from orchestration.store.models import PipelineRunRow

    async with services.database.transaction() as tx:
        query = select(PipelineRunRow.awaits_ingest).where(PipelineRunRow.run_id == run_id)
        return (await tx.execute(query)).one()


async def test_an_end_is_claimed_as_soon_as_its_beginning(services: Services) -> None:
    (_,) = await accept(services, alert(severity="critical"))
    (end,) = await accept(services, alert("resolved", severity="info"))
    (other,) = await accept(services, alert(severity="warning", incident_key="other", host="other"))

    async with services.database.transaction() as tx:
        claimed = await claims.claim_runs(tx, process="h/1/1", limit=3, lease_seconds=30, deadline_seconds=30)
    assert [claim.run_id for claim in claimed].index(end) < [claim.run_id for claim in claimed].index(other)
