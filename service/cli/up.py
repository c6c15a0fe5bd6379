"""The command `alert-pipeline up`: the embedded stack, the HTTP API and a worker in the foreground, until Ctrl-C."""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated

import httpx
import typer

from orchestration.embedded_stack import StackAddresses
from orchestration.errors import BadSetting, Unavailable
from orchestration.local_key import header_path
from orchestration.redaction import redact_text
from orchestration.settings import Settings, load_settings
from orchestration.signals import logger
from service.cli.terminal import output, progress
from service.stack import PersistentStack
from service.stack.process import Supervisor, describe_exit, end, follow_parent

PREFECT_PORT = 4200
READY_SECONDS = 60.0
PREFECT_TIMEOUT_SECONDS = 20.0
FOR_PROGRAMS = 'eval "$(alert-pipeline env)"'
GRACE_SECONDS = 40.0
"""More than WORKER_GRACE_SECONDS, in which a worker finishes its runs. Another worker resumes those of a killed one."""


def up(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API.")] = 8000,
    host: Annotated[str, typer.Option(help="Address of the API.")] = "127.0.0.1",
    prefect_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port of Prefect's API and UI, on 127.0.0.1.  [default: 4200]"),
    ] = None,
) -> int:
    """Start PostgreSQL, Prefect's server and UI, the API and a worker, and keep them running until Ctrl-C.

    Servers that DATABASE_URL or PREFECT_API_URL name are used instead of embedded ones. A process that dies is
    restarted. Other commands that run meanwhile use the same servers.
    """
    settings = load_settings()
    ensure_port_free(host, port, option="--port")
    chosen = _prefect_port(settings, prefect_port)
    if port == chosen:
        raise BadSetting(f"Port {port} cannot be both the API's and Prefect's; choose another with --prefect-port")
    with ExitStack() as opening, ExitStack() as starting:
        show = starting.enter_context(progress())
        stack = opening.enter_context(PersistentStack(settings, progress=show, prefect_port=chosen))

        def ready(prefect_answers: bool, has_channel: bool) -> None:
            starting.close()
            _show_addresses(stack.addresses, f"http://{host}:{port}", prefect_answers=prefect_answers)
            _show_key(settings, f"http://{_reachable(host)}:{port}")
            if not has_channel:
                output.print("NOBODY IS NOTIFIED: no channel is set up. See the warning above, and docs/channels.md")

        asyncio.run(_until_signal(_serve(stack, host=host, port=port, progress=show, ready=ready)))
    return 0


def _prefect_port(settings: Settings, asked: int | None) -> int | None:
    """Where the embedded Prefect is to listen; None if another one is used.

    Raises:
        BadSetting: a port is asked for, and no Prefect is started.
    """
    if not settings.prefect_api_url:
        return asked or PREFECT_PORT
    if asked is not None:
        raise BadSetting(
            f"--prefect-port {asked} is for a Prefect that is started here, and PREFECT_API_URL names another one: "
            "unset PREFECT_API_URL, or leave out --prefect-port"
        )
    return None


def ensure_port_free(host: str, port: int, *, option: str) -> None:
    """Refuse a port that is in use before anything starts.

    Raises:
        BadSetting: naming the address and the option that changes it.
    """
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        reason = "is in use by another program" if in_use else f"cannot be used: {error.strerror}"
        raise BadSetting(f"{host}:{port} {reason}; choose another with {option}") from None


_NICE = 5
"""An alert that is not accepted is lost sooner than one that waits for its worker."""


@dataclass
class OwnCommand:
    """An `alert-pipeline` command as a child process on the same terminal, as a `process.Server`."""

    name: str
    arguments: list[str]
    env: Mapping[str, str]
    ready: Callable[[], Awaitable[bool]]
    nice: int = 0
    """How much it yields to the other processes of the machine."""
    stop_signal = signal.SIGTERM
    stop_seconds = GRACE_SECONDS

    async def start(self, progress: Callable[[str], None]) -> Process:
        """Start the command and return its process once it is ready.

        Raises:
            Unavailable: the command ended, or was not ready in time. Its own error stands on the terminal.
        """
        progress(f"Starting {self.name} …")
        process = await asyncio.create_subprocess_exec(
            # -P: a file in the operator's folder that happens to be called statsd.py must not be imported.
            *(sys.executable, "-P", "-m", "service.cli.main", *self.arguments),
            stdin=asyncio.subprocess.DEVNULL,
            env=self.env,
            # In a session of its own the child does not get Ctrl-C: this process ends its children in order.
            start_new_session=True,
            preexec_fn=follow_parent(self.stop_signal, self.nice),
        )
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not await self.ready():
                    if process.returncode is not None:
                        raise Unavailable(f"{self.name} did not start ({describe_exit(process.returncode)})")
                    await asyncio.sleep(0.05)
        except BaseException as error:
            await end(process, self.stop_signal, 1.0)
            if isinstance(error, TimeoutError):
                raise Unavailable(f"{self.name} was not ready within {READY_SECONDS:g} s") from None
            raise
        return process


async def _serve(
    stack: PersistentStack,
    *,
    host: str,
    port: int,
    progress: Callable[[str], None],
    ready: Callable[[bool, bool], None],
) -> None:
    """Run the API and a worker until cancelled. `ready` is called once, with whether Prefect answers and
    whether there is a channel."""
    addresses = stack.addresses
    env = {**os.environ, "DATABASE_URL": addresses.database_url, "PREFECT_API_URL": addresses.prefect_api_url or ""}
    base = f"http://{_reachable(host)}:{port}"
    health, readiness = f"{base}/health/", f"{base}/ready/"
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
        api = ["api", "--host", host, "--port", str(port)]
        commands = [
            OwnCommand("the API", api, env, lambda: _answers(client, health)),
            OwnCommand("a worker", ["worker"], env, lambda: _answers(client, readiness), nice=_NICE),
        ]
        supervisors = [
            Supervisor(command, progress=progress, notice=logger.warning, changed=lambda: None) for command in commands
        ]
        try:
            await asyncio.gather(*(supervisor.ensure() for supervisor in supervisors))
            ready(await _prefect_answers(client, readiness, addresses), await _has_channel(client, readiness))
            await stack.keep_running()
        finally:
            # First no new pushes, then no new runs.
            for supervisor in supervisors:
                await supervisor.stop()


async def _until_signal(work: Coroutine[None, None, None]) -> None:
    """Do `work` until Ctrl-C or SIGTERM. For a service both mean a clean end."""
    serving = asyncio.create_task(work)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    waiting = asyncio.create_task(ended.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    serving.cancel()
    try:
        await serving
    except asyncio.CancelledError:
        if not ended.is_set():
            raise


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.HTTPError:
        return False


async def _has_channel(client: httpx.AsyncClient, readiness: str) -> bool:
    """Whether messages reach anybody, as far as the API knows."""
    try:
        return bool((await client.get(readiness)).json()["channels"]["ok"])
    except (httpx.HTTPError, ValueError, LookupError):
        return True


async def _prefect_answers(client: httpx.AsyncClient, readiness: str, addresses: StackAddresses) -> bool:
    """Whether Prefect answers the worker or, within a longer time, this process."""
    if "prefect" in addresses.embedded:
        return True
    try:
        if (await client.get(readiness)).json()["prefect"]["ok"]:
            return True
    except (httpx.HTTPError, ValueError, LookupError):
        pass
    # The worker waits 2 s for an answer. A server that is only busy must not be reported as down.
    try:
        # The header is enough: whatever is there may send a content without an end.
        async with (
            httpx.AsyncClient(timeout=PREFECT_TIMEOUT_SECONDS) as patient,
            patient.stream("GET", f"{addresses.prefect_api_url}/health"),
        ):
            return True
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def _reachable(host: str) -> str:
    """The address at which this machine reaches a server that listens on `host`."""
    if host in ("0.0.0.0", ""):  # noqa: S104 - the operator asks for it
        return "127.0.0.1"
    return "[::1]" if host == "::" else f"[{host}]" if ":" in host else host


def _show_key(settings: Settings, api: str) -> None:
    """Say how to call the API."""
    if settings.api_auth == "auto":
        # In one line, however narrow the terminal: it is there to be copied.
        path = f"{api}/orchestration/pipelines/"
        output.print(f"Try it    curl -H @{shlex.quote(str(header_path(settings)))} {path}", soft_wrap=True)
    elif settings.api_auth == "on":
        output.print("Keys      alert-pipeline keys create NAME --scope trigger")
    else:
        output.print("NO KEYS: with API_AUTH=off, everybody who reaches the API can use it")


def _show_addresses(addresses: StackAddresses, api: str, *, prefect_answers: bool) -> None:
    shown = redact_text(addresses.prefect_api_url or "")
    prefect = f"{shown.removesuffix('/api')}  (for other programs: PREFECT_API_URL={shown})"
    if "prefect" in addresses.embedded:
        # A log file or a journal must not get the credential.
        password = addresses.prefect_auth_string if output.is_terminal else "`alert-pipeline env` prints it"
        prefect = f"{shown.removesuffix('/api')}  (password: {password}; for other programs: {FOR_PROGRAMS})"
    if not prefect_answers:
        prefect = (
            f"{shown} (PREFECT_API_URL) does not answer: the direct engine handles alerts meanwhile. "
            "Start that server, or unset PREFECT_API_URL and run this command again to use the embedded one"
        )
    lines = {
        "API": f"{api}/orchestration/  (documentation: {api}/docs)",
        "Admin": f"{api}/admin/orchestration/",
        "Prefect": prefect,
        "Database": "as DATABASE_URL says",
    }
    if "postgres" in addresses.embedded:
        lines["Database"] = f"embedded  (for this user's other programs: DATABASE_URL='{addresses.database_url}')"
    for name, text in lines.items():
        output.print(f"{name:<9} {text}")
    output.print(f"Ready{'' if prefect_answers else ', without Prefect'}. Ctrl-C ends it.")
