"""Signing in to the admin: the cookies, the sign-in form, and the gate before every page.

Two cookies are used. The session cookie is encrypted and says which API key somebody signed in with. The login cookie
holds a random nonce, so that the sign-in form has a CSRF token before there is a session.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qsl, quote

from cryptography.fernet import Fernet, InvalidToken
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from orchestration.encryption import load_key
from orchestration.errors import PipelineError, Unavailable
from orchestration.redaction import one_line
from orchestration.signals import logger
from orchestration.store.keys import Scope, end_session, is_ended
from service.admin import PUBLIC_PATH
from service.admin.formatting import Renderer
from service.api.body import read_raw
from service.api.problems import HttpProblem, status_of
from service.api.rates import RateLimit, caller_address
from service.api.state import ApiState

SESSION_COOKIE = "alert_pipeline_admin"
LOGIN_COOKIE = "alert_pipeline_login"
LOGIN_COOKIE_SECONDS = 3600

TRIES_PER_SECOND, TRIES_AT_ONCE = 0.5, 10.0
"""How often one address may try to sign in."""

HEADERS = {
    # Neither scripts nor inline styles are allowed, and nothing is loaded from other hosts.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_STATICS_CACHING = {"Cache-Control": "private, max-age=86400"}

_KEY_LABEL = b"alert-pipeline admin session"
_MAX_FORM_BYTES = 8192
_STATICS = "/statics/"
_LOGIN = "/login/"
_LOGOUT = "/logout/"
_DATABASE_IS_AWAY = "The database does not answer. Try again in a moment"


@dataclass(frozen=True, kw_only=True)
class Session:
    """A session of somebody who signed in with an API key."""

    id: str
    key_name: str
    key_prefix: str
    csrf: str
    """The CSRF token of every form of this session."""


class SignIn:
    """The sign-in page, signing out, and the check of a session.

    Every API process of an installation derives the same key for the cookies: from its secret key, one-way.

    Raises:
        BadSetting: the secret key of the installation cannot be used.
    """

    def __init__(self, api: ApiState, renderer: Renderer) -> None:
        self._api = api
        self._renderer = renderer
        self._session_seconds = api.settings.admin_session_hours * 3600
        self._key = hmac.digest(load_key(api.settings), _KEY_LABEL, "sha256")
        self._fernet = Fernet(base64.urlsafe_b64encode(self._key))
        self._tries = RateLimit(
            TRIES_PER_SECOND, burst=TRIES_AT_ONCE, refusal="Too many attempts to sign in from your address"
        )

    async def find_session(self, request: Request) -> Session | None:
        """The caller's session. None means that nobody is signed in, or that the key is revoked or no admin's.

        Raises:
            Unavailable: the database does not answer.
        """
        api, session = self._api, self._read_session(request)
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

    def _read_session(self, request: Request) -> Session | None:
        cookie = request.cookies.get(SESSION_COOKIE, "").encode()
        try:
            content = json.loads(self._fernet.decrypt(cookie, ttl=int(self._session_seconds)))
        except InvalidToken:
            return None
        name, prefix, session = content["name"], content["prefix"], content["id"]
        return Session(id=session, key_name=name, key_prefix=prefix, csrf=self._csrf_token(f"session/{session}"))

    def count_visit(self, request: Request) -> None:
        """Count a request that needs no session.

        Raises:
            HttpProblem: 429 after too many of them.
        """
        self._api.guard.count_visit(request)

    async def login(self, request: Request) -> Response:
        """GET shows the sign-in form, POST signs in and redirects to the page that was asked for."""
        if request.method != "POST":
            asked = request.query_params.get("next", "")
            with suppress(Unavailable):
                if await self.find_session(request) is not None:
                    return RedirectResponse(_page_after_sign_in(asked), HTTPStatus.SEE_OTHER)
            return self._show_form(request, after=asked)
        form: Mapping[str, str] = {}
        try:
            form = await _read_form(request)
            return await self._sign_in(request, form)
        except HttpProblem as error:
            problem = error
        except Unavailable as error:
            logger.warning("Nobody can sign in to the admin site: %s", error)
            problem = HttpProblem(HTTPStatus.SERVICE_UNAVAILABLE, _DATABASE_IS_AWAY)
        return self._show_form(request, problem, after=form.get("next", ""))

    async def logout(self, request: Request) -> Response:
        """End the session. A copy of its cookie is of no use afterwards."""
        await read_own_form(request)
        async with self._api.database.transaction() as tx:
            await end_session(tx, request.state.session.id, lifetime_seconds=self._session_seconds)
        response = RedirectResponse(f"{PUBLIC_PATH}{_LOGIN}", HTTPStatus.SEE_OTHER)
        response.delete_cookie(SESSION_COOKIE, path=str(PUBLIC_PATH))
        return response

    async def _sign_in(self, request: Request, form: Mapping[str, str]) -> Response:
        address = caller_address(request, self._api.settings)
        nonce = request.cookies.get(LOGIN_COOKIE, "")
        if not nonce or not _is_same(self._csrf_token(f"login/{nonce}"), form.get("csrf", "")):
            raise HttpProblem(HTTPStatus.FORBIDDEN, "The page was out of date. Please try again")
        key = await self._api.guard.ring.find(form.get("key", "").strip())
        if key is None or not key.allows(Scope.ADMIN):
            # Only wrong tries are counted: a stranger must not keep out whoever has a key. No key can be guessed.
            self._tries.count(address)
            why = "the key is unknown or revoked" if key is None else f"the key {key.name!r} has no scope admin"
            logger.warning("Refused a sign-in to the admin site from %s: %s", address, one_line(why, 120))
            said = "The key is unknown or revoked" if key is None else "This key is good, but not for the admin"
            raise HttpProblem(HTTPStatus.UNAUTHORIZED if key is None else HTTPStatus.FORBIDDEN, said)
        logger.info("%s signed in to the admin site from %s", one_line(key.name, 64), address)
        response = RedirectResponse(_page_after_sign_in(form.get("next", "")), HTTPStatus.SEE_OTHER)
        content = json.dumps({"id": secrets.token_urlsafe(16), "name": key.name, "prefix": key.prefix})
        encrypted = self._fernet.encrypt(content.encode()).decode()
        self._set_cookie(request, response, SESSION_COOKIE, encrypted, seconds=int(self._session_seconds))
        response.delete_cookie(LOGIN_COOKIE, path=str(PUBLIC_PATH))
        return response

    def _show_form(self, request: Request, problem: HttpProblem | None = None, *, after: str) -> Response:
        # A nonce that the caller has is used again, so that two open tabs both work.
        nonce = request.cookies.get(LOGIN_COOKIE, "")
        if not (nonce.isascii() and nonce.isprintable() and 16 <= len(nonce) <= 64):
            nonce = secrets.token_urlsafe(16)
        context = {
            "token": self._csrf_token(f"login/{nonce}"),
            "problem": str(problem) if problem else None,
            "next": after if _page_after_sign_in(after) != f"{PUBLIC_PATH}/" else "",
        }
        status = problem.status if problem else HTTPStatus.OK
        response = self._renderer.render(request, "login.html", context, status=status)
        self._set_cookie(request, response, LOGIN_COOKIE, nonce, seconds=LOGIN_COOKIE_SECONDS)
        if problem is not None:
            response.headers.update(problem.headers)
        return response

    def _csrf_token(self, purpose: str) -> str:
        return hmac.digest(self._key, f"csrf/{purpose}".encode(), "sha256").hex()

    def _set_cookie(self, request: Request, response: Response, name: str, value: str, *, seconds: int) -> None:
        # Lax, because a link to a run in a message must work. A change needs a CSRF token as well.
        is_public_https = (self._api.settings.api_public_url or "").startswith("https://")
        schemes = (request.url.scheme, request.headers.get("x-forwarded-proto", "").strip().lower())
        response.set_cookie(
            name,
            value,
            max_age=seconds,
            path=str(PUBLIC_PATH),
            secure=is_public_https or "https" in schemes,
            httponly=True,
            samesite="lax",
        )


class Gate:
    """ASGI middleware: passes on the requests of people who signed in, and redirects all others to the sign-in page.

    It also sets the security headers of every answer.
    """

    def __init__(self, app: ASGIApp, sign_in: SignIn, renderer: Renderer) -> None:
        self._app = app
        self._sign_in = sign_in
        self._renderer = renderer

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(str(PUBLIC_PATH))
        is_static = path.startswith(_STATICS)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS | (_STATICS_CACHING if is_static else {}))
            await send(message)

        refusal = self._too_often(Request(scope)) if path == _LOGIN or is_static else None
        if path != _LOGIN and not is_static:
            refusal = await self._refusal(Request(scope), path)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _too_often(self, request: Request) -> Response | None:
        """The answer to somebody who asks too often for what everybody may see."""
        try:
            self._sign_in.count_visit(request)
        except HttpProblem as error:
            return self._renderer.render_problem(request, error.status, f"{error}.")
        return None

    async def _refusal(self, request: Request, path: str) -> Response | None:
        """The answer to somebody who is not signed in. None means that `request.state.session` says who it is."""
        try:
            session = await self._sign_in.find_session(request)
        except PipelineError as error:
            logger.warning("The admin cannot check a session: %s", error)
            return self._renderer.render_problem(request, status_of(error), f"{_DATABASE_IS_AWAY}.")
        if session is not None:
            request.state.session = session
            return None
        asked = path + (f"?{request.url.query}" if request.url.query else "")
        after = f"?next={quote(asked)}" if request.method == "GET" and path != "/" and len(asked) < 500 else ""
        return RedirectResponse(f"{PUBLIC_PATH}{_LOGIN}{after}", HTTPStatus.SEE_OTHER)


async def read_own_form(request: Request) -> dict[str, str]:
    """The fields of a form that a page of this session contained.

    Raises:
        HttpProblem: 400 for anything but a form, 413 if it is too large, 403 if another site sent it, or if the CSRF
            token is not the session's.
    """
    form = await _read_form(request)
    if not _is_same(request.state.session.csrf, form.get("csrf", "")):
        raise HttpProblem(HTTPStatus.FORBIDDEN, "This form is out of date: go back, reload the page, and try again")
    return form


async def _read_form(request: Request) -> dict[str, str]:
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HttpProblem(HTTPStatus.FORBIDDEN, "This form was sent from another site")
    try:
        return dict(parse_qsl((await read_raw(request, _MAX_FORM_BYTES)).decode(), max_num_fields=20))
    except ValueError:
        raise HttpProblem(HTTPStatus.BAD_REQUEST, "This is not a form of the admin") from None


def _page_after_sign_in(path: str) -> str:
    """The page to go to after signing in. A path that does not lead to a page of the admin leads to the first page."""
    is_plain = path.isprintable() and path.isascii() and "\\" not in path and ".." not in path
    is_page = is_plain and path.startswith("/") and not path.startswith(("//", _LOGIN, _LOGOUT))
    return f"{PUBLIC_PATH}{path}" if is_page else f"{PUBLIC_PATH}/"


def _is_same(expected: str, given: str) -> bool:
    """Whether two tokens are equal, compared in constant time."""
    return hmac.compare_digest(expected.encode(), given.encode())
