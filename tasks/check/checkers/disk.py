"""How full the file systems of this host are."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import psutil
from pydantic import Field, JsonValue

from orchestration.contracts import Check, CheckStatus
from orchestration.errors import Unavailable
from orchestration.threads import in_daemon_thread
from tasks.check.checkers.base import Ceilings, Names, Percent


class DiskConfig(Ceilings):
    """Options of the disk checker."""

    warn: Percent = 80
    crit: Percent = 95
    paths: Names = Field(("/",), min_length=1, description="One path on each file system to check.")
    path_timeout: float = Field(
        2.0,
        gt=0,
        le=60,
        allow_inf_nan=False,
        description="Seconds that one path may take: a hung disk must not hide that another is full.",
    )


class Usage(NamedTuple):
    """The use of a file system. As in `df`, space reserved for root is neither used nor free."""

    percent: float
    used_bytes: int
    free_bytes: int
    total_bytes: int


async def check_disk(config: DiskConfig) -> Check:
    """Check how full the fullest file system of `paths` is, in percent.

    If a path cannot be read, the status is unknown, unless another path is a warning or critical.

    Raises:
        Unavailable: no path could be read.
    """
    paths = list(dict.fromkeys(config.paths))
    found = await asyncio.gather(*(_usage_of(path, config.path_timeout) for path in paths))
    usages = {path: usage for path, usage in zip(paths, found, strict=True) if isinstance(usage, Usage)}
    unread = [problem for problem in found if isinstance(problem, str)]
    if not usages:
        raise Unavailable("; ".join(unread))
    fullest, usage = max(usages.items(), key=lambda item: item[1].percent)
    status = config.status_of(usage.percent)
    message = f"{fullest} is {usage.percent:.0f} % full, {usage.free_bytes / 2**30:.1f} GiB free"
    if unread and status is CheckStatus.OK:
        status = CheckStatus.UNKNOWN
    metrics: dict[str, JsonValue] = {
        "disk_percent": usage.percent,
        "worst_path": fullest,
        "paths": {path: usage._asdict() for path, usage in usages.items()},
    }
    return Check(
        name="disk",
        status=status,
        message="; ".join([message, *unread]),
        metrics=metrics,
        error="; ".join(unread) or None,
    )


async def _usage_of(path: str, timeout_seconds: float) -> Usage | str:
    """The usage of a path, or the reason why it cannot be read."""
    try:
        return await asyncio.wait_for(in_daemon_thread(_read_usage, path), timeout_seconds)
    except TimeoutError:
        return f"{path}: no answer after {timeout_seconds:g} s"
    except (OSError, ValueError) as error:
        return f"{path}: {getattr(error, 'strerror', None) or error}"


def _read_usage(path: str) -> Usage:
    usage = psutil.disk_usage(path)
    return Usage(usage.percent, usage.used, usage.free, usage.total)
