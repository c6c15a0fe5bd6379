"""`/health/` and `/ready/`: for whoever watches the service. They need no key."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from orchestration.errors import Unavailable
from orchestration.store.workers import WorkerRecord, list_workers
from service.api import examples
from service.api.problems import RETRY_AFTER_SECONDS, json_response
from service.api.shapes import Part, Readiness
from service.api.state import ApiState, state_of

router = APIRouter(tags=["health"])

_PATIENCE_SECONDS = 5.0


@router.get("/health/", **examples.HEALTH)
async def health() -> Response:
    """This process is alive."""
    return json_response({"status": "ok"})


@router.get("/ready/", response_model=Readiness, **examples.READY)
async def ready(request: Request) -> Response:
    """Whether alerts that come in now are also carried out, and if not, what is missing.

    503 where the database, its schema or a worker is missing. Without Prefect it is "degraded", and 200: alerts
    are taken, and run without it.
    """
    found = await _look(state_of(request))
    if found.status == "not ready":
        return json_response(found.model_dump(), 503, {"Retry-After": str(RETRY_AFTER_SECONDS)})
    return json_response(found.model_dump())


async def _look(api: ApiState) -> Readiness:
    migrations = Part(ok=api.schema_problem is None, detail=api.schema_problem or "current")
    unknown = Part(ok=False, detail="unknown while the database does not answer")
    workers: Sequence[WorkerRecord] = ()
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS), api.database.transaction() as tx:
            await tx.exec_driver_sql("select 1")
            database = Part(ok=True, detail="answers")
            if migrations.ok:
                workers = await list_workers(tx)
    except (Unavailable, TimeoutError) as error:
        database = Part(ok=False, detail=str(error) or f"did not answer within {_PATIENCE_SECONDS:g} s")
        return Readiness(status="not ready", database=database, migrations=migrations, worker=unknown, prefect=unknown)
    worker, prefect = _worker(workers), _prefect(workers)
    ok = migrations.ok and worker.ok
    status = ("ready" if prefect.ok else "degraded") if ok else "not ready"
    return Readiness(status=status, database=database, migrations=migrations, worker=worker, prefect=prefect)


def _worker(workers: Sequence[WorkerRecord]) -> Part:
    if not workers:
        return Part(ok=False, detail="no worker has a fresh heartbeat: start one with `alert-pipeline worker`")
    running = sum(worker.running for worker in workers)
    return Part(ok=True, detail=f"{len(workers)} alive, {running} runs in progress")


def _prefect(workers: Sequence[WorkerRecord]) -> Part:
    if not workers:
        return Part(ok=False, detail="unknown without a worker")
    answered = sum(worker.prefect_ok for worker in workers)
    detail = "answers" if answered else "does not answer: alerts run without it"
    return Part(ok=answered > 0, detail=detail)
