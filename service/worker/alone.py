"""Executes one run in a process of its own: if it kills its process, it takes no other run with it.

That is for runs at which processes have ended before. Which of the runs of such a process was to blame nobody can say;
alone, each shows it.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess

from orchestration.errors import PipelineError
from orchestration.settings import Settings
from orchestration.signals import logger

_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class _Job:
    settings: Settings
    database_url: str
    run_id: str
    owner: str


async def execute_alone(settings: Settings, database_url: str, run_id: str, *, owner: str) -> bool:
    """Execute a run in a new process, on the direct engine, under a lease that the caller holds as `owner`.

    What the run's message does not need, its checks and its analysis, is left out. A cancellation ends the process.

    Returns:
        Whether the process lived until it had done what it could. False means that something killed it.
    """
    from prefect.settings import get_current_settings

    prefect = get_current_settings().to_environment_variables(exclude_unset=True, include_secrets=True)
    job = _Job(settings, database_url, run_id, owner)
    process = _SPAWN.Process(target=_main, args=(prefect, logger.level, job), daemon=True)
    await asyncio.to_thread(process.start)
    try:
        await _ended(process)
    finally:
        process.kill()
        await asyncio.shield(asyncio.to_thread(process.join))
    # SIGTERM comes from whoever ends the whole service.
    return process.exitcode is not None and (process.exitcode >= 0 or process.exitcode == -signal.SIGTERM)


async def _ended(process: SpawnProcess) -> None:
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(process.sentinel, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(process.sentinel)


def _main(prefect: Mapping[str, str], level: int, job: _Job) -> None:
    """What the new process does. It decides nothing for itself: its parent ends it, or it ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    os.environ.update(prefect)  # before Prefect is imported, which reads them then
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logger.setLevel(level)
    try:
        asyncio.run(_execute(job))
    except PipelineError as error:
        logger.warning("Run %s broke off: %s", job.run_id, error)


async def _execute(job: _Job) -> None:
    from blocks.channels.resolver import ChannelCache, configured_drivers
    from flows.services import make_services
    from orchestration.encryption import load_key
    from orchestration.engine.execution import DIRECT, Execution
    from orchestration.engine.lease import lease_run
    from orchestration.store.database import open_database
    from orchestration.store.encrypted_cache import EncryptedCache

    settings = job.settings
    async with open_database(job.database_url) as database:
        # The saved channels as the worker last saw them: Prefect is not asked.
        channels = ChannelCache(EncryptedCache(database), load_key(settings), drivers=configured_drivers(settings))
        await channels.restore()
        services = make_services(settings, database, blocks=channels)
        async with lease_run(services, job.run_id, engine=DIRECT, owner=job.owner) as run:
            run.suspect = True
            await Execution(run).execute_directly()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
