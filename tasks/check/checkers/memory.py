"""How much of this host's memory is in use."""

from __future__ import annotations

import psutil
from pydantic import Field, JsonValue

from orchestration.contracts import Check
from tasks.check.checkers.base import Ceilings, Percent
from tasks.check.threads import in_daemon_thread


class MemoryConfig(Ceilings):
    """Options of the memory checker."""

    warn: Percent = 70
    crit: Percent = 90
    include_swap: bool = Field(False, description="Judge memory and swap together, as one store.")


async def check_memory(config: MemoryConfig) -> Check:
    """The share of memory, in percent, that programs could not get: caches that the kernel gives back count as free.

    With `include_swap` it is the share of memory and swap together. Sizes are in bytes.
    """
    total, available, swap_total, swap_used = await in_daemon_thread(_read_memory)
    used = total - available
    percent = _percent(used, total)
    metrics: dict[str, JsonValue] = {
        "memory_percent": percent,
        "total_bytes": total,
        "available_bytes": available,
        "swap_total_bytes": swap_total,
        "swap_used_bytes": swap_used,
        "swap_percent": _percent(swap_used, swap_total),
    }
    message = f"{percent:.0f} % in use, {available / 2**30:.1f} GiB available"
    if config.include_swap:
        percent = _percent(used + swap_used, total + swap_total)
        metrics["memory_and_swap_percent"] = percent
        message = f"{percent:.0f} % of memory and swap in use, {available / 2**30:.1f} GiB of memory available"
    return Check(name="memory", status=config.status_of(percent), message=message, metrics=metrics)


def _read_memory() -> tuple[int, int, int, int]:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return memory.total, memory.available, swap.total, swap.used


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1) if whole else 0.0
