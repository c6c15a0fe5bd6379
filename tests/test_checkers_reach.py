"""Which hosts the network checker asks, and how it reads the tables of the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.check.checkers.network import USUAL_PORTS, Target, default_targets, in_neighbour_table

ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
wlan0	00000000	FE01A8C0	0003	0	0	600	00000000	0	0	0
eth0	00000000	0101A8C0	0003	0	0	100	00000000	0	0	0
tun0	00000000	00000000	0001	0	0	50	00000000	0	0	0
eth0	0001A8C0	00000000	0001	0	0	100	00FFFFFF	0	0	0
broken line
"""

RESOLVER = """\
# made by hand
search example.com
nameserver 192.168.1.1
nameserver 10.0.0.53
nameserver fd00::53
nameserver 10.0.0.54
"""

NEIGHBOURS = """\
IP address       HW type     Flags       HW address            Mask     Device
192.168.1.1      0x1         0x2         02:fc:00:00:00:05     *        eth0
192.168.1.9      0x1         0x0         00:00:00:00:00:00     *        eth0
"""


@pytest.mark.parametrize(
    ("text", "host", "ports"),
    [
        ("db-1", "db-1", USUAL_PORTS),
        ("db-1:5432", "db-1", (5432,)),
        ("10.0.0.1:80", "10.0.0.1", (80,)),
        ("fd00::1", "fd00::1", USUAL_PORTS),
        ("[fd00::1]:53", "fd00::1", (53,)),
        ("[fd00::1]", "fd00::1", USUAL_PORTS),
    ],
)
def test_a_host_is_read_with_and_without_a_port(text: str, host: str, ports: tuple[int, ...]) -> None:
    target = Target.parse(text)
    assert (target.host, target.ports, target.label) == (host, ports, text)


@pytest.mark.parametrize("text", ["", ":80", "db-1:", "db-1:0", "db-1:65536", "db-1:x", "[fd00::1", "[::1]80", "a b"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Target.parse(text)


@given(st.text())
def test_any_text_is_a_target_or_refused(text: str) -> None:
    try:
        target = Target.parse(text)
    except ValueError:
        return
    assert target.host
    assert all(1 <= port <= 65535 for port in target.ports)


def test_the_best_gateway_and_three_name_servers_are_asked_each_once(tmp_path: Path) -> None:
    (tmp_path / "route").write_text(ROUTES)
    (tmp_path / "resolv.conf").write_text(RESOLVER)
    targets = default_targets(tmp_path / "route", tmp_path / "resolv.conf")
    assert [target.label for target in targets] == [
        "gateway 192.168.1.1",
        "name server 10.0.0.53",
        "name server fd00::53",
    ]
    assert [target.on_link for target in targets] == [True, False, False]


def test_a_host_without_a_network_asks_itself(tmp_path: Path) -> None:
    targets = default_targets(tmp_path / "none", tmp_path / "none")
    assert [target.host for target in targets] == ["127.0.0.1"]


def test_a_gateway_that_answered_arp_is_known(tmp_path: Path) -> None:
    table = tmp_path / "arp"
    table.write_text(NEIGHBOURS)
    assert in_neighbour_table("192.168.1.1", table)
    assert not in_neighbour_table("192.168.1.9", table)
    assert not in_neighbour_table("192.168.1.2", table)
    assert not in_neighbour_table("192.168.1.1", tmp_path / "none")
