"""How busy the processors of this host are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import psutil
from pydantic import Field, JsonValue

from orchestration.contracts import Check
from orchestration.threads import in_daemon_thread
from tasks.check.checkers.base import Ceilings, Percent


class CpuConfig(Ceilings):
    """Options of the cpu checker."""

    warn: Percent = 70
    crit: Percent = 90
    interval: float = Field(
        0.1,
        ge=0.05,
        le=60,
        allow_inf_nan=False,
        description="Seconds between the two readings. The kernel counts in steps of 10 ms: longer is more precise.",
    )
    per_cpu: bool = Field(False, description="Judge the busiest core instead of the average of all.")


async def check_cpu(config: CpuConfig) -> Check:
    """Check the percentage of time in which the cores were busy between two readings.

    Waiting for a disk counts as idle. The work of this process counts as busy.
    """
    before = await in_daemon_thread(_read_times)
    await asyncio.sleep(config.interval)
    after = await in_daemon_thread(_read_times)
    cores = [_busy_percent([old], [new]) for old, new in zip(before, after, strict=False)]
    average = _busy_percent(before, after)
    percent = max(cores) if config.per_cpu else average
    metrics: dict[str, JsonValue] = {"cpu_percent": average, "cores": len(cores), "interval_seconds": config.interval}
    if hasattr(os, "getloadavg"):
        metrics["load_1m"] = round(os.getloadavg()[0], 2)
    message = f"{average:.0f} % busy on {len(cores)} cores"
    if config.per_cpu:
        metrics["per_cpu_percent"] = [*cores]
        metrics["busiest_core"] = cores.index(percent)
        message = f"busiest core {cores.index(percent)} is {percent:.0f} % busy ({message})"
    return Check(name="cpu", status=config.status_of(percent), message=message, metrics=metrics)


def _read_times() -> tuple[Any, ...]:
    """One row for each core: seconds in each state since the host started."""
    return tuple(psutil.cpu_times(percpu=True))


def _busy_percent(before: Sequence[Any], after: Sequence[Any]) -> float:
    """The percentage of time in which the cores were busy between two readings."""
    total = busy = 0.0
    for old, new in zip(before, after, strict=False):
        for state in new._fields:
            # Guest time is already part of user and nice. A counter can go back a little, time cannot.
            spent = 0.0 if state.startswith("guest") else max(0.0, getattr(new, state) - getattr(old, state))
            total += spent
            busy += 0.0 if state in ("idle", "iowait") else spent
    return round(100 * busy / total, 1) if total else 0.0
