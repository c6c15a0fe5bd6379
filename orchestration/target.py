"""What alerts are about: a host, a port, a URL; and whether it is the host that runs this pipeline.

Monitoring systems say it in many ways: `db-77:9100`, `[fe80::1]:9100`, `https://shop.example.com/health`, `DB-77.`. An
`instance` can also be that of a go-between, such as the blackbox exporter: then another label has the target.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

import psutil

from orchestration.alert import HOST_LABELS, PLACE_LABELS, Alert
from orchestration.contracts import Target

MAX_ALERTS = 200
"""How many alerts of a run are read: more alerts than these would not name one target."""

_MAX_CHARACTERS = 2000

_PROBED = (
    *("probe_target", "__param_target", "param_target", "target", "target_url", "probe_url", "url", "monitor_url"),
    *("http_url", "site_url", "website", "site", "exported_target", "exported_instance", "probe", "endpoint"),
    *("monitor_hostname", "exported_host", "exported_node"),
)
"""Labels with what a go-between has asked, in the order in which they are read. They count if they have an address."""

_HOSTS = (*HOST_LABELS, "nodename", "server")
"""Labels that name a host, in the order in which they are read."""

_FULL_HOSTS = ("fqdn", "host_name", "server_name", "domain", "ip", "ip_address", "address")
"""Labels that often mean something else: they count if they have an IP address, or a name with a domain or a port."""

_GO_BETWEENS = re.compile(
    r"blackbox|black-box|kube-?state-?metrics|push-?gateway|snmp|ipmi|smokeping|cloudwatch|stackdriver|json-exporter"
    r"|ssl-exporter|domain-exporter|uptime-?kuma"
)
"""Names of exporters that speak about others, in an `instance` or a `job`."""

_ABOUT_OTHERS = frozenset({*PLACE_LABELS, *_FULL_HOSTS, "namespace", "deployment", "statefulset"}) - {"instance"}

_NAME = re.compile(r"(?!-)[\w-]{1,63}(?<!-)(\.(?!-)[\w-]{1,63}(?<!-))*")


_T = TypeVar("_T")


@dataclass(frozen=True)
class OwnHost:
    """The host that runs this pipeline."""

    name: str
    addresses: frozenset[str] = field(default_factory=frozenset[str])

    @classmethod
    def read(cls) -> OwnHost:
        """This host. The call blocks for some milliseconds."""
        found = (one.address.partition("%")[0] for each in psutil.net_if_addrs().values() for one in each)
        return cls(socket.gethostname(), frozenset(found))

    def is_it(self, host: str) -> bool:
        """Whether a host that an alert names is this one.

        A short name matches any domain: web-1 is web-1.example.com. Two full names must be equal.
        """
        if (address := _address(host)) is not None:
            return address.is_loopback or str(address) in self.addresses
        own = self.name.lower().rstrip(".")
        if host in (own, "localhost", "localhost.localdomain") or host.endswith(".localhost"):
            return True
        both_full = "." in host and "." in own
        return bool(host) and not both_full and host.partition(".")[0] == own.partition(".")[0]

    @property
    def target(self) -> Target:
        """This host as the target of a run without alerts: a health check."""
        return Target(host=self.name.lower(), is_own=True)


def target_of(alerts: Iterable[Alert], own: OwnHost) -> Target | None:
    """What the firing alerts are about; of all alerts, if none fires. None means that they name nothing.

    A target has a host, a port and a URL only as far as all alerts that name one agree: two hosts are no target, but
    the labels that the alerts share may name a service.
    """
    known = list(alerts)[:MAX_ALERTS]
    relevant = [alert for alert in known if alert.firing] or known
    if not relevant:
        return own.target
    named = [place for alert in relevant if (place := _place_of(alert.labels)) is not None]
    hosts = dict.fromkeys(place.host for place in named)
    shared = _shared([alert.labels for alert in relevant])
    is_own = bool(hosts) and all(map(own.is_it, hosts))
    if len(hosts) > 1:
        target = Target(host=own.name.lower() if is_own else "", is_own=is_own, labels=shared)
    else:
        target = Target(
            host=next(iter(hosts), ""),
            port=_only({place.port for place in named if place.port}),
            url=_only({place.url for place in named if place.url}) or "",
            is_own=is_own,
            labels=shared,
        )
    return target if target.name or shared else None


@dataclass(frozen=True)
class _Place:
    host: str
    port: int | None = None
    url: str = ""

    @property
    def is_full(self) -> bool:
        """Whether it is surely an address, and no word."""
        has_domain = "." in self.host and not self.host.replace(".", "").isdecimal()
        return bool(self.url or self.port) or has_domain or _address(self.host) is not None


def _place_of(labels: Mapping[str, str]) -> _Place | None:
    """The address that one alert is about; None if it names none."""
    left_out = {"instance"} if _is_of_go_between(labels) else set[str]()
    places = (
        *(place for place in _places(labels, _PROBED) if place.is_full),
        *(place for place in _places(labels, [label for label in _HOSTS if label not in left_out])),
        *(place for place in _places(labels, _FULL_HOSTS) if place.is_full),
    )
    return next(iter(places), None)


def _places(labels: Mapping[str, str], names: Iterable[str]) -> Iterator[_Place]:
    return (place for name in names if (place := read_place(labels.get(name, ""))) is not None)


def _is_of_go_between(labels: Mapping[str, str]) -> bool:
    """Whether `instance` is that of an exporter that speaks about others, and another label says about whom."""
    instance = labels.get("instance", "").lower()
    # The instance of a job such as blackbox-http is often what was probed: then the exporter's name is not in it.
    is_one = bool(_GO_BETWEENS.search(instance.replace("_", "-").partition("/")[0]))
    is_one = is_one or (
        ":" in instance and labels.get("job", "").replace("_", "-") in ("kube-state-metrics", "pushgateway")
    )
    return is_one and not _ABOUT_OTHERS.isdisjoint(name for name, value in labels.items() if value)


def read_place(text: str) -> _Place | None:
    """The host, the port and the URL in a text such as a label has; None if it is no address.

    The host is in lower case, without a dot at its end and without a zone; a URL has no user, password or fragment.
    """
    text = text.strip()
    if not text or len(text) > _MAX_CHARACTERS or not text.isprintable() or any(map(str.isspace, text)):
        return None
    if (bare := _address(text.partition("%")[0])) is not None:  # IPv6 without brackets, of which any part is a port
        return _Place(str(bare))
    with suppress(ValueError):
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, port = _host(text, parts), parts.port
        if not parts.scheme and parts.path and not parts.port:  # a word such as shop/web-0
            return None
        is_web = parts.scheme in ("http", "https")
        if host and port != 0 and (is_web or not host.isdecimal()):  # a number alone is an id
            return _Place(host, port, _url(parts, host) if is_web else "")
    return None


def _host(text: str, parts: SplitResult) -> str:
    if "://" not in text and ("@" in text or "\\" in text):
        return ""
    host = (parts.hostname or "").partition("%")[0].rstrip(".").lower()
    if (address := _address(host)) is not None:
        return str(address)
    return host if len(host) <= 253 and _NAME.fullmatch(host) else ""


def _url(parts: SplitResult, host: str) -> str:
    shown = f"[{host}]" if ":" in host else host
    port = "" if parts.port is None else f":{parts.port}"
    return SplitResult(parts.scheme, f"{shown}{port}", parts.path, parts.query, "").geturl()


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a text is; an IPv4 address within an IPv6 one is this IPv4 address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _only(values: set[_T]) -> _T | None:
    return next(iter(values)) if len(values) == 1 else None


def _shared(labels: Sequence[Mapping[str, str]]) -> dict[str, str]:
    first, *others = labels
    return {name: value for name, value in first.items() if value and all(each.get(name) == value for each in others)}
