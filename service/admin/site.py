"""The admin as one application: sqladmin's tables at our own addresses, behind the gate."""

from __future__ import annotations

from functools import partial
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
from orchestration.reasons import in_words
from orchestration.signals import logger
from service.admin import PATH, PUBLIC_PATH, formatting
from service.admin.formatting import Renderer
from service.admin.pages import INCIDENT_ACTIONS, Pages
from service.admin.records import RecordView
from service.admin.sign_in import Gate, SignIn
from service.admin.tables import TABLES
from service.api.documentation import VERSION
from service.api.problems import status_of
from service.api.state import ApiState

_STATICS = Path(__file__).parent / "statics"
_SHARED: dict[str, Any] = {
    "formatting": formatting,
    "path": PUBLIC_PATH,
    "version": VERSION,
    "tables": TABLES,
    "reason_in_words": in_words,
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
        for error in (HTTPException, PipelineError, Exception):
            self.admin.add_exception_handler(error, self._answer_error)
        for table in TABLES:
            self.add_view(table)
        views = [view for view in self.views if isinstance(view, RecordView)]
        pages = Pages(api, renderer)
        # sqladmin's own addresses also create, edit, delete and export. Of ours, only those that
        # resume a run or act on an incident change a record.
        routes: list[BaseRoute] = [
            Mount("/statics", StaticFiles(directory=_STATICS)),
            Route("/", pages.home),
            Route("/why/", pages.why),
            Route("/login/", sign_in.login, methods=["GET", "POST"]),
            Route("/logout/", sign_in.logout, methods=["POST"]),
            Route("/runs/{run_id}/", pages.run),
            Route("/runs/{run_id}/resume/", pages.confirm_resume),
            Route("/runs/{run_id}/resume/", pages.resume, methods=["POST"]),
            Route("/incidents/{number}/", pages.incident),
            *(
                Route(f"/incidents/{{number}}/{action}/", partial(pages.act_on_incident, action), methods=["POST"])
                for action in INCIDENT_ACTIONS
            ),
            *(Route(f"/{view.address}/", partial(self._show_list, view)) for view in views),
            *(Route(f"/{view.address}/{{key}}/", partial(self._show_row, view)) for view in views),
        ]
        self.admin.router.routes = routes

    async def _show_list(self, view: RecordView, request: Request) -> Response:
        async with self._api.database.transaction() as tx:
            page = await view.page(tx, request.query_params)
        return self._renderer.render(request, "list.html", {"view": view, "page": page})

    async def _show_row(self, view: RecordView, request: Request) -> Response:
        async with self._api.database.transaction() as tx:
            row = await view.one(tx, request.path_params["key"])
        if row is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return self._renderer.render(request, "details.html", {"view": view, "row": row})

    async def _answer_error(self, request: Request, error: Exception) -> Response:
        status, message = HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong; the log says what"
        match error:
            case HTTPException(status_code=HTTPStatus.NOT_FOUND as status):
                message = "There is nothing at this address"
            case HTTPException(status_code=status):
                message = HTTPStatus(status).phrase
            case PipelineError():
                status, message = status_of(error), str(error)
                if isinstance(error, Unavailable):
                    logger.warning("A page of the admin was answered 503: %s", error)
            case _:
                pass
        return self._renderer.render_problem(request, status, message)
