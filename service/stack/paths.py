"""Where the embedded stack keeps its files, and which users of the machine may own and reach them.

PostgreSQL runs as the user who starts the stack. It refuses to run as root, so root gives it a system user.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pwd
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestration.embedded_stack import LOCK_FILE, STATE_FILE
from orchestration.errors import BadSetting, PipelineError, Unavailable

SYSTEM_USER = "alert-pipeline"
_ADVICE = f"create a system user called {SYSTEM_USER}, start as an ordinary user, or set DATABASE_URL."

SOCKET_PATH_LIMIT = 100
"""Bytes of a Unix socket's path: Linux allows 107, macOS and the BSDs 103."""

POSTGRES_SOCKET = ".s.PGSQL.5432"

_PLAIN = re.compile(r"[A-Za-z0-9_./+~-]+")
"""A path that needs no escaping in a database URL. A comma, for example, separates two hosts there."""


@dataclass(frozen=True, kw_only=True)
class StackPaths:
    """The files of the stack of one home. Creating this value touches no file; `prepare()` makes the folders."""

    home: Path
    sockets: Path
    """Folder of the control socket and of PostgreSQL's socket folder: the home, or a short path in `/tmp`."""
    lock: Path
    """The keeper locks this file for as long as it lives."""
    state: Path
    """Describes the running stack, for `find_running_stack()` and for people. Ignore it while the lock is free."""
    control: Path
    """The Unix socket on which commands reach the keeper."""
    postgres: Path
    """Everything of PostgreSQL except its log."""
    data: Path
    """PostgreSQL's data folder."""
    configuration: Path
    """PostgreSQL's configuration: beside the data, so that root never writes where the server's user can."""
    run: Path
    """Folder of PostgreSQL's Unix socket; only its owner and root can enter it."""
    prefect: Path
    """`PREFECT_HOME` of the server."""
    credential: Path
    """The credential of Prefect's API, which only the owner of the home can read."""

    def log(self, name: str) -> Path:
        """The log file of `postgres`, `prefect` or `keeper`."""
        return self.home / "logs" / f"{name}.log"


def stack_paths(home: Path) -> StackPaths:
    """The paths for `home`. Symbolic links are resolved: two names of one folder are one stack.

    The socket folder must be the same for every command, whatever its TMPDIR, hence a literal `/tmp`.
    """
    home = home.expanduser().resolve()
    postgres = home / "postgres"
    sockets, run = home, postgres / "run"
    if len(os.fsencode(run / POSTGRES_SOCKET)) > SOCKET_PATH_LIMIT or not _PLAIN.fullmatch(str(home)):
        name = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
        sockets = Path("/tmp") / f"alert-pipeline-{os.geteuid()}-{name}"  # noqa: S108
        run = sockets / "run"
    return StackPaths(
        home=home,
        sockets=sockets,
        lock=home / LOCK_FILE,
        state=home / STATE_FILE,
        control=sockets / "control.sock",
        postgres=postgres,
        data=postgres / "data",
        configuration=postgres / "conf",
        run=run,
        prefect=home / "prefect",
        credential=home / "prefect.auth",
    )


def prepare(paths: StackPaths) -> None:
    """Make the missing folders, and refuse existing ones that other users control.

    Raises:
        BadSetting: another user owns a folder or can write in it.
        Unavailable: the home cannot be made or written.
    """
    # Started by root, PostgreSQL runs as a system user that has to pass through the home.
    mode = 0o711 if os.geteuid() == 0 else 0o700
    try:
        if os.geteuid() == 0:  # checked before anything is made, so that a refusal leaves nothing behind
            existing = next(folder for folder in (paths.home, *paths.home.parents) if folder.is_dir())
            require_passage(existing, server_account())
        _make_with_parents(paths.home, mode)
        _check_home(paths.home)
        for folder in (paths.postgres, paths.sockets):
            make_folder(folder, mode)
        for folder in (paths.home / "logs", paths.prefect):
            make_folder(folder, 0o700)
        # Creating the lock file detects a full or read-only disk before anything is started.
        os.close(os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        if not os.access(paths.home, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(paths.home))
    except OSError as error:
        raise home_unusable(paths.home, error) from None


def make_folder(folder: Path, mode: int, *, account: Account | None = None) -> None:
    """Make `folder` with exactly `mode`, or check an existing one. An existing folder keeps its mode.

    `account` is the owner of the folder; None means the user of this process.

    Raises:
        BadSetting: `folder` is a link or a file, or belongs to another user.
    """
    owner = os.geteuid() if account is None else account.uid
    if not _make(folder, mode, account):
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise BadSetting(f"{folder} must be a folder and is something else: move it away.")
        if found.st_uid != owner:
            raise BadSetting(
                f"{folder} belongs to user {found.st_uid}, not to user {owner}: "
                "move it away, or set ALERT_PIPELINE_HOME to another folder."
            )


def replace_file(file: Path, text: str, mode: int) -> None:
    """Write `file` so that a reader sees the old text or the new one."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(file)


def home_unusable(home: Path, error: OSError) -> PipelineError:
    """An error of the file system as a sentence for the operator."""
    reason = (error.strerror or str(error)).lower()
    where = f" ({error.filename})" if error.filename and str(error.filename) != str(home) else ""
    return Unavailable(
        f"The embedded stack cannot use its home {home}: {reason}{where}. "
        "Make room or give access, or set ALERT_PIPELINE_HOME to another folder."
    )


def _make_with_parents(home: Path, mode: int) -> None:
    missing = [folder for folder in (home, *home.parents) if not folder.exists()]
    for folder in reversed(missing):
        _make(folder, mode if folder == home or os.geteuid() else 0o755)


def _make(folder: Path, mode: int, account: Account | None = None) -> bool:
    """Make `folder` with `mode`, for `account`. False means that there is something already.

    It gets its name when it is complete: a command that starts in the same moment takes a closed folder for a fault.
    """
    if os.path.lexists(folder):
        return False
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        new.chmod(mode)
        if account is not None and account.switches:
            os.chown(new, account.uid, account.gid)
        new.rename(folder)
    except OSError as error:
        new.rmdir()
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False  # another command was faster
    return True


def _check_home(home: Path) -> None:
    if home in (Path("/"), Path.home().resolve()):
        raise BadSetting(f"ALERT_PIPELINE_HOME={str(home)!r}: expected a folder that nothing else uses.")
    found = home.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise BadSetting(f"ALERT_PIPELINE_HOME={str(home)!r}: expected a folder.")
    if found.st_uid != os.geteuid():
        raise BadSetting(
            f"The home {home} belongs to user {found.st_uid}, and this is user {os.geteuid()}: "
            "set ALERT_PIPELINE_HOME to a folder of your own."
        )
    if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and found.st_gid != os.getegid()):
        raise BadSetting(f"Others can write in the home {home}: run `chmod go-w {home}`, or choose another folder.")


# Users


@dataclass(frozen=True, kw_only=True)
class Account:
    """The user of the machine that PostgreSQL runs as."""

    name: str
    uid: int
    gid: int
    invoker: str
    """The user who starts the stack: the same user, or root."""

    @property
    def switches(self) -> bool:
        """Whether the server runs as another user than the one who starts it."""
        return self.uid != os.geteuid()


def server_account() -> Account:
    """The account for PostgreSQL. For root it is a system user, created if it does not exist.

    Raises:
        BadSetting: this user has no name on the machine, which PostgreSQL needs.
        Unavailable: the system user cannot be created.
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
    if (closed := closed_folder(folder, account)) is not None:
        raise BadSetting(
            f"PostgreSQL runs as user {account.name}, who cannot pass through {closed}: "
            f"run `chmod a+x {shlex.quote(str(closed))}`, "
            "or set ALERT_PIPELINE_HOME to a folder that other users can reach, such as /var/lib/alert-pipeline."
        )


def closed_folder(path: Path, account: Account) -> Path | None:
    """The topmost of `path` and its parents that `account` cannot pass through; None means that all are open."""
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
    with suppress(KeyError):
        return pwd.getpwnam(SYSTEM_USER)
    _create_system_user()
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        raise Unavailable(f"The system user {SYSTEM_USER} was created and cannot be found: {_ADVICE}") from None


def _create_system_user() -> None:
    tool = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if tool is None:
        raise Unavailable(f"PostgreSQL does not run as root, and useradd is missing to create a user: {_ADVICE}")
    # With a shared group (nogroup, users) other members could reach the server's files.
    command = [tool, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    command += ["--shell", "/usr/sbin/nologin", SYSTEM_USER]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    # 9: the name is in use, because a second stack created the user in the same moment.
    if result.returncode not in (0, 9):
        reason = result.stderr.strip().splitlines()[-1:] or [f"exit code {result.returncode}"]
        raise Unavailable(f"PostgreSQL does not run as root, and useradd failed ({reason[0]}): {_ADVICE}")
