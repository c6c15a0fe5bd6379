"""Which user of the machine PostgreSQL runs as: the one who starts it; for root, a system user of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from orchestration.errors import BadSetting, Unavailable

SYSTEM_USER = "alert-pipeline"


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user of the machine."""

    name: str
    uid: int
    gid: int
    invoker: str
    """Who starts the stack: the same user, or root."""

    @property
    def switches(self) -> bool:
        """Whether the server runs as another user than the one who starts it."""
        return self.uid != os.geteuid()


def server_account() -> Account:
    """The account for PostgreSQL, made if root has none yet.

    Raises:
        BadSetting: this user has no name on the machine, which PostgreSQL needs.
        Unavailable: the system user cannot be made.
    """
    uid = os.geteuid()
    try:
        invoker = pwd.getpwuid(uid)
    except KeyError:
        raise BadSetting(
            f"User id {uid} has no name on this machine (no line in /etc/passwd), and PostgreSQL refuses to run "
            "without one: add it, or set DATABASE_URL and PREFECT_API_URL."
        ) from None
    entry = _system_user() if uid == 0 else invoker
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid, invoker=invoker.pw_name)


def require_passage(folder: Path, account: Account) -> None:
    """Check that `account` can pass through `folder` and all its parents.

    Raises:
        BadSetting: naming the folder that is closed.
    """
    closed = closed_folder(folder, account)
    if closed is not None:
        raise BadSetting(
            f"PostgreSQL runs as user {account.name}, who cannot pass through {closed}: "
            "set ALERT_PIPELINE_HOME to a folder that other users can reach, such as /var/lib/alert-pipeline."
        )


def closed_folder(path: Path, account: Account) -> Path | None:
    """The topmost of `path` and its parents that `account` cannot pass through; None when the way is free."""
    if not account.switches:
        return None
    for folder in reversed((path, *path.parents)):
        if not has_permission(folder.stat(), account, 0o1):
            return folder
    return None


def has_permission(found: os.stat_result, account: Account, bits: int) -> bool:
    """Whether the mode gives `account` all of `bits` (4 read, 2 write, 1 pass or execute)."""
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid == account.uid:
        mode >>= 6
    elif found.st_gid == account.gid:
        mode >>= 3
    return mode & bits == bits


def _system_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        _make_system_user()
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        raise Unavailable(f"The system user {SYSTEM_USER} was made and cannot be found: {_advice()}") from None


def _make_system_user() -> None:
    tool = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if tool is None:
        raise Unavailable(f"PostgreSQL does not run as root, and there is no useradd to make a user: {_advice()}")
    # A group of its own: with a shared one (nogroup, users) its files would be another's too.
    command = [tool, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    command += ["--shell", "/usr/sbin/nologin", SYSTEM_USER]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    # 9: the name is in use: a second stack made it in the same moment.
    if result.returncode not in (0, 9):
        reason = result.stderr.strip().splitlines()[-1:] or [f"exit code {result.returncode}"]
        raise Unavailable(f"PostgreSQL does not run as root, and useradd failed ({reason[0]}): {_advice()}")


def _advice() -> str:
    return f"make a system user called {SYSTEM_USER}, start as an ordinary user, or set DATABASE_URL."
