"""Before every page: who is signed in. After every page: what a browser may do with it."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from orchestration.errors import PipelineError, Unavailable
from orchestration.redaction import one_line
from orchestration.signals import logger
from orchestration.store.keys import Scope, end_session, is_ended
from service.admin.mount import PATH, Receive, Send
from service.admin.mount import Scope as AsgiScope
from service.admin.sessions import Session, same
from service.api.bodies import read_raw
from service.api.limits import RateLimit
from service.api.problems import HttpProblem, status_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from service.admin.site import Site

HEADERS = {
    # No script at all, no style but our file's, and nothing from elsewhere.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_STATICS = "/statics/"
_LOGIN = "/login/"
_FORM_BYTES = 8192

TRIES_PER_SECOND, TRIES_AT_ONCE = 0.5, 10.0
"""How often one address may try to sign in."""


class Gate:
    """Lets nobody but who is signed in past; shows everybody else the way to the sign-in page, and nothing more."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app = app
        self._site = site

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(PATH)

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = HEADERS | ({"Cache-Control": "private, max-age=86400"} if path.startswith(_STATICS) else {})
                own = {name.lower() for name in (key.encode() for key in headers)}
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in own]
                added = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
                message = {**message, "headers": [*kept, *added]}
            await send(message)

        refusal = None if path == _LOGIN or path.startswith(_STATICS) else await self._check(Request(scope), path)
        await (refusal or self._app)(scope, receive, send_with_headers)

    async def _check(self, request: Request, path: str) -> Response | None:
        """Why not; None: go on, `request.state.session` says who it is."""
        try:
            session = await find_session(self._site, request)
        except PipelineError as error:
            logger.warning("The admin could not be opened: %s", error)
            return await self._site.say(
                request, status_of(error), "The database does not answer. Try again in a moment."
            )
        if session is not None:
            request.state.session = session
            return None
        asked = path + (f"?{request.url.query}" if request.url.query else "")
        after = f"?next={quote(asked)}" if request.method == "GET" and path != "/" and len(asked) < 500 else ""
        return RedirectResponse(f"{PATH}{_LOGIN}{after}", HTTPStatus.SEE_OTHER)


async def find_session(site: Site, request: Request) -> Session | None:
    """Who is signed in: their cookie is good, their key is still in use and an admin's, and they did not sign out.

    Raises:
        Unavailable: the database cannot be asked.
    """
    api, session = site.api, site.sessions.read(request)
    if session is None:
        return None
    if api.schema_problem is not None:
        raise Unavailable(f"The database cannot be used: {api.schema_problem}")
    key = await api.guard.ring.named(session.key_name)
    if key is None or key.prefix != session.key_prefix or not key.allows(Scope.ADMIN):
        return None
    async with api.database.transaction() as tx:
        if await is_ended(tx, session.id):
            return None
    api.guard.ring.note_use(key)
    return session


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form that was sent.

    Raises:
        HttpProblem: 400 or 413: it is none of ours; 403: another site sent it.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HttpProblem(HTTPStatus.FORBIDDEN, "This form was sent from another site")
    try:
        return dict(parse_qsl((await read_raw(request, _FORM_BYTES)).decode(), max_num_fields=20))
    except ValueError:
        raise HttpProblem(HTTPStatus.BAD_REQUEST, "This is not a form of the admin") from None


async def read_own_form(request: Request) -> dict[str, str]:
    """The fields of a form that this session was shown; raises as `read_form()`, and 403 if it was not."""
    form = await read_form(request)
    if not same(request.state.session.csrf, form.get("csrf", "")):
        raise HttpProblem(HTTPStatus.FORBIDDEN, "This form is out of date: go back, reload the page, and try again")
    return form


class Entrance:
    """Signing in and out."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._tries = RateLimit(
            TRIES_PER_SECOND, burst=TRIES_AT_ONCE, refusal="Too many attempts to sign in from your address"
        )

    async def login(self, request: Request) -> Response:
        """The sign-in page, and what it sends."""
        if request.method != "POST":
            if await self._is_signed_in(request):
                return RedirectResponse(_after(request.query_params.get("next", "")), HTTPStatus.SEE_OTHER)
            return await self._show(request, after=request.query_params.get("next", ""))
        form: Mapping[str, str] = {}
        try:
            form = await read_form(request)
            return await self._sign_in(request, form)
        except HttpProblem as problem:
            return await self._show(request, problem, after=form.get("next", ""))
        except Unavailable as error:
            logger.warning("Nobody can sign in to the admin: %s", error)
            problem = HttpProblem(HTTPStatus.SERVICE_UNAVAILABLE, "The database does not answer. Try again in a moment")
            return await self._show(request, problem, after=form.get("next", ""))

    async def logout(self, request: Request) -> Response:
        """End the session, here and for whoever may have copied its cookie."""
        await read_own_form(request)
        lifetime = self._site.api.settings.admin_session_hours * 3600
        async with self._site.api.database.transaction() as tx:
            await end_session(tx, request.state.session.id, lifetime_seconds=lifetime)
        response = RedirectResponse(f"{PATH}{_LOGIN}", HTTPStatus.SEE_OTHER)
        self._site.sessions.forget(response)
        return response

    async def _is_signed_in(self, request: Request) -> bool:
        try:
            return await find_session(self._site, request) is not None
        except Unavailable:
            return False

    async def _sign_in(self, request: Request, form: Mapping[str, str]) -> Response:
        address = request.client.host if request.client else "?"
        self._tries.take(address)
        if not self._site.sessions.fits_login(request, form.get("csrf", "")):
            raise HttpProblem(HTTPStatus.FORBIDDEN, "The page was out of date. Please try again")
        key = await self._site.api.guard.ring.find(form.get("key", "").strip())
        if key is None or not key.allows(Scope.ADMIN):
            why = "the key is unknown or revoked" if key is None else f"the key {key.name!r} has no scope admin"
            logger.warning("Refused to sign %s in to the admin: %s", address, one_line(why, 120))
            said = "The key is unknown or revoked" if key is None else "This key is good, but not for the admin"
            raise HttpProblem(HTTPStatus.UNAUTHORIZED if key is None else HTTPStatus.FORBIDDEN, said)
        logger.info("%s signed in to the admin from %s", one_line(key.name, 64), address)
        response = RedirectResponse(_after(form.get("next", "")), HTTPStatus.SEE_OTHER)
        self._site.sessions.begin(request, response, key)
        return response

    async def _show(self, request: Request, problem: HttpProblem | None = None, *, after: str) -> Response:
        nonce = self._site.sessions.login_nonce(request)
        response = await self._site.render(
            request,
            "login.html",
            {
                "token": self._site.sessions.login_token(nonce),
                "problem": str(problem) if problem else None,
                "next": after if _after(after) != f"{PATH}/" else "",
            },
            status=problem.status if problem else HTTPStatus.OK,
        )
        self._site.sessions.new_login(request, response, nonce)
        if problem is not None:
            response.headers.update(problem.headers)
        return response


def _after(path: str) -> str:
    """Where to go after signing in: a page of the admin, whatever the address says."""
    plain = path.isprintable() and path.isascii() and "\\" not in path and ".." not in path
    fine = plain and path.startswith("/") and not path.startswith(("//", _LOGIN, "/logout/"))
    return f"{PATH}{path}" if fine else f"{PATH}/"
