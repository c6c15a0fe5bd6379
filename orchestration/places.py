"""Where an alert happens, by its labels: the host, the pod, the queue; never the exporter that only speaks of it.

Monitoring systems name hosts in many ways: `db-77:9100`, `[fe80::1]:9100`, `https://shop.example.com/health`, `DB-77.`.
An `instance` can also be that of a go-between (kube-state-metrics, the Pushgateway, the blackbox exporter), where
nobody has to look: then other labels name what the alert is about.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import SplitResult, urlsplit

HOST_LABELS = ("instance", "host", "hostname", "node")
"""The labels that name the host of an alert, in the order in which they are read."""

PLACE_LABELS = (*HOST_LABELS, "nodename", "server", "pod", "service", "heartbeat", "entity")
"""The labels that say where an alert happens, in the order in which they are read: the host first."""

MACHINE_LABELS = (*HOST_LABELS, "nodename", "server")
"""The labels that name a machine, in the order in which they are read."""

_PROBED = (
    *("probe_target", "__param_target", "param_target", "target", "target_url", "probe_url", "monitor_url"),
    *("exported_target", "exported_instance", "probe", "monitor_hostname", "exported_host", "exported_node"),
)
"""Labels with what a go-between has asked, in the order in which they are read. They count if they have an address."""

_PARTS = (
    *("persistentvolumeclaim", "persistentvolume", "job_name", "cronjob", "horizontalpodautoscaler", "pod", "pod_name"),
    *("deployment", "statefulset", "daemonset", "replicaset", "poddisruptionbudget", "ingress"),
)
"""Parts of a cluster, those first that say the most: a pod is named beside the deployment that it belongs to."""

_OTHERS = (
    *("sysname", "device", "vm_name", "dbinstance_identifier", "database_id", "queue_name", "load_balancer"),
    *(
        "instance_id",
        "instance_name",
        "function_name",
        "resource_name",
        "service",
        "container",
        "container_name",
        "name",
    ),
    *("heartbeat", "entity", "monitor_name", "probe", "target", "ifname", "ifdescr", "resourcequota", "namespace"),
)
"""What else an alert of a go-between can be about."""

_BEHIND = (
    "exported_instance",
    "exported_host",
    "exported_node",
    "exported_pod",
    "exported_service",
    "exported_namespace",
)
"""Labels that Prometheus has renamed, because the exporter speaks of somebody else. `exported_job` alone says less: the
metrics of a program can have a label `job` of their own."""

_GO_BETWEENS = re.compile(
    r"kube-?state-?metrics|\bksm\b|push-?(gateway|gw)|cadvisor|cloudwatch|\byace\b|stackdriver|azure-(metrics|monitor)"
    r"|black-?box|snmp|ipmi|smokeping|uptime-?kuma|vcenter|otel-?collector|opentelemetry-collector|federat"
    r"|(json|ssl|x509|domain|dns|ping|icmp|statsd|graphite|collectd|influxdb|vmware|proxmox|pve)(-certificate)?-exporter"
)
"""Names of exporters that speak about others, in an `instance`, a `job`, or the name of their own pod."""

_PROBERS = re.compile(r"black-?box|snmp|ipmi|smokeping|uptime-?kuma|(json|ssl|x509|domain|dns|ping|icmp)-")
"""Of these jobs, `instance` is often what was probed: it is the exporter's only if its name or its port says so."""

_PROBERS_PORT = re.compile(r":(9115|9116|9290|9374|9219|9222|7979|9793|9427|3001)$")

_OF_ITSELF = re.compile(r"^(target|instance|exporter|endpoint|scrape)s?(is)?(down|missing|fail|unreachable)")
"""Names of alerts about an exporter that does not answer itself."""

_MAX_CHARACTERS = 2000
_KEPT = 2048
"""How many texts are kept with what they say: an alert's labels are asked a dozen times, and come again."""
_HIDDEN_USER = re.compile(r"(?<=://)[^/?#@\s]*\[redacted\](?=@)")
"""The user of a URL after redaction, whose brackets would make the URL unreadable."""
_LIKE_AN_ADDRESS = re.compile(r"[0-9.]+$|[0-9A-Fa-f]*:")
"""How every address is written that `ipaddress` reads, and hardly any name: it takes its time to say that."""
_PERHAPS_LOOPBACK = re.compile(r"localhost|127\.|:.*:", re.IGNORECASE)
"""What stands in every text that names this host."""
_NAME = re.compile(r"(?!-)[\w-]{1,63}(?<!-)(\.(?!-)[\w-]{1,63}(?<!-))*")


def host_of(labels: Mapping[str, str]) -> str:
    """The host that the labels name (see `HOST_LABELS`), as they name it, such as `db-1:9100`; "" if they name none.

    The incident key, the title and the message all use this function, so that they name the same host.
    """
    if is_of_go_between(labels):
        return next(_hosts_behind(labels), "")
    hosts = [host for name in HOST_LABELS if (host := labels.get(name))]
    return next((host for host in hosts if not is_loopback(host)), hosts[0] if hosts else "")


def place_of(labels: Mapping[str, str]) -> str:
    """Where an alert happens, for people: the host, else the server, pod or service; "" if nothing is named.

    An alert of a go-between happens at the part of a cluster that it names, else at the host, else at another thing.
    """
    if is_of_go_between(labels):
        return next(_behind(labels), "")
    return host_of(labels) or next((place for name in PLACE_LABELS if (place := labels.get(name))), "")


def named_hosts(labels: Mapping[str, str]) -> Iterator[str]:
    """What the labels say that can be a host, the likeliest first: what was probed, else the labels of machines."""
    if is_of_go_between(labels):
        yield from _hosts_behind(labels)
    else:
        yield from _probed(labels)
        yield from (value for name in MACHINE_LABELS if (value := labels.get(name)))


def without_go_between(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels without those that name the exporter which only speaks of others."""
    if not is_of_go_between(labels):
        return dict(labels)
    return {
        name: value
        for name, value in labels.items()
        if name != "instance" and (name not in ("pod", "service", "container") or not _is_its_own(value, labels))
    }


def is_of_go_between(labels: Mapping[str, str]) -> bool:
    """Whether `instance` is that of an exporter that speaks about others, and another label says about whom."""
    instance = labels.get("instance", "")
    if not instance:
        return False
    if _any_of(labels, _BEHIND) or any(value != instance for value in _probed(labels)):
        return True
    job = _plain(labels.get("job", ""))
    if "kubelet" in job:  # its address is that of a machine, on which a part may be in trouble
        return any(_values(labels, _PARTS)) or any(_hosts_behind(labels))
    is_one = _is_go_between(instance.partition("/")[0]) or (
        bool(job and _GO_BETWEENS.search(job) and ":" in instance)
        and (not _PROBERS.search(job) or bool(_PROBERS_PORT.search(instance)))
    )
    if not is_one or _OF_ITSELF.search(_plain(labels.get("alertname", "")).replace("-", "")):
        return False
    return any(_behind(labels))


def _behind(labels: Mapping[str, str]) -> Iterator[str]:
    """What an alert of a go-between is about, the part that says the most first."""
    yield from _values(labels, _PARTS)
    yield from _hosts_behind(labels)
    yield from _values(labels, ("exported_job", *_OTHERS))


def _hosts_behind(labels: Mapping[str, str]) -> Iterator[str]:
    yield from _probed(labels)
    yield from _values(labels, MACHINE_LABELS)


def _any_of(labels: Mapping[str, str], names: Sequence[str]) -> bool:
    # Hardly any alert has one of them, and all are asked.
    return not labels.keys().isdisjoint(names) and any(labels.get(name) for name in names)


def _probed(labels: Mapping[str, str]) -> Iterator[str]:
    for name in _PROBED if _any_of(labels, _PROBED) else ():
        if (place := read_place(labels.get(name, ""))) and place.is_full:
            yield labels[name]


def _values(labels: Mapping[str, str], names: tuple[str, ...]) -> Iterator[str]:
    """What the labels say, as the exporter's own series say it first; without what names the exporter itself."""
    lower = {name.lower(): value for name, value in labels.items()}
    for name in names:
        for value in (lower.get(f"exported_{name}"), lower.get(name) if name != "instance" else None):
            if value and not _is_its_own(value, labels):
                yield value


def _is_its_own(value: str, labels: Mapping[str, str]) -> bool:
    """Whether a value names the exporter that has sent it, such as its service. Another one may be in trouble."""
    sender = _plain(f"{labels.get('job', '')} {labels.get('instance', '')}")
    if "kubelet" in sender and _plain(value).endswith("kubelet"):
        return True
    named = _GO_BETWEENS.search(_plain(value))
    return named is not None and named[0] in sender


def _is_go_between(name: str) -> bool:
    return _GO_BETWEENS.search(_plain(name)) is not None


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


@lru_cache(maxsize=_KEPT)
def is_loopback(text: str) -> bool:
    """Whether a text, such as a label, names whatever host it is read on: `localhost:9100`."""
    place = read_place(text) if _PERHAPS_LOOPBACK.search(text) else None
    if place is None:
        return False
    address = address_of(place.host)
    is_name = place.host in ("localhost", "localhost.localdomain") or place.host.endswith(".localhost")
    return is_name if address is None else address.is_loopback


@dataclass(frozen=True)
class Place:
    """A host, and its port and URL as far as they are named."""

    host: str
    port: int | None = None
    url: str = ""

    @property
    def is_full(self) -> bool:
        """Whether it is surely an address, and no word."""
        has_domain = "." in self.host and not self.host.replace(".", "").isdecimal()
        return bool(self.url or self.port) or has_domain or address_of(self.host) is not None


@lru_cache(maxsize=_KEPT)
def read_place(text: str) -> Place | None:
    """The host, the port and the URL in a text such as a label has; None if it is no address.

    The host is in lower case, without a dot at its end and without a zone; a URL has no user, password or fragment.
    """
    text = _HIDDEN_USER.sub("user", text.strip()[: _MAX_CHARACTERS + 1], count=1)
    if not text or len(text) > _MAX_CHARACTERS or not text.isprintable() or any(map(str.isspace, text)):
        return None
    if (bare := address_of(text.partition("%")[0])) is not None:  # IPv6 without brackets, of which any part is a port
        return Place(str(bare))
    with suppress(ValueError):
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, port = _host(text, parts), parts.port
        if not parts.scheme and parts.path and not parts.port:  # a word such as shop/web-0
            return None
        is_web = parts.scheme in ("http", "https")
        if host and port != 0 and (is_web or not host.isdecimal()):  # a number alone is an id
            return Place(host, port, _url(parts, host) if is_web else "")
    return None


def _host(text: str, parts: SplitResult) -> str:
    if "://" not in text and ("@" in text or "\\" in text):
        return ""
    host = (parts.hostname or "").partition("%")[0].rstrip(".").lower()
    if (address := address_of(host)) is not None:
        return str(address)
    return host if len(host) <= 253 and _NAME.fullmatch(host) else ""


def _url(parts: SplitResult, host: str) -> str:
    shown = f"[{host}]" if ":" in host else host
    port = "" if parts.port is None else f":{parts.port}"
    return SplitResult(parts.scheme, f"{shown}{port}", parts.path, parts.query, "").geturl()


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a text is; an IPv4 address within an IPv6 one is this IPv4 address."""
    if not _LIKE_AN_ADDRESS.match(host):
        return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
