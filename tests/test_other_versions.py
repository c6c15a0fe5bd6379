"""Rows that another version of the program wrote: what this one cannot read hides nothing else."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
from sqlalchemy import text

from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.store.database import Database
from orchestration.store.story import read_trace
from tests.api_helpers import open_api, run_of, run_to_end
from tests.conftest import MemoryChannel, MemoryChannels
from tests.inbox_helpers import accept_push

DISK = {"alertname": "DiskFull", "severity": "critical", "instance": "db-1", "status": "firing"}

ODD = {
    "a reason": "update pipeline_run set reason = 'brand_new' where run_id = :odd",
    "an option": """update pipeline_run set options = options || '{"mode": "brand_new"}' where run_id = :odd""",
    "a status": "update pipeline_run set status = 'PARKED' where run_id = :odd",
    "a stage": "update stage_execution set stage = 'enrich' where pipeline_run_id in"
    " (select id from pipeline_run where run_id = :odd)",
    "a status of a node": "update stage_execution set status = 'PARKED' where pipeline_run_id in"
    " (select id from pipeline_run where run_id = :odd)",
    "a delivery": "update delivery set response = '[1]' where pipeline_run_id in"
    " (select id from pipeline_run where run_id = :odd)",
    "a resume": "insert into history (incident_id, run_id, event, details)"
    """ select incident_id, run_id, 'run_resumed', '{"by": ["a", "list"]}' from pipeline_run where run_id = :odd""",
    "a line of history": "update history set details = '[1]' where run_id = :odd",
}
"""What a newer version may write, by what is new in it."""


@pytest.mark.parametrize("what", ODD)
async def test_the_rest_of_an_incident_is_shown(
    settings: Settings, database: Database, services: Services, what: str
) -> None:
    paged = replace(services, channels=MemoryChannels({"slack": MemoryChannel(driver="slack")}))
    pushed = {"source": "generic", "environment": "test", "trace_id": "a-night"}
    (first,) = await accept_push(paged, {**DISK, "severity": "warning"}, **pushed)
    await run_to_end(paged, first)
    (odd,) = await accept_push(paged, DISK, **pushed)
    await run_to_end(paged, odd)
    incident = (await run_of(database, first)).incident_id
    async with database.transaction() as tx:
        await tx.execute(text(ODD[what]), {"odd": odd})

    async with open_api(settings, database.url) as api:
        for path in (f"/why/?what={incident}", f"/why/?what={first}", "/why/?what=DiskFull"):
            answer = await api.get(path)
            assert answer.status_code == 200, (path, answer.text)
            assert "slack was notified" in answer.text or what == "a delivery"
        for path in (f"/incidents/{incident}/", "/incidents/", f"/orchestration/pipeline/{first}/"):
            answer = await api.get(path)
            assert answer.status_code == 200, (path, answer.text)
    async with database.transaction() as tx:
        assert first in [one.run.run_id for one in (await read_trace(tx, "a-night")).runs]


async def test_an_incident_that_cannot_be_read_hides_no_other(
    settings: Settings, database: Database, services: Services
) -> None:
    for host in ("db-1", "db-2"):
        (run_id,) = await accept_push(
            services, {**DISK, "instance": host}, source="generic", environment="test", trace_id="a-night"
        )
        await run_to_end(services, run_id)
    incident = (await run_of(database, run_id)).incident_id
    async with database.transaction() as tx:
        await tx.execute(text("update incident set status = 'merged' where id = :id"), {"id": int(incident or 0)})

    async with open_api(settings, database.url) as api:
        listed: httpx.Response = await api.get("/incidents/", params={"status": "all"})
        assert [one["title"] for one in listed.json()["incidents"]] == ["DiskFull on db-1"]
        assert (await api.get("/why/", params={"what": "DiskFull"})).status_code == 200
    async with database.transaction() as tx:
        assert [one.title for one in (await read_trace(tx, "a-night")).incidents] == ["DiskFull on db-1"]
