"""Asks a Prometheus server over HTTP. Answers are bounded in time, size and number; redirects are not followed.

A large answer is read in a thread, one at a time, and a series at a time: whoever reads it all at once keeps Python's
lock, and with it the event loop, for a tenth of a second and more.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from urllib.parse import urlsplit

import httpx
import msgspec

from orchestration.errors import BadInput, BadSetting, Unavailable
from orchestration.prometheus import MAX_POINTS, MAX_SERIES, Sample, Series
from orchestration.redaction import one_line
from orchestration.setting_rules import prometheus_problems
from orchestration.threads import in_daemon_thread, in_own_thread

MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""The largest answer that is read."""

TIMEOUT_SECONDS = 10.0
"""How long one answer may take, unless the caller's own time is shorter."""

_USER_AGENT = "alert-pipeline"
_REFUSED_CREDENTIALS = (401, 403)
_BAD_QUERY = (400, 422)

_reading = threading.Lock()
"""Held by the thread that reads an answer: of several threads each would make the loop wait."""


class _Answer(msgspec.Struct, gc=False):
    """An answer of Prometheus, of which only the frame is read."""

    status: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""
    errorType: str = ""


class _Data(msgspec.Struct, gc=False):
    resultType: str
    result: msgspec.Raw


class _Point(msgspec.Struct, array_like=True, gc=False):
    moment: float
    value: str | float


class _Series(msgspec.Struct, gc=False):
    """A series. One of native histograms has no values, but "histogram"."""

    metric: dict[str, str]
    values: list[_Point] = []
    value: _Point | None = None


_Found = list[tuple[dict[str, str], list[tuple[float, float]]]]
"""Series, each with its labels and points."""


@dataclass(frozen=True, kw_only=True, repr=False)
class PrometheusClient:
    """One Prometheus server, as `orchestration.prometheus.Prometheus` describes it.

    Raises:
        BadSetting: the URL is none, or the fields do not fit each other.
    """

    url: str
    username: str = ""
    password: str = ""
    token: str = ""
    verify_tls: bool = True
    ca: str = ""
    """Certificates of authorities in PEM, which are trusted beside those of the machine."""
    timeout_seconds: float = TIMEOUT_SECONDS

    def __post_init__(self) -> None:
        found = prometheus_problems(
            url=self.url,
            username=self.username,
            password=self.password,
            token=self.token,
            verify_tls=self.verify_tls,
            ca=self.ca,
        )
        for field, problem in found:
            raise BadSetting(f"Prometheus: {field}: {problem}")

    @property
    def host(self) -> str:
        """Its host and port."""
        return urlsplit(self.url).netloc

    async def query(self, expression: str, *, at: datetime | None = None) -> list[Sample]:
        """See `orchestration.prometheus.Prometheus.query()`."""
        moment = {} if at is None else {"time": f"{at.timestamp():.3f}"}
        found = await self._ask("query", {"query": expression, **moment}, most_points=1)
        return [Sample(labels, value) for labels, points in found for _, value in points]

    async def query_range(
        self, expression: str, *, start: datetime, end: datetime, step_seconds: float
    ) -> list[Series]:
        """See `orchestration.prometheus.Prometheus.query_range()`."""
        begin, until = start.timestamp(), end.timestamp()
        steps = (until - begin) / step_seconds if step_seconds > 0 else -1.0
        if not 0 <= steps < MAX_POINTS:
            raise BadInput(
                f"a step of {step_seconds:g} s does not fit {until - begin:g} s: at most {MAX_POINTS:,} points"
            )
        found = await self._ask(
            "query_range",
            {"query": expression, "start": f"{begin:.3f}", "end": f"{until:.3f}", "step": f"{step_seconds:.3f}"},
            most_points=int(steps) + 1,
        )
        return [Series(labels, points) for labels, points in found]

    async def _ask(self, what: str, form: Mapping[str, str], *, most_points: int) -> _Found:
        url = f"{self.url.rstrip('/')}/api/v1/{what}"
        form = {**form, "timeout": f"{self.timeout_seconds * 1000:.0f}ms", "limit": str(MAX_SERIES)}
        try:
            async with asyncio.timeout(self.timeout_seconds):
                status, body = await self._post(url, form)
        except TimeoutError:
            raise Unavailable(f"Prometheus at {self.host} did not answer within {self.timeout_seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Unavailable(f"Prometheus at {self.host} does not answer: {_reason(error)}") from None
        return await in_own_thread(self._read, status, body, most_points)

    async def _post(self, url: str, form: Mapping[str, str]) -> tuple[int, bytearray]:
        headers = {"User-Agent": _USER_AGENT, "Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        auth = httpx.BasicAuth(self.username, self.password) if self.username else None
        context = await in_daemon_thread(_tls, self.verify_tls, self.ca)
        async with (
            httpx.AsyncClient(verify=context, timeout=None, follow_redirects=False) as client,  # noqa: S113  _ask() limits the time of it all
            client.stream("POST", url, data=form, headers=headers, auth=auth) as response,
        ):
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise Unavailable(
                        f"The answer of Prometheus at {self.host} is larger than {MAX_ANSWER_BYTES:,} bytes"
                    )
            return response.status_code, body

    def _read(self, status: int, body: bytearray, most_points: int) -> _Found:
        """The series of an answer.

        Raises:
            BadInput: Prometheus cannot evaluate the expression.
            Unavailable: it is no answer of Prometheus.
        """
        if status in _REFUSED_CREDENTIALS:
            raise Unavailable(f"Prometheus at {self.host} refuses the credentials ({status})")
        try:
            with _reading:
                answer = msgspec.json.decode(body, type=_Answer)
                if answer.status == "success":
                    return list(_series_of(msgspec.json.decode(answer.data, type=_Data), most_points))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise Unavailable(f"{self.host} answers {status}, and not as Prometheus does") from None
        said = one_line(answer.error, 200)
        if status in _BAD_QUERY and answer.errorType in ("bad_data", "execution"):
            raise BadInput(f"Prometheus cannot evaluate the expression: {said}")
        raise Unavailable(f"Prometheus at {self.host} answers {status}: {said}")


def _series_of(data: _Data, most_points: int) -> Iterator[tuple[dict[str, str], list[tuple[float, float]]]]:
    """The first series that have points. The rest of a longer answer is not read at all."""
    if data.resultType == "scalar":
        yield {}, _numbers([msgspec.json.decode(data.result, type=_Point)])
    elif data.resultType in ("vector", "matrix"):
        for one in msgspec.json.decode(data.result, type=list[msgspec.Raw])[:MAX_SERIES]:
            series = msgspec.json.decode(one, type=_Series)
            if points := _numbers(series.values[:most_points] or ([series.value] if series.value else [])):
                yield series.metric, points


def _numbers(points: list[_Point]) -> list[tuple[float, float]]:
    """The points whose value is a number: NaN says that there is none."""
    numbers = ((point.moment, float(point.value)) for point in points)
    return [point for point in numbers if point[1] == point[1]]


@lru_cache(maxsize=8)
def _tls(verify: bool, ca: str) -> ssl.SSLContext:
    """The certificates that are trusted. Reading them takes 20 ms, hence the cache."""
    if not verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context = httpx.create_ssl_context()
    context.load_default_certs()
    if ca:
        context.load_verify_locations(cadata=ca)
    return context


def _reason(error: Exception) -> str:
    """The error without the URL."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
