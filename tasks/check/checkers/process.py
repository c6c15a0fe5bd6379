"""Whether the processes that should run on this host are running."""

from __future__ import annotations

import psutil
from pydantic import Field, JsonValue

from orchestration.contracts import Check, CheckStatus
from orchestration.threads import in_daemon_thread
from tasks.check.checkers.base import Floors, Names, Percent


class ProcessConfig(Floors):
    """Options of the process checker."""

    ok: Percent = 100
    warn: Percent = 50
    names: Names = Field((), description="Names of processes that should run, such as nginx.")
    exact_match: bool = Field(True, description="False means that part of a name is enough, in any case.")


async def check_process(config: ProcessConfig) -> Check:
    """Check the percentage of the named processes that run at least once. Without names the status is ok.

    A zombie does not count as running. Only names are read, never command lines, which can contain secrets.
    """
    names = list(dict.fromkeys(config.names))
    if not names:
        return Check(name="process", status=CheckStatus.OK, message="no process to look for is configured")
    alive = await in_daemon_thread(_read_names)
    if config.exact_match:
        counts = {name: alive.count(name) for name in names}
    else:
        counts = {name: sum(name.casefold() in other.casefold() for other in alive) for name in names}
    missing = [name for name, count in counts.items() if not count]
    running = len(names) - len(missing)
    percent = round(100 * running / len(names), 1)
    metrics: dict[str, JsonValue] = {
        "running_percent": percent,
        "running": running,
        "expected": len(names),
        "missing": [*missing],
        "counts": {**counts},
    }
    message = f"{running} of {len(names)} run" + (f"; not running: {', '.join(missing)}" if missing else "")
    return Check(name="process", status=config.status_of(percent), message=message, metrics=metrics)


def _read_names() -> tuple[str, ...]:
    """The name of each process, without zombies."""
    processes = psutil.process_iter(["name", "status"])
    return tuple(p.info["name"] for p in processes if p.info["name"] and p.info["status"] != psutil.STATUS_ZOMBIE)
