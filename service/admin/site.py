"""The admin as one application: sqladmin's tables at our own addresses, behind the gate."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Any

from sqladmin import Admin
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from orchestration.errors import PipelineError, Unavailable
from orchestration.signals import logger
from service.admin import PATH, formatting
from service.admin.formatting import Renderer
from service.admin.pages import Pages
from service.admin.records import RecordView
from service.admin.sign_in import Gate, SignIn
from service.admin.tables import TABLES
from service.api.documentation import VERSION
from service.api.problems import status_of
from service.api.state import ApiState
from tasks.ingest.incidents import reason_in_words

_STATICS = Path(__file__).parent / "statics"
_SHARED: dict[str, Any] = {
    "formatting": formatting,
    "path": PATH,
    "version": VERSION,
    "tables": TABLES,
    "reason_in_words": reason_in_words,
}
"""What every template can use."""


def build_site(api: ApiState) -> ASGIApp:
    """The admin of an API process, with the gate before it.

    Raises:
        BadSetting: the secret key of the installation cannot be used.
    """
    renderer = Renderer(_SHARED)
    sign_in = SignIn(api, renderer)
    return Gate(Site(api, sign_in, renderer).admin, sign_in, renderer)


class Site(Admin):
    """The pages and their addresses."""

    def __init__(self, api: ApiState, sign_in: SignIn, renderer: Renderer) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType] - sqladmin leaves parts of it open
            Starlette(), engine=api.database.engine, base_url=PATH
        )
        self._api = api
        self._renderer = renderer
        # sqladmin's own addresses also create, edit, delete and export. Of ours, only one changes a record.
        self.admin.router.routes = self._routes(Pages(api, renderer), sign_in)
        self.admin.add_exception_handler(HTTPException, self._answer_http_error)
        self.admin.add_exception_handler(PipelineError, self._answer_pipeline_error)
        self.admin.add_exception_handler(Exception, self._answer_bug)
        for table in TABLES:
            self.add_view(table)

    def _routes(self, pages: Pages, sign_in: SignIn) -> list[BaseRoute]:
        return [
            Mount("/statics", StaticFiles(directory=_STATICS)),
            Route("/", pages.home),
            Route("/login/", sign_in.login, methods=["GET", "POST"]),
            Route("/logout/", sign_in.logout, methods=["POST"]),
            Route("/runs/{run_id}/", pages.run),
            Route("/runs/{run_id}/resume/", pages.confirm_resume),
            Route("/runs/{run_id}/resume/", pages.resume, methods=["POST"]),
            Route("/incidents/{number}/", pages.incident),
            Route("/{address}/", self.show_list),
            Route("/{address}/{key}/", self.show_row),
        ]

    async def show_list(self, request: Request) -> Response:
        """The list of a table."""
        view = self._view(request)
        async with self._api.database.transaction() as tx:
            page = await view.page(tx, request.query_params)
        older = formatting.query(**page.refined, before=page.older) if page.older else None
        windowed = view.window is not None and bool(page.refined.keys() - {"search"})
        context = {"view": view, "page": page, "older": older, "windowed": windowed}
        return await self._renderer.render(request, "list.html", context)

    async def show_row(self, request: Request) -> Response:
        """The page of a row."""
        view = self._view(request)
        async with self._api.database.transaction() as tx:
            row = await view.one(tx, request.path_params["key"])
        if row is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return await self._renderer.render(request, "details.html", {"view": view, "row": row})

    def _view(self, request: Request) -> RecordView:
        for view in self.views:
            if isinstance(view, RecordView) and view.address == request.path_params["address"]:
                return view
        raise HTTPException(HTTPStatus.NOT_FOUND)

    async def _answer_http_error(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
        is_unknown = status == HTTPStatus.NOT_FOUND
        message = "There is nothing at this address" if is_unknown else HTTPStatus(status).phrase
        return await self._renderer.render_problem(request, status, message)

    async def _answer_pipeline_error(self, request: Request, error: Exception) -> Response:
        status = status_of(error) if isinstance(error, PipelineError) else HTTPStatus.INTERNAL_SERVER_ERROR
        if isinstance(error, Unavailable):
            logger.warning("A page of the admin was answered 503: %s", error)
        return await self._renderer.render_problem(request, status, str(error))

    async def _answer_bug(self, request: Request, _error: Exception) -> Response:
        message = "Something went wrong; the log says what"
        return await self._renderer.render_problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, message)
