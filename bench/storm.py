"""Storms, through everything that `alert-pipeline up` runs: 10,000 critical alerts, 20,000 names in one body."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

from bench.commands import fresh_home
from bench.figures import Figures
from bench.load import Receiver, post_all, push, receiver
from bench.service import TRIGGER, apply_policy, count, up
from orchestration.embedded_stack import find_database_url
from orchestration.settings import load_settings
from orchestration.store.database import libpq_url

PUSHES, ALERTS, NAMES = 100, 100, 20_000
LONE_AFTER_SECONDS = 2.0
"""After so long a critical alert comes that takes another route."""

_MINUTE, _TIMEOUT = 60.0, 300.0
_POLICY = """
routes:
  - {name: pay, matchers: ['alertname="pay-1"'], channels: [generic]}
  - {name: all, channels: [generic]}
"""
_LEFT = "select count(*) from pipeline_run where completed_at is null and due_at is null"
_LOST = "select {alerts} - count(distinct alert_id) from membership"


@dataclass(frozen=True, kw_only=True)
class Storm:
    """The bodies of a storm, and those that end it."""

    name: str
    alerts: int
    firing: list[bytes]
    resolved: list[bytes]


def measure_storm(_times: int) -> list[Figures]:
    """Each measured once: 10,000 alerts in 100 pushes, and 20,000 names in one body."""
    numbers = range(PUSHES)
    pushes = Storm(
        name="storm",
        alerts=PUSHES * ALERTS,
        firing=[_group(number, "firing") for number in numbers],
        resolved=[_group(number, "resolved") for number in numbers],
    )
    body = Storm(name="one body", alerts=NAMES, firing=[_names("firing")], resolved=[_names("resolved")])
    return [*_measured(pushes), *_measured(body)]


def _measured(storm: Storm) -> list[Figures]:
    """How long until the first page, until the lone critical alert, until all is decided; how many messages it took,
    and how many alerts were lost."""
    with receiver() as target, fresh_home() as home, up(home, target, CHECKERS_ENABLED="memory") as port:
        apply_policy(home, _POLICY)
        url = libpq_url(find_database_url(load_settings({"home": home})))
        asyncio.run(post_all(port, TRIGGER, [push("warm", severity="info")], 1))
        target.wait_for(1, 60)
        began = time.perf_counter()
        accepted = asyncio.run(_send(port, storm.firing))
        lone = _arrival(target, b"pay-1") - began - LONE_AFTER_SECONDS
        decided = _wait_decided(url, began)
        while time.perf_counter() - began < _MINUTE:
            time.sleep(0.1)
        told = [at - began for at in target.arrived[1:] if at - began <= _MINUTE]
        lost = count(url, _LOST.format(alerts=storm.alerts + 2))
        ends = len(target.arrived)
        asyncio.run(post_all(port, TRIGGER, storm.resolved, 16))
        _wait_decided(url, began)
        cleared = sum(b"storm" in body.lower() for body in target.bodies[ends:])
    name = storm.name
    return [
        Figures(what=f"{name}: all pushes accepted", values=[accepted], unit="s"),
        Figures(what=f"{name}: first page", values=[told[0]], unit="s", target="≤ 2 s"),
        Figures(what=f"{name}: a critical alert on another route", values=[lone], unit="s", target="≤ 3 s"),
        Figures(what=f"{name}: all decided", values=[decided], unit="s", target="≤ 60 s"),
        Figures(what=f"{name}: messages in the first minute", values=[len(told)], unit="", target="≤ 5 a channel"),
        Figures(what=f"{name}: alerts lost", values=[lost], unit="", target="0"),
        Figures(what=f"{name}: messages that it is over", values=[cleared], unit="", target="1"),
    ]


async def _send(port: int, bodies: list[bytes]) -> float:
    """Send the storm, and in the middle of it the lone alert. Returns the seconds until all pushes were accepted."""

    async def lone() -> None:
        await asyncio.sleep(LONE_AFTER_SECONDS)
        await post_all(port, TRIGGER, [push("pay-1", severity="critical")], 1)

    began = time.perf_counter()
    other = asyncio.create_task(lone())
    await post_all(port, TRIGGER, bodies, 16)
    took = time.perf_counter() - began
    await other
    return took


def _group(number: int, status: str) -> bytes:
    alerts = [
        {
            "alertname": f"DiskFull{index % 7}",
            "severity": "critical",
            "status": status,
            "instance": f"db-{number * ALERTS + index}",
            "cluster": "eu-1",
        }
        for index in range(ALERTS)
    ]
    return json.dumps({"payload": {"alerts": alerts}, "source": "generic", "environment": "bench"}).encode()


def _names(status: str) -> bytes:
    """One body with very many names, and no key of a group."""
    alerts = [{"status": status, "labels": {"alertname": f"Disk{number}"}} for number in range(NAMES)]
    payload = {"version": "4", "groupKey": "", "alerts": alerts}
    return json.dumps({"payload": payload, "source": "alertmanager", "environment": "bench"}).encode()


def _arrival(target: Receiver, text: bytes) -> float:
    """When the first message with this text arrived, once it has."""
    deadline = time.perf_counter() + _TIMEOUT
    while time.perf_counter() < deadline:
        for number, body in enumerate(target.bodies[: len(target.arrived)]):
            if text in body:
                return target.arrived[number]
        time.sleep(0.02)
    raise SystemExit(f"no message with {text.decode()} came within {_TIMEOUT:g} s")


def _wait_decided(url: str, began: float) -> float:
    """The seconds since `began` after which no run waits or is executed."""
    deadline = time.perf_counter() + _TIMEOUT
    while count(url, _LEFT):
        if time.perf_counter() > deadline:
            raise SystemExit(f"not everything was decided within {_TIMEOUT:g} s")
        time.sleep(0.1)
    return time.perf_counter() - began
