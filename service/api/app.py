"""The FastAPI application of the HTTP door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI

from orchestration.errors import Unavailable
from orchestration.settings import Settings
from orchestration.signals import logger, make_signals
from orchestration.store.database import Database, migrate
from orchestration.store.definitions import StoredDefinitions
from orchestration.store.pushes import PushWriter
from service.api import definitions, document, health, pipeline, problems, webhooks
from service.api.auth import Guard, is_loopback
from service.api.state import ApiState
from service.api.waiting import Bell
from tasks.check.stage import CheckConfig

MIGRATE_AGAIN_SECONDS = 2.0
WRITE_USES_SECONDS = 15.0

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


Extension = Callable[[FastAPI], None]
"""Adds addresses of its own to the application, as the admin does."""


def create_app(
    settings: Settings, database_url: str, *, host: str = "127.0.0.1", extensions: Sequence[Extension] = ()
) -> FastAPI:
    """The application. `host` is where it will listen: an API for this machine alone may ask for no key.

    It starts also while the database does not answer: then every call is answered with 503, until it does.

    Raises:
        BadSetting: a setting that only some requests need is wrong.
    """
    CheckConfig.from_settings(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with _open_api(settings, database_url, loopback=is_loopback(host)) as api:
            app.state.api = api
            yield

    app = FastAPI(
        title="alert-pipeline",
        summary="From a webhook to the person on call: ingest → check → analyze → notify.",
        version=document.VERSION,
        lifespan=lifespan,
        docs_url="/docs/",
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    for router in (pipeline.router, definitions.router, webhooks.router, health.router):
        app.include_router(router)
    for extend in extensions:
        extend(app)
    document.install(app)
    app.add_middleware(TrailingSlash)
    return app


class TrailingSlash:
    """Every address also answers without its last slash: a redirect would lose the body of a POST."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].endswith(("/", ".json")):
            scope = {**scope, "path": scope["path"] + "/"}
        await self._app(scope, receive, send)


@asynccontextmanager
async def _open_api(settings: Settings, database_url: str, *, loopback: bool) -> AsyncGenerator[ApiState]:
    async with AsyncExitStack() as opening:
        database = Database(database_url)
        opening.push_async_callback(database.close)
        api = ApiState(
            settings=settings,
            database=database,
            signals=make_signals(settings),
            writer=PushWriter(database),
            definitions=StoredDefinitions(database),
            guard=Guard(settings, database, loopback=loopback),
            bell=Bell(database),
        )
        opening.push_async_callback(api.bell.close)
        await _migrate(api)
        duties = (asyncio.create_task(_migrate_until_done(api)), asyncio.create_task(_write_uses(api)))
        opening.push_async_callback(_end, duties)
        yield api


async def _migrate(api: ApiState) -> None:
    try:
        await asyncio.to_thread(migrate, api.database.url)
        api.schema_problem = None
    except Unavailable as error:
        if api.schema_problem != str(error):
            logger.error("No alerts can be taken yet: %s", error)
        api.schema_problem = str(error)


async def _migrate_until_done(api: ApiState) -> None:
    while api.schema_problem is not None:
        await asyncio.sleep(MIGRATE_AGAIN_SECONDS)
        await _migrate(api)


async def _write_uses(api: ApiState) -> None:
    while True:
        await asyncio.sleep(WRITE_USES_SECONDS)
        await api.guard.ring.write_uses()


async def _end(duties: tuple[asyncio.Task[None], ...]) -> None:
    for duty in duties:
        duty.cancel()
    await asyncio.gather(*duties, return_exceptions=True)
