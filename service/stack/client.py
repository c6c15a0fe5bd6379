"""How a command comes by its database and its Prefect server: its own settings, or the embedded stack."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestration.errors import BadSetting
from service.stack.connection import lock_is_free, meet
from service.stack.paths import StackPaths, prepare, stack_paths
from service.stack.protocol import POSTGRES, PREFECT, Report, Request, State, decode

if TYPE_CHECKING:
    from orchestration.settings import Settings

CONNECT_SECONDS = 45.0
"""How long a command tries to meet a keeper; one that is ending may first need all its grace."""


@dataclass(frozen=True, kw_only=True)
class StackAddresses:
    """Where a command finds its two servers."""

    database_url: str
    prefect_api_url: str | None
    embedded: frozenset[str]
    """Which of `postgres` and `prefect` are parts of the embedded stack, among those that this command uses."""


@contextmanager
def attach(
    settings: Settings,
    *,
    need_prefect: bool = True,
    progress: Callable[[str], None] | None = None,
    prefect_port: int | None = None,
    lost: Callable[[], None] | None = None,
) -> Generator[StackAddresses]:
    """The addresses for the duration of the block; what no setting names is embedded, and started if need be.

    Blocks, for seconds when the stack has to start: from asyncio, enter and leave it with `asyncio.to_thread`.
    When the last command leaves, the stack has ended before this returns. `lost` is called, in another thread, if
    the whole embedded stack ends within the block.

    Raises:
        BadSetting: a setting, a folder or a port cannot be used.
        Unavailable: a part of the stack did not start.
    """
    own_database = settings.database_url.get_secret_value() if settings.database_url is not None else None
    embed_prefect = need_prefect and settings.prefect_api_url is None
    if prefect_port is not None and not embed_prefect:
        raise BadSetting(f"PREFECT_API_URL={settings.prefect_api_url!r} is set: no port can be chosen beside it.")
    if own_database is not None and not embed_prefect:
        yield StackAddresses(database_url=own_database, prefect_api_url=settings.prefect_api_url, embedded=frozenset())
        return
    need = [POSTGRES, PREFECT] if embed_prefect else [POSTGRES]
    paths = stack_paths(settings.home)
    with _session(paths, Request(need=need, prefect_port=prefect_port), progress or _ignore, lost or _nothing) as ready:
        embedded = {POSTGRES} if own_database is None else set[str]()
        if settings.prefect_api_url is None and ready.prefect_api_url is not None:
            embedded.add(PREFECT)
        yield StackAddresses(
            database_url=own_database or ready.database_url,
            prefect_api_url=settings.prefect_api_url or ready.prefect_api_url,
            embedded=frozenset(embedded),
        )


def running(settings: Settings) -> StackAddresses | None:
    """The addresses of the embedded stack that runs in this home; None when none does."""
    paths = stack_paths(settings.home)
    try:
        if lock_is_free(paths):
            return None
        state = decode(State, paths.state.read_bytes())
    except (OSError, ValueError):
        return None
    return StackAddresses(
        database_url=state.database_url, prefect_api_url=state.prefect_api_url, embedded=frozenset(state.parts)
    )


@contextmanager
def _session(
    paths: StackPaths, request: Request, progress: Callable[[str], None], lost: Callable[[], None]
) -> Generator[Report]:
    prepare(paths)
    began = time.monotonic()
    while True:
        connection = meet(paths, began + CONNECT_SECONDS)
        try:
            ready = connection.ask(request, progress)
            if ready is not None:
                if connection.saw_progress:
                    progress(f"Stack ready in {time.monotonic() - began:.1f} s")
                connection.watch(lost)
                yield ready
                return
        finally:
            connection.leave()


def _ignore(_text: str) -> None:
    pass


def _nothing() -> None:
    pass
