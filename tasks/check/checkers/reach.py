"""How checks connect: the only place that resolves a target's name, judges each address, and connects to just these.

A name is resolved once for each connection, and the connection goes to an address that was judged. So a name that
resolves to something else a moment later gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import certifi

from orchestration.addresses import AddressRules, IPAddress, connectable
from orchestration.contracts import CheckStatus
from orchestration.errors import Unavailable
from orchestration.threads import in_daemon_thread
from tasks.check.checkers.base import LeftOut

T = TypeVar("T")

MAX_ADDRESSES = 8
"""How many addresses of a name are tried."""

STAGGER_SECONDS = 0.25
"""After how long the next address is tried while the one before has not answered (RFC 8305)."""

_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""The addresses of a host. Raises OSError or UnicodeError."""


class NoSuchName(OSError):
    """A host's name has no address that this machine knows."""


async def resolve_name(host: str) -> Sequence[str]:
    """The addresses of a name, in the order of the system's resolver."""
    return await in_daemon_thread(_resolve, host)


def _resolve(host: str) -> tuple[str, ...]:
    # Not loop.getaddrinfo: a name server that hangs would keep the process from ending.
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True)
class Reach:
    """Connects to hosts as far as the rules permit."""

    rules: AddressRules
    resolve: Resolve = resolve_name

    async def addresses(self, host: str) -> list[IPAddress]:
        """The addresses of a host, each of which may be connected to.

        Raises:
            LeftOut: the rules refuse the name or one of its addresses.
            NoSuchName: it has none.
            Unavailable: the name could not be resolved.
        """
        if reason := self.rules.refusal_of_name(host):
            raise LeftOut(reason)
        found = [ipaddress.ip_address(text) for text in await self._resolved(host)]
        for address in found:
            if reason := self.rules.refusal(host, address):
                raise LeftOut(reason if str(address) == host else f"{host} is not checked: {reason}")
        return [connectable(address) for address in found][:MAX_ADDRESSES]

    async def _resolved(self, host: str) -> Sequence[str]:
        with suppress(ValueError):
            return (str(ipaddress.ip_address(host)),)
        try:
            found = await self.resolve(host)
        except socket.gaierror as error:
            if error.errno in _NO_SUCH_NAME:
                raise NoSuchName(f"{host} has no address here") from None
            raise Unavailable(f"the name {host} could not be resolved: {error.strerror}") from None
        except UnicodeError:
            raise NoSuchName(f"{host} is no name of a host") from None
        if not found:
            raise NoSuchName(f"{host} has no address here")
        return found

    async def connect(self, host: str, connect: Callable[[str], Awaitable[T]], close: Callable[[T], object]) -> T:
        """What `connect` makes of the first of the host's addresses that answers.

        They are tried one after the other, the next one while the one before still says nothing.

        Raises:
            LeftOut: see `addresses()`; also `NoSuchName` and `Unavailable`.
            OSError: none answers; the error of the first.
        """
        addresses = await self.addresses(host)
        attempts = [
            asyncio.create_task(_after(number * STAGGER_SECONDS, connect, str(address)))
            for number, address in enumerate(addresses)
        ]
        winner: asyncio.Task[T] | None = None
        try:
            for next_one in asyncio.as_completed(attempts):
                with suppress(OSError, EOFError):
                    await next_one
                    winner = next(task for task in attempts if _succeeded(task))
                    return winner.result()
            return attempts[0].result()  # raises its error
        finally:
            for task in attempts:
                task.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)
            for task in attempts:
                if task is not winner and _succeeded(task):
                    close(task.result())

    async def open_socket(self, host: str, port: int) -> socket.socket:
        """A socket that is connected to the host, see `connect()`."""

        async def dial(address: str) -> socket.socket:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            made = socket.socket(family, socket.SOCK_STREAM)
            made.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(made, (address, port))
            except BaseException:
                made.close()
                raise
            return made

        return await self.connect(host, dial, socket.socket.close)


async def _after(seconds: float, connect: Callable[[str], Awaitable[T]], address: str) -> T:
    await asyncio.sleep(seconds)
    return await connect(address)


def _succeeded(task: asyncio.Task[T]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


async def trusted(ca_file: str = "", *, verify: bool = True) -> ssl.SSLContext:
    """A TLS context that trusts the authorities of the machine, those of certifi, and those of the file.

    Raises:
        OSError: the file cannot be read, or has no certificate.
    """
    return await in_daemon_thread(_context, ca_file, verify)  # reading the certificates takes 20 ms


@lru_cache(maxsize=16)
def _context(ca_file: str, verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certifi.where())
    context.load_default_certs()
    if ca_file:
        context.load_verify_locations(ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def status_without_answer(error: BaseException) -> CheckStatus:
    """What is found out by a connection that failed: nothing if this machine does not know the name.

    Another machine may know it: the one that watches the host, or a name server that this machine does not ask.
    """
    return CheckStatus.UNKNOWN if isinstance(error, NoSuchName) else CheckStatus.CRITICAL


def in_words(error: Exception) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(error, ConnectionRefusedError):
        return "the connection is refused"
    if isinstance(error, ConnectionResetError | EOFError | BrokenPipeError):
        return "the connection is closed at once"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {error.reason or error.strerror or 'it is closed'}".lower().replace("_", " ")
    if isinstance(error, NoSuchName):
        return str(error)
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
