"""Whether the target answers over HTTP as it should: its status, how fast, and what is in the answer."""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import Any, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from orchestration.contracts import Check, CheckStatus, Target
from orchestration.policy.patterns import check_pattern, matches_all
from orchestration.redaction import one_line
from orchestration.threads import in_daemon_thread, in_own_thread
from tasks.check.checkers.base import CheckerConfig, LeftOut, Port, Seconds, Subject
from tasks.check.checkers.reach import Reach, in_words, status_without_answer, trusted

_SHOWN_HOPS = 3


class HttpConfig(CheckerConfig):
    """Options of the http checker."""

    scheme: Literal["http", "https", ""] = Field("", description="http or https, where the target names no URL.")
    port: Port | None = Field(None, description="The port, where the target names no URL.")
    path: str = Field("", max_length=2000, pattern="^(/.*)?$", description="The path, instead of that of the URL.")
    method: Literal["GET", "HEAD"] = "GET"
    status: tuple[int, ...] = Field((), strict=False, description="The right statuses. Empty means 200 to 399.")
    body: str = Field("", max_length=1000, description="A pattern (RE2) that the body has to contain.")
    warn: Seconds = Field(2.0, description="Seconds from which an answer counts as slow.")
    crit: Seconds = Field(10.0, description="Seconds from which it is critical.")
    redirects: bool = Field(True, description="Whether redirects are followed, up to five.")
    verify: bool = Field(True, description="Whether the certificate has to be trusted; the tls checker looks closer.")
    ca_file: str = Field("", description="File with further authorities in PEM.")
    timeout: Seconds = Field(4.0, description="Seconds that all of it may take.")

    @field_validator("body")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        check_pattern(value)
        return value

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.warn > self.crit:
            raise ValueError(f"warn ({self.warn:g}) is above crit ({self.crit:g})")
        return self

    def status_of(self, seconds: float) -> CheckStatus:
        """The status of an answer that took so long."""
        if seconds >= self.crit:
            return CheckStatus.CRITICAL
        return CheckStatus.WARNING if seconds >= self.warn else CheckStatus.OK

    def accepts(self, status: int) -> bool:
        """Whether an HTTP status is right."""
        return status in self.status if self.status else 200 <= status < 400

    def url_of(self, target: Target) -> str:
        """The URL to ask; "" if neither the target nor the options name one."""
        url = target.url
        if not url and target.host and (self.scheme or self.port):
            host = f"[{target.host}]" if ":" in target.host else target.host
            port = self.port or target.port
            url = f"{self.scheme or 'http'}://{host}{f':{port}' if port else ''}/"
        if url and self.path:
            scheme, _, rest = url.partition("://")
            url = f"{scheme}://{rest.partition('/')[0].partition('?')[0]}{self.path}"
        return url


def unfit_for_http(config: HttpConfig, subject: Subject) -> str:
    """The target needs a URL, or the options say how to make one of its host."""
    return "" if subject.target and config.url_of(subject.target) else "no http or https URL is named"


async def check_http(config: HttpConfig, subject: Subject) -> Check:
    """Ask the URL once, and judge status, time and body. Redirects are named; where they lead is judged as well."""
    assert subject.target is not None  # noqa: S101  unfit_for_http() has said so
    url = config.url_of(subject.target)
    web: Any = await in_daemon_thread(_web)
    if not web.is_readable(url):
        raise LeftOut(f"{one_line(url, 120)} is no URL that can be asked")
    context = await trusted(config.ca_file, verify=config.verify)
    try:
        async with asyncio.timeout(config.timeout):
            found = await web.fetch(
                url,
                Reach(subject.rules),
                method=config.method,
                context=context,
                redirects=config.redirects,
                read=bool(config.body),
            )
    except TimeoutError:
        return _without_answer(url, f"no answer within {config.timeout:g} s")
    except web.RefusedRedirect as refused:
        return _without_answer(url, str(refused), CheckStatus.UNKNOWN)
    except (OSError, *web.ERRORS) as error:
        cause = _cause(error)
        return _without_answer(url, _why(cause), status_without_answer(cause))
    return await _judged(config, url, found)


def _web() -> ModuleType:
    from tasks.check.checkers import web

    return web


async def _judged(config: HttpConfig, url: str, found: Any) -> Check:
    metrics: dict[str, JsonValue] = {
        "status": found.status,
        "latency_ms": round(found.seconds * 1000, 1),
        "redirects": [{"status": status, "to": one_line(to, 300)} for status, to in found.hops],
    }
    says, status = [f"answers {found.status}, in {_shown(found.seconds)}"], config.status_of(found.seconds)
    if not config.accepts(found.status):
        status = CheckStatus.CRITICAL
    if found.hops:
        led = ", ".join(f"{to} ({code})" for code, to in found.hops[:_SHOWN_HOPS])
        more = f" and {len(found.hops) - _SHOWN_HOPS} more" if len(found.hops) > _SHOWN_HOPS else ""
        says.append(f"redirected to {led}{more}")
    if config.body:
        text = found.body.decode(errors="replace")
        metrics["body_matches"] = matches = await in_own_thread(matches_all, f"(?s).*(?:{config.body}).*", text)
        if not matches:
            status = CheckStatus.CRITICAL
            says.append(f"and the body does not contain {config.body!r}")
    return Check(name="http", target=url, status=status, message=one_line("; ".join(says), 500), metrics=metrics)


def _without_answer(url: str, reason: str, status: CheckStatus = CheckStatus.CRITICAL) -> Check:
    return Check(name="http", target=url, status=status, message=one_line(reason, 300))


def _cause(error: Exception) -> BaseException:
    """The system's error, which the libraries wrap in errors of their own."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError):
            return link
        link = link.__cause__ or link.__context__
    return error


def _why(cause: BaseException) -> str:
    return in_words(cause) if isinstance(cause, OSError) else str(cause) or type(cause).__name__


def _shown(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
