"""How often a caller may call, and who counts as one caller."""

from __future__ import annotations

import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address, ip_network

from starlette.requests import Request

from orchestration.settings import Settings
from service.api.problems import HttpProblem

_MAX_RATE_LIMITED_CALLERS = 10_000
_SITE_BITS = 64
"""Of an IPv6 address these belong to the customer's line; the others are the customer's choice."""

_WITH_PORT = re.compile(r"(?:\[([^\]]+)\]|([\d.]+)):\d+")


def caller_address(request: Request, settings: Settings) -> str:
    """The address by which callers without a key are told apart.

    Where `API_PUBLIC_URL` names a proxy it is the address that the proxy saw, the last one in `X-Forwarded-For`.
    """
    address = request.client.host if request.client else "?"
    if settings.api_public_url is not None:
        # Some proxies add a header line instead of extending the caller's, and some add the port.
        forwarded = ",".join(request.headers.getlist("x-forwarded-for")).rpartition(",")[2].strip()
        with_port = _WITH_PORT.fullmatch(forwarded)
        address = (with_port[1] or with_port[2] if with_port else forwarded[:64]) or address
    return _group_address(address)


@lru_cache(maxsize=1024)
def _group_address(address: str) -> str:
    """The address that stands for all addresses of one caller."""
    try:
        found = ip_address(address.strip("[]"))
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    return str(found.ipv4_mapped or ip_network((int(found), _SITE_BITS), strict=False))


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
