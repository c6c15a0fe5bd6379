"""Checks of this machine: settings, disks, and whether NTP keeps its clock."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from orchestration.settings import Settings
from orchestration.threads import in_daemon_thread
from service.doctor import Finding, broken, ok, run_check, warning

_OWN_PREFIXES = ("ORCHESTRATION_", "CHECKERS_", "ALERT_PIPELINE_", "WORKER_")
_GIB = 1024**3
_TENTH = 0.1
FULL_BYTES = _GIB // 4
TIGHT_BYTES = 10 * _GIB
"""A disk with less than a tenth free is broken below FULL_BYTES and a warning below TIGHT_BYTES."""


async def host_findings(settings: Settings) -> list[Finding]:
    """The checks that need no server."""
    folders = {"data folder": settings.home.expanduser(), "temporary folder": Path(tempfile.gettempdir())}
    fix = "Check the disk and the permissions of the folder"
    disks = (
        # In a thread, because a network disk that hangs blocks every call.
        run_check(check, partial(in_daemon_thread, _check_folder, check, folder), fix=fix)
        for check, folder in folders.items()
    )
    own_settings = run_check("settings", lambda: _settings(settings), fix="See docs/settings.md")
    return await asyncio.gather(own_settings, *disks)


async def _settings(settings: Settings) -> Finding:
    known = {str(field.validation_alias) for field in Settings.model_fields.values()}
    unknown = sorted(name for name in os.environ if name.startswith(_OWN_PREFIXES) and name not in known)
    key = settings.home.expanduser() / "secret.key"
    if settings.secret_key is None and key.exists() and key.stat().st_mode & 0o077:
        return broken("settings", f"others can read {key}", f"chmod 600 {key}")
    if unknown:
        fix = "Correct the name: docs/settings.md lists all settings"
        return warning("settings", f"no setting is called {', '.join(unknown)}", fix)
    count = sum(1 for name in known if os.environ.get(name))
    return ok("settings", f"valid, {count} set in the environment")


def _check_folder(check: str, folder: Path) -> Finding:
    """Whether the folder is writable and its disk has room. For a missing folder, its nearest parent counts."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    usage = shutil.disk_usage(existing)
    share = usage.free / usage.total if usage.total else 0.0
    detail = f"{folder}: {usage.free / _GIB:.1f} GiB free, {share:.0%}"
    fix = f"Make room on the disk of {existing}"
    if not os.access(existing, os.W_OK | os.X_OK):
        return broken(check, f"{existing} cannot be written to", "Give this user access, or name another folder")
    if share < _TENTH and usage.free < TIGHT_BYTES:
        return broken(check, detail, fix) if usage.free < FULL_BYTES else warning(check, detail, fix)
    return ok(check, detail)


async def clock_is_synchronized() -> bool | None:
    """Whether the system keeps its clock by NTP; None means that this system has no quick way to tell."""
    program = shutil.which("timedatectl")
    if program is None:
        return None
    command = [program, "show", "--property=NTPSynchronized", "--value"]
    try:
        shown = await asyncio.to_thread(
            subprocess.run, command, stdin=subprocess.DEVNULL, capture_output=True, timeout=2.0
        )
    except subprocess.TimeoutExpired:
        return None
    return {b"yes": True, b"no": False}.get(shown.stdout.strip())
