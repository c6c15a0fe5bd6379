"""Whether this host can reach other hosts over TCP."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, JsonValue, field_validator

from orchestration.contracts import Check
from orchestration.threads import in_daemon_thread
from tasks.check.checkers.base import Floors, Names, Percent, Subject, not_of_this_host

USUAL_PORTS = (443, 80, 22)
DNS_PORT = 53
OPEN, REFUSED, ON_LINK, NO_ANSWER = "open", "refused", "on the link", "no answer"

_RTF_GATEWAY = 0x2
_ATF_COMPLETE = 0x2
_MAX_NAME_SERVERS = 3  # as the C library
_MAX_ADDRESSES = 4
GATEWAY_TIMEOUT_SECONDS = 0.2
"""A gateway is one hop away: if it does not answer within this time, it does not answer TCP at all."""


@dataclass(frozen=True)
class Target:
    """A host and the ports to try, all at the same time."""

    label: str
    host: str
    ports: tuple[int, ...]
    on_link: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `host`, `host:port`, `IPv6` or `[IPv6]:port`.

        Raises:
            ValueError: the text has none of these forms.
        """
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            port = rest.removeprefix(":")
            if not bracket or (rest and not rest.startswith(":")):
                raise ValueError("expected [IPv6]:port")
        elif text.count(":") == 1:
            host, _, port = text.partition(":")
        else:
            host, port = text, ""
        if not host or any(character.isspace() or character == "/" for character in host):
            raise ValueError("expected host, host:port or [IPv6]:port")
        if text.endswith(":") or (port and not (port.isdecimal() and 1 <= int(port) <= 65535)):
            raise ValueError("expected a port from 1 to 65535")
        return cls(text, host, (int(port),) if port else USUAL_PORTS)


class NetworkConfig(Floors):
    """Options of the network checker."""

    ok: Percent = 70
    warn: Percent = 50
    hosts: Names = Field(
        (), description="host, host:port or [IPv6]:port. Empty means the gateway and the name servers."
    )
    timeout: float = Field(1.0, gt=0, le=60, allow_inf_nan=False, description="Seconds that one host may take.")

    @field_validator("hosts")
    @classmethod
    def _readable(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            Target.parse(host)
        return hosts


async def look_at_network(config: NetworkConfig, subject: Subject) -> Check:
    """Check the hosts of `config`, else what the host that runs this pipeline needs to reach others."""
    looked_at = ", ".join(dict.fromkeys(config.hosts)) or subject.own_name
    return (await check_network(config)).model_copy(update={"target": looked_at})


def unfit_for_network(config: NetworkConfig, subject: Subject) -> str:
    """Hosts that an operator names are looked at whatever the alert is about."""
    return "" if config.hosts else not_of_this_host(config, subject)


async def check_network(config: NetworkConfig) -> Check:
    """Check the percentage of hosts that answer a TCP connection within `timeout` seconds.

    An accepted and a refused connection are both answers. No data is sent. A host without a port is tried at 443,
    80 and 22 at the same time, and the first answer counts. The check needs no `ping`, no raw socket and no
    internet: without configured hosts it asks the default gateway and the name servers of /etc/resolv.conf (at port
    53; RFC 7766 requires name servers to accept TCP), or the loopback interface if there are none. A gateway that
    ignores TCP counts as reachable while the kernel's neighbour table has its hardware address; the table can be
    some seconds old.
    """
    if config.hosts:
        targets = tuple(Target.parse(host) for host in dict.fromkeys(config.hosts))
    else:
        targets = await in_daemon_thread(default_targets)
    answers = await asyncio.gather(*(_try(target, config.timeout) for target in targets))
    answer_of = dict(zip((target.label for target in targets), answers, strict=True))
    unreachable = {label: answer for label, answer in answer_of.items() if not is_answer(answer)}
    reached = len(targets) - len(unreachable)
    percent = round(100 * reached / len(targets), 1)
    metrics: dict[str, JsonValue] = {
        "reachable_percent": percent,
        "reachable": reached,
        "hosts_total": len(targets),
        "hosts": {**answer_of},
        "unreachable": [*unreachable],
    }
    message = f"{reached} of {len(targets)} reachable"
    if unreachable:
        message += "; not: " + ", ".join(f"{label} ({answer})" for label, answer in [*unreachable.items()][:5])
    elif not config.hosts:
        message += f" ({', '.join(answer_of)})"
    return Check(name="network", status=config.status_of(percent), message=message, metrics=metrics)


async def _try(target: Target, timeout_seconds: float) -> str:
    timeout_seconds = min(timeout_seconds, GATEWAY_TIMEOUT_SECONDS) if target.on_link else timeout_seconds
    answer = await probe(target, timeout_seconds)
    if target.on_link and not is_answer(answer) and await in_daemon_thread(in_neighbour_table, target.host):
        return ON_LINK
    return answer


def is_answer(outcome: str) -> bool:
    """Whether an outcome shows that the host exists."""
    return outcome in (OPEN, REFUSED, ON_LINK)


async def probe(target: Target, timeout_seconds: float) -> str:
    """Connect to a target: `open`, `refused` (both are answers), or the reason why it counts as unreachable."""
    try:
        async with asyncio.timeout(timeout_seconds):
            addresses = await _addresses(target.host)
            return await _first_answer([(address, port) for address in addresses for port in target.ports])
    except TimeoutError:
        return f"{NO_ANSWER} after {timeout_seconds:g} s"
    except (OSError, UnicodeError) as error:
        return f"name not resolved: {getattr(error, 'strerror', None) or 'not a host name'}"


async def _first_answer(addresses: list[tuple[str, int]]) -> str:
    attempts = [asyncio.create_task(_connect(address, port)) for address, port in addresses]
    outcome = NO_ANSWER
    try:
        for attempt in asyncio.as_completed(attempts):
            outcome = await attempt
            if is_answer(outcome):
                break
    finally:
        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)
    return outcome


async def _connect(address: str, port: int) -> str:
    try:
        _, writer = await asyncio.open_connection(address, port)
    except (ConnectionRefusedError, ConnectionResetError):
        return REFUSED
    except OSError as error:
        return (error.strerror or str(error)).lower()
    writer.transport.abort()
    return OPEN


async def _addresses(host: str) -> tuple[str, ...]:
    with suppress(ValueError):
        return (str(ipaddress.ip_address(host)),)
    return await in_daemon_thread(_resolve, host)


def _resolve(host: str) -> tuple[str, ...]:
    # Not loop.getaddrinfo: a name server that hangs would keep the process from ending.
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))[:_MAX_ADDRESSES]


def default_targets(
    routes: Path = Path("/proc/net/route"), resolver: Path = Path("/etc/resolv.conf")
) -> tuple[Target, ...]:
    """The default gateway and the name servers, each host once; the loopback interface if there are none."""
    targets: dict[str, Target] = {}
    # The default route with the lowest metric.
    _, gateway = min(_gateways(_lines(routes)), default=(0, ""))
    if gateway:
        targets[gateway] = Target(f"gateway {gateway}", gateway, (DNS_PORT, *USUAL_PORTS), on_link=True)
    servers = [words[1] for words in map(str.split, _lines(resolver)) if len(words) > 1 and words[0] == "nameserver"]
    for server in servers[:_MAX_NAME_SERVERS]:
        targets.setdefault(server, Target(f"name server {server}", server, (DNS_PORT,)))
    return tuple(targets.values()) or (Target("loopback", "127.0.0.1", USUAL_PORTS),)


def _gateways(table: list[str]) -> Iterator[tuple[int, str]]:
    """The metric and the gateway of each default route, from Linux's table of IPv4 routes."""
    for line in table[1:]:
        with suppress(ValueError, IndexError):
            _, destination, gateway, flags, _, _, metric, mask = line.split()[:8]
            if int(destination, 16) == 0 and int(mask, 16) == 0 and int(flags, 16) & _RTF_GATEWAY:
                # The kernel prints the address as one number, in the host's byte order: Linux runs little-endian.
                yield int(metric), str(ipaddress.IPv4Address(bytes.fromhex(gateway)[::-1]))


def in_neighbour_table(host: str, table: Path = Path("/proc/net/arp")) -> bool:
    """Whether the kernel has the hardware address of an IPv4 neighbour, because it answered ARP."""
    rows = [line.split() for line in _lines(table)[1:]]
    return any(len(row) > 2 and row[0] == host and int(row[2], 16) & _ATF_COMPLETE for row in rows)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []  # not Linux, or a container without this file
