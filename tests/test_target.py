"""What alerts are about: one target from many notations, and whether it is the host that runs the pipeline."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.alert import Alert, AlertStatus
from orchestration.contracts import Target
from orchestration.places import read_place
from orchestration.target import OwnHost, target_of

OWN = OwnHost("Web-1.example.com", frozenset({"10.0.0.5", "fd00::5"}))


def alert(status: str = "firing", **labels: str) -> Alert:
    return Alert(source="test", fingerprint="f", name="A", incident_key="k", labels=labels, status=AlertStatus(status))


def found(*alerts: Alert) -> Target:
    target = target_of(alerts, OWN)
    assert target is not None
    return target


@pytest.mark.parametrize(
    ("text", "host", "port", "url"),
    [
        ("db-77", "db-77", None, ""),
        ("db-77:9100", "db-77", 9100, ""),
        ("DB-77.Example.COM.", "db-77.example.com", None, ""),
        ("db-77.:9100", "db-77", 9100, ""),
        (" db-77 ", "db-77", None, ""),
        ("10.0.0.9:5432", "10.0.0.9", 5432, ""),
        ("[fe80::1]:9100", "fe80::1", 9100, ""),
        ("[fe80::1%eth0]:9100", "fe80::1", 9100, ""),
        ("FE80::1%eth0", "fe80::1", None, ""),
        ("fd00:0::1", "fd00::1", None, ""),
        ("[FD00::1]", "fd00::1", None, ""),
        ("::ffff:10.0.0.9", "10.0.0.9", None, ""),
        ("tcp://db-77:5432", "db-77", 5432, ""),
        ("postgres://me:secret@db-77:5432/shop", "db-77", 5432, ""),
        ("https://Shop.example.com/a?b=c#d", "shop.example.com", None, "https://shop.example.com/a?b=c"),
        ("http://me:secret@shop.example.com:8080/x", "shop.example.com", 8080, "http://shop.example.com:8080/x"),
        ("http://[redacted]@shop.example.com:8080/x", "shop.example.com", 8080, "http://shop.example.com:8080/x"),
        ("https://[fd00::1]:8443/", "fd00::1", 8443, "https://[fd00::1]:8443/"),
        ("db-77:9100/metrics", "db-77", 9100, ""),
        ("bücher.example", "bücher.example", None, ""),
    ],
)
def test_a_target_is_read_from_any_notation(text: str, host: str, port: int | None, url: str) -> None:
    target = found(alert(instance=text))
    assert (target.host, target.port, target.url) == (host, port, url)


@pytest.mark.parametrize(
    "text",
    ["", " ", "the second rack", "12", "db:99999", "db:0", "a/b", "C:\\temp", "me@db-1", "http://", "[::1", "-x",
     "a..b", "x" * 300, "db\x00", "http://a b/", "1.2.3.4.5:x"],
)  # fmt: skip
def test_what_is_no_address_is_no_target(text: str) -> None:
    assert read_place(text) is None


@given(st.text())
def test_any_text_is_an_address_or_none(text: str) -> None:
    place = read_place(text)
    assert place is None or (place.host and place.host == place.host.lower())


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ({"host": "db-1"}, "db-1"),
        ({"hostname": "db-1"}, "db-1"),
        ({"node": "worker-3"}, "worker-3"),
        ({"nodename": "worker-3"}, "worker-3"),
        ({"server": "db-1:5432"}, "db-1:5432"),
        ({"ip": "10.0.0.9"}, "10.0.0.9"),
        ({"domain": "shop.example.com"}, "shop.example.com"),
        ({"service": "checkout"}, "checkout"),
        ({"instance": "db-1:9100", "host": "other"}, "db-1:9100"),
        ({"instance": "the second rack", "host": "db-1"}, "db-1"),
        # The blackbox exporter, with and without the usual relabelling.
        ({"job": "blackbox", "instance": "https://shop.example.com"}, "https://shop.example.com"),
        (
            {"job": "blackbox", "instance": "probes:9115", "target": "https://shop.example.com"},
            "https://shop.example.com",
        ),
        ({"instance": "10.0.0.2:9115", "__param_target": "db-1:5432"}, "db-1:5432"),
        ({"instance": "probes:9115", "target": "production"}, "probes:9115"),
        # Exporters that speak about others.
        ({"job": "kube-state-metrics", "instance": "10.1.0.4:8080", "node": "worker-3"}, "worker-3"),
        ({"job": "kube-state-metrics", "instance": "10.1.0.4:8080", "namespace": "shop", "pod": "web-0"}, ""),
        ({"job": "pushgateway", "instance": "push:9091", "exported_instance": "batch-1:9100"}, "batch-1:9100"),
        ({"instance": "snmp-exporter:9116", "host": "switch-4"}, "switch-4"),
        ({"job": "node-exporter", "instance": "db-1:9100", "node": "k8s-2"}, "db-1:9100"),
        ({"instance": "blackbox:9115", "job": "blackbox"}, "blackbox:9115"),
        ({"instance": "uptime-kuma:3001", "monitor_url": "https://shop.example.com/x"}, "https://shop.example.com/x"),
        # Words that are no hosts.
        ({"domain": "payments", "endpoint": "http-metrics", "site": "berlin"}, ""),
        ({"version": "1.2.3", "target": "1.2.3"}, ""),
    ],
)
def test_the_label_that_names_the_target_is_found(labels: dict[str, str], name: str) -> None:
    target = found(alert(**labels))
    assert target.name == name
    assert target.labels.items() <= labels.items()
    assert not target.is_own


@pytest.mark.parametrize(
    ("host", "own", "same"),
    [
        ("localhost:9100", "web-1", True),
        ("127.0.0.1:18399", "web-1", True),
        ("127.0.1.1", "web-1", True),
        ("::1", "web-1", True),
        ("[::ffff:127.0.0.1]:80", "web-1", True),
        ("10.0.0.5:9100", "web-1", True),
        ("http://10.0.0.5:8080/metrics", "web-1", True),
        ("[fd00::5]:9100", "web-1", True),
        ("10.0.0.6", "web-1", False),
        ("web-1", "WEB-1", True),
        ("WEB-1.:9100", "web-1", True),
        ("web-1", "web-1.example.com", True),
        ("web-1.example.com", "web-1", False),
        ("web-1.example.com:9100", "web-1.example.com", True),
        ("web-1.customer-a.example", "web-1", False),
        ("web-1.local", "web-1", False),
        ("web-1.com", "web-1", False),
        ("example.com", "web-1.example.com", False),
        ("web-1.example.com.customer-a.example", "web-1.example.com", False),
        ("https://web-1.customer-a.example/health", "web-1", False),
        ("web-1.example.com", "web-1.example.org", False),
        ("web-10", "web-1", False),
        ("http://2130706433/", "web-1", False),
    ],
)
def test_this_host_is_known_by_its_names_and_addresses(host: str, own: str, same: bool) -> None:
    target = target_of([alert(instance=host)], OwnHost(own, OWN.addresses))
    assert target is not None
    assert target.is_own is same


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"cluster": "eu-west-prod"},
        {"k8s_cluster": "eu"},
        {"cluster_name": "eu"},
        {"kubernetes.cluster.name": "eu"},
        {"datacenter": "fra2"},
        {"dc": "fra2"},
        {"region": "eu-west-1"},
        {"availability_zone": "eu-west-1a"},
        {"site": "berlin"},
        {"rack": "b12"},
        {"tenant": "customer-a"},
        {"node": "worker-3"},
        {"host": "db-77"},
        {"nodename": "web-1.customer-a.example"},
        {"fqdn": "shop.customer-a.example"},
        {"exported_node": "worker-3"},
        {"pod": "web-0", "namespace": "shop"},
        {"prometheus": "monitoring/k8s"},
    ],
)
@pytest.mark.parametrize("here", ["localhost:9100", "127.0.0.1:9100", "[::1]:9100", "172.17.0.1:9100"])
def test_the_localhost_of_another_place_is_not_this_host(here: str, elsewhere: dict[str, str]) -> None:
    """A Prometheus that scrapes itself calls itself localhost, wherever it runs."""
    own = OwnHost("web-1", frozenset({"10.0.0.5", "127.0.0.1"}), common=frozenset({"172.17.0.1"}))
    there = target_of([alert(instance=here, **elsewhere)], own)
    assert there is not None
    assert not there.is_own
    assert there.host not in ("localhost", "127.0.0.1", "::1", "172.17.0.1")
    both = target_of([alert(instance=here, **elsewhere), alert(instance="web-1:9100")], own)
    assert both is None or not both.is_own


@pytest.mark.parametrize(
    "labels",
    [
        {"instance": "localhost:9100", "job": "node", "severity": "critical", "monitor": "example", "env": "prod"},
        {"instance": "localhost:9100", "nodename": "web-1"},
        {"instance": "127.0.0.1:9100", "host": "10.0.0.5"},
        {"host": "localhost", "device": "eth0", "mountpoint": "/"},
        {"instance": "localhost:9100", "timezone": "Europe/Berlin", "component": "disk"},
        # A name and an address of its own are this host's, wherever that is.
        {"instance": "10.0.0.5:9100", "cluster": "eu-west-prod"},
        {"instance": "web-1:9100", "region": "eu-west-1", "host": "web-1"},
    ],
)
def test_localhost_is_this_host_where_nothing_names_another_place(labels: dict[str, str]) -> None:
    target = target_of([alert(**labels)], OwnHost("web-1", frozenset({"10.0.0.5", "127.0.0.1"})))
    assert target is not None
    assert target.is_own


@pytest.mark.parametrize(
    ("label", "value", "environment", "same"),
    [
        ("env", "staging", "production", False),
        ("environment", "customer-b", "production", False),
        ("deployment.environment.name", "dev", "production", False),
        ("stage", "test", "staging", False),
        ("Environment", "Production", "production", True),
        ("env", "prod", "production", True),
        ("env", "staging", "staging", True),
        ("env", "stg", "staging", True),
        ("env", "", "production", True),
        ("env", "staging", "", True),  # nobody knows in which environment this host is
    ],
)
def test_the_localhost_of_another_environment_is_not_this_host(
    label: str, value: str, environment: str, same: bool
) -> None:
    own = OwnHost("web-1", frozenset({"10.0.0.5", "127.0.0.1"}), environment=environment)
    target = target_of([alert(instance="localhost:9100", **{label: value})], own)
    assert target is not None
    assert target.is_own is same
    named = target_of([alert(instance="10.0.0.5:9100", **{label: value})], own)
    assert named is not None
    assert named.is_own


def test_a_short_name_beside_the_name_of_another_machine_is_that_machine() -> None:
    other = target_of([alert(instance="web-1:9100", nodename="web-1.customer-a.example")], OwnHost("web-1"))
    assert other is not None
    assert not other.is_own


def test_this_host_can_be_read(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "127.0.0.1 localhost localhost.localdomain\n127.0.1.1\tVM.Corp.example vm # the old one: vm.old.example\n"
        "192.0.2.77 db-77.corp.example\n::1 ip6-localhost\n\n# 127.0.0.1 no.corp.example\nnonsense\n"
    )
    own = OwnHost.read(hosts)
    assert own.name == socket.gethostname()
    assert own.names == {"vm.corp.example"}
    assert own.is_it("127.0.0.1")
    assert own.is_it("vm.corp.example")
    assert not own.is_it("db-77.corp.example")
    assert OwnHost.read(tmp_path / "missing").names == frozenset()


def test_without_alerts_the_target_is_this_host() -> None:
    assert found() == Target(host="web-1.example.com", is_own=True)


def test_only_what_all_alerts_agree_in_is_the_target() -> None:
    one, two = alert(instance="db-1:9100", job="node"), alert(instance="db-2:9100", job="node", severity="critical")
    assert found(one, two) == Target(labels={"job": "node"}, port=None)
    other_port = alert(instance="db-1:9187", job="postgres")
    assert (found(one, other_port).host, found(one, other_port).port) == ("db-1", None)
    assert found(one, alert(job="node")).name == "db-1:9100"


def test_several_names_of_this_host_are_this_host() -> None:
    target = found(alert(instance="localhost:9100"), alert(instance="10.0.0.5:9100"))
    assert (target.host, target.is_own) == ("web-1.example.com", True)
    mixed = target_of([alert(instance="localhost:9100"), alert(instance="db-1:9100")], OWN)
    assert mixed is None or not mixed.is_own


def test_the_alerts_that_fire_count_before_those_that_have_ended() -> None:
    ended, fires = alert("resolved", instance="db-1"), alert(instance="db-2")
    assert found(ended, fires).host == "db-2"
    assert found(ended).host == "db-1"


def test_an_alert_without_labels_names_nothing() -> None:
    assert target_of([alert()], OWN) is None


def test_ten_thousand_alerts_are_read_in_no_time() -> None:
    many: list[Any] = [alert(instance=f"db-{number}", text="x" * 10_000) for number in range(10_000)]
    assert found(*many).host == ""


@pytest.mark.parametrize(
    ("name", "labels", "host"),
    [
        ("Long garbage collection", {"url": "https://console.example.org/problem/7"}, ""),
        ("Long garbage collection", {"url": "https://console.example.org/problem/7", "host": "shop-3"}, "shop-3"),
        ("Website is down", {"url": "https://shop.example.org/"}, "shop.example.org"),
        ("CheckoutSlow", {"url": "https://shop.example.org/x", "job": "web"}, "shop.example.org"),
        ("CheckoutSlow", {"url": "https://shop.example.org/x", "instance": "db-9:9100"}, "db-9"),
        ("CheckoutSlow", {"url": "https://grafana.example.org/d/7"}, ""),
        ("CheckoutSlow", {"url": "https://example.org/wiki/checkout"}, ""),
        ("CheckoutSlow", {"website": "shop.example.org"}, ""),
    ],
)
def test_a_url_is_the_target_unless_it_leads_to_a_page_about_the_alert(
    name: str, labels: dict[str, str], host: str
) -> None:
    told = Alert(source="generic", fingerprint="f", name=name, labels=labels, incident_key="k")
    found = target_of([told], OwnHost("pipeline-1"))
    assert (found.host if found else "") == host
