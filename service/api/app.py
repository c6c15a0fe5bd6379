"""The FastAPI application of the HTTP door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestration.errors import Unavailable
from orchestration.settings import Settings
from orchestration.signals import logger, make_signals
from orchestration.store.database import Database, migrate
from orchestration.store.definitions import StoredDefinitions
from orchestration.store.gauges import StateReader
from orchestration.store.mappings import MappingReader
from orchestration.store.policies import FRESH_SECONDS, StoredPolicies
from orchestration.store.pushes import PushWriter
from orchestration.store.refused import RefusalLog
from orchestration.tracing import span_backends
from service.api import (
    changes,
    definitions,
    documentation,
    health,
    heartbeats,
    incidents,
    intelligence,
    metrics,
    notify,
    oncall,
    pagerduty,
    problems,
    pushes,
    refusals,
    respond,
    runs,
    slack,
    why,
)
from service.api.auth import Guard, is_loopback
from service.api.prefix import PublicPrefix, first_parts
from service.api.presence import Presence
from service.api.state import ApiState, RunWaiter
from tasks.check.stage import CheckConfig

MIGRATE_AGAIN_SECONDS = 2.0
WRITE_USES_SECONDS = 15.0
LAST_WRITE_SECONDS = 2.0
"""How long the end of the API waits for the database to store the last refused pushes."""


_PARTS = (
    *(pushes, runs, incidents, heartbeats, changes, oncall, definitions, intelligence, notify),
    *(health, metrics, why, slack, pagerduty, respond),
)

Extension = Callable[[FastAPI], None]
"""Adds addresses of its own to the application, as the admin does."""


def create_app(
    settings: Settings, database_url: str, *, host: str = "127.0.0.1", extensions: Sequence[Extension] = ()
) -> FastAPI:
    """The application. `host` is the address where it listens: on loopback its documentation needs no key.

    It also starts while the database does not answer. Until then every request is answered with 503.

    Raises:
        BadSetting: a setting that only some requests need is wrong.
    """
    CheckConfig.from_settings(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with _open_api(settings, database_url) as api:
            app.state.api = api
            yield

    app = FastAPI(
        title="alert-pipeline",
        summary="From a webhook to the person on call: ingest → check → analyze → notify.",
        version=documentation.VERSION,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it looks for a provider at each request
    )
    problems.install(app, refusals.note_refusal)
    for part in _PARTS:
        # include_router() would wrap each route, which costs time per request and hides its methods.
        app.router.routes.extend(part.router.routes)
    for extend in extensions:
        extend(app)
    documentation.install(app, is_public=not is_loopback(host) or settings.api_public_url is not None)
    app.add_middleware(PublicPrefix, settings=settings, own=first_parts(app))
    app.add_middleware(LenientAddress)
    return app


class LenientAddress:
    """Serve every address also without its last slash, and HEAD as GET; the server leaves the body of a HEAD out.

    A redirect to the address with the slash would lose the body of a POST.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not scope["path"].endswith(("/", ".json")):
                scope = {**scope, "path": scope["path"] + "/"}
            if scope["method"] == "HEAD":
                scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


@asynccontextmanager
async def _open_api(settings: Settings, database_url: str) -> AsyncGenerator[ApiState]:
    async with AsyncExitStack() as opening:
        database = Database(database_url)
        opening.push_async_callback(database.close)
        counted = metrics.api_metrics()
        api = ApiState(
            settings=settings,
            database=database,
            signals=make_signals(settings, counted, *span_backends(settings)),
            writer=PushWriter(database),
            definitions=StoredDefinitions(database),
            mappings=MappingReader(database),
            policies=StoredPolicies(database),
            guard=Guard(settings, database),
            waiter=RunWaiter(database),
            refusals=RefusalLog(database),
            presence=Presence(database),
            metrics=counted,
            state_reader=StateReader(database),
        )
        opening.push_async_callback(api.waiter.close)
        await _migrate(api)
        opening.push_async_callback(_write_last_refusals, api)
        duties = (
            _migrate_until_done(api),
            _repeat(WRITE_USES_SECONDS, api.guard.ring.write_uses),
            _repeat(FRESH_SECONDS, lambda: _follow_documents(api)),
            api.refusals.run(),
            api.presence.keep(),
        )
        opening.push_async_callback(_cancel, [asyncio.create_task(duty) for duty in duties])
        yield api


async def _migrate(api: ApiState) -> None:
    try:
        await asyncio.to_thread(migrate, api.database.url)
        api.schema_problem = None
        await api.policies.read()
        await api.mappings.read()
    except Unavailable as error:
        if api.schema_problem != str(error):
            logger.error("Cannot accept alerts yet: %s", error)
        api.schema_problem = str(error)


async def _migrate_until_done(api: ApiState) -> None:
    while api.schema_problem is not None:
        await asyncio.sleep(MIGRATE_AGAIN_SECONDS)
        await _migrate(api)


async def _follow_documents(api: ApiState) -> None:
    if api.schema_problem is None:
        await api.policies.read()
        await api.mappings.read()


async def _repeat(seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await work()


async def _write_last_refusals(api: ApiState) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LAST_WRITE_SECONDS):
            await api.refusals.write()


async def _cancel(jobs: Sequence[asyncio.Task[None]]) -> None:
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
