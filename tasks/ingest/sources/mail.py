"""Mails of machines: cron, smartd, mdadm, Proxmox, and monitoring systems that know no webhook.

The mail door makes an object of each mail, `{"mail": {…}}`, with the JSON of an attachment under `data`. A mail has no
fields for a status and a severity: they are words in its subject, and what is left of the subject without them and
without measured values is what a mail of an end has in common with that of its beginning.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import partial

from pydantic import JsonValue

from orchestration.alert import Alert, AlertStatus, Severity
from tasks.ingest.sources import generic
from tasks.ingest.sources.envelope import Envelope
from tasks.ingest.sources.fields import (
    Fields,
    alert_of,
    fingerprint_of,
    known_severity,
    labels_of,
    moment,
    object_in,
    one_line_text,
    text,
)
from tasks.ingest.sources.source import ENVELOPE, NOT_MINE, JsonObject, Push, Source
from tasks.ingest.sources.subject import Subject, read_subject

_SEVERITY = ("x-severity", "x-alert-severity")
_STATUS = ("x-status", "x-alert-status")
_HOST = ("x-host", "x-alert-host")
_ID = ("x-alert-id",)
_NO_NAME = "An empty mail"
_SUBJECT_CHARACTERS = 200
_PRIORITIES = {
    **dict.fromkeys(("1", "2", "high", "highest", "urgent"), Severity.CRITICAL),
    **dict.fromkeys(("4", "5", "low", "lowest", "non-urgent"), Severity.INFO),
}
_ADDRESS = re.compile(r"https?://[^\s<>\"'`{}|\\^\[\]]{4,2000}")
_MACHINE_USERS = frozenset(("root", "cron", "smartd", "mdadm", "daemon", "nobody", "postmaster"))
"""Users of the machine that sends: what is behind their @ is its name."""


def is_mail(body: JsonObject) -> bool:
    """Whether a body is what the mail door makes of a mail."""
    found = body.get("mail")
    return isinstance(found, dict) and "from" in found and "subject" in found


def opened(body: JsonObject) -> Envelope | None:
    """What is in a mail; None if the body is no mail."""
    return Envelope(data=body.get("data"), time=moment(object_in(body["mail"]).get("date"))) if is_mail(body) else None


def parse_as(body: JsonObject, source: str) -> Push:
    """The alert of a mail, as an alert of `source`. An object that names one, in an attachment, counts first."""
    envelope = opened(body)
    if envelope is None:
        return Push(source=source)
    data = object_in(envelope.data)
    if data and generic.names_an_alert(data):
        return envelope.added_to(generic.parse_as(data, source))
    mail = object_in(body["mail"])
    first_line = text(mail.get("text")).strip().partition("\n")[0]
    subject = read_subject(one_line_text(mail.get("subject")) or one_line_text(first_line, _SUBJECT_CHARACTERS))
    if subject.ignored:
        return Push(source=source, ignored=subject.ignored)
    return Push(source=source, alerts=(_alert(body, mail, subject, source),))


def _alert(body: JsonObject, mail: JsonObject, subject: Subject, source: str) -> Alert:
    headers = Fields(object_in(mail.get("headers")))
    sender, recipient, tag = (one_line_text(mail.get(name), None) for name in ("from", "to", "tag"))
    status = subject.status
    if said := headers.line(*_STATUS):
        status = read_subject(said).status
    labels = labels_of({"host": _host(headers, subject, sender), "sender": sender, "tag": tag})
    identity = headers.identifier(*_ID) or fingerprint_of(subject.identity, {"sender": sender, "to": recipient})
    when = moment(mail.get("date"))
    return alert_of(
        source,
        body,
        name=subject.name or _NO_NAME,
        severity=_severity(headers, subject),
        status=status,
        labels=labels,
        annotations=labels_of({"attachments": mail.get("attachments")}),
        description=mail.get("text"),
        links={"source": _first_address(mail.get("text"))},
        fingerprint=identity,
        group=identity,
        started_at=when if status is AlertStatus.FIRING else None,
        ended_at=when,
        occurred_at=when,
    )


def _severity(headers: Fields, subject: Subject) -> Severity:
    """From a header for it, a word in the subject, or the mail's priority."""
    if (known := known_severity(headers.line(*_SEVERITY)) or subject.severity) is not None:
        return known
    for name in ("x-priority", "importance", "priority"):
        word = headers.line(name).partition(" ")[0].strip("()").lower()
        if word in _PRIORITIES:
            return _PRIORITIES[word]
    return Severity.WARNING


def _host(headers: Fields, subject: Subject, sender: str) -> str:
    user, _, domain = sender.partition("@")
    return headers.line(*_HOST) or subject.host or (domain if user.lower() in _MACHINE_USERS else "")


def _first_address(value: JsonValue) -> str:
    found = _ADDRESS.search(text(value))
    return found[0].rstrip(".,;:!?)") if found else ""


def _recognises(body: JsonObject) -> int:
    return ENVELOPE if is_mail(body) else NOT_MINE


def _sample(mark: str) -> JsonObject:
    return {
        "mail": {
            "from": "nagios@monitor.example.com",
            "to": "alerts@example.com",
            "subject": f"** PROBLEM Service Alert: db-{mark}/Disk is CRITICAL **",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "text": "Notification Type: PROBLEM\n\nDISK CRITICAL - free space: / 120 MB (1%)",
        }
    }


SOURCE = Source(
    name="mail",
    title="Mail",
    recognises=_recognises,
    parse=partial(parse_as, source="mail"),
    sample=_sample,
    parse_as=parse_as,
)
