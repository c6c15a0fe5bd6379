"""Authentication: API keys, the local key, signed requests, and how often each caller may call."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address

from starlette.requests import Request

from orchestration.encryption import Cipher, load_cipher
from orchestration.errors import BadSetting, Unavailable
from orchestration.redaction import one_line
from orchestration.settings import Settings
from orchestration.signals import logger
from orchestration.store import keys
from orchestration.store.database import Database
from orchestration.store.keys import ApiKey, Scope
from service.api.problems import HttpProblem
from service.local_key import CURL, load_local_key

FRESH_SECONDS = 3.0
"""How old the cached keys may be. A revoked key is refused after this time at the latest."""

_UNKNOWN_KEY_FRESH_SECONDS = 0.25
"""How old the cached keys may be when a request brings a key that is not among them."""

_NOTE_USE_SECONDS = 60.0
"""The last use of a key is written at most this often."""

CALLER = "alert_pipeline.caller"
"""The key under which the scope of a request has its `Caller`, once it is authenticated."""

_MAX_RATE_LIMITED_CALLERS = 10_000
HOW = "send an API key as `Authorization: Bearer apk_…`, as `X-API-Key`, or as the password of basic authentication"
"""The advice at the end of a refusal without a valid key."""

HOW_HERE = f"On the machine of the API itself: {CURL}"
"""What follows the advice where the local key is accepted."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The sender of a request. A caller without a key of its own has the local key, or no key is asked for."""

    key: ApiKey | None = None
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
        address = request.client.host if request.client else "?"
        try:
            caller = await self._identify(request, raw or b"")
            request.scope[CALLER] = caller
            if caller.key is not None and scope is not None and not caller.key.allows(scope):
                raise _forbidden(caller.key, scope)
        except HttpProblem as refusal:
            self._limit.count(f"address/{address}")
            # The advice after the colon shows the form of a key, which scanners of logs would report as a leak.
            why = one_line(str(refusal).partition(": ")[0], 300)
            where = one_line(f"{request.method} {request.url.path}", 120)
            logger.warning("Refused %s from %s with %d: %s", where, address, refusal.status, why)
            raise
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
        if "x-signature" in headers:
            return await self._verify_signature(headers, raw)
        token = token_of(headers)
        if token is None:
            raise _unauthorized(f"No API key: {HOW}{f'. {HOW_HERE}' if self._local_key else ''}")
        if self._local_key is not None and hmac.compare_digest(token.encode(), self._local_key):
            # Behind a proxy on this machine, too: whoever has the local key can read the files of its owner.
            if request.client is not None and not is_loopback(request.client.host):
                raise _unauthorized(f"The local key is good on its own machine only: {HOW}")
            return Caller()
        key = await self.ring.find(token)
        if key is None:
            raise _unauthorized(f"The API key is unknown or revoked: {HOW}")
        return Caller(key=key)

    async def _verify_signature(self, headers: Mapping[str, str], raw: bytes) -> Caller:
        """Check the signature that a sender made of the body with the signing secret of its key."""
        name, stamp, signature = (headers.get(f"x-{part}", "").strip() for part in ("key-id", "timestamp", "signature"))
        if not name:
            raise _unauthorized("X-Signature needs X-Key-Id, the name of the key whose signing secret it was made with")
        window = self._settings.api_signature_window_seconds
        if not stamp.isascii() or not stamp.isdecimal() or len(stamp) > 12:
            raise _unauthorized("X-Signature needs X-Timestamp, the time in seconds since 1970")
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


class KeyRing:
    """The API keys in use, cached in memory, so that a request costs no query."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._cipher: Cipher | None = None
        self._by_prefix: dict[str, ApiKey] = {}
        self._by_name: dict[str, ApiKey] = {}
        self._read_at = -1e9
        self._reading = asyncio.Lock()
        self._used: set[str] = set()
        self._noted: dict[str, float] = {}

    async def find(self, token: str) -> ApiKey | None:
        """The key that a token belongs to, or None. Its use is noted.

        Raises:
            Unavailable: the database does not answer.
        """
        prefix = keys.prefix_of(token)
        await self._refresh(FRESH_SECONDS)
        if prefix not in self._by_prefix and token.startswith(keys.TOKEN_START):
            await self._refresh(_UNKNOWN_KEY_FRESH_SECONDS)
        key = self._by_prefix.get(prefix)
        if key is None or not key.fits(token):
            return None
        self.note_use(key)
        return key

    async def named(self, name: str) -> ApiKey | None:
        """The key of this name, or None. The caller notes its use with `note_use()`.

        Raises:
            Unavailable: the database does not answer.
        """
        await self._refresh(FRESH_SECONDS)
        if name not in self._by_name:
            await self._refresh(_UNKNOWN_KEY_FRESH_SECONDS)
        return self._by_name.get(name)

    async def signing_secret(self, key: ApiKey) -> str:
        """The secret with which the owner of a key signs its requests.

        Raises:
            Unavailable: this process cannot decrypt the secret; the error says why.
        """
        try:
            if self._cipher is None:
                self._cipher = await asyncio.to_thread(load_cipher, self._settings)
            return self._cipher.decrypt(key.sealed_signing_secret).decode()
        except BadSetting as error:
            raise Unavailable(f"Signatures cannot be checked: {error}") from error

    def note_use(self, key: ApiKey) -> None:
        """Remember that a key was used, for the next `write_uses()`."""
        self._used.add(key.name)

    async def write_uses(self) -> None:
        """Write the last use of the keys that were used, each key at most once a minute."""
        now = time.monotonic()
        due = {name for name in self._used if now - self._noted.get(name, -1e9) >= _NOTE_USE_SECONDS}
        self._used -= due
        if not due:
            return
        try:
            async with self._database.transaction() as tx:
                await keys.note_use(tx, due)
            self._noted |= dict.fromkeys(due, now)
        except Unavailable as error:
            logger.debug("The last use of API keys could not be written: %s", error)

    async def _refresh(self, max_age_seconds: float) -> None:
        if time.monotonic() - self._read_at < max_age_seconds:
            return
        async with self._reading:
            # Another request may have read the keys while this one waited for the lock.
            if (began := time.monotonic()) - self._read_at < max_age_seconds:
                return
            async with self._database.transaction() as tx:
                found = await keys.list_keys(tx, revoked=False)
            self._by_prefix = {key.prefix: key for key in found}
            self._by_name = {key.name: key for key in found}
            self._read_at = began


class RateLimit:
    """A token bucket for each caller. It holds `burst` tokens, by default those of one second."""

    def __init__(
        self,
        per_second: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        burst: float | None = None,
        refusal: str = "More than API_RATE_LIMIT_PER_SECOND={rate:g} requests a second",
    ) -> None:
        self._rate = per_second
        self._burst = max(per_second, 1.0) if burst is None else burst
        self._refusal = refusal.format(rate=per_second)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def count(self, caller: str) -> None:
        """Count one request of a caller. A limit of 0 allows every request.

        Raises:
            HttpProblem: 429, with the seconds after which the next request is allowed.
        """
        if not self._rate:
            return
        now = self._clock()
        tokens, since = self._buckets.pop(caller, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        allowed = tokens >= 1
        self._buckets[caller] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > _MAX_RATE_LIMITED_CALLERS:
            self._buckets.popitem(last=False)
        if not allowed:
            wait = max(1, math.ceil((1 - tokens) / self._rate))
            raise HttpProblem(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{self._refusal}: try again in {wait} s",
                {"Retry-After": str(wait)},
            )


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


def _unauthorized(message: str) -> HttpProblem:
    return HttpProblem(
        HTTPStatus.UNAUTHORIZED,
        message,
        {"WWW-Authenticate": 'Bearer realm="alert-pipeline", Basic realm="alert-pipeline"'},
    )
