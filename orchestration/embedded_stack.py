"""Finds the embedded stack (PostgreSQL and Prefect's server) that runs in a home.

The process that owns the stack locks `stack.lock` for as long as it lives and describes the stack in `stack.json`.
Reading these two files is all that a flow or a worker needs to reach a stack that another process started.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from orchestration.errors import BadSetting
from orchestration.settings import Settings

LOCK_FILE = "stack.lock"
STATE_FILE = "stack.json"


@dataclass(frozen=True, kw_only=True)
class StackAddresses:
    """Where a process finds its two servers."""

    database_url: str
    """Has no password when the database is embedded: the operating system says who connects."""
    prefect_api_url: str | None
    prefect_auth_string: str | None = field(default=None, repr=False)
    """The credential of the embedded Prefect. None means that Prefect's own settings hold one, if it is needed."""
    embedded: frozenset[str]
    """Which of `postgres` and `prefect` the embedded stack provides to this process."""


class StackState(BaseModel, frozen=True):
    """The content of `stack.json`. It means nothing while the lock is free."""

    pid: int
    """Process id of the owner of the stack."""
    parts: dict[str, int]
    """Process id of each running server, by `postgres` and `prefect`."""
    database_url: str
    prefect_api_url: str | None
    """None while Prefect's server does not run."""
    prefect_address: str | None = None
    """Where Prefect's server answers, also while it is being started again: the keeper keeps the port."""
    prefect_auth_string: str | None = None
    """The credential that Prefect's server asks for."""
    started_at: str


def find_running_stack(settings: Settings) -> StackAddresses | None:
    """The addresses of the embedded stack that runs in `settings.home`; None means that none runs there."""
    if (state := _read_state(settings)) is None:
        return None
    return StackAddresses(
        database_url=state.database_url,
        prefect_api_url=state.prefect_api_url,
        prefect_auth_string=state.prefect_auth_string,
        embedded=frozenset(state.parts),
    )


def find_auth_string(settings: Settings, api_url: str | None) -> str | None:
    """The credential of the Prefect API at this address, if it is that of the stack in `settings.home`.

    None means another server, which must not get that credential: Prefect's own settings may hold one for it.
    """
    if api_url is None or (state := _read_state(settings)) is None:
        return None
    address = api_url.rstrip("/").replace("http://localhost:", "http://127.0.0.1:")
    return state.prefect_auth_string if address == state.prefect_address else None


def find_database_url(settings: Settings) -> str:
    """The URL that the settings name, else that of the embedded stack in `settings.home`.

    Raises:
        BadSetting: the settings name none, and no embedded stack runs.
    """
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    if (stack := find_running_stack(settings)) is not None:
        return stack.database_url
    raise BadSetting(
        "DATABASE_URL is not set, and no embedded stack runs here: set it in the deployment's job variables or in "
        "the environment of this process, or start `alert-pipeline up`"
    )


def _read_state(settings: Settings) -> StackState | None:
    """The stack that runs in `settings.home`. None means that none runs, or that it is another user's."""
    home = settings.home.expanduser().resolve()
    try:
        if is_lock_free(home / LOCK_FILE):
            return None
        return StackState.model_validate_json((home / STATE_FILE).read_bytes())
    except (OSError, ValueError):
        return None


def is_lock_free(lock_file: Path) -> bool:
    """Whether no process owns the stack.

    Raises:
        OSError: the lock file exists and cannot be opened.
    """
    if not lock_file.exists():
        return True
    import fcntl  # does not exist on Windows, which has no embedded stack and so no lock file

    with lock_file.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
