"""Where the embedded stack keeps its files, and who may own them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from orchestration.errors import BadSetting, PipelineError, Unavailable
from service.stack.account import require_passage, server_account

SOCKET_PATH_LIMIT = 100
"""Bytes of a Unix socket's path: Linux takes 107, macOS and the BSDs 103."""

POSTGRES_SOCKET = ".s.PGSQL.5432"

_PLAIN = re.compile(r"[A-Za-z0-9_./+~-]+")
"""A path that database addresses carry as it is: a comma, for one, separates two hosts there."""


@dataclass(frozen=True, kw_only=True)
class StackPaths:
    """The files of the stack of one home. Making one touches nothing; `prepare()` makes the folders."""

    home: Path
    sockets: Path
    """Folder of the control socket and of PostgreSQL's socket folder: the home, or a short one in `/tmp`."""

    @property
    def lock(self) -> Path:
        """Locked by the keeper for as long as it lives."""
        return self.home / "stack.lock"

    @property
    def state(self) -> Path:
        """What runs, for `running()` and for people. Means nothing while the lock is free."""
        return self.home / "stack.json"

    @property
    def control(self) -> Path:
        """The Unix socket where commands meet the keeper."""
        return self.sockets / "control.sock"

    @property
    def postgres(self) -> Path:
        """Everything of PostgreSQL but its log."""
        return self.home / "postgres"

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder."""
        return self.postgres / "data"

    @property
    def run(self) -> Path:
        """Folder of PostgreSQL's Unix socket; only its owner (and root) gets in."""
        return self.postgres / "run" if self.sockets == self.home else self.sockets / "run"

    @property
    def prefect(self) -> Path:
        """`PREFECT_HOME` of the server."""
        return self.home / "prefect"

    def log(self, name: str) -> Path:
        """The log file of the part called `name`."""
        return self.home / "logs" / f"{name}.log"


def stack_paths(home: Path) -> StackPaths:
    """The paths for `home`, by its real name: two names of one folder are one stack.

    The socket folder must be the same for every command, whatever its TMPDIR: hence `/tmp` by name.
    """
    home = home.expanduser().resolve()
    longest = home / "postgres" / "run" / POSTGRES_SOCKET
    if len(os.fsencode(longest)) <= SOCKET_PATH_LIMIT and _PLAIN.fullmatch(str(home)):
        return StackPaths(home=home, sockets=home)
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return StackPaths(home=home, sockets=Path("/tmp") / f"alert-pipeline-{os.geteuid()}-{name}")  # noqa: S108


def prepare(paths: StackPaths) -> None:
    """Make the folders that are missing, and refuse those that are not ours alone.

    Raises:
        BadSetting: a folder belongs to somebody else, or others can write in it.
        Unavailable: the home cannot be made or written.
    """
    # PostgreSQL runs as a user of its own when root starts it, and has to pass through.
    mode = 0o711 if os.geteuid() == 0 else 0o700
    try:
        if os.geteuid() == 0:  # asked before anything is made, so that a refusal leaves nothing
            there = next(folder for folder in (paths.home, *paths.home.parents) if folder.is_dir())
            require_passage(there, server_account())
        _make_with_parents(paths.home, mode)
        _check_home(paths.home)
        for folder, its_mode in (
            (paths.postgres, mode),
            (paths.sockets, mode),
            (paths.home / "logs", 0o700),
            (paths.prefect, 0o700),
        ):
            make_folder(folder, its_mode)
        # The lock file tells a full or read-only disk before anything is started.
        os.close(os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        if not os.access(paths.home, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(paths.home))
    except OSError as error:
        raise cannot_use(paths.home, error) from None


def make_folder(folder: Path, mode: int, *, owner: int | None = None) -> None:
    """Make `folder` with exactly `mode`, or check that the one that is there is no link and belongs to `owner`.

    The mode of a folder that exists stays as it is.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise BadSetting(f"{folder} must be a folder, and is something else: move it away.") from None
        expected = os.geteuid() if owner is None else owner
        if found.st_uid != expected:
            raise BadSetting(
                f"{folder} belongs to user {found.st_uid}, not to user {expected}: "
                "move it away, or set ALERT_PIPELINE_HOME to another folder."
            ) from None
        return
    folder.chmod(mode)


def cannot_use(home: Path, error: OSError) -> PipelineError:
    """What an error of the file system means for the one who reads it."""
    reason = (error.strerror or str(error)).lower()
    where = f" ({error.filename})" if error.filename and str(error.filename) != str(home) else ""
    return Unavailable(
        f"The embedded stack cannot use its home {home}: {reason}{where}. "
        "Make room or give access, or set ALERT_PIPELINE_HOME to another folder."
    )


def _make_with_parents(home: Path, mode: int) -> None:
    missing = [folder for folder in (home, *home.parents) if not folder.exists()]
    for folder in reversed(missing):
        last = folder == home
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:  # another command was faster
            continue
        folder.chmod(mode if last or os.geteuid() else 0o755)


def _check_home(home: Path) -> None:
    if home in (Path("/"), Path.home().resolve()):
        raise BadSetting(f"ALERT_PIPELINE_HOME={str(home)!r}: expected a folder of its own.")
    found = home.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise BadSetting(f"ALERT_PIPELINE_HOME={str(home)!r}: expected a folder.")
    if found.st_uid != os.geteuid():
        raise BadSetting(
            f"The home {home} belongs to user {found.st_uid}, and this is user {os.geteuid()}: "
            "set ALERT_PIPELINE_HOME to a folder of your own."
        )
    shared_group = found.st_mode & stat.S_IWGRP and found.st_gid != os.getegid()
    if found.st_mode & stat.S_IWOTH or shared_group:
        raise BadSetting(f"Others can write in the home {home}: run `chmod go-w {home}`, or choose another folder.")
