"""Who calls, and what they may do."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Request

from orchestration.redaction import one_line
from orchestration.settings import Settings
from orchestration.signals import logger
from orchestration.store import keys
from orchestration.store.database import Database
from orchestration.store.keys import ApiKey, Scope
from service.api.keyring import KeyRing
from service.api.limits import RateLimit
from service.api.problems import HttpProblem

_HOW = "send an API key as `Authorization: Bearer apk_…`, as `X-API-Key`, or as the password of basic authentication"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who calls. Without a key: somebody on this very machine, or anybody where no key is asked for."""

    key: ApiKey | None = None
    signature: str | None = None
    """What a signed request is told from its replay by."""

    @property
    def name(self) -> str:
        """The key's name, or nothing."""
        return self.key.name if self.key else ""


class Guard:
    """Lets callers in, or says why not: to them with 401, 403 or 429, to the operator with a line in the log."""

    def __init__(self, settings: Settings, database: Database, *, loopback: bool) -> None:
        self._settings = settings
        self._database = database
        self._loopback = loopback
        self._limit = RateLimit(settings.api_rate_limit_per_second)
        self.ring = KeyRing(database, settings)

    async def admit(self, request: Request, scope: Scope, raw: bytes | None) -> Caller:
        """Who calls, if they may. `raw` is the body as it came, for a signature; None: it was not read yet.

        Raises:
            HttpProblem: 401 without a valid key, 403 where the key is not for this, 429 too often.
            Unavailable: the database does not answer.
        """
        address = request.client.host if request.client else "?"
        try:
            caller = await self._identify(request, raw or b"")
            if caller.key is not None and not caller.key.allows(scope):
                raise _forbidden(caller.key, scope)
        except HttpProblem as refusal:
            self._limit.take(f"address/{address}")
            # Without the advice that is for the caller, which looks like a key to who reads logs for keys.
            why = one_line(str(refusal).partition(": ")[0], 300)
            where = one_line(f"{request.method} {request.url.path}", 120)
            logger.warning("Refused %s from %s with %d: %s", where, address, refusal.status, why)
            raise
        self._limit.take(f"key/{caller.name}" if caller.key else f"address/{address}")
        return caller

    async def forget(self, caller: Caller) -> None:
        """A signed request came to nothing: it may come again as it is."""
        if caller.signature is not None:
            async with self._database.transaction() as tx:
                await keys.forget_signature(tx, caller.signature)

    async def _identify(self, request: Request, raw: bytes) -> Caller:
        if self._settings.api_auth == "off":
            return Caller()
        headers = request.headers
        if "x-signature" in headers:
            return await self._signed(headers, raw)
        token = _token_of(headers)
        if token is None:
            if self._settings.api_auth == "auto" and self._loopback and _is_local(request):
                return Caller()
            raise _unauthorized(f"No API key: {_HOW}")
        key = await self.ring.find(token)
        if key is None:
            raise _unauthorized(f"The API key is unknown or revoked: {_HOW}")
        return Caller(key=key)

    async def _signed(self, headers: Mapping[str, str], raw: bytes) -> Caller:
        """A request whose sender signed its body with the signing secret of a key."""
        name, stamp, signature = (headers.get(f"x-{part}", "").strip() for part in ("key-id", "timestamp", "signature"))
        if not name:
            raise _unauthorized("X-Signature needs X-Key-Id, the name of the key whose signing secret it was made with")
        window = self._settings.api_signature_window_seconds
        if not stamp.isascii() or not stamp.isdecimal() or len(stamp) > 12:
            raise _unauthorized("X-Signature needs X-Timestamp, the time in whole seconds since 1970")
        age = time.time() - int(stamp)
        if abs(age) > window:
            raise _unauthorized(
                f"X-Timestamp is {age:.0f} s old; a signature is good for {window:g} s. Are the clocks set?"
            )
        key = await self.ring.named(name)
        # An unknown name takes as long as a known one.
        secret = await self.ring.signing_secret(key) if key else "unknown"
        right = hmac.new(secret.encode(), stamp.encode() + b"." + raw, hashlib.sha256).hexdigest()
        if (
            not hmac.compare_digest(f"sha256={right}".encode(), signature.lower().encode(errors="replace"))
            or key is None
        ):
            raise _unauthorized(
                "X-Signature does not fit: expected sha256= and the hexadecimal HMAC-SHA256 of "
                "X-Timestamp, a dot and the body, with the signing secret of the key that X-Key-Id names"
            )
        used = hashlib.sha256(f"{name}\n{right}".encode()).hexdigest()
        async with self._database.transaction() as tx:
            if not await keys.use_signature(tx, used, window_seconds=window):
                raise _unauthorized("This signed request was taken before: sign each request anew")
        self.ring.note_use(key)
        return Caller(key=key, signature=used)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this very machine's own."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _token_of(headers: Mapping[str, str]) -> str | None:
    """The key that a request carries; None if it carries none."""
    if (own := headers.get("x-api-key", "").strip()) != "":
        return own
    kind, _, given = headers.get("authorization", "").strip().partition(" ")
    match kind.lower():
        case "":
            return None
        case "bearer":
            return given.strip()
        case "basic":
            try:
                return base64.b64decode(given.strip(), validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return ""
        case _:
            return ""


def _is_local(request: Request) -> bool:
    """Whether a request comes from a program on this machine: not through a proxy, and not from a web page.

    A page that a browser on this machine shows can send requests here as well; it cannot hide where it is from.
    """
    headers = request.headers
    if request.client is not None and not is_loopback(request.client.host):
        return False
    if "forwarded" in headers or "x-forwarded-for" in headers:
        return False
    host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    origin = headers.get("origin")
    from_page = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    return is_loopback(host) and not from_page and (origin is None or urlsplit(origin).netloc == headers.get("host"))


def _forbidden(key: ApiKey, scope: Scope) -> HttpProblem:
    scopes = ", ".join(sorted(key.scopes))
    return HttpProblem(HTTPStatus.FORBIDDEN, f"The key {key.name!r} is for {scopes}; this needs {scope.value}")


def _unauthorized(message: str) -> HttpProblem:
    return HttpProblem(
        HTTPStatus.UNAUTHORIZED,
        message,
        {"WWW-Authenticate": 'Bearer realm="alert-pipeline", Basic realm="alert-pipeline"'},
    )
