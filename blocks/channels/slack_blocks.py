"""A message in Slack's Block Kit, within the limits that Slack's pages "Blocks" and "Formatting message text" name."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from orchestration.alert import AlertStatus, Severity
from orchestration.message import Message

HEADER_LIMIT = 150
SECTION_LIMIT = 3000
FIELD_LIMIT = 2000
FIELDS_LIMIT = 10
CONTEXT_LIMIT = 2000
BLOCKS_LIMIT = 50
FALLBACK_LIMIT = 4000

_EMOJI = {Severity.CRITICAL: "🔴", Severity.WARNING: "🟠", Severity.INFO: "🔵"}
_URL_CHARACTERS = "!#$%&'()*+,-./:;=?@[]_~"
_HALF_ENTITY = re.compile(r"&[a-z]{0,3}\Z")

Json = dict[str, Any]


def blocks_of(message: Message) -> list[Json]:
    """What to see first comes first: what is wrong, where and since when, what to do, links; then the evidence."""
    blocks = [_header(message)]
    blocks += _facts(message)
    if message.actions:
        steps = "\n".join(f"{number}. {escape(action)}" for number, action in enumerate(message.actions, 1))
        blocks.append(_section(f"*What to do*\n{steps}"))
    if message.links:
        # Links in text: a button, even one with a URL, shows a warning sign unless the app takes interactions.
        blocks.append(_section(_links(message.links)))
    if message.summary:
        blocks.append(_section(f"*Analysis*\n{escape(message.summary)}"))
    if message.checks:
        blocks.append(_section("*Checked*\n" + "\n".join(escape(line) for line in message.checks)))
    context = f"trace {message.trace_id}  ·  run {message.run_id}  ·  {message.source}  ·  {message.environment}"
    context_text = _mrkdwn(escape(context), CONTEXT_LIMIT)
    return [*blocks[: BLOCKS_LIMIT - 1], {"type": "context", "elements": [context_text]}]


def fallback_of(message: Message) -> str:
    """The text of the push notification, and of clients without blocks."""
    emoji = _emoji(message)
    return _clip(f"{emoji} {escape(message.title)}", FALLBACK_LIMIT)


def escape(text: str) -> str:
    """Text that cannot mention anyone or forge a link: Slack's three control characters as entities."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _emoji(message: Message) -> str:
    return "🟢" if message.status is AlertStatus.RESOLVED else _EMOJI[message.severity]


def _header(message: Message) -> Json:
    # A header is plain text, where entities may or may not be read: quotation marks of that shape are safe either way.
    title = message.title.replace("<", "‹").replace(">", "›")
    text = f"{_emoji(message)} {title}"
    if len(text) > HEADER_LIMIT:
        text = text[: HEADER_LIMIT - 1] + "…"
    return {"type": "header", "text": {"type": "plain_text", "text": text, "emoji": True}}


def _facts(message: Message) -> list[Json]:
    fields = [
        _mrkdwn(f"*{escape(fact.label)}*\n{escape(fact.value) or '–'}", FIELD_LIMIT) for fact in message.facts[:20]
    ]
    rows = (fields[start : start + FIELDS_LIMIT] for start in range(0, len(fields), FIELDS_LIMIT))
    return [{"type": "section", "fields": row} for row in rows]


def _section(text: str) -> Json:
    return {"type": "section", "text": _mrkdwn(text, SECTION_LIMIT)}


def _mrkdwn(text: str, limit: int) -> Json:
    # verbatim: Slack makes no links of its own out of names and channels in the text.
    return {"type": "mrkdwn", "text": _clip(text, limit), "verbatim": True}


def _links(links: dict[str, str]) -> str:
    # Whole links only: half a link would show its markup.
    line = ""
    for name, url in links.items():
        address = escape(quote(url, safe=_URL_CHARACTERS))
        link = f"{'  ·  ' if line else ''}<{address}|{escape(name).replace('|', '¦') or 'link'}>"
        if len(line) + len(link) <= SECTION_LIMIT:
            line += link
    return line or "–"


def _clip(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return _HALF_ENTITY.sub("", text[: limit - 1]) + "…"
