"""What DNS says of the target's name: its records, how fast, and whether the name exists at all."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

from pydantic import Field, JsonValue, field_validator

from orchestration.alert import Alert
from orchestration.contracts import Check, CheckStatus
from orchestration.errors import Unavailable
from orchestration.threads import in_daemon_thread
from tasks.check.checkers.base import CheckerConfig, LeftOut, Names, Port, Seconds, Subject

_NAMES_FAIL = re.compile(
    r"dns|nxdomain|name.?server|name.?resolution|resolver|resolving|(not|to|n.t) resolve|enotfound|getaddrinfo"
    r"|no such host",
    re.IGNORECASE,
)
"""How alerts speak of names that lead nowhere."""

_OF_PROBES = re.compile(r"blackbox|probe|website|certificate", re.IGNORECASE)
"""How alerts speak that are about what a name leads to."""

_REACHED = re.compile(
    r"\bstatus(?:[ _]?code)?\W{0,4}(?:is |was |of )?[1-5](?:\d\d|xx)\b"
    r"|\b(?:http(?:/[\d.]+)?|code|got|with|returns?|returned|answers?|answered|responds?|responded)\W{1,3}"
    r"(?:an? )?(?:http |status |code ){0,2}[1-5](?:\d\d|xx)\b"
    r"|\b[45]xx\b|\b[45]\d\d (?:bad|not|internal|service|gateway|forbidden|unauthori|too many)"
    r"|\bconnect(?:ion|ed)?\b.{0,30}\b(?:refused|reset|closed|established|made|succe\w+|to)\b"
    r"|\b(?:refuse[sd]?|reset|closed) (?:the |a )?connection"
    r"|\bhandshake\b|\bx509\b|\bcertificate\b.{0,60}\b(?:expire|valid|until|days|self)"
    r"|\b(?:body|content|response)\b.{0,40}\b(?:match|contain|empty|time|took|slow)|\bredirect",
    re.IGNORECASE,
)
"""How alerts speak of somebody who has got to the target: a status, a connection, a certificate, an answer."""

_READ, _MAX_ALERTS = 2000, 100

Record = Literal["A", "AAAA", "CNAME", "MX", "NS", "TXT", "SRV", "CAA"]


class DnsConfig(CheckerConfig):
    """Options of the dns checker."""

    records: tuple[Record, ...] = Field(
        ("A", "AAAA"), strict=False, min_length=1, max_length=8, description="The types; one of them has to exist."
    )
    expect: Names = Field((), description="Values of which each has to be in the answer.")
    servers: Names = Field((), description="IP addresses of name servers. Empty means those of this machine.")
    port: Port = Field(53, description="The port of these servers.")
    warn: Seconds = Field(1.0, description="Seconds from which an answer counts as slow.")
    timeout: Seconds = Field(3.0, description="Seconds until servers that do not answer are given up.")

    @field_validator("servers")
    @classmethod
    def _are_addresses(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        for server in servers:
            try:
                ipaddress.ip_address(server)
            except ValueError:
                raise ValueError("expected IP addresses of name servers") from None
        return servers


def unfit_for_dns(_config: DnsConfig, subject: Subject) -> str:
    """The target needs a name with a domain. A short name need not be in DNS, nor that of this host."""
    host = subject.target.host if subject.target else ""
    if not host:
        return "no host is named"
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return f"{host} is an address, and no name"
    if subject.target and subject.target.is_own:
        return f"{host} is the host that runs this pipeline"
    return "" if "." in host else f"{host} has no domain"


async def check_dns(config: DnsConfig, subject: Subject) -> Check:
    """Ask for the records. A name that does not exist is critical if the alert is about the name: an alert about CPU
    only calls the host so, and those who call it so may ask other servers. So do those who have got a status from it.
    Servers that do not answer leave it unknown.
    """
    assert subject.target is not None  # noqa: S101  unfit_for_dns() has said so
    host = subject.target.host
    if reason := subject.rules.refusal_of_name(host):
        raise LeftOut(reason)
    dns: Any = await in_daemon_thread(_dnspython)
    resolver = await in_daemon_thread(_resolver, config.servers, config.port)
    started = time.perf_counter()
    answers = await asyncio.gather(*(_ask(dns, resolver, host, kind, config.timeout) for kind in config.records))
    seconds = time.perf_counter() - started
    without = CheckStatus.CRITICAL if _is_about_the_name(config, subject) else CheckStatus.UNKNOWN
    if any(answer is None for answer in answers):
        says = "the name does not exist (NXDOMAIN)"
        return Check(name="dns", target=host, status=without, message=says, metrics={"exists": False})
    found = {kind: values for kind, values in zip(config.records, answers, strict=True) if values}
    metrics: dict[str, JsonValue] = {
        "latency_ms": round(seconds * 1000, 1),
        "records": {kind: [*values] for kind, values in found.items()},
    }
    if not found:
        metrics["exists"] = False
        says = f"the name exists, but has no {' or '.join(config.records)} record"
        return Check(name="dns", target=host, status=without, message=says, metrics=metrics)
    status, says = _judged(config, found, seconds)
    return Check(name="dns", target=host, status=status, message=says, metrics=metrics)


def _is_about_the_name(config: DnsConfig, subject: Subject) -> bool:
    """Whether somebody wants to know of this name: by hand, by the option `expect`, or by an alert of a probe.

    If an alert says that its sender has got to the target, its name leads somewhere, if not from here.
    """
    if not subject.alerts or config.expect:
        return True
    texts = [_text_of(one) for one in subject.alerts[:_MAX_ALERTS]]
    if any(_NAMES_FAIL.search(text) for text in texts):
        return True
    if any(_REACHED.search(text) for text in texts):
        return False
    return bool(subject.target and subject.target.url) or any(_OF_PROBES.search(text) for text in texts)


def _text_of(alert: Alert) -> str:
    said = (alert.name, alert.title, alert.labels.get("job", ""), alert.description, *alert.annotations.values())
    codes = (f"status {value}" for name, value in alert.labels.items() if name in _CODE_LABELS)
    return "\n".join(text[:_READ] for text in (*said, *codes))


_CODE_LABELS = ("code", "status", "status_code", "http_status", "statuscode")


def _judged(config: DnsConfig, found: dict[str, list[str]], seconds: float) -> tuple[CheckStatus, str]:
    shown = "; ".join(f"{kind} {', '.join(values[:4])}" for kind, values in found.items())
    values = {value.rstrip(".").lower() for each in found.values() for value in each}
    if missing := [one for one in config.expect if one.rstrip(".").lower() not in values]:
        return CheckStatus.CRITICAL, f"the answer lacks {', '.join(missing[:3])}: {shown}"
    slow = seconds >= config.warn
    return (CheckStatus.WARNING if slow else CheckStatus.OK), f"{shown}, in {seconds * 1000:.0f} ms"


async def _ask(dns: Any, resolver: Any, host: str, kind: str, timeout_seconds: float) -> list[str] | None:
    """The records of a type; None if the name does not exist.

    Raises:
        Unavailable: no server answers, or none can.
    """
    try:
        answer = await resolver.resolve(
            host, kind, lifetime=timeout_seconds, raise_on_no_answer=False, search="." not in host
        )
    except dns.resolver.NXDOMAIN:
        return None
    except dns.exception.Timeout:
        raise Unavailable(f"no name server answered within {timeout_seconds:g} s") from None
    except (dns.exception.DNSException, OSError, UnicodeError) as error:
        raise Unavailable(f"the name servers give no answer: {error}") from None
    return sorted(record.to_text() for record in answer.rrset or ())


def _dnspython() -> ModuleType:
    import_module("dns.asyncresolver")
    return import_module("dns")


def _resolver(servers: tuple[str, ...], port: int) -> Any:
    """A resolver that asks these servers, or else those of resolv.conf. Reading that can block.

    Raises:
        Unavailable: resolv.conf is missing or names no server.
    """
    try:
        resolver: Any = import_module("dns.asyncresolver").Resolver(configure=not servers)
    except import_module("dns.resolver").NoResolverConfiguration:
        raise Unavailable("this machine names no name server") from None
    if servers:
        resolver.nameservers, resolver.port = list(servers), port
    return resolver
