"""Mounts the admin in the API. The admin itself is imported with its first request."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import cast

from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestration.errors import BadSetting
from orchestration.signals import logger
from service.admin import PATH, PUBLIC_PATH
from service.api.prefix import prefix_of
from service.api.state import ApiState


def install(app: FastAPI) -> None:
    """Serve the admin below `PATH`, and redirect `/admin/` to it."""
    app.mount(PATH, LazyAdmin(app), name="admin")
    app.add_route("/admin/", _to_admin, include_in_schema=False)


async def _to_admin(request: Request) -> Response:
    return RedirectResponse(f"{prefix_of(request)}{PATH}/")


class LazyAdmin:
    """An ASGI application that builds the admin with its first request, and again when the API has a new state."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._admin: ASGIApp | None = None
        self._api: ApiState | None = None
        self._building = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        PUBLIC_PATH.set(scope["root_path"])
        try:
            admin = await self._built(cast("ApiState", self._app.state.api))
        except BadSetting as error:
            # The error names files of this machine, which nobody may read before signing in.
            logger.error("The admin cannot be opened: %s", error)
            refusal = PlainTextResponse(
                "The admin cannot be opened; the log says why\n", HTTPStatus.SERVICE_UNAVAILABLE
            )
            await refusal(scope, receive, send)
            return
        await admin(scope, receive, send)

    async def _built(self, api: ApiState) -> ASGIApp:
        async with self._building:
            if self._admin is None or self._api is not api:
                self._admin, self._api = await asyncio.to_thread(_build, api), api
            return self._admin


def _build(api: ApiState) -> ASGIApp:
    # The import costs a tenth of a second and some megabytes, which an API without visitors saves.
    from service.admin.site import build_site

    return build_site(api)
