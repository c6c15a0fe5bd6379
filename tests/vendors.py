"""Vendors on loopback that judge a request as the real ones document it, and keep what they would show a person.

with pagerduty() as vendor: ...  # vendor.receiver.url; vendor.incidents
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import parse_qs, urlencode

from tests.receivers import Answer, HttpReceiver, Received, http_receiver

ROUTING_KEY = "0123456789abcdef0123456789abcdef"
_PD_FIELDS = {
    "routing_key": str,
    "event_action": str,
    "dedup_key": str,
    "payload": dict,
    "client": str,
    "client_url": str,
    "links": list,
    "images": list,
}
_PD_PAYLOAD = {
    "summary": str,
    "timestamp": str,
    "severity": str,
    "source": str,
    "component": str,
    "group": str,
    "class": str,
    "custom_details": dict,
}


@dataclass
class PagerDutyIncident:
    """One incident as PagerDuty shows it."""

    status: str
    severity: str
    summary: str
    details: dict[str, Any]
    key: str = ""
    events: list[str] = field(default_factory=list[str])

    def webhook(
        self, event: str, user: str | None = "Grace Hopper", *, at: float | None = None, **data: object
    ) -> dict[str, Any]:
        """What PagerDuty's webhook, version 3, says of it. No user means that our own event, or the time, did it."""
        moment = datetime.fromtimestamp(time.time() if at is None else at, UTC).isoformat(timespec="milliseconds")
        agent = {"id": "PGRACE1", "summary": user, "type": "user_reference"}
        service = {"id": "PF9KMXH", "summary": "API Service", "type": "service_reference"}
        incident = {
            "id": "PGR0VU2",
            "type": "incident",
            "number": 2,
            "status": self.status,
            "incident_key": self.key,
            "created_at": moment,
            "title": self.summary,
            "service": service,
            "urgency": "high",
            **data,
        }
        return {
            "event": {
                "id": f"01{event}{moment}",
                "event_type": f"incident.{event}",
                "resource_type": "incident",
                "occurred_at": moment,
                "agent": agent if user is not None else service,
                "client": {"name": "PagerDuty"},
                "data": incident,
            }
        }


@dataclass
class PagerDuty:
    """The Events API v2: `PagerDuty/api-schema`, `reference/events-v2/openapiv3.json`, and the limits of the docs."""

    receiver: HttpReceiver = field(init=False)
    incidents: list[PagerDutyIncident] = field(default_factory=list[PagerDutyIncident])
    _open: dict[str, PagerDutyIncident] = field(default_factory=dict[str, PagerDutyIncident])

    @property
    def url(self) -> str:
        return f"{self.receiver.url}/v2/enqueue"

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that were accepted."""
        return [request.json for request in self.receiver.requests if request.answered == 202]

    def judge(self, request: Received) -> Answer:
        problems = self._problems(request)
        if problems:
            refusal = {"status": "invalid event", "message": "Event object is invalid", "errors": problems}
            return Answer.json(refusal, 400)
        event = request.json
        key = event.get("dedup_key") or "made-by-pagerduty"
        self._apply(event, key)
        return Answer.json({"status": "success", "message": "Event processed", "dedup_key": key}, 202)

    def _problems(self, request: Received) -> list[str]:
        if (request.method, request.path) != ("POST", "/v2/enqueue"):
            return [f"{request.method} {request.path}"]
        if len(request.body) > 512 * 1024:
            return ["the event is larger than 512 KB"]
        try:
            event = json.loads(request.body)
        except ValueError:
            return ["JSON parse error"]
        problems = _wrong_types(event, _PD_FIELDS)
        if event.get("routing_key") != ROUTING_KEY:
            problems.append("Invalid routing key")
        action = event.get("event_action")
        if action not in ("trigger", "acknowledge", "resolve"):
            problems.append(f"'event_action' is {action!r}")
        if action != "trigger" and not event.get("dedup_key"):
            problems.append("'dedup_key' is missing or blank")
        if len(event.get("dedup_key", "")) > 255:
            problems.append("'dedup_key' is too long")
        if action == "trigger":
            problems += _payload_problems(event.get("payload"))
        return problems + [f"link {link!r}" for link in event.get("links", []) if not _is_link(link)]

    def _apply(self, event: dict[str, Any], key: str) -> None:
        known = self._open.get(key)
        action = event["event_action"]
        if action == "trigger":
            payload = event["payload"]
            if known is None:
                known = self._open[key] = PagerDutyIncident("triggered", "", "", {}, key)
                self.incidents.append(known)
            known.severity = payload["severity"]
            known.summary, known.details = payload["summary"], payload.get("custom_details", {})
        elif known is not None:
            known.status = {"acknowledge": "acknowledged", "resolve": "resolved"}[action]
            if action == "resolve":
                del self._open[key]
        if known is not None:
            known.events.append(action)


def _wrong_types(given: Any, wanted: dict[str, type]) -> list[str]:
    if not isinstance(given, dict):
        return ["expected an object"]
    found = cast("dict[str, Any]", given)
    return [
        f"'{name}' is {type(value).__name__}"
        for name, value in found.items()
        if not isinstance(value, wanted.get(name, ()))
    ]


def _payload_problems(payload: Any) -> list[str]:
    problems = _wrong_types(payload, _PD_PAYLOAD)
    if problems:
        return problems
    problems += [f"'payload.{name}' is missing or blank" for name in ("summary", "source") if not payload.get(name)]
    if payload.get("severity") not in ("critical", "error", "warning", "info"):
        problems.append("'payload.severity' is invalid (must be one of the following: critical, warning, error, info)")
    if len(payload.get("summary", "")) > 1024:
        problems.append("'payload.summary' is too long")
    return problems


def _is_link(link: Any) -> bool:
    return isinstance(link, dict) and str(cast("dict[str, Any]", link).get("href", "")).startswith(("http:", "https:"))


def signed_by_slack(payload: object, *, secret: str = "", at: float | None = None) -> dict[str, Any]:
    """The content and the headers of an interaction, signed as Slack signs it."""
    body = payload if isinstance(payload, bytes) else urlencode({"payload": json.dumps(payload)}).encode()
    stamp = str(int(time.time() if at is None else at))
    digest = hmac.new((secret or SIGNING_SECRET).encode(), b"v0:" + stamp.encode() + b":" + body, "sha256").hexdigest()
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "X-Slack-Request-Timestamp": stamp,
        "X-Slack-Signature": f"v0={digest}",
    }
    return {"content": body, "headers": headers}


WEBHOOK_SECRET = "whsec-7"


def signed_by_pagerduty(payload: object, *, secret: str = WEBHOOK_SECRET) -> dict[str, Any]:
    """The content and the headers of a webhook, signed as PagerDuty signs it."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    digest = hmac.new(secret.encode(), body, "sha256").hexdigest()
    return {"content": body, "headers": {"X-PagerDuty-Signature": f"v1={'0' * 64},v1={digest}"}}


SLACK_TOKEN = "xoxb-1"
SLACK_CHANNELS = {"#oncall": "C0ONCALL", "C0ONCALL": "C0ONCALL", "#other": "C0OTHER"}


@dataclass
class SlackMessage:
    """One message as Slack shows it."""

    channel: str
    ts: str
    text: str
    blocks: list[dict[str, Any]]
    thread_ts: str | None = None
    broadcast: bool = False
    edits: int = 0

    @property
    def words(self) -> str:
        return json.dumps(self.blocks, ensure_ascii=False)


@dataclass
class Slack:
    """Slack's Web API, as far as a bot uses it here: chat.postMessage, chat.update, chat.getPermalink, auth.test."""

    receiver: HttpReceiver = field(init=False)
    messages: list[SlackMessage] = field(default_factory=list[SlackMessage])
    deleted: set[str] = field(default_factory=set[str])

    @property
    def url(self) -> str:
        return f"{self.receiver.url}/api/"

    @property
    def posts(self) -> list[SlackMessage]:
        """The messages that are no replies."""
        return [message for message in self.messages if message.thread_ts is None]

    def replies_to(self, post: SlackMessage) -> list[SlackMessage]:
        return [message for message in self.messages if message.thread_ts == post.ts]

    def press(self, post: SlackMessage, label: str, **user: str) -> dict[str, Any]:
        """The request that Slack sends when somebody presses a button: its content and its headers."""
        buttons = [one for block in post.blocks if block["type"] == "actions" for one in block["elements"]]
        button = next(one for one in buttons if one["text"]["text"] == label)
        action = {name: button[name] for name in ("type", "action_id", "text", "value")}
        payload = {
            "type": "block_actions",
            "user": {"id": "U01ADA", "username": "ada", "name": "ada", "team_id": "T0ACME", **user},
            "api_app_id": "A01ALERTS",
            "team": {"id": "T0ACME", "domain": "acme"},
            "container": {"type": "message", "message_ts": post.ts, "channel_id": post.channel, "is_ephemeral": False},
            "channel": {"id": post.channel, "name": "oncall"},
            "message": {"type": "message", "ts": post.ts, "text": post.text, "blocks": post.blocks},
            "state": {"values": {}},
            "response_url": "https://hooks.slack.com/actions/T0ACME/1/x",
            "actions": [{**action, "block_id": "b1", "action_ts": "1735787046.000200"}],
        }
        return signed_by_slack(payload)

    def delete(self, post: SlackMessage) -> None:
        self.deleted.add(post.ts)

    def judge(self, request: Received) -> Answer:
        method, _, query = request.path.removeprefix("/api/").partition("?")
        if request.headers.get("authorization") != f"Bearer {SLACK_TOKEN}":
            return _not_ok("invalid_auth")
        if method == "auth.test":
            return Answer.json({"ok": True, "user": "alerts", "team": "Acme"})
        said = {name: values[0] for name, values in parse_qs(query or request.body.decode()).items()}
        if request.headers.get("content-type", "").startswith("application/json"):
            said = request.json
        if method == "chat.getPermalink":
            return self._permalink(said)
        if method not in ("chat.postMessage", "chat.update"):
            return _not_ok("unknown_method")
        if problem := _slack_problem(said):
            return _not_ok(problem)
        return self._update(said) if method == "chat.update" else self._post(said)

    def _post(self, said: dict[str, Any]) -> Answer:
        channel = SLACK_CHANNELS.get(said["channel"])
        if channel is None:
            return _not_ok("channel_not_found")
        thread = said.get("thread_ts")
        if thread is not None and self._find(channel, thread) is None:
            return _not_ok("thread_not_found")
        ts = f"17357870{len(self.messages):02}.000100"
        loud = bool(said.get("reply_broadcast"))
        self.messages.append(SlackMessage(channel, ts, said["text"], said["blocks"], thread, loud))
        return Answer.json({"ok": True, "channel": channel, "ts": ts})

    def _update(self, said: dict[str, Any]) -> Answer:
        if said["channel"] not in SLACK_CHANNELS.values():  # a name is none here, unlike in chat.postMessage
            return _not_ok("channel_not_found")
        message = self._find(said["channel"], said["ts"])
        if message is None:
            return _not_ok("message_not_found")
        message.text, message.blocks, message.edits = said["text"], said["blocks"], message.edits + 1
        return Answer.json({"ok": True, "channel": message.channel, "ts": message.ts})

    def _permalink(self, said: dict[str, Any]) -> Answer:
        message = self._find(said["channel"], said["message_ts"])
        if message is None:
            return _not_ok("message_not_found")
        link = f"https://acme.slack.com/archives/{message.channel}/p{message.ts.replace('.', '')}"
        return Answer.json({"ok": True, "channel": message.channel, "permalink": link})

    def _find(self, channel: str, ts: str) -> SlackMessage | None:
        found = (one for one in self.messages if (one.channel, one.ts) == (channel, ts) and ts not in self.deleted)
        return next(found, None)


def _not_ok(word: str) -> Answer:
    return Answer.json({"ok": False, "error": word})


def _slack_problem(said: dict[str, Any]) -> str:
    blocks = said.get("blocks", [])
    if not said.get("text"):
        return "no_text"
    if len(said["text"]) > 40_000 or len(blocks) > 50:
        return "msg_too_long"
    return "" if all(_is_block(block) for block in blocks) else "invalid_blocks"


def _is_block(block: dict[str, Any]) -> bool:
    texts = [block["text"]] if "text" in block else []
    limit = {"header": 150, "section": 3000}.get(block["type"], 0)
    small = [*block.get("fields", []), *block.get("elements", [])]
    if block["type"] == "actions":
        return 1 <= len(small) <= 25 and all(_is_button(element) for element in small)
    return (
        block["type"] in ("header", "section", "context", "divider")
        and all(1 <= len(text["text"]) <= limit for text in texts)
        and len(block.get("fields", [])) <= 10
        and all(1 <= len(text["text"]) <= 2000 for text in small if text["type"] in ("mrkdwn", "plain_text"))
    )


def _is_button(element: dict[str, Any]) -> bool:
    confirm = element.get("confirm", {})
    limits = {"title": 100, "text": 300, "confirm": 30, "deny": 30}
    return (
        element["type"] == "button"
        and element["text"]["type"] == "plain_text"
        and 1 <= len(element["text"]["text"]) <= 75
        and 1 <= len(element["action_id"]) <= 255
        and len(element["value"]) <= 2000
        and element.get("style", "primary") in ("primary", "danger")
        and all(1 <= len(confirm[name]["text"]) <= limit for name, limit in limits.items() if confirm)
    )


SIGNING_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"


@contextmanager
def slack(*answers: int | Answer) -> Iterator[Slack]:
    """Slack, with the channels #oncall and #other; the first requests get these answers."""
    vendor = Slack()
    with http_receiver(*answers, judge=vendor.judge) as receiver:
        vendor.receiver = receiver
        yield vendor


@contextmanager
def pagerduty(*answers: int | Answer) -> Iterator[PagerDuty]:
    """PagerDuty; the first requests get these answers."""
    vendor = PagerDuty()
    with http_receiver(*answers, judge=vendor.judge) as receiver:
        vendor.receiver = receiver
        yield vendor


NTFY_TOPIC = "oncall-9x2f"
NTFY_TOKEN = "tk_ntfy"


@dataclass
class Ntfy:
    """A server of ntfy: `server/server.go`, `server/actions.go` and the page "Publishing" of binwiederhier/ntfy."""

    receiver: HttpReceiver = field(init=False)
    token: str | None = None
    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def url(self) -> str:
        return self.receiver.url

    def judge(self, request: Received) -> Answer:
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            return _ntfy_error(403, 40301, "forbidden")
        try:
            said = json.loads(request.body)
        except ValueError:
            return _ntfy_error(400, 40017, "invalid request: request body must be message JSON")
        if (request.method, request.path, said.get("topic")) != ("POST", "/", NTFY_TOPIC):
            return _ntfy_error(400, 40009, f"invalid request: topic {said.get('topic')} invalid")
        if not isinstance(said.get("priority", 3), int) or not 1 <= said.get("priority", 3) <= 5:
            return _ntfy_error(400, 40007, "invalid priority parameter")
        actions = said.get("actions", [])
        if len(actions) > 3 or not all(one["action"] == "view" and one["label"] and one["url"] for one in actions):
            return _ntfy_error(400, 40018, "invalid request: actions invalid")
        if len(said.get("message", "").encode()) > 4096:
            return _ntfy_error(413, 41303, "JSON body too large")
        self.messages.append(said)
        return Answer.json({"id": f"ntfy{len(self.messages)}", "event": "message", **said})


def _ntfy_error(status: int, code: int, error: str) -> Answer:
    return Answer.json({"code": code, "http": status, "error": error}, status)


@contextmanager
def ntfy(*answers: int | Answer, token: str | None = None) -> Iterator[Ntfy]:
    """ntfy; the first requests get these answers. `token` is the one that may write."""
    vendor = Ntfy(token=token)
    with http_receiver(*answers, judge=vendor.judge) as receiver:
        vendor.receiver = receiver
        yield vendor
