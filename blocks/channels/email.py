"""E-mail over SMTP."""

from __future__ import annotations

import hashlib
import re
import smtplib
import socket
from collections.abc import Callable
from email import policy
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from functools import partial
from typing import Literal, Self, TypeVar, cast

from pydantic import Field, SecretStr, field_validator

from blocks.channels.base import ChannelBlock, tls_context, unreachable
from orchestration.alert import AlertStatus, Severity
from orchestration.contracts import Delivery
from orchestration.errors import BadSetting, DeliveryFailed
from orchestration.message import Message
from orchestration.redaction import redact_text
from orchestration.settings import Settings
from orchestration.threads import in_own_thread

_ADDRESS = re.compile(r"[^@\s<>\"(),:;\\\[\]]{1,64}@[A-Za-z0-9.\-]{1,255}")
_SPACE = re.compile(r"[\s\x00-\x1f\x7f]+")
_THREAD = re.compile(r"(?P<first><[^\s<>]{1,400}>) (?P<subject>.*)", re.DOTALL)
_SUBJECT_LIMIT = 300
_PRIORITY = {Severity.CRITICAL: "1", Severity.WARNING: "2", Severity.INFO: "3"}

_STYLE = "font-family:sans-serif;font-size:15px;line-height:1.45"

ResultT = TypeVar("ResultT")
Refused = dict[str, tuple[int, bytes]]


class EmailChannel(ChannelBlock):
    """Mails each message as text and HTML; the messages of one incident form one thread."""

    _block_type_name = "Email Channel"
    _block_type_slug = "email-channel"
    _description = "Mails each message over SMTP."

    configured_by = "SMTP_HOST and EMAIL_TO"

    smtp_host: str = Field(min_length=1, description="The mail server's host name or address.")
    smtp_port: int = Field(default=587, ge=1, le=65535, description="The mail server's port.")
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="starttls, tls (from the start), or none, for a server that can be trusted."
    )
    username: str | None = Field(default=None, description="The user at the mail server, if it asks for one.")
    password: SecretStr | None = Field(default=None, description="The user's password.")
    from_address: str = Field(default="alert-pipeline@localhost", description="The sender's address.")
    to_addresses: list[str] = Field(min_length=1, description="The addresses of the recipients.")
    timeout_seconds: float = Field(default=15.0, gt=0, le=120, description="How long one step may take, in seconds.")

    @field_validator("from_address")
    @classmethod
    def _is_sender(cls, value: str) -> str:
        # "Name <address>" is fine here; the envelope takes the address alone.
        if not value.isprintable() or not _ADDRESS.fullmatch(parseaddr(value)[1]):
            raise ValueError(f"from_address: {value!r} is not an e-mail address")
        return value

    @field_validator("to_addresses")
    @classmethod
    def _are_addresses(cls, value: list[str]) -> list[str]:
        for address in value:
            if not _ADDRESS.fullmatch(address):
                raise ValueError(f"to_addresses: {address!r} is not an e-mail address")
        return list(dict.fromkeys(value))

    @property
    def target(self) -> str:
        """The addresses of the recipients."""
        return ", ".join(self.to_addresses)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """The server and the recipients of the SMTP_* and EMAIL_* variables."""
        if settings.smtp_host is None and not settings.email_to:
            return None
        if settings.smtp_host is None or not settings.email_to:
            missing = "SMTP_HOST" if settings.smtp_host is None else "EMAIL_TO"
            raise BadSetting(f"{missing}: the email driver needs {cls.configured_by}")
        return cls._built(
            smtp_host=settings.smtp_host,
            smtp_port=settings.smtp_port,
            security=settings.smtp_security,
            username=settings.smtp_username,
            password=settings.smtp_password,
            from_address=settings.email_from,
            to_addresses=list(settings.email_to),
        )

    async def send(self, message: Message) -> Delivery:
        """Mail the message to all recipients. It counts as sent if the server accepts at least one of them.

        Raises:
            DeliveryFailed: retryable if the server answers 4xx or the connection breaks; final for 5xx, a refused
                login, or a server without the required encryption.
        """
        mail, sender = self.mail(message), parseaddr(self.from_address)[1]
        not_accepted = await self._in_session(
            lambda server: server.send_message(mail, from_addr=sender, to_addrs=self.to_addresses)
        )
        return self._sent(
            "smtp",
            provider_id=str(mail["Message-ID"]),
            thread=message.thread if _THREAD.fullmatch(message.thread or "") else _thread_of(mail),
            accepted=[address for address in self.to_addresses if address not in not_accepted],
            refused={address: _reply(*answer) for address, answer in not_accepted.items()},
        )

    async def read_back(self, delivery: Delivery) -> str:
        """For whom the mail server accepted the mail: what happens to it later, it does not say."""
        refused = cast("dict[str, str]", delivery.response.get("refused") or {})
        accepted = [address for address in self.to_addresses if address not in refused]
        said = f"the mail server accepted it for {', '.join(accepted)}"
        return "; ".join([said, *(f"it refused {address}: {why}" for address, why in refused.items())])

    async def probe(self) -> str:
        """Connect, encrypt the connection, log in, and disconnect without sending a mail.

        Raises:
            DeliveryFailed: the server does not answer, lacks the required encryption, or refuses the login.
        """
        await self._in_session(lambda server: server.noop())
        login = ", takes the login" if self.username else ""
        return f"{self.smtp_host}:{self.smtp_port} answers ({self.security}){login}"

    def mail(self, message: Message) -> EmailMessage:
        """The message as a mail: each attempt has the same Message-ID, and each incident has one thread.

        The subject is what a lock screen shows, so it says what is true now. A later mail about an episode answers its
        first one. Mail programs that compare subjects as well leave out "Re:" and words in brackets at the beginning
        (the base subject of RFC 5256), which is where a title has its severity.
        """
        domain = parseaddr(self.from_address)[1].rpartition("@")[2]
        root = f"<incident-{_digest(message.dedup_key)}@{domain}>"
        first = _THREAD.fullmatch(message.thread or "")
        subject = _one_line(message.title[:_SUBJECT_LIMIT])
        headers = {
            "Subject": f"Re: {subject}" if first and first["subject"] == subject else subject,
            "From": self.from_address,
            "To": self.target,
            "Date": formatdate(usegmt=True),
            "Message-ID": f"<{_digest(message.idempotency_key)}@{domain}>",
            **({"In-Reply-To": first["first"]} if first else {}),
            "References": f"{root} {first['first']}" if first else root,
            "Auto-Submitted": "auto-generated",
            "X-Priority": "3" if message.status is AlertStatus.RESOLVED else _PRIORITY[message.severity],
            "X-Alert-Pipeline-Run": message.run_id,
            "X-Alert-Pipeline-Trace": message.trace_id[:200],
        }
        mail = EmailMessage(policy=policy.SMTP)
        for name, value in headers.items():
            mail[name] = _one_line(value)
        mail.set_content(message.text.encode("utf-8", "replace").decode())
        body = message.html.encode("utf-8", "replace").decode()
        mail.add_alternative(f'<!doctype html><html><body style="{_STYLE}">{body}</body></html>', subtype="html")
        return mail

    async def _in_session(self, work: Callable[[smtplib.SMTP], ResultT]) -> ResultT:
        """Do the work in a thread, with a server that has let us in. Each error becomes a `DeliveryFailed`."""
        try:
            return await in_own_thread(self._with_server, work)
        except smtplib.SMTPRecipientsRefused as error:
            answers: Refused = error.recipients
            reply = "; ".join(f"{address}: {_reply(*answer)}" for address, answer in list(answers.items())[:5])
            temporary = any(400 <= code < 500 for code, _ in answers.values())
            raise DeliveryFailed(f"the mail server refused every recipient: {reply}", retryable=temporary) from None
        except smtplib.SMTPResponseException as error:
            what = "refused the login" if isinstance(error, smtplib.SMTPAuthenticationError) else "answered"
            reply = _reply(error.smtp_code, error.smtp_error)
            raise DeliveryFailed(f"the mail server {what}: {reply}", retryable=400 <= error.smtp_code < 500) from None
        except smtplib.SMTPNotSupportedError as error:
            raise DeliveryFailed(f"{self.smtp_host}: {error}", retryable=False) from None
        except (smtplib.SMTPException, OSError) as error:
            raise unreachable(self.smtp_host, error) from None

    def _with_server(self, work: Callable[[smtplib.SMTP], ResultT]) -> ResultT:
        tls = self.security == "tls"
        connect = partial(smtplib.SMTP_SSL, context=tls_context()) if tls else smtplib.SMTP
        # smtplib asks the DNS for the full name, which can take seconds; RFC 5321 allows an address literal.
        host = socket.gethostname()
        own_name = host if "." in host and host.isascii() else "[127.0.0.1]"
        server = connect(self.smtp_host, self.smtp_port, own_name, timeout=self.timeout_seconds)
        try:
            if self.security == "starttls":
                server.starttls(context=tls_context())
            if self.username and self.password:
                server.login(self.username, self.password.get_secret_value())
            return work(server)
        finally:
            try:
                server.quit()  # The mail is sent, or an error is raised: an error here changes neither.
            except (smtplib.SMTPException, OSError):
                server.close()


def is_address(text: str) -> bool:
    """Whether the text is one e-mail address and nothing else."""
    return _ADDRESS.fullmatch(text) is not None


def _thread_of(mail: EmailMessage) -> str:
    return f"{mail['Message-ID']} {mail['Subject']}"


def _one_line(value: str) -> str:
    return _SPACE.sub(" ", value).encode("utf-8", "replace").decode().strip()


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:40]


def _reply(code: int, words: bytes | str) -> str:
    text = words.decode("utf-8", "replace") if isinstance(words, bytes) else words
    return f"{code} {redact_text(_SPACE.sub(' ', text), limit=200)}"
