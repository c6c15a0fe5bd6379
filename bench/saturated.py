"""A machine that has more to do than it can: accepts while worker and Prefect are busy, and criticals behind others."""

from __future__ import annotations

import asyncio
import time

from bench.commands import fresh_home
from bench.figures import Figures
from bench.floors import bare_api
from bench.load import post_all, push, receiver
from bench.service import ONE_BY_ONE, TRIGGER, Accepts, apply_policy, count, direct_service, up
from orchestration.embedded_stack import find_database_url
from orchestration.settings import load_settings
from orchestration.store.database import libpq_url

BACKLOG, ACCEPTS = 1_000, 2_000
WARNINGS, CRITICALS = 500, 2_001
_LEFT = "select count(*) from pipeline_run where completed_at is null"


def measure_saturated(times: int) -> list[Figures]:
    """Accepts over 16 connections on an idle machine, and while the worker and Prefect have a backlog; the bare insert
    in both."""
    idle, busy, bare, bare_busy = Accepts(), Accepts(), Accepts(), Accepts()
    with receiver() as target, fresh_home() as home, up(home, target, CHECKERS_ENABLED="memory") as port:
        apply_policy(home, ONE_BY_ONE)
        url = find_database_url(load_settings({"home": home}))
        turns = range(max(times // 3, 3))
        with bare_api(url) as floor:
            bare.measure(floor, "/", _bodies("floor-warm", 400), counts=False)
            for turn in turns:
                bare.measure(floor, "/", _bodies(f"floor{turn}", ACCEPTS))
            idle.measure(port, TRIGGER, _repeats("idle-warm", 400), counts=False)
            for turn in turns:
                idle.measure(port, TRIGGER, _repeats(f"idle{turn}", ACCEPTS))
            asyncio.run(post_all(port, TRIGGER, _bodies("backlog", BACKLOG), 16))
            for turn in turns:
                busy.measure(port, TRIGGER, _bodies(f"busy{turn}", ACCEPTS))
                bare_busy.measure(floor, "/", _bodies(f"floor-busy{turn}", ACCEPTS))
        waiting = count(libpq_url(url), _LEFT)
    return [
        Figures(
            what="durable accepts while worker and Prefect are saturated",
            values=busy.rates,
            unit="/s",
            target="≥ 0.8 ×",
            floor=bare.rates,
        ),
        Figures(what="  of these, p99", values=busy.p99, unit="ms", target="≤ 2.5 ×", floor=idle.p99),
        Figures(what="floor: FastAPI and psycopg, nobody else works", values=bare.rates, unit="/s"),
        Figures(what="  beside the same worker and Prefect", values=bare_busy.rates, unit="/s", floor=bare.rates),
        Figures(what="floor: p99 of accepts while nobody else works", values=idle.p99, unit="ms"),
        Figures(what="  runs that still wait at the end", values=[waiting], unit=""),
    ]


def measure_criticals(_times: int) -> list[Figures]:
    """Measured once, on the direct engine, each alert told by itself: how long criticals wait behind criticals."""
    with receiver() as target, direct_service(target) as port:
        asyncio.run(post_all(port, TRIGGER, [push("warm", severity="critical")], 1))
        target.wait_for(1, 60)
        asyncio.run(post_all(port, TRIGGER, [push(f"low{i}-") for i in range(WARNINGS)], 16))
        names = [f"high{i}-" for i in range(CRITICALS)]
        sent = time.perf_counter()
        asyncio.run(post_all(port, TRIGGER, [push(name, severity="critical") for name in names], 16))
        target.wait_for(1 + WARNINGS + CRITICALS, 600)
        arrived = [(at, b"high" in body) for at, body in zip(target.arrived, target.bodies, strict=True)]
    waits = sorted(at - sent for at, critical in arrived if critical)
    accepted = sent + waits[0]
    early = sum(not critical and accepted < at < sent + waits[-1] for at, critical in arrived)
    return [
        Figures(what=f"the last of {CRITICALS:,} criticals, direct engine", values=[waits[-1]], unit="s"),
        Figures(what="  p99 of their waits", values=[waits[int(len(waits) * 0.99)]], unit="s", target="≤ 60 s"),
        Figures(what="  warnings told before the last of them", values=[early], unit="", target="≤ 8, the slots"),
    ]


def _bodies(prefix: str, count: int) -> list[bytes]:
    return [push(f"{prefix}-{number}") for number in range(count)]


def _repeats(name: str, count: int) -> list[bytes]:
    """The same alert again and again: it is stored each time, and gives the worker nothing to do."""
    return [push(name)] * count
