"""Change events: what somebody has done, such as a deployment, read from what senders post. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import cast

from pydantic import Field

from orchestration.contracts import ChangeEvent, Contract
from orchestration.errors import BadInput
from orchestration.json_text import to_json
from orchestration.redaction import one_line, redact_text

OWN, GRAFANA, GITHUB = "api", "grafana", "github"
"""Who sends change events: what ids are unique within."""

_FIELDS = ("id", "at", "kind", "title", "by", "url", "labels")
_KIND, _ID = re.compile(r"[a-z][a-z0-9_-]{0,39}"), 200
_TITLE_CHARACTERS, _NAME_CHARACTERS, _URL_CHARACTERS = 300, 64, 1000
_MOST_LABELS, _LABEL_NAME, _LABEL_VALUE = 30, 100, 200
_TAG = re.compile(r"<[^<>]{0,200}>")
_MILLISECONDS = 1e11
_OLDEST, _NEWEST = timedelta(days=366), timedelta(days=1)

_KINDS = ("deploy", "config", "scale", "flag", "migration", "rollback", "restart", "maintenance")
_LIKE_DEPLOY = frozenset({"deployment", "deploys", "deployments", "release", "releases", "rollout"})

_ENVIRONMENT = frozenset({"environment", "env"})
_PARTS = frozenset({
    "service", "app", "application", "job", "component", "container", "deployment", "instance", "host", "hostname",
    "node", "pod", "namespace", "cluster", "team", "repository", "url", "queue", "database", "topic",
})  # fmt: skip
"""The labels that name a part of a system; others, such as a severity, say nothing of where something was changed."""


class PostedChange(Contract):
    """A change event as it was posted, without secrets."""

    sender: str
    sender_id: str = Field(description="Its sender's own id. What comes with the same one is the same event.")
    at: datetime
    kind: str
    title: str
    by: str = ""
    url: str = ""
    labels: dict[str, str] = Field(default_factory=dict[str, str])
    replaces: bool = Field(default=False, description="Whether it says anew what an earlier one with its id has said.")


def parse_change(body: Mapping[str, object], now: datetime) -> PostedChange:
    """The event of a body in our own shape, or in that of an annotation of Grafana.

    Raises:
        BadInput: names the field that is wrong.
    """
    if "title" not in body and isinstance(body.get("text"), str) and {"time", "tags"} & set(body):
        return _grafana(body, now)
    if unknown := [str(name) for name in body if name not in _FIELDS]:
        raise BadInput(f"There is no field {one_line(unknown[0], 40)!r}; there are: {', '.join(_FIELDS)}")
    title = _text(body, "title", _TITLE_CHARACTERS)
    if not title:
        raise BadInput("title: expected what was done, such as 'web 2.4.1'")
    given = body.get("id")
    if given is not None and not isinstance(given, str | int):
        raise BadInput("id: expected a text, by which a repetition is known")
    at = moment_of(body.get("at"), now, "at")
    # Without an id and a time, each is an event of its own.
    made = _made_id(body if body.get("at") is not None else {**body, "at": now.isoformat()})
    return PostedChange(
        sender=OWN,
        sender_id=_id_of(str(given)) if given not in (None, "") else made,
        at=at,
        kind=_kind_of(body.get("kind")),
        title=title,
        by=_text(body, "by", _NAME_CHARACTERS),
        url=_url_of(body.get("url")),
        labels=_labels_of(body.get("labels")),
    )


def concerns(event: ChangeEvent, labels: Iterable[tuple[str, str]], environment: str) -> bool:
    """Whether an event is about the target with these labels: it names a part of it, or nothing at all.

    The names of the labels may differ (`service=web`, `job=web`), the environments may not.
    """
    named = {name.lower(): value.lower() for name, value in event.labels.items()}
    for name in _ENVIRONMENT & set(named):
        if named[name] != environment.lower():
            return False
    parts = {value for name, value in named.items() if name in _PARTS}
    there = {_part_of(value) for name, value in labels if name.lower() in _PARTS}
    return not parts or bool({_part_of(value) for value in parts} & there)


_FAILED = re.compile(r"\b(?:fail(?:ed|ure)?|cancel(?:l?ed)?|error|timed out|aborted|skipped|rejected)\b", re.IGNORECASE)
_AT_ONCE = timedelta(seconds=10)
"""What was done within the last seconds before an alert, or after it, has hardly made its rule fire."""


def likelihood(event: ChangeEvent, began_at: datetime, window: timedelta) -> float:
    """How likely it is, by its time and its outcome alone, that an event caused what began at this moment: from 0 to 1.

    The nearer before it, the likelier; less if it came at the same moment, or if it says that it failed. Outside of the
    window it is 0.
    """
    before = began_at - event.at
    if not timedelta(minutes=-1) <= before < window:
        return 0.0
    near = 1 - max(before, timedelta()) / window
    return near * (0.5 if before < _AT_ONCE else 1.0) * (0.4 if _FAILED.search(event.title) else 1.0)


def moment_of(value: object, now: datetime, name: str) -> datetime:
    """A time in a body: Unix seconds or milliseconds, or ISO 8601; now if it is None.

    Raises:
        BadInput: it is none, or more than a year ago, or more than a day ahead.
    """
    if value is None:
        return now
    try:
        found = _moment(value)
    except (ValueError, OverflowError, OSError):
        raise BadInput(f"{name}: expected a time such as 2026-11-28T01:30:00Z, or Unix seconds") from None
    if not now - _OLDEST <= found <= now + _NEWEST:
        raise BadInput(f"{name}: {found:%Y-%m-%d %H:%M} UTC is more than a year ago, or more than a day ahead")
    return found


def _moment(value: object) -> datetime:
    if isinstance(value, str):
        found = datetime.fromisoformat(value.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    return datetime.fromtimestamp(value / 1000 if value >= _MILLISECONDS else value, UTC)


def _grafana(body: Mapping[str, object], now: datetime) -> PostedChange:
    """An annotation; its tags are labels (`service:web`), or words such as deploy."""
    title = one_line(_TAG.sub(" ", str(body["text"])), _TITLE_CHARACTERS)
    if not title:
        raise BadInput("text: expected what was done")
    given, number = body.get("tags"), body.get("id")
    tags = [tag for tag in cast("list[object]", given) if isinstance(tag, str)] if isinstance(given, list) else []
    pairs = [re.split("[:=]", tag, maxsplit=1) for tag in tags]
    kinds = (known_kind(pair[0].strip().lower()) for pair in pairs if len(pair) == 1)
    return PostedChange(
        sender=GRAFANA,
        sender_id=_id_of(str(number)) if isinstance(number, int) and number else _made_id(body),
        at=moment_of(body.get("time"), now, "time"),
        kind=next(filter(None, kinds), "annotation"),
        title=title,
        by=one_line(str(body.get("login") or body.get("userName") or ""), _NAME_CHARACTERS),
        labels=clean_labels({pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) > 1}),
    )


def known_kind(word: str) -> str:
    """The kind of change that a word names; "" if it names none."""
    return "deploy" if word in _LIKE_DEPLOY else word if word in _KINDS else ""


def clean_labels(given: Mapping[str, str]) -> dict[str, str]:
    """Labels as they are stored: short, without secrets, and not too many."""
    pairs = ((one_line(name, _LABEL_NAME), one_line(value, _LABEL_VALUE)) for name, value in given.items())
    return dict([(name, value) for name, value in pairs if name and value][:_MOST_LABELS])


def _text(body: Mapping[str, object], name: str, most: int) -> str:
    value = body.get(name, "")
    if value is not None and not isinstance(value, str):
        raise BadInput(f"{name}: expected a text")
    return one_line(value or "", most)


def _kind_of(value: object) -> str:
    if value is None or value == "":
        return "change"
    word = value.strip().lower() if isinstance(value, str) else ""
    if not _KIND.fullmatch(word):
        raise BadInput("kind: expected one word, such as deploy, config, scale or flag")
    return known_kind(word) or word


def _url_of(value: object) -> str:
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or len(value) > _URL_CHARACTERS or not re.fullmatch(r"https?://[^\s<>\"']+", value):
        raise BadInput(f"url: expected an address with http:// or https://, of at most {_URL_CHARACTERS} characters")
    return redact_text(value)


def clean_url(value: object) -> str:
    """An address from a vendor's body; "" if it is none."""
    try:
        return _url_of(value)
    except BadInput:
        return ""


def _labels_of(value: object) -> dict[str, str]:
    labels = cast("dict[str, str]", {} if value is None else value)
    if not isinstance(value, dict | None) or not all(type(one) is str for one in labels.values()):
        raise BadInput('labels: expected an object with texts, such as {"service": "web"}')
    if len(labels) > _MOST_LABELS:
        raise BadInput(f"labels: expected at most {_MOST_LABELS}")
    return clean_labels(labels)


def _id_of(value: str) -> str:
    """An id as it is kept: as it came if it is short and plain, else its hash."""
    plain = len(value) <= _ID and value.isprintable() and redact_text(value) == value
    return value if plain else _hash(value.encode("utf-8", "replace"))


def _made_id(body: Mapping[str, object]) -> str:
    return _hash(to_json(dict(body), sort_keys=True))


def _hash(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _part_of(value: str) -> str:
    """The name of a part without a port."""
    return re.sub(r":\d{1,5}$", "", value.lower())
