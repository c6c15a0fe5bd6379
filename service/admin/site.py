"""The admin as a whole: sqladmin's tables behind our gate, with our addresses, and none that writes a record."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

from sqladmin import Admin
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from orchestration.encryption import load_key
from orchestration.errors import PipelineError, Unavailable
from orchestration.signals import logger
from service.admin import words
from service.admin.gate import Entrance, Gate
from service.admin.installation import DefinitionView, KeyView, WorkerView
from service.admin.mount import PATH
from service.admin.pages import Pages
from service.admin.records import RecordView
from service.admin.sessions import Sessions
from service.admin.views import AlertView, AttemptView, IncidentView, RunView
from service.api.document import VERSION
from service.api.problems import status_of
from service.api.state import ApiState

_HERE = Path(__file__).parent

VIEWS = (RunView, IncidentView, AlertView, AttemptView, DefinitionView, WorkerView, KeyView)
"""The tables, as the menu has them."""


class Site(Admin):
    """What `mount.py` hands requests to.

    Raises:
        BadSetting: the sealing key cannot be used.
    """

    def __init__(self, api: ApiState) -> None:
        self.api = api
        self.sessions = Sessions(
            load_key(api.settings),
            seconds=api.settings.admin_session_hours * 3600,
            path=PATH,
            public_url=api.settings.api_public_url,
        )
        super().__init__(  # pyright: ignore[reportUnknownMemberType] - sqladmin leaves parts of it open
            Starlette(),
            engine=api.database.engine,
            base_url=PATH,
            title="alert-pipeline",
            templates_dir=str(_HERE / "templates"),
        )
        # sqladmin's own addresses also create, edit, delete and export; of ours, one resumes a run.
        self.admin.router.routes = self._routes()
        for kind, handler in (
            (HTTPException, self._http_error),
            (PipelineError, self._pipeline_error),
            (Exception, self._bug),
        ):
            self.admin.add_exception_handler(kind, handler)
        for view in VIEWS:
            self.add_view(view)
        self.gate = Gate(self.admin, self)
        shared: dict[str, Any] = {"words": words, "path": PATH, "version": VERSION}
        cast("dict[str, Any]", self.templates.env.globals).update(shared)
        self.templates.env.trim_blocks = self.templates.env.lstrip_blocks = True

    @property
    def routes(self) -> list[BaseRoute]:
        """The addresses there are."""
        return self.admin.router.routes

    def _routes(self) -> list[BaseRoute]:
        pages, entrance = Pages(self), Entrance(self)
        return [
            Mount("/statics", StaticFiles(directory=_HERE / "statics"), name="statics"),
            Route("/", pages.home, name="index"),
            Route("/login/", entrance.login, methods=["GET", "POST"], name="login"),
            Route("/logout/", entrance.logout, methods=["POST"], name="logout"),
            Route("/runs/{run_id}/", pages.run),
            Route("/runs/{run_id}/resume/", pages.confirm_resume),
            Route("/runs/{run_id}/resume/", pages.resume, methods=["POST"]),
            Route("/incidents/{number}/", pages.incident),
            Route("/{address}/", self.show_list, name="list"),
            Route("/{address}/{pk}/", self.show_one, name="details"),
        ]

    async def show_list(self, request: Request) -> Response:
        """The list of one table."""
        view = self._view(request)
        async with self.api.database.transaction() as tx:
            page = await view.page(tx, request.query_params)
        older = words.query(**page.refined, before=page.older) if page.older else None
        windowed = view.window is not None and bool(page.refined.keys() - {"search"})
        context = {"view": view, "page": page, "older": older, "windowed": windowed}
        return await self.render(request, "list.html", context)

    async def show_one(self, request: Request) -> Response:
        """One row of a table."""
        view = self._view(request)
        async with self.api.database.transaction() as tx:
            row = await view.one(tx, request.path_params["pk"])
        if row is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return await self.render(request, "details.html", {"view": view, "row": row})

    async def render(
        self, request: Request, template: str, context: Mapping[str, Any], *, status: int = HTTPStatus.OK
    ) -> Response:
        """A page; `session` is nobody's where nobody is signed in."""
        session = getattr(request.state, "session", None)
        views = [view for view in self.views if isinstance(view, RecordView)]
        shared = {"session": session, "views": views, "here": request.url.path.removeprefix(PATH)}
        values: dict[str, Any] = {**shared, **context}
        page = cast("Any", self.templates).TemplateResponse
        return await page(request, template, values, status_code=status)

    async def say(self, request: Request, status: int, message: str) -> Response:
        """A page that says what is wrong."""
        return await self.render(request, "problem.html", {"code": status, "message": message}, status=status)

    def _view(self, request: Request) -> RecordView:
        address = request.path_params["address"]
        for view in self.views:
            if isinstance(view, RecordView) and view.address == address:
                return view
        raise HTTPException(HTTPStatus.NOT_FOUND)

    async def _http_error(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
        said = {HTTPStatus.NOT_FOUND: "There is nothing at this address"}
        return await self.say(request, status, said.get(HTTPStatus(status), HTTPStatus(status).phrase))

    async def _pipeline_error(self, request: Request, error: Exception) -> Response:
        status = status_of(error) if isinstance(error, PipelineError) else HTTPStatus.INTERNAL_SERVER_ERROR
        if isinstance(error, Unavailable):
            logger.warning("A page of the admin was answered 503: %s", error)
        return await self.say(request, status, str(error))

    async def _bug(self, request: Request, _error: Exception) -> Response:
        return await self.say(request, HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong; the log says what")
