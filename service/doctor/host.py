"""This machine: settings, disks, and whether its clock is kept."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

from orchestration.settings import Settings
from orchestration.threads import in_daemon_thread
from service.doctor.finding import Finding, broken, look, ok, warning

_OWN_PREFIXES = ("ORCHESTRATION_", "CHECKERS_", "ALERT_PIPELINE_", "WORKER_")
_GIB = 1024**3
_TENTH = 0.1
FULL_BYTES = _GIB // 4
TIGHT_BYTES = 10 * _GIB
"""With less free than these, and than a tenth of the disk, it is as good as full, and soon will be."""


async def host_findings(settings: Settings) -> list[Finding]:
    """Everything that can be seen without a server."""
    mend_disk = "Look at the disk, and at who may use it"
    return list(
        await asyncio.gather(
            look("settings", lambda: _settings(settings), mend="Look at docs/settings.md"),
            look("data folder", lambda: _folder("data folder", settings.home.expanduser()), mend=mend_disk),
            look("temporary folder", lambda: _folder("temporary folder", Path(tempfile.gettempdir())), mend=mend_disk),
        )
    )


async def _settings(settings: Settings) -> Finding:
    known = {str(field.validation_alias) for field in Settings.model_fields.values()}
    strange = sorted(name for name in os.environ if name.startswith(_OWN_PREFIXES) and name not in known)
    key = settings.home.expanduser() / "secret.key"
    if settings.secret_key is None and key.exists() and key.stat().st_mode & 0o077:
        return broken("settings", f"others can read {key}", f"chmod 600 {key}")
    if strange:
        return warning(
            "settings",
            f"no setting is called {', '.join(strange)}",
            "Look for a slip of the pen: docs/settings.md has the names",
        )
    count = sum(1 for name in known if os.environ.get(name))
    return ok("settings", f"valid, {count} set in the environment")


async def _folder(check: str, folder: Path) -> Finding:
    """Room for what is written there. A folder that is not there yet is made where its parent is."""
    return await in_daemon_thread(_look_at_folder, check, folder)


def _look_at_folder(check: str, folder: Path) -> Finding:
    there = next(place for place in (folder, *folder.parents) if place.exists())
    usage = shutil.disk_usage(there)
    share = usage.free / usage.total if usage.total else 0.0
    detail = f"{folder}: {usage.free / _GIB:.1f} GiB free, {share:.0%}"
    mend = f"Make room on the disk of {there}"
    if not os.access(there, os.W_OK | os.X_OK):
        return broken(check, f"{there} cannot be written to", "Give this user access, or name another folder")
    if share < _TENTH and usage.free < TIGHT_BYTES:
        return broken(check, detail, mend) if usage.free < FULL_BYTES else warning(check, detail, mend)
    return ok(check, detail)


async def clock_is_kept() -> bool | None:
    """Whether the system keeps its clock by NTP; None where that is not known at little cost."""
    program = shutil.which("timedatectl")
    if program is None:
        return None
    process = await asyncio.create_subprocess_exec(
        program, "show", "--property=NTPSynchronized", "--value", stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
    )
    try:
        async with asyncio.timeout(2.0):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    return {b"yes": True, b"no": False}.get(said.strip())
