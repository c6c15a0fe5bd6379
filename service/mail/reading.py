"""A mail as it came becomes the body of a push, whatever is broken in it.

Nothing here raises for a mail: a header or a part that cannot be read is left out, and the rest is used.
"""

from __future__ import annotations

import email
import hashlib
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.errors import MessageError
from email.header import decode_header
from email.message import Message
from email.policy import Compat32
from email.utils import getaddresses
from typing import Any, cast

import orjson

from orchestration.redaction import one_line

MAX_TEXT = 16_000
MAX_PARTS = 100
MAX_HTML = 256 * 1024
MAX_JSON = 1024 * 1024
_HEADER_CHARACTERS = 1_000
_LONGEST_HEADER = 8_000
"""Python needs minutes to parse a longer one."""
_KEPT_HEADERS = (
    *("x-severity", "x-alert-severity", "x-status", "x-alert-status", "x-host", "x-alert-host", "x-alert-id"),
    *("x-priority", "importance", "priority"),
)
"""Headers that say something about an alert."""

OWN_HEADER = "X-Alert-Pipeline-Run"
"""The header of each mail that the e-mail channel sends."""

_OWN_THREAD = re.compile(r"<incident-[0-9a-f]{8,64}@")
_BROKEN = (MessageError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError)
"""What Python's parser raises for hostile mails."""

_END_OF_TEXT = re.compile(r"^-- $", re.MULTILINE)
_SPACES = re.compile(r"\s+")
_TAG = re.compile(r"/?[A-Za-z][A-Za-z0-9]*")
_COMMENT = "!--"
_BLOCKS = frozenset(("br", "p", "div", "tr", "li", "h1", "h2", "h3", "h4", "table", "hr", "pre", "ul", "ol"))
_HIDDEN_TAGS = frozenset(("script", "style", "head", "title", "template"))
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class _Bounded(Compat32):
    """Reads headers, and cuts those of hostile length."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        """The name and the value of a header, of the mail or of a part of it."""
        kept: list[str] = []
        left = _LONGEST_HEADER
        for line in sourcelines:
            kept.append(line[:left])
            left -= len(line)
            if left <= 0:
                break
        return super().header_source_parse(kept)


_BOUNDED = _Bounded()


@dataclass(frozen=True, kw_only=True)
class Mail:
    """What a mail says."""

    body: dict[str, Any]
    """The body of the push, as the source `mail` reads it."""
    ignored: str = ""
    """Why it is no alert; "" if it may be one."""
    identity: str | None = None
    """The same for the same mail, however often it is delivered. None means that nothing says so."""


def read_mail(raw: bytes, *, sender: str, recipient: str, tag: str) -> Mail:
    """Read a mail.

    Args:
        raw: headers and content.
        sender: of the envelope; "" for a bounce.
        recipient: the address to which it was delivered.
        tag: what stands behind the + of that address.
    """
    try:
        message = email.message_from_bytes(raw, policy=_BOUNDED)
        return _read(message, list(_parts(message)), sender=sender, recipient=recipient, tag=tag)
    except _BROKEN:
        mail = _read(_headers_alone(raw), [], sender=sender, recipient=recipient, tag=tag)
        mail.body["mail"]["text"] = _storable(raw[:MAX_TEXT].decode("utf-8", "replace"))
        return mail


def _read(message: Message, parts: list[Message], *, sender: str, recipient: str, tag: str) -> Mail:
    found = next((value for part in parts if (value := _json_in(part)) is not None), None)
    mail: dict[str, Any] = {
        "from": _address(message, "from") or sender,
        "to": recipient,
        "tag": tag,
        "subject": _header(message, "subject"),
        "date": _header(message, "date"),
        "message_id": _header(message, "message-id"),
        "headers": {name: said for name in _KEPT_HEADERS if (said := _header(message, name))},
        "text": _text_of(parts),
        "attachments": ", ".join(filter(None, map(_file_name, parts)))[:_HEADER_CHARACTERS],
    }
    body = {"mail": {name: value for name, value in mail.items() if value or name in ("from", "subject")}}
    return Mail(
        body=body if found is None else {**body, "data": found},
        ignored=_why_no_alert(message, sender),
        identity=_identity(message, body, found, recipient),
    )


def _headers_alone(raw: bytes) -> Message:
    """The headers of a mail whose content cannot be read."""
    head = re.split(rb"\r?\n\r?\n", raw[: 256 * 1024], maxsplit=1)[0]
    try:
        return email.message_from_bytes(head, policy=_BOUNDED)
    except _BROKEN:
        return Message()


def _why_no_alert(message: Message, sender: str) -> str:
    if _header(message, OWN_HEADER):
        return "it is a message of alert-pipeline itself"
    if _OWN_THREAD.search(_header(message, "references")):
        return "it answers a message of alert-pipeline"
    submitted = _header(message, "auto-submitted").partition(";")[0].strip().lower()
    if submitted.startswith("auto-replied") or _header(message, "x-autoreply"):
        return "it is an automatic reply"  # cron and others write auto-generated
    kind = message.get_content_type()
    if kind == "multipart/report" or (not sender and _address(message, "from").lower().startswith("mailer-daemon@")):
        return "it is a report about the delivery of another mail"
    return ""


def _identity(message: Message, body: dict[str, Any], found: object, recipient: str) -> str | None:
    """The digest of a mail, by which it is known when it comes again. None means that it has neither id nor date."""
    if not (_header(message, "message-id") or _header(message, "date")):
        return None
    # Senders exist that give each mail the same Message-ID, so that all of the mail counts.
    content = orjson.dumps([recipient, body, found], option=orjson.OPT_SORT_KEYS)
    return f"mail-{hashlib.sha256(content).hexdigest()}"


def _header(message: Message, name: str) -> str:
    """A header on one line, decoded; "" if there is none."""
    try:
        value = message.get(name)
        pieces = [] if value is None else decode_header(value)
        said = "".join(piece if isinstance(piece, str) else _decoded(piece, charset) for piece, charset in pieces)
    except _BROKEN:
        said = str(message.get(name, ""))
    return one_line(_storable(said), _HEADER_CHARACTERS)


def _address(message: Message, name: str) -> str:
    try:
        found = getaddresses([_header(message, name)])
    except _BROKEN:
        return ""
    return one_line(found[0][1], 320) if found else ""


def _parts(message: Message) -> Iterator[Message]:
    """The parts that are no containers, of which there are not too many."""
    for number, part in enumerate(message.walk()):
        if number >= MAX_PARTS:
            return
        if not part.is_multipart():
            yield part


def _text_of(parts: list[Message]) -> str:
    """The text of a mail: its plain part, or else its HTML without the tags."""
    for kind in ("text/plain", "text/html"):
        texts = [_content(part) for part in parts if part.get_content_type() == kind and not _file_name(part)]
        said = "\n".join(texts).strip()
        if kind == "text/html" and said:
            said = _without_tags(said)
        if said.strip():
            return _END_OF_TEXT.split(said)[0].strip()[:MAX_TEXT]
    return ""


def _content(part: Message) -> str:
    try:
        raw = part.get_payload(decode=True)
    except _BROKEN:
        raw = None
    if not isinstance(raw, bytes):
        return ""
    try:
        charset = part.get_content_charset()
    except _BROKEN:
        charset = None
    return _storable(_decoded(raw[:MAX_JSON], charset))


def _decoded(raw: bytes, charset: str | None) -> str:
    for name in filter(None, (charset, "utf-8")):
        try:
            return raw.decode(name)
        except (UnicodeError, LookupError):
            continue
    return raw.decode("windows-1252", "replace")


def _storable(said: str) -> str:
    """A text without halves of surrogate pairs, which broken headers have, and without control characters."""
    known = said.encode("utf-8", "replace").decode("utf-8", "replace").replace("\r\n", "\n")
    return _UNPRINTABLE.sub(" ", known)


def _file_name(part: Message) -> str:
    try:
        return one_line(_storable(part.get_filename() or ""), 200)
    except _BROKEN:
        return ""


def _json_in(part: Message) -> dict[str, Any] | None:
    """The JSON object that a part is: an attachment, or the text itself."""
    kind, name = part.get_content_type(), _file_name(part).lower()
    is_json = kind.endswith(("/json", "+json")) or name.endswith(".json")
    if not is_json and (name or kind != "text/plain"):
        return None
    said = _content(part).strip("\ufeff \t\r\n")
    if not said.startswith("{"):
        return None
    try:
        value: object = orjson.loads(said)
    except orjson.JSONDecodeError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _without_tags(page: str) -> str:
    """The text of a page, with a line for each block.

    Python's own parser needs minutes for a few kilobytes that were written to keep it busy; this needs a moment.
    """
    first, *rest = page[:MAX_HTML].split("<")
    texts, hidden = [first], ""
    for piece in rest:
        tag, _, text = piece.partition(">")
        name = match[0].lower() if (match := _TAG.match(tag)) else ""
        if not hidden and (piece.startswith(_COMMENT) or name in _HIDDEN_TAGS):
            hidden = name or _COMMENT
        if hidden == _COMMENT:
            _, end, text = piece.partition("-->")
            hidden, name = "" if end else hidden, ""
        elif hidden:
            hidden = "" if name == f"/{hidden}" else hidden
            text = "" if hidden else text
        elif not name and not tag.startswith(("!", "?")):
            text = f"<{piece}"
        texts += ["\n" if name.strip("/") in _BLOCKS else " " if name in ("td", "th") else "", _SPACES.sub(" ", text)]
    lines = html.unescape("".join(texts)).split("\n")
    return "\n".join(" ".join(line.split()) for line in lines if line.strip())
