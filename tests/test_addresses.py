"""Which addresses checks connect to: forty hostile targets reach nothing, however they are written."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.addresses import AddressList, AddressRules
from orchestration.alert import Alert
from orchestration.contracts import CheckResult, StageContext
from orchestration.errors import BadSetting
from orchestration.settings import load_settings
from tasks.check.checkers.base import LeftOut
from tasks.check.checkers.reach import Reach
from tasks.check.stage import CheckConfig, check, subject_of
from tests.receivers import Answer, HttpReceiver

CONTEXT = StageContext(trace_id="trace", run_id="run")
NETWORK_CHECKS = ("http", "tcp", "tls")

_connected: list[tuple[Any, ...]] = []


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    # The event of each connect() that Python makes, whichever library asked for it.
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        _connected.append(arguments[1])


sys.addaudithook(_record)


@pytest.fixture
def connections() -> Sequence[tuple[Any, ...]]:
    """The addresses that this process connects to during the test."""
    _connected.clear()
    return _connected


@pytest.fixture
def doors() -> Iterator[dict[str, socket.socket]]:
    """Listeners on loopback, which nobody may connect to: one with IPv4 and one with IPv6, on the same port."""
    with ExitStack() as stack:
        first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        second = stack.enter_context(socket.create_server(("::1", first.getsockname()[1]), family=socket.AF_INET6))
        for door in (first, second):
            door.setblocking(False)
        yield {"4": first, "6": second}


def visits(doors: dict[str, socket.socket]) -> int:
    """How many connections wait at the doors."""
    count = 0
    for door in doors.values():
        try:
            while True:
                door.accept()[0].close()
                count += 1
        except BlockingIOError:
            pass
    return count


async def checked(*, allow: str = "", deny: str = "", configs: Any = None, **labels: str) -> CheckResult:
    """The checks of an alert with these labels that connect to something."""
    alert = Alert(source="s", fingerprint="f", name="The website does not answer", incident_key="k", labels=labels)
    settings = load_settings({"checkers_allow": allow, "checkers_deny": deny, "checkers_timeout_seconds": 3})
    subject = await subject_of([alert], settings)
    config = CheckConfig.from_settings(settings, names=NETWORK_CHECKS, configs=configs, subject=subject)
    return await check(CONTEXT, config)


HOSTILE = [
    # The metadata service of clouds, in every notation.
    "169.254.169.254",
    "169.254.170.2",
    "0xa9fea9fe",
    "2852039166",
    "0251.0376.0251.0376",
    "0xa9.0xfe.0xa9.0xfe",
    "169.254.43518",
    "169.16689662",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]",
    "[::a9fe:a9fe]",
    "[fd00:ec2::254]",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "metadata.google.internal",
    "METADATA.google.internal.",
    "１６９.254.169.254",
    # This host.
    "127.0.0.1",
    "127.1",
    "127.0.0.1.",
    "0177.0.0.1",
    "0x7f.1",
    "2130706433",
    "0",
    "0.0.0.0",
    "localhost",
    "LOCALHOST.",
    "127.255.255.254",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[0:0:0:0:0:ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[2002:7f00:1::]",
    "①②⑦.⓪.⓪.①",
    # Private networks, and addresses of no single host.
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "[fd00::1]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "224.0.0.1",
    "[ff02::1]",
    "255.255.255.255",
    "240.0.0.1",
]


@pytest.mark.parametrize("host", HOSTILE)
async def test_a_hostile_target_reaches_nothing(
    host: str, doors: dict[str, socket.socket], connections: Sequence[tuple[Any, ...]]
) -> None:
    port = doors["4"].getsockname()[1]
    for labels in (
        {"url": f"https://{host}:{port}/latest/meta-data"},
        {"url": f"http://{host}:{port}/"},
        {"instance": f"{host}:{port}"},
        {"url": f"http://example.com@{host}:{port}/"},
        {"target": f"http://public.example.com%2f@{host}:{port}/"},
    ):
        result = await checked(**labels, configs={"tls": {"port": port}})
        assert not any(found.status == "ok" for found in result.checks), result.checks
    assert [address for address in connections if address[1] not in (53,)] == []
    assert visits(doors) == 0


def test_there_are_forty_hostile_targets_and_more() -> None:
    assert len(set(HOSTILE)) >= 40


@pytest.mark.parametrize("allow", ["0.0.0.0/0,::/0", "168.0.0.0/6", "*.internal", "*.google.internal"])
@pytest.mark.parametrize("host", ["169.254.169.254", "metadata.google.internal", "[fd00:ec2::254]", "100.100.100.200"])
async def test_nobody_may_allow_the_metadata_service(
    host: str, allow: str, connections: Sequence[tuple[Any, ...]]
) -> None:
    result = await checked(allow=allow, url=f"http://{host}/")
    assert not any(found.status == "ok" for found in result.checks)
    assert [address for address in connections if address[1] != 53] == []


@pytest.mark.parametrize("allow", ["169.254.0.0/16", "metadata.google.internal", "fe80::1", "224.0.0.0/8"])
def test_a_setting_that_allows_what_is_never_checked_is_refused(allow: str) -> None:
    with pytest.raises(BadSetting, match="which is never checked"):
        load_settings({"checkers_allow": allow})


# Redirects and rebinding


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "//169.254.169.254/",
        "http://localhost:{port}/secret",
        "http://user:pw@10.0.0.1/",
    ],
)
async def test_a_redirect_leads_to_no_other_address(
    target: str, receiver: HttpReceiver, connections: Sequence[tuple[Any, ...]]
) -> None:
    port = int(receiver.url.rpartition(":")[2])
    receiver.answer_with(Answer(302, b"", {"Location": target.format(port=port)}))
    result = await checked(allow="127.0.0.1", deny="localhost", url=f"{receiver.url}/start")
    (http,) = [found for found in result.checks if found.name == "http"]
    assert http.status == "unknown", http
    assert len(receiver.requests) == 1
    assert {address[0] for address in connections} <= {"127.0.0.1"}


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "gopher://127.0.0.1:{port}/", "ftp://127.0.0.1:{port}/", "http://[", ""]
)
async def test_a_redirect_to_no_web_address_is_an_error(target: str, receiver: HttpReceiver) -> None:
    port = int(receiver.url.rpartition(":")[2])
    receiver.answer_with(Answer(302, b"root", {"Location": target.format(port=port)}))
    result = await checked(allow="127.0.0.1", url=f"{receiver.url}/start")
    (http,) = [found for found in result.checks if found.name == "http"]
    assert http.status in ("critical", "unknown")
    assert len(receiver.requests) <= 6


class Rebinding:
    """A name server of an attacker: the first answer is harmless, the next ones are not."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)

    async def __call__(self, host: str) -> Sequence[str]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def test_a_name_that_changes_its_address_is_judged_each_time(doors: dict[str, socket.socket]) -> None:
    port = doors["4"].getsockname()[1]
    rules = AddressRules(allow=AddressList.parse(["127.0.0.1"]))
    reach = Reach(rules, resolve=Rebinding(["127.0.0.1"], ["169.254.169.254"]))
    (await reach.open_socket("rebind.example.com", port)).close()
    with pytest.raises(LeftOut, match=r"169\.254\.169\.254 is the metadata service"):
        await reach.open_socket("rebind.example.com", port)
    assert visits(doors) == 1


async def test_one_bad_address_among_good_ones_is_enough(doors: dict[str, socket.socket]) -> None:
    reach = Reach(AddressRules(), resolve=Rebinding(["192.0.2.1", "127.0.0.1", "93.184.216.34"]))
    with pytest.raises(LeftOut):
        await reach.open_socket("both.example.com", doors["4"].getsockname()[1])
    assert visits(doors) == 0


# What operators say


@pytest.mark.parametrize(
    ("allow", "deny", "name", "address", "refused"),
    [
        ("", "", "example.com", "93.184.216.34", False),
        ("", "", "example.com", "2606:2800:220:1::1", False),
        ("", "", "example.com", "::ffff:93.184.216.34", False),
        ("", "", "example.com", "64:ff9b::5db8:d822", False),
        ("", "", "db-1", "10.0.0.1", True),
        ("10.0.0.0/8", "", "db-1", "10.0.0.1", False),
        ("10.0.0.0/8", "10.0.0.1", "db-1", "10.0.0.1", True),
        ("10.0.0.0/8", "db-1", "db-1", "10.0.0.1", True),
        ("10.0.0.0/8", "", "db-1", "::ffff:10.0.0.1", False),
        ("db-1", "", "DB-1.", "10.0.0.1", False),
        ("db-1", "", "db-2", "10.0.0.1", True),
        ("*.corp.example", "", "db-1.corp.example", "10.0.0.1", False),
        ("*.corp.example", "", "corp.example", "10.0.0.1", True),
        ("*.corp.example", "", "evilcorp.example", "10.0.0.1", True),
        ("*.corp.example", "bad.corp.example", "bad.corp.example", "10.0.0.1", True),
        ("fd00::/8", "", "db-1", "fd00::1", False),
        ("0.0.0.0/0", "", "x", "224.0.0.1", True),
        ("::/0,0.0.0.0/0", "", "x", "fe80::1", True),
        ("::/0", "", "x", "64:ff9b::10.0.0.1", True),
        ("", "93.184.0.0/16", "example.com", "93.184.216.34", True),
        ("", "example.com", "example.com", "93.184.216.34", True),
        ("", "example.com", "example.com.", "93.184.216.34", True),
    ],
)
def test_rules(allow: str, deny: str, name: str, address: str, refused: bool) -> None:
    settings = load_settings({"checkers_allow": allow, "checkers_deny": deny})
    assert bool(settings.address_rules.refusal(name, ipaddress.ip_address(address))) is refused


@pytest.mark.parametrize(
    "wrong", ["10.0.0.0/33", "10.0.0", "a b", "http://db-1/", "*", "*.*", "db-1:5432", "10.0.0.1-9"]
)
@pytest.mark.parametrize("variable", ["checkers_allow", "checkers_deny"])
def test_a_wrong_entry_names_the_variable(variable: str, wrong: str) -> None:
    with pytest.raises(BadSetting, match=f"{variable.upper()}: expected networks such as 10.0.0.0/8, and names"):
        load_settings({variable: f"10.0.0.0/8,{wrong}"})


@given(st.ip_addresses())
def test_without_settings_no_address_of_a_private_network_is_allowed(address: Any) -> None:
    refused = AddressRules().refusal(str(address), address)
    plain = getattr(address, "ipv4_mapped", None) or address
    assert refused or plain.is_global
