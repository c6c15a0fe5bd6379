"""One HTTP exchange with a vendor, as every channel makes it: a time limit, no redirect, no secret in a log line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, cast

import httpx

from blocks.channels.base import USER_AGENT, host_of, tls_context, unreachable
from orchestration.timeouts import awake_timeout

KEPT_SECONDS = 2.0
"""How long a connection is kept for the next message. Servers close one that is idle for longer: 5 s is usual."""

_MAX_ANSWER = 64 * 1024
_BODY_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A vendor's answer: its status, its headers, and the beginning of its body; b"" if the body came too slowly."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def success(self) -> bool:
        """Whether the status is one of 200 to 299."""
        return 200 <= self.status < 300

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object; empty if it is none."""
        try:
            found: Any = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


_kept: ContextVar[httpx.AsyncClient | None] = ContextVar("alert_pipeline_http_client", default=None)


@asynccontextmanager
async def keep_connections() -> AsyncGenerator[None]:
    """Within the body messages that follow one another share connections, so that a storm needs one TLS handshake and
    not one for each message."""
    async with _new_client() as client:
        token = _kept.set(client)
        try:
            yield
        finally:
            _kept.reset(token)


def _new_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(
        verify=tls_context(),
        follow_redirects=False,
        # A vendor that hangs keeps none of the others waiting for a connection.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=KEPT_SECONDS),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


async def exchange(
    method: str, url: str, *, content: bytes, headers: Mapping[str, str], timeout_seconds: float
) -> Answer:
    """Send one request, and return its answer, whatever its status. Redirects are not followed.

    Raises:
        DeliveryFailed: there was no answer.
    """
    try:
        request = _request(method, url, content, headers)
        async with nullcontext(kept) if (kept := _kept.get()) is not None else _new_client() as client:
            async with awake_timeout(timeout_seconds):
                response = await client.send(request, stream=True)
            body = await _beginning(response)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
        raise unreachable(host_of(url), error) from None
    return Answer(status=response.status_code, headers=response.headers, body=body)


def _request(method: str, url: str, content: bytes, headers: Mapping[str, str]) -> httpx.Request:
    ours = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
    request = httpx.Request(
        method,
        url,
        headers=[(name.encode(), value.encode()) for name, value in {**ours, **headers}.items()],
        content=content,
        extensions={"timeout": httpx.Timeout(None).as_dict()},  # exchange() limits the time of it all
    )
    request.url = _QuietUrl(request.url)
    return request


class _QuietUrl(httpx.URL):
    """A URL that shows only its host: httpx logs the URL of every request, and ours may contain a token."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}/…"


async def _beginning(response: httpx.Response) -> bytes:
    body = b""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > _MAX_ANSWER:
                    return b""
    except (httpx.HTTPError, TimeoutError):
        return b""  # The status says already whether the message was accepted.
    finally:
        await response.aclose()
    return body
