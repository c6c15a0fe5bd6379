"""Who is signed in: a sealed cookie, which every API process of the installation can open."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass

from cryptography.fernet import Fernet, InvalidToken
from starlette.requests import Request
from starlette.responses import Response

from orchestration.store.keys import ApiKey

SESSION_COOKIE = "alert_pipeline_admin"
LOGIN_COOKIE = "alert_pipeline_login"
"""Ties the form that is sent to the one that was shown, before there is a session."""

_LABEL = b"alert-pipeline admin session"
_MOST_COOKIE = 2048


@dataclass(frozen=True, kw_only=True)
class Session:
    """Somebody who signed in with a key."""

    id: str
    key_name: str
    key_prefix: str
    csrf: str
    """What every form of this session carries."""


class Sessions:
    """Makes and reads cookies. `sealing_key` is the installation's; ours follows from it, and not it from ours."""

    def __init__(self, sealing_key: bytes, *, seconds: float, path: str, public_url: str | None) -> None:
        self._secret = hmac.new(sealing_key, _LABEL, hashlib.sha256).digest()
        self._fernet = Fernet(base64.urlsafe_b64encode(self._secret))
        self._seconds = int(seconds)
        self._path = path
        self._secure = (public_url or "").startswith("https://")

    def begin(self, request: Request, response: Response, key: ApiKey) -> None:
        """Sign the caller in: the response carries the cookie."""
        content = {"id": secrets.token_urlsafe(16), "name": key.name, "prefix": key.prefix}
        sealed = self._fernet.encrypt(json.dumps(content).encode()).decode()
        # Lax, because a link to a run in a message must work; what changes something needs a form's token as well.
        self._set(request, response, SESSION_COOKIE, sealed, self._seconds)
        response.delete_cookie(LOGIN_COOKIE, path=self._path)

    def read(self, request: Request) -> Session | None:
        """The session that the caller's cookie stands for, if it is ours and not too old."""
        cookie = request.cookies.get(SESSION_COOKIE, "")
        if not cookie.isascii() or not 0 < len(cookie) <= _MOST_COOKIE:
            return None
        try:
            content = json.loads(self._fernet.decrypt(cookie, ttl=self._seconds))
        except InvalidToken:
            return None
        name, prefix, session = content["name"], content["prefix"], content["id"]
        return Session(id=session, key_name=name, key_prefix=prefix, csrf=self._token(f"session/{session}"))

    def forget(self, response: Response) -> None:
        """Take the cookie away."""
        response.delete_cookie(SESSION_COOKIE, path=self._path)

    def login_nonce(self, request: Request) -> str:
        """What ties a sign-in form to its sender: the one they have already, so that two open tabs both work."""
        known = request.cookies.get(LOGIN_COOKIE, "")
        return (
            known if known.isascii() and known.isprintable() and 16 <= len(known) <= 64 else secrets.token_urlsafe(16)
        )

    def new_login(self, request: Request, response: Response, nonce: str) -> None:
        """Give the caller the cookie that belongs to a sign-in form."""
        self._set(request, response, LOGIN_COOKIE, nonce, 3600)

    def login_token(self, nonce: str) -> str:
        """What a sign-in form carries."""
        return self._token(f"login/{nonce}")

    def fits_login(self, request: Request, token: str) -> bool:
        """Whether a sign-in form is one that we showed to this caller."""
        nonce = request.cookies.get(LOGIN_COOKIE, "")
        return bool(nonce) and same(self.login_token(nonce), token)

    def _token(self, purpose: str) -> str:
        return hmac.new(self._secret, f"csrf/{purpose}".encode(), hashlib.sha256).hexdigest()

    def _set(self, request: Request, response: Response, name: str, value: str, seconds: int) -> None:
        secure = self._secure or request.url.scheme == "https"
        response.set_cookie(name, value, max_age=seconds, path=self._path, secure=secure, httponly=True, samesite="lax")


def same(expected: str, given: str) -> bool:
    """Whether two tokens are equal, in a time that tells nothing."""
    return hmac.compare_digest(expected.encode(), given.encode())
