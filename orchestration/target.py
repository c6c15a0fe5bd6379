"""What alerts are about: a host, a port, a URL; and whether it is the host that runs this pipeline."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

from orchestration.alert import Alert
from orchestration.contracts import Target
from orchestration.places import Place, address_of, is_loopback, named_hosts, read_place, without_go_between

MAX_ALERTS = 200
"""How many alerts of a run are read: more alerts than these would not name one target."""

_MAX_CHARACTERS = 2000

_LINKS = ("url", "http_url", "site_url", "website", "site", "endpoint")
"""Labels with what was asked, or with a link to a page about the alert. They count if no other label has a host. A link
that looks like such a page counts only if the alert says that something does not answer; so does what is no URL."""

_PAGE_ABOUT_IT = re.compile(
    r"https?://([^/?#]*[.-])?(console|grafana|prometheus|alertmanager|kibana|sentry|jira|wiki|docs|confluence|nagios"
    r"|zabbix|dashboards?|monitor(ing)?|datadoghq|newrelic|dynatrace|pagerduty|opsgenie|splunk|github|gitlab|errors)[.:-]"
    r"|https?://[^/]+/([^?#]*/)?(problems?|incidents?|alert(s|ing)?|issues?|tickets?|events?|dashboards?|d|graph|explore"
    r"|wiki|run-?books?|play-?books?|monitors?|triggers?|notifications?|browse|jobs?|builds?|runs?|pipelines?)([/?#]|$)",
    re.IGNORECASE,
)
"""URLs of pages that people read about an alert: of monitoring systems, of trackers, of runbooks."""

_REACH = re.compile(
    r"\b(probe|ping|https?|ssl|tls|cert(ificate)?s?|uptime|offline|down|unreachable|reach|respon[ds]\w*|answers?|dns"
    r"|time-?out|timed out|status code|website|site|endpoint|availab\w*|enotfound|refused|health)\b",
    re.IGNORECASE,
)

_FULL_HOSTS = ("fqdn", "host_name", "server_name", "domain", "ip", "ip_address", "address")
"""Labels that often mean something else: they count if they have an IP address, or a name with a domain or a port."""

_MACHINES = re.compile(
    r"(exported_)?(instance|host|host_?name|node|node_?name|server|server_?name|fqdn|machine|vm|vm_name)"
    r"|(k8s|kubernetes|kube)[_.](node|host)([_.]name)?|host\.name",
    re.IGNORECASE,
)
_SITES = re.compile(
    r"((exported|k8s|kubernetes|kube|cloud|aws|gcp|azure|eks|gke|aks|ecs|src|source|origin)[_.])*"
    r"(cluster|data_?cent(er|re)|dc|region|zone|(availability|avail)_?zone|az|site|location|rack|vpc|tenant|customer"
    r"|account|subscription|project|pod|namespace|prometheus|prometheus_replica|fleet|edge|colo|pop)([_.]?(name|id|uid))?",
    re.IGNORECASE,
)
"""Labels that say where a host is. What is called localhost there is another host than the pipeline's."""

_ENVIRONMENTS = re.compile(
    r"((exported|deployment|deploy|app|k8s|kubernetes|cloud|service)[_.])*(env|environment|stage)([_.]?(name|id))?",
    re.IGNORECASE,
)
"""Labels that name an environment. Another one than that of the run is another place."""

_SAME_ENVIRONMENT = {
    **dict.fromkeys(("prod", "prd", "live"), "production"),
    **dict.fromkeys(("stage", "stag", "stg"), "staging"),
    **dict.fromkeys(("dev", "develop"), "development"),
    **dict.fromkeys(("testing", "tst"), "test"),
}

_BRIDGES = re.compile(
    r"docker|br-|virbr|vnet|veth|lxcbr|lxdbr|podman|cni|flannel|cali|cilium|vmnet|vboxnet|kube|nerdctl"
)
"""Interfaces to what runs on a host. Their addresses are the same on many hosts."""

_HOSTS_FILE_BYTES = 256 * 1024

_T = TypeVar("_T")


@dataclass(frozen=True)
class OwnHost:
    """The host that runs this pipeline."""

    name: str
    addresses: frozenset[str] = field(default_factory=frozenset[str])
    names: frozenset[str] = field(default_factory=frozenset[str])
    """Its further names with a domain, in lower case."""
    common: frozenset[str] = field(default_factory=frozenset[str])
    """Addresses that other hosts have as well, each for itself, such as those of Docker's bridge."""
    environment: str = ""
    """The environment of the run that asks; "" if it is not known."""

    @classmethod
    def read(cls, hosts_file: Path = Path("/etc/hosts")) -> OwnHost:
        """This host, as its interfaces and /etc/hosts say. The call blocks for milliseconds, and asks no server."""
        found = [
            (interface, one.address.partition("%")[0])
            for interface, each in psutil.net_if_addrs().items()
            for one in each
        ]
        addresses = frozenset(address for interface, address in found if not _BRIDGES.match(interface))
        common = frozenset(address for _, address in found) - addresses
        return cls(socket.gethostname(), addresses, frozenset(_names_in(hosts_file, addresses)), common)

    def is_it(self, host: str, labels: Mapping[str, str] | None = None) -> bool:
        """Whether a host that an alert names is this one.

        A name with a domain has to be this host's own full name. localhost, and a name without a domain, are this host
        unless the alert's other labels name another place: every host is localhost, and two sites may both have a db-1.
        """
        own = self.name.lower().rstrip(".")
        if self.is_common(host):
            return not self.names_another(labels or {})
        if (address := address_of(host)) is not None:
            return str(address) in self.addresses
        if "." in host:
            return host == own or host in self.names
        return host == own.partition(".")[0] != "" and not self._names_another_machine(labels or {})

    def is_common(self, host: str) -> bool:
        """Whether a host that an alert names is the one where the name is read, whichever that is."""
        return is_loopback(host) or host in self.common

    def names_another(self, labels: Mapping[str, str]) -> bool:
        """Whether labels say where something is, other than on this host: its cluster, its environment, its machine."""
        return self._names_another_machine(labels) or any(
            value and (_SITES.fullmatch(name) or self._is_another_environment(name, value))
            for name, value in labels.items()
        )

    def _is_another_environment(self, label: str, value: str) -> bool:
        if not self.environment or not _ENVIRONMENTS.fullmatch(label):
            return False
        named, own = (
            _SAME_ENVIRONMENT.get(one, one) for one in (value.strip().casefold(), self.environment.casefold())
        )
        return named != own

    def _names_another_machine(self, labels: Mapping[str, str]) -> bool:
        for name, value in labels.items():
            place = read_place(value) if _MACHINES.fullmatch(name) else None
            if place is not None and not self.is_common(place.host) and not self.is_it(place.host):
                return True
        return False

    @property
    def target(self) -> Target:
        """This host as the target of a run without alerts: a health check."""
        return Target(host=self.name.lower(), is_own=True)


def _names_in(file: Path, addresses: frozenset[str]) -> Iterator[str]:
    """The names with a domain that a hosts file gives to these addresses or to loopback; none if it cannot be read."""
    with suppress(OSError), file.open("rb") as opened:
        for line in opened.read(_HOSTS_FILE_BYTES).decode(errors="replace").splitlines():
            address, *names = line.partition("#")[0].split() or [""]
            if address in addresses or is_loopback(address):
                yield from (name.lower().rstrip(".") for name in names if "." in name and not is_loopback(name))


def target_of(alerts: Iterable[Alert], own: OwnHost) -> Target | None:
    """What the firing alerts are about; of all alerts, if none fires. None means that they name nothing.

    A target has a host, a port and a URL only as far as all alerts that name one agree: two hosts are no target, but
    the labels that the alerts share may name a service.
    """
    known = list(alerts)[:MAX_ALERTS]
    relevant = [alert for alert in known if alert.firing] or known
    if not relevant:
        return own.target
    found = [(alert, place) for alert in relevant if (place := _place_of(alert, own)) is not None]
    named = [place for _, place in found]
    hosts = dict.fromkeys(place.host for place in named)
    shared = _shared([without_go_between(alert.labels) for alert in relevant])
    is_own = bool(found) and all(own.is_it(place.host, alert.labels) for alert, place in found)
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


def is_test_notification(alert: Alert) -> bool:
    """Whether an alert is the one with which Grafana tests a contact point. Its `instance` is no host."""
    return alert.name == "TestAlert" and alert.labels.get("instance") == "Grafana"


def _place_of(alert: Alert, own: OwnHost) -> Place | None:
    """The address that one alert is about; None if it names none.

    The localhost of another place is no address: nobody here can look at it.
    """
    if is_test_notification(alert):
        return None
    labels = alert.labels
    places = [
        *_places(named_hosts(labels)),
        *(place for place in _places_in(labels, _FULL_HOSTS) if place.is_full),
        *_linked(alert),
    ]
    if places and own.is_common(places[0].host) and own.names_another(labels):
        return next((place for place in places if not own.is_common(place.host)), Place(""))
    return next(iter(places), None)


def _linked(alert: Alert) -> Iterator[Place]:
    about_reach = _is_about_reach(alert)
    for place in _places_in(alert.labels, _LINKS):
        if place.is_full and (about_reach or (place.url and not _PAGE_ABOUT_IT.match(place.url))):
            yield place


def _is_about_reach(alert: Alert) -> bool:
    return _REACH.search(f"{alert.name} {alert.description}"[:_MAX_CHARACTERS]) is not None


def _places(texts: Iterable[str]) -> Iterator[Place]:
    return (place for text in texts if (place := read_place(text)) is not None)


def _places_in(labels: Mapping[str, str], names: Iterable[str]) -> Iterator[Place]:
    return _places(labels.get(name, "") for name in names)


def _only(values: set[_T]) -> _T | None:
    return next(iter(values)) if len(values) == 1 else None


def _shared(labels: Sequence[Mapping[str, str]]) -> dict[str, str]:
    first, *others = labels
    return {name: value for name, value in first.items() if value and all(each.get(name) == value for each in others)}
