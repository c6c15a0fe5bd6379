"""How much memory of this host is in use."""

from __future__ import annotations

import psutil
from pydantic import Field, JsonValue

from orchestration.contracts import Check
from orchestration.threads import in_daemon_thread
from tasks.check.checkers.base import Ceilings, Percent


class MemoryConfig(Ceilings):
    """Options of the memory checker."""

    warn: Percent = 70
    crit: Percent = 90
    include_swap: bool = Field(False, description="Check memory and swap together.")


async def check_memory(config: MemoryConfig) -> Check:
    """Check the percentage of memory that is not available to programs. Caches that the kernel frees are available.

    With `include_swap` the percentage is of memory and swap together. Sizes are in bytes.
    """
    memory, swap = await in_daemon_thread(lambda: (psutil.virtual_memory(), psutil.swap_memory()))
    used = memory.total - memory.available
    percent = _percent(used, memory.total)
    metrics: dict[str, JsonValue] = {
        "memory_percent": percent,
        "total_bytes": memory.total,
        "available_bytes": memory.available,
        "swap_total_bytes": swap.total,
        "swap_used_bytes": swap.used,
        "swap_percent": _percent(swap.used, swap.total),
    }
    message = f"{percent:.0f} % in use, {memory.available / 2**30:.1f} GiB available"
    if config.include_swap:
        percent = _percent(used + swap.used, memory.total + swap.total)
        metrics["memory_and_swap_percent"] = percent
        message = f"{percent:.0f} % of memory and swap in use, {memory.available / 2**30:.1f} GiB of memory available"
    return Check(name="memory", status=config.status_of(percent), message=message, metrics=metrics)


def _percent(part: int, total: int) -> float:
    return round(100 * part / total, 1) if total else 0.0
