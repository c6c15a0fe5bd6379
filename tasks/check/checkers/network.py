"""Whether this host reaches the hosts that it should, over TCP."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pydantic import Field, JsonValue, field_validator

from orchestration.contracts import Check
from tasks.check.checkers.base import Floors, Names, Percent
from tasks.check.checkers.reach import Target, default_targets, in_neighbour_table, is_answer, probe
from tasks.check.threads import in_daemon_thread

GATEWAY_PATIENCE_SECONDS = 0.2
"""A gateway is one hop away: what it has not said by then it keeps to itself."""


class NetworkConfig(Floors):
    """Options of the network checker."""

    ok: Percent = 70
    warn: Percent = 50
    hosts: Names = Field((), description="host, host:port or [IPv6]:port. None: the gateway and the name servers.")
    timeout: float = Field(1.0, gt=0, le=60, allow_inf_nan=False, description="Seconds that one host may take.")

    @field_validator("hosts")
    @classmethod
    def _readable(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            Target.parse(host)
        return hosts


@dataclass(frozen=True)
class Outcome:
    """What one host did: open, refused, on the link, or why it counts as unreachable."""

    target: Target
    answer: str

    @property
    def reachable(self) -> bool:
        """Whether the host answered."""
        return is_answer(self.answer)


async def check_network(config: NetworkConfig) -> Check:
    """The share of hosts, in percent, that answer a TCP connection within `timeout` seconds.

    An accepted connection is an answer, and so is a refused one: the host is there. Nothing is sent. A host
    without a port is tried at 443, 80 and 22 at once, and the first answer counts. It needs no `ping`, no raw
    socket and no internet: where no host is named, it asks this host's own surroundings, the default gateway and
    the name servers of /etc/resolv.conf (at port 53; a name server has to take TCP, RFC 7766), or the loopback
    interface where there are none. A gateway that ignores TCP counts as reachable while the kernel's neighbour
    table has its hardware address; that can be some seconds old.
    """
    if config.hosts:
        targets = tuple(Target.parse(host) for host in dict.fromkeys(config.hosts))
    else:
        targets = await in_daemon_thread(default_targets)
    outcomes = await asyncio.gather(*(_try(target, config.timeout) for target in targets))
    unreachable = [outcome for outcome in outcomes if not outcome.reachable]
    reached = len(outcomes) - len(unreachable)
    percent = round(100 * reached / len(outcomes), 1)
    metrics: dict[str, JsonValue] = {
        "reachable_percent": percent,
        "reachable": reached,
        "hosts_total": len(outcomes),
        "hosts": {outcome.target.label: outcome.answer for outcome in outcomes},
        "unreachable": [outcome.target.label for outcome in unreachable],
    }
    message = f"{reached} of {len(outcomes)} reachable"
    if unreachable:
        message += "; not: " + ", ".join(f"{outcome.target.label} ({outcome.answer})" for outcome in unreachable[:5])
    elif not config.hosts:
        message += f" ({', '.join(target.label for target in targets)})"
    return Check(name="network", status=config.status_of(percent), message=message, metrics=metrics)


async def _try(target: Target, timeout_seconds: float) -> Outcome:
    patience = min(timeout_seconds, GATEWAY_PATIENCE_SECONDS) if target.on_link else timeout_seconds
    answer = await probe(target, patience)
    if target.on_link and not is_answer(answer) and await in_daemon_thread(in_neighbour_table, target.host):
        answer = "on the link"
    return Outcome(target, answer)
