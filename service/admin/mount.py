"""The admin's place in the API: everything behind it is imported when the first request comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from fastapi import FastAPI
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.routing import BaseRoute

from orchestration.errors import BadSetting
from orchestration.signals import logger
from service.api.state import ApiState

if TYPE_CHECKING:
    from service.admin.site import Site

PATH = "/admin/orchestration"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def install(app: FastAPI) -> None:
    """Have the app serve the admin."""
    app.mount(PATH, Admin(app), name="admin")

    @app.get("/admin/", include_in_schema=False)
    async def entrance() -> RedirectResponse:
        return RedirectResponse(f"{PATH}/", 307)

    del entrance


class Admin:
    """The admin as an ASGI application."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._site: Site | None = None
        self._opening = asyncio.Lock()

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """By these `url_for("admin:…")` finds its addresses."""
        return self._site.routes if self._site else []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        try:
            site = await self._open(cast("ApiState", self._app.state.api))
        except BadSetting as error:
            # It names files of this machine: nothing for who has not signed in.
            logger.error("The admin cannot be opened: %s", error)
            refusal = PlainTextResponse(
                "The admin cannot be opened; the log says why\n", HTTPStatus.SERVICE_UNAVAILABLE
            )
            await refusal(scope, receive, send)
            return
        await site.gate(scope, receive, send)

    async def _open(self, api: ApiState) -> Site:
        async with self._opening:
            if self._site is None or self._site.api is not api:
                self._site = await asyncio.to_thread(_build, api)
            return self._site


def _build(api: ApiState) -> Site:
    # A tenth of a second and some megabytes, which an API that nobody looks at need not spend.
    from service.admin.site import Site

    return Site(api)
