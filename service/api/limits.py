"""How often somebody may call."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus

from service.api.problems import HttpProblem

_MOST_CALLERS = 10_000


class RateLimit:
    """A bucket of tokens for each caller: it holds a second's worth, or `burst`, and fills as fast as is allowed."""

    def __init__(
        self,
        per_second: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        burst: float | None = None,
        refusal: str = "More than API_RATE_LIMIT_PER_SECOND={rate:g} requests a second",
    ) -> None:
        self._rate = per_second
        self._size = max(per_second, 1.0) if burst is None else burst
        self._refusal = refusal.format(rate=per_second)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Count one call.

        Raises:
            HttpProblem: 429, with the seconds after which the next one is welcome.
        """
        if not self._rate:
            return
        now = self._clock()
        tokens, since = self._buckets.pop(caller, (self._size, now))
        tokens = min(self._size, tokens + (now - since) * self._rate)
        allowed = tokens >= 1
        self._buckets[caller] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > _MOST_CALLERS:
            self._buckets.popitem(last=False)
        if not allowed:
            wait = max(1, math.ceil((1 - tokens) / self._rate))
            raise HttpProblem(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{self._refusal}: try again in {wait} s",
                {"Retry-After": str(wait)},
            )
