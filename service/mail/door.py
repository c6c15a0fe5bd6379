"""The mail door: an SMTP and LMTP server whose mails are pushes to the API.

It has no queue: a mail is accepted when the API has stored it, and otherwise the mail server that sent it keeps it and
tries again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, cast

from aiosmtpd.smtp import SMTP, Envelope, Session

from orchestration.errors import BadInput, BadSetting
from orchestration.places import is_loopback
from orchestration.redaction import one_line
from orchestration.signals import logger
from service.mail.reading import read_mail
from service.sending import Door, Message, NotNow

MAX_CONNECTIONS = 50
MAX_RECIPIENTS = 50
IDLE_SECONDS = 60.0
"""How long a client may take for a command, or for a mail."""

LONGEST_SECONDS = 600.0
"""How long a connection may last."""

_LONGEST_LINE = 512 * 1024
"""More than the 1,000 characters that the standard allows: what HTML and JSON without line breaks need."""

_RECIPIENT = re.compile(r"(?P<user>\*|[^@=\s*]{1,64})@(?P<domain>[^@=\s]{1,253})(?:=(?P<place>[^=\s]{1,128}))?")


@dataclass(frozen=True, kw_only=True)
class Recipient:
    """An address that accepts mails, and what is known of them."""

    user: str
    """* stands for any."""
    domain: str
    environment: str | None = None
    source: str | None = None

    @classmethod
    def of(cls, written: str) -> Recipient:
        """Read `alerts@example.com`, `alerts@example.com=staging` or `alerts@example.com=staging/nagios`.

        Raises:
            BadSetting: it is written in another way.
        """
        found = _RECIPIENT.fullmatch(written.strip())
        if found is None:
            raise BadSetting(
                f"The recipient {one_line(written, 80)!r} is not written as alerts@example.com, "
                "alerts@example.com=ENVIRONMENT or alerts@example.com=ENVIRONMENT/SOURCE"
            )
        environment, _, source = (found["place"] or "").partition("/")
        return cls(
            user=found["user"].lower(),
            domain=found["domain"].lower(),
            environment=environment or None,
            source=source or None,
        )

    def tag_of(self, address: str) -> str | None:
        """What stands behind the + in an address that this is for, or ""; None if it is for others."""
        user, at, domain = address.strip("<>").lower().rpartition("@")
        name, _, tag = user.partition("+")
        return tag if at and domain == self.domain and self.user in (name, "*") else None


@dataclass(kw_only=True)
class MailDoor:
    """Who may send what to whom, and where it goes."""

    door: Door
    recipients: Sequence[Recipient]
    allowed: Sequence[IPv4Network | IPv6Network]
    """The networks of the hosts that may send. Empty means this machine alone."""
    max_bytes: int
    connections: int = field(default=0, init=False)

    def refusal(self, peer: object) -> str:
        """Why this host may not connect; "" if it may."""
        if self.connections >= MAX_CONNECTIONS:
            return "421 4.3.2 Too many connections: try again later"
        host = str(cast("tuple[object, ...]", peer)[0]) if isinstance(peer, tuple) and peer else ""
        return "" if self._may_send(host) else "554 5.7.1 This host may not send mail here"

    def _may_send(self, host: str) -> bool:
        if not self.allowed:
            return is_loopback(host)
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.allowed)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        """Accept a recipient, or say that it does not exist."""
        del server, session, rcpt_options
        if len(envelope.rcpt_tos) >= MAX_RECIPIENTS:
            return "452 4.5.3 Too many recipients: send the mail again for the others"
        if self._recipient(address) is None:
            logger.warning("No mail is accepted for %s", one_line(address, 200))
            return "550 5.1.1 No alerts are accepted for this recipient"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Hand a mail to the API, and answer once it is stored. LMTP wants an answer for each recipient."""
        del session
        raw = envelope.content if isinstance(envelope.content, bytes) else (envelope.content or "").encode()
        answers = [
            await self.deliver(raw, (envelope.mail_from or "").strip("<>"), address)
            for address in (envelope.rcpt_tos if is_lmtp(server) else dict.fromkeys(envelope.rcpt_tos))
        ]
        if is_lmtp(server):
            return "\r\n".join(answers)
        # What is stored already is the same push when the mail comes again.
        return max(answers, key=lambda answer: {"2": 0, "5": 1, "4": 2}[answer[0]])

    async def handle_exception(self, error: Exception) -> str:
        """Keep the mail at its sender after a mistake of ours."""
        logger.error("The mail door failed, and the mail is to come again", exc_info=error)
        return "451 4.3.0 The mail door failed: try again later"

    def _recipient(self, address: str) -> tuple[Recipient, str] | None:
        for one in self.recipients:
            if (tag := one.tag_of(address)) is not None:
                return one, tag
        return None

    async def deliver(self, raw: bytes, sender: str, address: str) -> str:
        """Hand a mail for one recipient to the API. Returns the answer of SMTP."""
        found = self._recipient(address)
        if found is None:
            return "550 5.1.1 No alerts are accepted for this recipient"
        recipient, tag = found
        mail = await asyncio.to_thread(read_mail, raw, sender=sender, recipient=address.lower(), tag=tag)
        about = f"{mail.body['mail']['subject'][:100]!r} from {mail.body['mail']['from'] or 'nobody'}"
        if mail.ignored:
            logger.warning("Ignored the mail %s: %s", about, mail.ignored)
            return f"250 2.0.0 Ignored: {mail.ignored}"
        message = Message(
            body=mail.body,
            environment=recipient.environment,
            path=f"/alerts/webhook/{recipient.source}/" if recipient.source else "/alerts/webhook/",
            **({"key": mail.identity} if mail.identity else {}),
        )
        try:
            run_id = await asyncio.to_thread(self.door.post, message)
        except NotNow as error:
            logger.warning("Not yet accepted the mail %s: %s", about, error)
            return "451 4.3.0 The alert cannot be stored now: try again later"
        except BadInput as error:
            logger.warning("Refused the mail %s: %s", about, error)
            return f"554 5.6.0 Refused: {_ascii(str(error))}"
        logger.info("The mail %s is run %s", about, run_id or "none")
        return f"250 2.0.0 Stored as run {_ascii(run_id)}" if run_id else "250 2.0.0 Done"


def _ascii(said: str) -> str:
    return one_line(said, 200).encode("ascii", "replace").decode()


class MailProtocol(SMTP):
    """One connection, which speaks SMTP or LMTP: the client's first command says which."""

    line_length_limit = _LONGEST_LINE

    def __init__(self, mail_door: MailDoor) -> None:
        super().__init__(
            mail_door,
            data_size_limit=mail_door.max_bytes,
            enable_SMTPUTF8=True,
            ident="alert-pipeline",
            timeout=IDLE_SECONDS,
            command_call_limit=1_000,
        )
        self._door = mail_door
        self._is_refused = False
        self._received = 0
        self._abort: Callable[[], None] | None = None
        self._end: asyncio.TimerHandle | None = None
        self.speaks_lmtp = False

    async def smtp_LHLO(self, arg: str) -> None:
        """The greeting of LMTP."""
        self.speaks_lmtp = True
        await self.smtp_EHLO(arg)

    async def smtp_AUTH(self, arg: str) -> None:
        """There is no login: who may send is decided by the host."""
        del arg
        await self.push("502 5.5.1 There is no login here")

    def connection_made(self, transport: Any) -> None:
        """Refuse a host that may not send, and connections beyond the limit."""
        refusal = self._door.refusal(transport.get_extra_info("peername"))
        if refusal:
            logger.warning("Refused a mail connection of %s: %s", transport.get_extra_info("peername"), refusal)
            self._is_refused = True
            transport.write(f"{refusal}\r\n".encode())
            transport.close()
            return
        self._door.connections += 1
        self._abort = cast("asyncio.Transport", transport).abort
        self._end = asyncio.get_running_loop().call_later(LONGEST_SECONDS, self._abort)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Count it no more."""
        if self._is_refused:
            return
        self._door.connections -= 1
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Read on, unless there is no end to it: what is longer than a mail may be is kept in memory too."""
        if self._is_refused:
            return
        self._received += len(data)
        if self._received > 4 * self._door.max_bytes + _LONGEST_LINE and self._abort is not None:
            self._abort()
            return
        super().data_received(data)

    def eof_received(self) -> bool | None:
        """The client has said all."""
        return None if self._is_refused else super().eof_received()


def is_lmtp(server: SMTP) -> bool:
    """Whether the client speaks LMTP."""
    return isinstance(server, MailProtocol) and server.speaks_lmtp


def networks_of(written: Sequence[str]) -> list[IPv4Network | IPv6Network]:
    """Networks such as `10.1.0.0/16`, and hosts such as `10.1.2.3`.

    Raises:
        BadSetting: one of them is none.
    """
    return [_network_of(one.strip()) for one in written if one.strip()]


def _network_of(written: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(written, strict=False)
    except ValueError:
        raise BadSetting(
            f"--allow {one_line(written, 80)!r}: expected a host such as 10.1.2.3, or a network such as 10.1.0.0/16"
        ) from None


async def serve_mail(
    mail_door: MailDoor, *, host: str, port: int, ended: asyncio.Event, ready: Callable[[str, int], None]
) -> None:
    """Accept mails until `ended` is set. `ready` is called with the address.

    Raises:
        BadSetting: the address cannot be used, or everybody who reaches it could send.
    """
    if not mail_door.recipients:
        raise BadSetting("No mail is accepted without a recipient: --recipient alerts@example.com")
    if not is_loopback(host) and not mail_door.allowed:
        raise BadSetting(
            f"On {host} everybody who reaches it could send alerts: name the mail servers with --allow 10.1.2.3"
        )
    try:
        server = await asyncio.get_running_loop().create_server(lambda: MailProtocol(mail_door), host, port)
    except OSError as error:
        raise BadSetting(
            f"The mail door cannot listen on {host} port {port}: {error.strerror or error}. "
            "Choose others with --host and --port"
        ) from None
    async with server:
        ready(host, int(server.sockets[0].getsockname()[1]))
        await ended.wait()
        server.close()
