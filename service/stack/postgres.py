"""The embedded PostgreSQL: one server process that opens no TCP port and lets only its owner in."""

from __future__ import annotations

import asyncio
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path

import psutil

from orchestration.errors import Unavailable
from service.stack import cluster, process
from service.stack.account import server_account
from service.stack.binaries import postgres_bin
from service.stack.leftovers import end_leftovers
from service.stack.paths import POSTGRES_SOCKET, StackPaths

READY_SECONDS = 180.0
"""A server that was killed replays its log first, which takes as long as there was to write."""


class PostgresServer:
    """How PostgreSQL is started and ended."""

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # its fast shutdown: sessions are ended, everything is written
    stop_seconds = 15.0

    def __init__(self, paths: StackPaths) -> None:
        self._paths = paths

    async def start(self, progress: Callable[[str], None]) -> Process:
        """Start the server and return it when both databases can be used.

        Raises:
            BadSetting: something that a person has to decide (see `cluster`, `binaries`, `account`).
            Unavailable: the server did not start; the end of its log is in the message.
        """
        progress("Starting PostgreSQL …")
        account = server_account()
        programs = postgres_bin(self._paths, account)
        await cluster.ensure_cluster(self._paths, account, programs)
        await self._end_leftovers()
        server = await process.spawn(
            self._command(programs),
            log=self._paths.log("postgres"),
            cwd=Path("/"),
            env=cluster.ENVIRONMENT,
            death_signal=self.stop_signal,
            account=account,
        )
        try:
            await self._ready(server)
            await cluster.ensure_databases(self._paths)
        except BaseException:
            await process.end(server, self.stop_signal, self.stop_seconds)
            raise
        return server

    def _command(self, programs: Path) -> list[str]:
        conf = cluster.conf_folder(self._paths)
        # On the command line nothing in a file, and no ALTER SYSTEM, can open the server.
        options = {
            "config_file": conf / "postgresql.conf",
            "hba_file": conf / "pg_hba.conf",
            "ident_file": conf / "pg_ident.conf",
            "listen_addresses": "",
            "port": 5432,
            "unix_socket_directories": self._paths.run,
            "unix_socket_permissions": "0700",
        }
        command = [str(programs / "postgres"), "-D", str(self._paths.data)]
        for key, value in options.items():
            command += ["-c", f"{key}={value}"]
        return command

    async def _ready(self, server: Process) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if server.returncode is not None:
                raise Unavailable(
                    f"PostgreSQL did not start ({process.describe_exit(server.returncode)}): "
                    f"{process.log_tail(self._paths.log('postgres'))}"
                )
            lines = self._pid_file()
            if len(lines) >= 8 and lines[0] == str(server.pid) and lines[7] == "ready":
                return
            await asyncio.sleep(0.02)
        raise Unavailable(
            f"PostgreSQL was not ready after {READY_SECONDS:.0f} s: {process.log_tail(self._paths.log('postgres'))}"
        )

    def _pid_file(self) -> list[str]:
        try:
            return [line.strip() for line in (self._paths.data / "postmaster.pid").read_text().splitlines()]
        except (OSError, ValueError):
            return []

    async def _end_leftovers(self) -> None:
        """End a server that outlived its keeper, and clear what one left behind.

        We hold the stack's lock, so nobody uses it. A pid file whose process is gone stays: PostgreSQL itself
        knows how to take that over, and checks more than the pid. One whose number went to a stranger would
        stop it from starting.
        """
        lines = self._pid_file()
        if not lines:
            return
        await end_leftovers(self._paths.data, "postgres", self.stop_signal, self.stop_seconds)
        if lines[0].isdecimal() and psutil.pid_exists(int(lines[0])) and self._pid_file()[:1] == lines[:1]:
            (self._paths.data / "postmaster.pid").unlink(missing_ok=True)
        for file in (POSTGRES_SOCKET, f"{POSTGRES_SOCKET}.lock"):
            (self._paths.run / file).unlink(missing_ok=True)
