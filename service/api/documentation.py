"""`/docs/`: the OpenAPI document for people, with Swagger UI from an installed package; no script from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from service.api.prefix import prefix_of
from service.api.route import SECURITY_SCHEMES
from service.api.state import state_of

PATH = "/docs"
DOCUMENT = "/openapi.json"

ENTRY_POINTS = {
    "documentation": "/docs/",
    "openapi": "/openapi.json",
    "admin": "/admin/orchestration/",
    "webhooks": "/alerts/webhook/",
    "pipelines": "/orchestration/pipelines/",
    "incidents": "/incidents/",
    "oncall": "/oncall/",
    "why": "/why/",
    "health": "/health/",
    "ready": "/ready/",
}
"""Where to go from `GET /`."""


def _version() -> str:
    try:
        return version("alert-pipeline")
    except PackageNotFoundError:
        return "0"


VERSION = _version()


def install(app: FastAPI, *, is_public: bool) -> None:
    """Serve `/`, `/docs/` with its files, and the OpenAPI document, to which the ways to authenticate are added.

    `is_public` says whether others than this machine's users are meant to reach the API: they need a key for both.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            made["components"]["securitySchemes"] = SECURITY_SCHEMES
            app.openapi_schema = made
        return app.openapi_schema

    async def admit(request: Request) -> None:
        guard = state_of(request).guard
        if is_public:
            await guard.authenticate(request, None, None)
        else:
            guard.count_visit(request)

    async def page(request: Request) -> Response:
        await admit(request)
        return _page(request)

    async def document(request: Request) -> Response:
        await admit(request)
        servers = {"servers": [{"url": prefix}]} if (prefix := prefix_of(request)) else {}
        return JSONResponse({**openapi(), **servers})

    app.openapi = openapi
    app.mount(f"{PATH}/files", StaticFiles(packages=[("fastapi_offline", "static")]))
    app.add_route(f"{PATH}/", page, include_in_schema=False)
    app.add_route(DOCUMENT, document, include_in_schema=False)
    app.add_route("/", _entrance, include_in_schema=False)


def _page(request: Request) -> Response:
    """Swagger UI. Its start script is inline, so the Content-Security-Policy names the script's hash."""
    app, prefix = cast("FastAPI", request.app), prefix_of(request)
    page = get_swagger_ui_html(
        openapi_url=f"{prefix}{DOCUMENT}",
        title=app.title,
        swagger_js_url=f"{prefix}{PATH}/files/swagger-ui-bundle.js",
        swagger_css_url=f"{prefix}{PATH}/files/swagger-ui.css",
        swagger_favicon_url=f"{prefix}{PATH}/files/favicon.png",
        swagger_ui_parameters={"defaultModelsExpandDepth": 0, "docExpansion": "list"},
    )
    scripts = re.findall(r"<script>(.*?)</script>", bytes(page.body).decode(), re.DOTALL)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts]
    page.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self' {' '.join(hashes)}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    page.headers["X-Content-Type-Options"] = "nosniff"
    return page


async def _entrance(request: Request) -> Response:
    """To the documentation for a browser; the entry points as JSON for a program."""
    state_of(request).guard.count_visit(request)
    prefix = prefix_of(request)
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(f"{prefix}{PATH}/", 307)
    entries = {name: f"{prefix}{path}" for name, path in ENTRY_POINTS.items()}
    return JSONResponse({"service": "alert-pipeline", "version": VERSION, **entries})
