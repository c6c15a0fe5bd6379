"""Whether the target's certificate is trusted, belongs to its name, and is valid for long enough."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self

from cryptography import x509
from cryptography.x509.oid import NameOID
from pydantic import Field, JsonValue, model_validator

from orchestration.contracts import Check, CheckStatus
from orchestration.redaction import one_line
from tasks.check.checkers.base import CheckerConfig, Port, Seconds, Subject
from tasks.check.checkers.reach import Reach, in_words, status_without_answer, trusted

USUAL_PORTS = frozenset({443, 465, 563, 636, 853, 990, 992, 993, 994, 995, 5061, 5986, 6443, 8443, 9443})
"""Ports at which a connection begins with TLS."""

_DAY_SECONDS = 86_400


class TlsConfig(CheckerConfig):
    """Options of the tls checker."""

    warn: float = Field(21, ge=0, le=3650, description="Days left from which the certificate is a warning.")
    crit: float = Field(7, ge=0, le=3650, description="Days left from which it is critical.")
    port: Port | None = Field(None, description="The port. None means the one that the target names, or 443.")
    name: str = Field("", max_length=253, description="The name in the certificate. Empty means the target's host.")
    ca_file: str = Field("", description="File with further authorities in PEM.")
    timeout: Seconds = Field(3.0, description="Seconds that connecting and the handshake may take.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.crit > self.warn:
            raise ValueError(f"crit ({self.crit:g}) is above warn ({self.warn:g})")
        return self


def unfit_for_tls(config: TlsConfig, subject: Subject) -> str:
    """The target needs an https URL, or a port at which connections begin with TLS, or the options name one."""
    target = subject.target
    if target is None or not target.host:
        return "no host is named"
    if config.port or target.url.startswith("https:") or (not target.url and target.port in USUAL_PORTS):
        return ""
    return f"nothing says that {target.name} speaks TLS"


async def check_tls(config: TlsConfig, subject: Subject) -> Check:
    """Check the chain, the name, and the days that are left, with the certificates that this machine trusts.

    A certificate that is not trusted is read all the same: its days and its names help whoever replaces it.
    """
    target = subject.target
    assert target is not None  # noqa: S101  unfit_for_tls() has said so
    host, port = target.host, config.port or target.port or 443
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    reach, name = Reach(subject.rules), config.name or host
    problem = ""
    try:
        async with asyncio.timeout(config.timeout):
            try:
                peer = await _handshake(reach, host, port, name, await trusted(config.ca_file))
            except ssl.SSLCertVerificationError as error:
                problem = in_words(error)
                peer = await _handshake(reach, host, port, name, await trusted(verify=False))
    except OSError as error:
        late = isinstance(error, TimeoutError)
        reason = problem or (f"no answer within {config.timeout:g} s" if late else in_words(error))
        status = CheckStatus.CRITICAL if problem else status_without_answer(error)
        return Check(name="tls", target=shown, status=status, message=reason)
    days, metrics = _described(peer)
    status = _status(config, days) if not problem else CheckStatus.CRITICAL
    message = one_line(f"{f'{problem}; ' if problem else ''}{_says(days, metrics)}", 300)
    return Check(name="tls", target=shown, status=status, message=message, metrics=dict(metrics))


async def _handshake(reach: Reach, host: str, port: int, name: str, context: ssl.SSLContext) -> dict[str, Any]:
    """The certificate in DER and what was agreed on, from one handshake, after which the connection is closed."""
    opened = await reach.open_socket(host, port)
    try:
        _, writer = await asyncio.open_connection(sock=opened, ssl=context, server_hostname=name)
    except BaseException:
        opened.close()
        raise
    try:
        session: Any = writer.get_extra_info("ssl_object")
        return {"der": session.getpeercert(binary_form=True), "version": session.version()}
    finally:
        writer.transport.abort()


def _described(peer: Mapping[str, Any]) -> tuple[float, dict[str, JsonValue]]:
    """The days that the certificate is still valid, and what is in it."""
    certificate = x509.load_der_x509_certificate(peer["der"])
    until = certificate.not_valid_after_utc
    days = (until - datetime.now(UTC)).total_seconds() / _DAY_SECONDS
    return days, {
        "days_left": round(days, 1),
        "not_after": until.isoformat(),
        "names": [*_names(certificate)],
        "issuer": _common_name(certificate.issuer),
        "version": str(peer["version"]),
    }


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return [_common_name(certificate.subject)]
    addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return [*found.get_values_for_type(x509.DNSName), *addresses][:20]


def _common_name(name: x509.Name) -> str:
    parts = name.get_attributes_for_oid(NameOID.COMMON_NAME) or name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(parts[0].value) if parts else ""


def _status(config: TlsConfig, days: float) -> CheckStatus:
    if days <= config.crit:
        return CheckStatus.CRITICAL
    return CheckStatus.WARNING if days <= config.warn else CheckStatus.OK


def _says(days: float, metrics: Mapping[str, JsonValue]) -> str:
    names, until = metrics["names"], str(metrics["not_after"])[:10]
    left = f"valid for {days:.0f} more days" if days >= 1 else "valid for less than a day"
    left = f"{left}, until {until}" if days > 0 else f"expired {-days:.0f} days ago, on {until}"
    whose = ", ".join(map(str, names[:3])) if isinstance(names, list) else ""
    return f"{left}, for {whose or 'no name'}, issued by {metrics['issuer'] or 'nobody'}"
