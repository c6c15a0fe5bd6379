"""Authentication: API keys, the local key, signed requests, and how often each caller may call."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address

from starlette.requests import Request

from orchestration.errors import BadSetting
from orchestration.local_key import CURL, load_local_key
from orchestration.redaction import one_line
from orchestration.settings import Settings
from orchestration.signals import logger
from orchestration.store import keys
from orchestration.store.database import Database
from orchestration.store.keys import ApiKey, Scope
from service.api.keyring import KeyRing
from service.api.problems import HttpProblem
from service.api.rates import RateLimit, caller_address
from service.api.signatures import is_signed, read_signature, unauthorized, unfit

CALLER = "alert_pipeline.caller"
"""The key under which the scope of a request has its `Caller`, once it is authenticated."""

HOW = "Send an API key in the header X-API-Key, as a Bearer token, or as the password of basic authentication"
"""The advice at the end of a refusal without a valid key."""

HOW_HERE = f"On the machine of the API itself: {CURL}"
"""What follows the advice where the local key is accepted."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The sender of a request. A caller without a key of its own has the local key, or no key is asked for."""

    key: ApiKey | None = None
    is_local: bool = False
    """Whether it has the local key."""
    signature: str | None = None
    """The hash under which a signed request is remembered, so that a replay is refused."""

    @property
    def name(self) -> str:
        """The key's name, or an empty string."""
        return self.key.name if self.key else ""


class Guard:
    """Authenticates callers. A refusal is a 401, 403 or 429 for the caller and a log line for the operator."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._local_key = _local_key(settings)
        self._limit = RateLimit(settings.api_rate_limit_per_second)
        self.ring = KeyRing(database, settings)

    async def authenticate(self, request: Request, scope: Scope | None, raw: bytes | None) -> Caller:
        """Find the caller of a request and check its scope and its rate. Without a scope, every key is good.

        `raw` is the body as it came over the wire, which a signature covers. None means that it was not read.

        Raises:
            HttpProblem: 401 without a valid key, 403 if the key lacks the scope, 429 after too many requests.
            Unavailable: the database does not answer.
        """
        try:
            caller = await self._identify(request, raw or b"")
            request.scope[CALLER] = caller
            if caller.key is not None and scope is not None and not caller.key.allows(scope):
                raise _forbidden(caller.key, scope)
        except HttpProblem as refusal:
            self._refuse(request, refusal)
            raise
        address = caller_address(request, self._settings)
        self._limit.count(f"key/{caller.name}" if caller.key else f"address/{address}")
        return caller

    async def forget_signature(self, caller: Caller) -> None:
        """Allow a signed request to be sent again, after it was not stored.

        Raises:
            Unavailable: the database does not answer.
        """
        if caller.signature is not None:
            async with self._database.transaction() as tx:
                await keys.forget_signature(tx, caller.signature)

    async def _identify(self, request: Request, raw: bytes) -> Caller:
        headers = request.headers
        # A browser adds the key that somebody typed into it once to the requests of every page.
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise HttpProblem(HTTPStatus.FORBIDDEN, "A web page of another site sent this request")
        if self._settings.api_auth == "off":
            return Caller()
        if is_signed(headers):
            return await self._signed_caller(request, raw)
        token = token_of(headers)
        if token is None:
            raise unauthorized(f"No API key. {HOW}{f'. {HOW_HERE}' if self._local_key else ''}")
        if self._local_key is not None and hmac.compare_digest(token.encode(), self._local_key):
            # Behind a proxy on this machine, too: whoever has the local key can read the files of its owner.
            if request.client is not None and not is_loopback(request.client.host):
                raise unauthorized(f"The local key is good on its own machine only. {HOW}")
            return Caller(is_local=True)
        key = await self.ring.find(token)
        if key is None:
            raise unauthorized(f"The API key is unknown or revoked. {HOW}")
        return Caller(key=key)

    async def check_signature_headers(self, request: Request) -> None:
        """Refuse a signed request by what its headers say, before its body is read.

        Raises:
            HttpProblem: 401, a header is missing, its time is over, or no key has this name.
            Unavailable: the database does not answer.
        """
        if self._settings.api_auth == "off":
            return
        try:
            given = read_signature(request.headers, self._settings)
            if await self.ring.named(given.key_name) is None:
                await self.ring.signing_secret(None)
                raise unfit()
        except HttpProblem as refusal:
            self._refuse(request, refusal)
            raise

    async def _signed_caller(self, request: Request, raw: bytes) -> Caller:
        """The caller who signed a request. The signature is good once."""
        given = read_signature(request.headers, self._settings)
        key = await self.ring.named(given.key_name)
        if not given.fits(await self.ring.signing_secret(key), request, raw) or key is None:
            raise unfit()
        window = self._settings.api_signature_window_seconds
        async with self._database.transaction() as tx:
            if not await keys.use_signature(tx, given.remembered_as, window_seconds=window):
                raise unauthorized("This signed request was accepted before: sign each request anew")
        self.ring.note_use(key)
        return Caller(key=key, signature=given.remembered_as)

    def count_visit(self, request: Request) -> None:
        """Count a request that needs no key.

        Raises:
            HttpProblem: 429 after too many of them.
        """
        self._limit.count(f"open/{caller_address(request, self._settings)}")

    def _refuse(self, request: Request, refusal: HttpProblem) -> None:
        """Count a refusal, and log it.

        Raises:
            HttpProblem: 429, instead of the refusal, after too many of them.
        """
        self._limit.count(f"address/{caller_address(request, self._settings)}")
        address = request.client.host if request.client else "?"
        # The advice after the colon shows the form of a key, which scanners of logs would report as a leak.
        why = one_line(str(refusal).partition(": ")[0], 300)
        where = one_line(f"{request.method} {request.url.path}", 120)
        logger.warning("Refused %s from %s with %d: %s", where, address, refusal.status, why)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's loopback."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host.lower() == "localhost"
    # A socket for both families has the callers of IPv4 as ::ffff:127.0.0.1.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def token_of(headers: Mapping[str, str]) -> str | None:
    """The key that a request brings. None means that it brings none."""
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


def _local_key(settings: Settings) -> bytes | None:
    """The local key, if it is accepted and can be used. Without it the API serves all other keys."""
    if settings.api_auth != "auto":
        return None
    try:
        return load_local_key(settings).encode()
    except BadSetting as error:
        logger.warning("No caller can use the local key: %s", error)
        return None


def _forbidden(key: ApiKey, scope: Scope) -> HttpProblem:
    scopes = ", ".join(sorted(key.scopes))
    return HttpProblem(HTTPStatus.FORBIDDEN, f"The key {key.name!r} is for {scopes}; this needs {scope.value}")
