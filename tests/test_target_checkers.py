"""The checkers that look at the target of an alert: what they find, and what they say when they find nothing."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from orchestration.addresses import AddressList, AddressRules
from orchestration.alert import Alert
from orchestration.contracts import Check, CheckResult, CheckStatus, StageContext, Target
from orchestration.errors import BadInput, Unavailable
from orchestration.prometheus import Sample
from tasks.check.checkers.base import Subject
from tasks.check.checkers.registry import CHECKERS
from tasks.check.stage import CheckConfig, check
from tests.prometheus_helpers import free_port
from tests.receivers import Answer, HttpReceiver

OK, WARNING, CRITICAL, UNKNOWN = CheckStatus.OK, CheckStatus.WARNING, CheckStatus.CRITICAL, CheckStatus.UNKNOWN
RULES = AddressRules(allow=AddressList.parse(["127.0.0.0/8", "::1", "localhost"]))


def subject(**target: Any) -> Subject:
    return Subject(target=Target(**target), own_name="vm", rules=RULES)


async def look(name: str, options: dict[str, Any] | None = None, **target: Any) -> Check:
    checker = CHECKERS[name]
    config = checker.parse(options or {})
    assert checker.unfit(config, subject(**target)) == ""
    return await checker.run(config, subject(**target))


# What fits


@pytest.mark.parametrize(
    ("target", "names"),
    [
        (Target(host="vm", is_own=True), {"cpu", "memory", "disk", "network", "process"}),
        (Target(host="db-77", port=9100), {"tcp", "prometheus"}),
        (Target(host="db-77.example.com"), {"dns", "prometheus"}),
        (Target(host="db-77.example.com", port=443), {"dns", "tcp", "tls", "prometheus"}),
        (Target(host="10.0.0.9"), {"prometheus"}),
        (Target(host="shop.example.com", url="http://shop.example.com/"), {"http", "dns", "prometheus"}),
        (Target(host="shop.example.com", url="https://shop.example.com/"), {"http", "tls", "dns", "prometheus"}),
        (Target(labels={"service": "checkout"}), set()),
        (None, set()),
    ],
)
def test_the_target_decides_which_checkers_look(target: Target | None, names: set[str]) -> None:
    about = Subject(target=target, own_name="vm")
    assert {name for name, one in CHECKERS.items() if not one.unfit(one.parse({}), about)} == names


def test_options_make_a_checker_fit() -> None:
    host = Subject(target=Target(host="db-77"), own_name="vm")
    for name, options in {"tcp": {"port": 22}, "tls": {"port": 636}, "http": {"port": 8080, "path": "/health"}}.items():
        checker = CHECKERS[name]
        assert checker.unfit(checker.parse({}), host)
        assert checker.unfit(checker.parse(options), host) == ""


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("http", {"warn": 5.0, "crit": 1.0}),
        ("http", {"body": "("}),
        ("http", {"method": "POST"}),
        ("http", {"path": "health"}),
        ("tls", {"warn": 1, "crit": 2}),
        ("tcp", {"port": 0}),
        ("dns", {"records": []}),
        ("dns", {"records": ["ANY"]}),
        ("dns", {"servers": ["ns.example.com"]}),
        ("prometheus", {"hours": 0}),
    ],
)
def test_a_wrong_option_is_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"checker {name}: "):
        CHECKERS[name].parse(options)


# http


async def test_http_says_status_and_time(receiver: HttpReceiver) -> None:
    receiver.answer_with(Answer(204, b""))
    found = await look("http", host="127.0.0.1", url=f"{receiver.url}/health?x=1")
    assert (found.status, found.target) == (OK, f"{receiver.url}/health?x=1")
    assert found.message.startswith("answers 204, in ")
    (asked,) = receiver.requests
    assert (asked.method, asked.path) == ("GET", "/health?x=1")
    assert asked.headers["host"] == receiver.url.removeprefix("http://")
    assert "authorization" not in asked.headers


@pytest.mark.parametrize(
    ("status", "options", "expected"),
    [
        (500, {}, CRITICAL),
        (404, {}, CRITICAL),
        (401, {"status": [401]}, OK),
        (200, {"status": [401]}, CRITICAL),
        (200, {"body": "all (is )?well"}, OK),
        (200, {"body": "^well"}, CRITICAL),
        (200, {"warn": 1e-6}, WARNING),
        (200, {"warn": 1e-6, "crit": 1e-6}, CRITICAL),
        (503, {"method": "HEAD"}, CRITICAL),
    ],
)
async def test_http_is_judged_by_its_options(
    receiver: HttpReceiver, status: int, options: dict[str, Any], expected: CheckStatus
) -> None:
    receiver.answer_with(Answer(status, b"" if options.get("method") == "HEAD" else b"today\nall is well"))
    assert (await look("http", options, host="127.0.0.1", url=receiver.url)).status is expected


async def test_http_makes_a_url_of_a_host(receiver: HttpReceiver) -> None:
    port = int(receiver.url.rpartition(":")[2])
    found = await look("http", {"port": port, "path": "/ready"}, host="localhost")
    assert (found.status, found.target) == (OK, f"http://localhost:{port}/ready")
    assert receiver.requests[0].headers["host"] == f"localhost:{port}"


async def test_http_follows_redirects_and_names_them(receiver: HttpReceiver) -> None:
    receiver.answer_next(Answer(302, b"", {"Location": "/login"}), Answer(301, b"", {"Location": "/login/"}))
    found = await look("http", host="127.0.0.1", url=f"{receiver.url}/")
    assert found.status is OK
    assert f"redirected to {receiver.url}/login (302), {receiver.url}/login/ (301)" in found.message
    receiver.answer_with(Answer(302, b"", {"Location": "/"}))
    circle = await look("http", host="127.0.0.1", url=receiver.url)
    assert (circle.status, "redirect" in circle.message.lower()) == (CRITICAL, True)
    once = await look("http", {"redirects": False}, host="127.0.0.1", url=receiver.url)
    assert once.message.startswith("answers 302")


async def test_http_without_an_answer_is_critical(receiver: HttpReceiver) -> None:
    closed = await look("http", host="127.0.0.1", url=f"http://127.0.0.1:{free_port()}/")
    assert (closed.status, closed.message) == (CRITICAL, "the connection is refused")
    receiver.answer_with(Answer(hang=True))
    silent = await look("http", {"timeout": 0.1}, host="127.0.0.1", url=receiver.url)
    assert (silent.status, silent.message) == (CRITICAL, "no answer within 0.1 s")


@pytest.mark.parametrize(
    ("leads_to", "refused"),
    [
        ("http://169.254.169.254/latest/", "169.254.169.254 is the metadata service of a cloud"),
        ("http://me:secret@10.1.2.3:8080/", "10.1.2.3 is a private address"),
        ("https://[fe80::1]/", "fe80::1 is a link-local address"),
        ("http://metadata.google.internal/", "metadata.google.internal is the metadata service"),
    ],
)
async def test_http_names_a_redirect_that_may_not_be_followed(
    receiver: HttpReceiver, leads_to: str, refused: str
) -> None:
    """The target has answered, so that there is a row; what is behind the redirect is not known."""
    receiver.answer_with(Answer(302, b"", {"Location": leads_to}))
    found = await look("http", host="127.0.0.1", url=f"{receiver.url}/")
    assert (found.status, found.error) == (UNKNOWN, None)
    assert "redirected to http" in found.message
    assert refused in found.message
    assert "secret" not in found.message
    receiver.answer_with(Answer(302, b"", {"Location": "http://no-such-host.invalid/"}))
    nowhere = await look("http", host="127.0.0.1", url=f"{receiver.url}/")
    assert (nowhere.status, nowhere.message) == (UNKNOWN, "no-such-host.invalid has no address here")


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("http", {"host": "no-such-host.invalid", "url": "http://no-such-host.invalid/"}),
        ("http", {"host": "no-such-host.invalid", "url": "https://no-such-host.invalid/"}),
        ("tcp", {"host": "no-such-host.invalid", "port": 9100}),
        ("tcp", {"host": "b\u00fccher-no-such-host.invalid", "port": 9100}),
        ("tls", {"host": "no-such-host.invalid", "port": 443}),
        ("tls", {"host": "no-such-host.invalid", "url": "https://no-such-host.invalid/"}),
    ],
)
async def test_a_name_that_is_not_known_here_leaves_it_unknown(name: str, target: dict[str, Any]) -> None:
    """Whoever watches the host knows its name. Only the dns checker looks at names."""
    found = await look(name, **target)
    assert found.status is UNKNOWN
    assert "has no address here" in found.message


async def test_http_reads_a_bounded_part_of_an_endless_body(receiver: HttpReceiver) -> None:
    receiver.answer_with(Answer(200, b"x" * (3 << 20) + b"needle"))
    found = await look("http", {"body": "needle"}, host="127.0.0.1", url=receiver.url)
    assert found.status is CRITICAL


# tcp


async def test_tcp_says_whether_a_port_is_open(receiver: HttpReceiver) -> None:
    port = int(receiver.url.rpartition(":")[2])
    found = await look("tcp", host="127.0.0.1", port=port)
    assert (found.status, found.target, found.metrics["address"]) == (OK, f"127.0.0.1:{port}", "127.0.0.1")
    refused = await look("tcp", {"port": free_port()}, host="127.0.0.1", port=port)
    assert (refused.status, refused.message) == (CRITICAL, "the connection is refused")
    # The name has two addresses, of which one answers.
    assert (await look("tcp", host="localhost", port=port)).status is OK


async def test_tcp_gives_up_on_a_silent_port() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = [socket.socket() for _ in range(8)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        found = await look("tcp", {"timeout": 0.2}, host="127.0.0.1", port=server.getsockname()[1])
        for client in waiting:
            client.close()
    assert (found.status, found.message) == (CRITICAL, "no answer within 0.2 s")


# tls


def certificate(place: Path, *, days: float, name: str = "localhost") -> tuple[Path, Path]:
    """A certificate of its own authority, valid for so many days from now, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test Authority")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject_name)
        .issuer_name(subject_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = place / f"{name}-{days}.pem", place / f"{name}-{days}.key"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return pem, secret


@asynccontextmanager
async def tls_server(pem: Path, key: Path) -> AsyncIterator[int]:
    """The port of a server with this certificate, which answers each request over HTTP."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, key)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("days", "status", "says"),
    [
        (90, OK, "valid for 90 more days"),
        (20.9, WARNING, "valid for 21 more days"),
        (6.9, CRITICAL, "valid for 7 more days"),
        (0.5, CRITICAL, "valid for less than a day"),
        (-3, CRITICAL, "certificate has expired"),
    ],
)
async def test_tls_says_how_long_the_certificate_is_valid(
    tmp_path: Path, days: float, status: CheckStatus, says: str
) -> None:
    pem, key = certificate(tmp_path, days=days)
    async with tls_server(pem, key) as port:
        found = await look("tls", {"ca_file": str(pem), "port": port}, host="localhost")
    assert (found.status, found.target) == (status, f"localhost:{port}")
    assert says in found.message
    assert found.metrics["names"] == ["localhost", "127.0.0.1"]
    assert found.metrics["days_left"] == pytest.approx(days, abs=0.1)


async def test_tls_looks_at_chain_and_name(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path, days=90)
    async with tls_server(pem, key) as port:
        unknown = await look("tls", {"port": port}, host="localhost")
        other = await look("tls", {"port": port, "ca_file": str(pem), "name": "shop.example.com"}, host="localhost")
        by_address = await look("tls", {"port": port, "ca_file": str(pem)}, host="127.0.0.1")
        trusted = await look("http", {"ca_file": str(pem)}, host="localhost", url=f"https://localhost:{port}/")
        untrusted = await look("http", host="localhost", url=f"https://localhost:{port}/")
    assert (unknown.status, "is not trusted: self-signed certificate" in unknown.message) == (CRITICAL, True)
    assert "valid for 90 more days" in unknown.message
    assert (other.status, "Hostname mismatch" in other.message) == (CRITICAL, True)
    assert by_address.status is OK
    assert trusted.status is OK
    assert (untrusted.status, "is not trusted" in untrusted.message) == (CRITICAL, True)


async def test_tls_where_nobody_speaks_it(receiver: HttpReceiver) -> None:
    port = int(receiver.url.rpartition(":")[2])
    found = await look("tls", {"port": port}, host="127.0.0.1")
    assert found.status is CRITICAL
    assert found.message


# dns


class NameServer:
    """A name server on loopback: knows one name, knows of no other, or says nothing at all."""

    def __init__(self, *, silent: bool = False, code: dns.rcode.Rcode | None = None) -> None:
        self._silent, self._code, self._ended = silent, code, False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def options(self, **more: Any) -> dict[str, Any]:
        return {"servers": ["127.0.0.1"], "port": self.port, **more}

    def _serve(self) -> None:
        while True:
            text, address = self._socket.recvfrom(4096)
            if self._ended:
                return
            if not self._silent:
                self._socket.sendto(self._answer(dns.message.from_wire(text)).to_wire(), address)

    def _answer(self, asked: dns.message.Message) -> dns.message.Message:
        answer = dns.message.make_response(asked)
        answer.flags |= dns.flags.RA
        (question,) = asked.question
        kind = dns.rdatatype.to_text(question.rdtype)
        values = {"A": ["192.0.2.7", "192.0.2.8"], "TXT": ['"v=spf1 -all"']}.get(kind, [])
        if self._code is not None:
            answer.set_rcode(self._code)
        elif question.name.to_text() != "shop.example.com.":
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif values:
            answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *values))
        return answer

    def close(self) -> None:
        # A thread that waits for a datagram does not notice that its socket is closed.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            self._ended = True
            waker.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    server = NameServer()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("host", "options", "status", "says"),
    [
        ("shop.example.com", {}, OK, "A 192.0.2.7, 192.0.2.8, in "),
        ("shop.example.com", {"records": ["TXT"]}, OK, "v=spf1"),
        ("shop.example.com", {"expect": ["192.0.2.7"]}, OK, "A 192.0.2.7"),
        ("shop.example.com", {"expect": ["192.0.2.9"]}, CRITICAL, "the answer lacks 192.0.2.9"),
        ("shop.example.com", {"records": ["AAAA"]}, CRITICAL, "the name exists, but has no AAAA record"),
        ("shop.example.com", {"warn": 1e-6}, WARNING, "A 192.0.2.7"),
        ("gone.example.com", {}, CRITICAL, "the name does not exist (NXDOMAIN)"),
    ],
)
async def test_dns_says_what_the_name_servers_say(
    name_server: NameServer, host: str, options: dict[str, Any], status: CheckStatus, says: str
) -> None:
    found = await look("dns", name_server.options(**options), host=host)
    assert (found.status, found.target) == (status, host)
    assert says in found.message


async def test_dns_that_does_not_answer_is_unknown() -> None:
    silent, broken = NameServer(silent=True), NameServer(code=dns.rcode.SERVFAIL)
    with pytest.raises(Unavailable, match=r"no name server answered within 0\.2 s"):
        await look("dns", silent.options(timeout=0.2), host="shop.example.com")
    with pytest.raises(Unavailable, match="give no answer"):
        await look("dns", broken.options(timeout=0.5), host="shop.example.com")
    silent.close()
    broken.close()


@pytest.mark.parametrize(
    ("name", "labels", "says", "url", "status"),
    [
        ("HighCPU", {"instance": "gone.example.com:9100", "job": "node"}, "CPU is at 97 %", "", UNKNOWN),
        ("DiskFull", {"host": "gone.example.com"}, "/ is 99 % full. The last alert is resolved.", "", UNKNOWN),
        ("HostDown", {"instance": "gone.example.com:9100"}, "it does not answer", "", UNKNOWN),
        ("DNSLookupFailed", {"host": "gone.example.com"}, "SERVFAIL", "", CRITICAL),
        ("Login slow", {"host": "gone.example.com"}, "getaddrinfo ENOTFOUND gone.example.com", "", CRITICAL),
        ("ProbeFailed", {"instance": "gone.example.com:5432"}, "no answer", "", CRITICAL),
        ("Down", {"instance": "gone.example.com:443", "job": "blackbox-tcp"}, "no answer", "", CRITICAL),
        ("Slow", {"target": "https://gone.example.com/"}, "9 s", "https://gone.example.com/", CRITICAL),
    ],
)
async def test_a_name_that_does_not_exist_is_critical_if_the_alert_is_about_the_name(
    name_server: NameServer, name: str, labels: dict[str, str], says: str, url: str, status: CheckStatus
) -> None:
    told = Alert(source="t", fingerprint="f", name=name, incident_key="k", labels=labels, description=says)
    about = Subject(target=Target(host="gone.example.com", url=url), own_name="vm", rules=RULES, alerts=[told])
    checker = CHECKERS["dns"]
    found = await checker.run(checker.parse(name_server.options()), about)
    assert (found.status, found.message) == (status, "the name does not exist (NXDOMAIN)")


class UpSays:
    """A Prometheus that knows of `up` alone."""

    host = "prometheus.example.com"

    def __init__(self, value: float) -> None:
        self._value = value

    async def find(self) -> Any:
        return self

    async def query(self, expression: str, **_: Any) -> list[Sample]:
        return [Sample({"instance": "gone.example.com:9100"}, self._value)] if expression.startswith("up{") else []


@pytest.mark.parametrize(("up", "status"), [(1.0, UNKNOWN), (0.0, CRITICAL)])
async def test_a_host_that_prometheus_reaches_is_not_gone(
    name_server: NameServer, up: float, status: CheckStatus
) -> None:
    told = Alert(
        source="t", fingerprint="f", name="ProbeFailed", incident_key="k", labels={"instance": "gone.example.com:9100"}
    )
    prometheus: Any = UpSays(up)
    about = Subject(
        target=Target(host="gone.example.com"), own_name="vm", rules=RULES, alerts=[told], prometheus=prometheus
    )
    config = CheckConfig(
        names=("dns", "prometheus"), timeout_seconds=5, configs={"dns": name_server.options()}, subject=about
    )
    result = await check(StageContext(trace_id="t", run_id="r"), config)
    found = {one.name: one for one in result.checks}
    assert found["dns"].status is status
    assert found["dns"].message.startswith("the name does not exist (NXDOMAIN)")


@pytest.mark.parametrize(
    ("says", "labels", "status"),
    [
        ("probe of https://gone.example.com/pay failed for 3 min (status 503)", {}, UNKNOWN),
        ("HTTP/1.1 502 Bad Gateway", {}, UNKNOWN),
        ("the page answers with 404 since 3 min", {}, UNKNOWN),
        ("probe failed", {"status_code": "500"}, UNKNOWN),
        ("dial tcp 10.0.0.9:443: connect: connection refused", {}, UNKNOWN),
        ("TLS handshake failed", {}, UNKNOWN),
        ("the certificate expires in 3 days", {}, UNKNOWN),
        ("the probe fails for 3 min", {}, CRITICAL),
        ("503 seconds without an answer", {}, CRITICAL),
        ("status 0: no such host", {}, CRITICAL),
    ],
)
async def test_who_has_got_an_answer_has_resolved_the_name(
    name_server: NameServer, says: str, labels: dict[str, str], status: CheckStatus
) -> None:
    url = "https://gone.example.com/pay"
    told = Alert(
        source="t",
        fingerprint="f",
        name="ProbeFailed",
        incident_key="k",
        description=says,
        labels={"job": "blackbox", "instance": url, **labels},
    )
    about = Subject(target=Target(host="gone.example.com", url=url), own_name="vm", rules=RULES, alerts=[told])
    config = CheckConfig(names=("dns",), timeout_seconds=5, configs={"dns": name_server.options()}, subject=about)
    [found] = (await check(StageContext(trace_id="t", run_id="r"), config)).checks
    assert found.status is status


@pytest.mark.parametrize("text", ["", "# nothing\n", "search example.com\n", None])
async def test_a_machine_without_name_servers_leaves_it_unknown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    file, read = tmp_path / "resolv.conf", dns.resolver.BaseResolver.read_resolv_conf
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(dns.resolver.BaseResolver, "read_resolv_conf", lambda self, _: read(self, str(file)))
    with pytest.raises(Unavailable, match="this machine names no name server"):
        await look("dns", host="gone.example.com")


# All at once


async def test_all_look_at_once_and_never_keep_the_loop_waiting(
    tmp_path: Path,
) -> None:
    pem, key = certificate(tmp_path, days=90)
    async with tls_server(pem, key) as port:
        target = Target(host="localhost", url=f"https://localhost:{port}/", is_own=True)
        configs: dict[str, dict[str, object]] = {
            "http": {"ca_file": str(pem), "body": "ok"},
            "tls": {"ca_file": str(pem), "port": port},
            "tcp": {"port": port},
            "cpu": {"interval": 0.05},
        }
        here = Subject(target=target, own_name="vm", rules=RULES)
        names = ("cpu", "memory", "disk", "network", "process", "http", "tls", "tcp")
        config = CheckConfig(names=names, timeout_seconds=5, configs=configs, subject=here)
        await check(StageContext(trace_id="t", run_id="r"), config)  # what is imported once is no part of it
        longest, result = await _longest_wait(config)
    assert [found.name for found in result.checks] == list(names)
    assert longest < 0.05, f"the loop waited for {longest * 1000:.0f} ms"


async def _longest_wait(config: CheckConfig) -> tuple[float, CheckResult]:
    """The longest time for which the event loop did nothing else, while the checks ran, as this thread's CPU counts.

    The clock of the thread leaves out what other processes of a busy machine take.
    """
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, last = max(longest, now - last), now

    watcher = asyncio.create_task(watch())
    try:
        result = await check(StageContext(trace_id="t", run_id="r"), config)
    finally:
        watcher.cancel()
    return longest, result
