"""Health checks for load balancers and monitoring. They need no key and change nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from orchestration.errors import Unavailable
from orchestration.signals import logger
from orchestration.store.encrypted_cache import DefaultChannels, read_default_channels
from orchestration.store.workers import WorkerRecord, list_workers
from service.api.problems import RETRY_AFTER_SECONDS, problems
from service.api.pushes import SourceName
from service.api.state import ApiState, state_of
from tasks.ingest.sources import source_named

router = APIRouter()

_DATABASE_TIMEOUT_SECONDS = 5.0
_ORIGIN = re.compile(r"[A-Za-z0-9.:_-]{1,253}")
"""The name of a sender, such as eventgrid.azure.net."""


class Alive(BaseModel):
    """This process answers."""

    status: Literal["ok"] = "ok"


class WebhookHealth(Alive):
    """Webhooks are accepted."""

    sources: list[str]


class Part(BaseModel):
    """A part that the service needs."""

    ok: bool
    detail: str


class Readiness(BaseModel):
    """Whether alerts that arrive now are also executed."""

    status: Literal["ready", "degraded", "not ready"]
    database: Part
    migrations: Part
    worker: Part
    prefect: Part
    channels: Part


_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": Readiness, "description": "Not ready; the parts say why."}
}


@router.get("/health/", tags=["health"], openapi_extra={"security": []})
async def health() -> Alive:
    """This process is alive."""
    return Alive()


@router.get("/ready/", tags=["health"], responses=_NOT_READY, openapi_extra={"security": []})
async def ready(request: Request, response: Response) -> Readiness:
    """Whether alerts that arrive now are also executed, and if not, what is missing.

    503 if the database, its schema or a worker is missing. Without Prefect the status is "degraded" with 200: alerts
    are accepted, and run without it. Without a channel it is "degraded" as well: nobody is notified.
    """
    api = state_of(request)
    api.guard.count_visit(request)
    found = await _check(api)
    if found.status == "not ready":
        response.status_code = 503
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return found


@router.get("/alerts/webhook/", tags=["webhooks"], openapi_extra={"security": []})
async def webhook_health(request: Request) -> WebhookHealth:
    """Webhooks are accepted here, of these sources."""
    return WebhookHealth(sources=list(state_of(request).sources))


@router.get("/alerts/webhook/{source}/", tags=["webhooks"], responses=problems(422), openapi_extra={"security": []})
async def webhook_health_of_source(request: Request, source: SourceName) -> WebhookHealth:
    """Webhooks of this source are accepted here."""
    return WebhookHealth(sources=[source_named(source, state_of(request).sources).name])


@router.options("/alerts/webhook/", tags=["webhooks"], openapi_extra={"security": []})
@router.options("/alerts/webhook/{source}/", tags=["webhooks"], openapi_extra={"security": []})
async def webhook_consent(request: Request) -> Response:
    """Senders of CloudEvents may send here: some ask before, and send nothing without an answer.

    What they send needs a key like any other push. Source: "HTTP 1.1 Web Hooks for Event Delivery", section 4.
    """
    headers = {"Allow": "GET, HEAD, OPTIONS, POST"}
    origin = request.headers.get("webhook-request-origin", "")
    if _ORIGIN.fullmatch(origin):
        per_minute = int(60 * state_of(request).settings.api_rate_limit_per_second)
        headers |= {"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": str(per_minute or "*")}
    return Response(headers=headers)


async def _check(api: ApiState) -> Readiness:
    # Everybody may ask, so it says what does not work, and the log says why.
    is_current = api.schema_problem is None
    migrations = Part(ok=is_current, detail="current" if is_current else "cannot be used: the log says why")
    unknown = Part(ok=False, detail="unknown while the database does not answer")
    workers: Sequence[WorkerRecord] = ()
    defaults: DefaultChannels | None = None
    try:
        async with asyncio.timeout(_DATABASE_TIMEOUT_SECONDS), api.database.transaction() as tx:
            await tx.exec_driver_sql("select 1")
            database = Part(ok=True, detail="answers")
            if migrations.ok:
                workers = await list_workers(tx)
                defaults = await read_default_channels(tx)
    except (Unavailable, TimeoutError) as error:
        logger.warning("Not ready: %s", error or f"the database did not answer within {_DATABASE_TIMEOUT_SECONDS:g} s")
        database = Part(ok=False, detail="does not answer")
        parts = {"worker": unknown, "prefect": unknown, "channels": unknown}
        return Readiness(status="not ready", database=database, migrations=migrations, **parts)
    worker, prefect, channels = _worker(workers), _prefect(workers), _channels(workers, defaults)
    is_complete = prefect.ok and channels.ok
    status = ("ready" if is_complete else "degraded") if migrations.ok and worker.ok else "not ready"
    return Readiness(
        status=status, database=database, migrations=migrations, worker=worker, prefect=prefect, channels=channels
    )


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


def _channels(workers: Sequence[WorkerRecord], defaults: DefaultChannels | None) -> Part:
    if not workers:
        return Part(ok=False, detail="unknown without a worker")
    if defaults is None:
        return Part(ok=True, detail="not known yet")
    if defaults.problem:
        return Part(ok=False, detail="nobody is notified: the worker's log and `alert-pipeline doctor` say why")
    if not defaults.names:
        return Part(ok=False, detail="none is set up, so nobody is notified: see docs/channels.md")
    return Part(ok=True, detail=f"{len(defaults.names)} by default")
