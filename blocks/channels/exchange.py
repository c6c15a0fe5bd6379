"""One HTTP request of a channel and its answer: no redirect is followed, no URL is logged, no answer is too long."""

from __future__ import annotations

import asyncio

import httpx

from blocks.channels.base import tls_context, unreachable
from orchestration.timeouts import awake_timeout

_BODY_SECONDS = 2.0
_MAX_ANSWER = 65_536


async def exchange(request: httpx.Request, where: str, timeout_seconds: float) -> tuple[httpx.Response, bytes]:
    """Send the request; its answer, and the body of that, empty if it is longer than 64 KiB or does not come.

    A redirect is an answer like any other: whoever follows it has delivered to somebody else, or nothing at all.

    Raises:
        DeliveryFailed: `where` does not answer within so many seconds, or its certificate is not trusted.
    """
    request.extensions["timeout"] = httpx.Timeout(None).as_dict()  # awake_timeout() limits the time of it all
    request.url = _QuietUrl(request.url)
    try:
        async with httpx.AsyncClient(verify=tls_context(), follow_redirects=False) as client:
            async with awake_timeout(timeout_seconds):
                response = await client.send(request, stream=True)
            return response, await _beginning(response)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
        raise unreachable(where, error) from None


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
