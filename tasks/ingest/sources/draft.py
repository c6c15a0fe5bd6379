"""A draft of a mapping for a body that nobody has described: a start for a person, who knows what the fields mean."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from orchestration.alert import web_address
from orchestration.errors import BadInput
from tasks.ingest.sources.cleaning import clean
from tasks.ingest.sources.fields import is_visible, known_severity, moment, text
from tasks.ingest.sources.mapped import BODY
from tasks.ingest.sources.source import JsonObject
from tasks.ingest.sources.spelling import squashed

_DEEPEST = 6
_MOST_FIELDS = 500
_MOST_LABELS = 8
_MOST_CONDITIONS = 4
_LONGEST_LABEL = 80
_PLAIN_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_LIVE = re.compile(r"[0-9a-f]{8,}(-[0-9a-f]{4,})*|.*\d{4,}.*", re.IGNORECASE)
"""A text that differs each time: an id, or a number."""

_WORDS: dict[str, Sequence[str]] = {
    "name": (
        *("alertname", "rulename", "checkname", "monitorname", "name", "title", "rule", "check", "monitor", "alarm"),
        *("subject", "event", "summary", "headline", "message", "text", "what"),
    ),
    "severity": (
        *("severity", "priority", "level", "urgency", "criticality", "importance", "impact", "prio", "sev", "rank"),
        *("grade", "class"),
    ),
    "status": (
        *("status", "state", "condition", "transition", "alertstate", "phase", "action", "eventtype", "mode", "kind"),
    ),
    "fingerprint": (
        *("fingerprint", "dedupkey", "alertid", "incidentid", "checkid", "monitorid", "ruleid", "uuid", "key", "id"),
        *("reference", "ref", "number", "no", "nr"),
    ),
    "description": ("description", "message", "details", "detail", "text", "body", "reason", "summary", "output"),
    "started_at": ("startedat", "startsat", "startedon", "start", "firedat", "since", "openedat", "createdat"),
    "ended_at": ("endedat", "endsat", "resolvedat", "closedat", "recoveredat", "end"),
    "occurred_at": ("occurredat", "timestamp", "time", "updatedat", "date", "datetime", "at"),
}
"""The names, squashed, by which a field is found; the first that fits counts."""
_AMBIGUOUS = frozenset({"id", "ref", "no", "nr", "sev", "rank", "what", "kind", "class"})
"""Words that at the end of a longer name may be anybody's."""
_HOST = ("host", "hostname", "node", "instance", "server", "machine", "device", "vm")
_SERVICE = ("service", "servicename", "app", "application", "component", "project", "job")


@dataclass(frozen=True)
class _Field:
    """A value of the body that is no object and no list, and where it is."""

    path: tuple[str, ...]
    value: JsonValue

    @property
    def name(self) -> str:
        return squashed(self.path[-1])

    @property
    def expression(self) -> str:
        return expression_of(self.path)


def draft_of(payload: object, *, name: str) -> JsonObject:
    """A mapping for a body, as a document with the body as its sample.

    Raises:
        BadInput: it is no object, or has no field that says something.
    """
    body = clean(payload)
    if not isinstance(body, dict) or not body:
        raise BadInput("a mapping describes JSON objects with fields, and this is none")
    around = list(_fields_of(body))
    is_one = {"name", "status"} <= _alert([each for each in around if len(each.path) == 1], []).keys()
    listed = None if is_one else _list_in(body, around)
    fields = around if listed is None else list(_fields_of(listed[1]))
    alert = _alert(fields, around if listed is not None else [])
    if not fields:
        raise BadInput("a mapping describes JSON objects with fields, and this has none that says something")
    # A sentence is a better name than none. If there is none either, somebody has to choose one.
    sentence = next((each.expression for each in fields if _is_sentence(each.value)), f"=Alert of {name}")
    alert = {"name": sentence, **alert}
    draft: JsonObject = {"name": name, "title": name.replace("-", " ").title(), "when": _when(body, alert, listed)}
    if listed is not None:
        draft["alerts"] = listed[0]
    return {**draft, "alert": alert, "words": {"firing": [], "resolved": []}, "sample": body}


def expression_of(path: Sequence[str]) -> str:
    """A path as JMESPath: names with other characters than letters and digits get quotes."""
    return ".".join(part if _PLAIN_NAME.fullmatch(part) else json.dumps(part, ensure_ascii=False) for part in path)


def _fields_of(value: JsonObject) -> Iterator[_Field]:
    """The fields that say something, those at the top first."""
    level: list[tuple[tuple[str, ...], JsonObject]] = [((), value)]
    found = 0
    for _ in range(_DEEPEST):
        inner: list[tuple[tuple[str, ...], JsonObject]] = []
        for path, each in level:
            for key, item in each.items():
                if isinstance(item, dict):
                    inner.append(((*path, key), item))
                elif not isinstance(item, list) and is_visible(text(item)) and is_visible(key):
                    yield _Field((*path, key), item)
                    found += 1
                    if found >= _MOST_FIELDS:
                        return
        level = inner


def _list_in(body: JsonObject, around: Sequence[_Field]) -> tuple[str, JsonObject] | None:
    """The list of alerts, at the top or one level below. None means that none is.

    It is one whose first member has a name. If what is around the lists says nothing of an alert either, it is the
    list whose members say the most.
    """
    places: list[tuple[tuple[str, ...], JsonObject]] = [((), body)]
    places += [((key,), value) for key, value in body.items() if isinstance(value, dict)]
    lists = [
        (expression_of((*path, key)), value[0])
        for path, place in places
        for key, value in place.items()
        if isinstance(value, list) and value and isinstance(value[0], dict)
    ]
    found = [(_alert(list(_fields_of(first)), []), expression, first) for expression, first in lists]
    if named := next(((expression, first) for alert, expression, first in found if "name" in alert), None):
        return named
    if _alert(around, []).keys() & {"name", "status"} or any(_is_sentence(each.value) for each in around):
        return None
    best = max(found, key=lambda each: len(each[0]), default=None)
    return best[1:] if best is not None and best[0] else None


def _alert(fields: Sequence[_Field], around: Sequence[_Field]) -> JsonObject:
    """The fields of the alert. Of those around a list of alerts only the place is used."""
    alert: JsonObject = {}
    left = list(fields)
    state = _best("status", _WORDS["status"], fields) or _best("severity", _WORDS["severity"], fields)
    home = None if state is None else state.path[:-1]
    for target, words in _WORDS.items():
        # The object with the state is the alert; others are about its surroundings.
        near = [each for each in left if each.path[:-1] == home]
        found = _best(target, words, near) or _best(target, words, left)
        if found is not None:
            alert[target] = found.expression
            left.remove(found)
    if labels := _labels(left, around):
        alert["labels"] = labels
    if links := _links(fields):
        alert["links"] = links
    return alert


def _labels(fields: Sequence[_Field], around: Sequence[_Field]) -> JsonObject:
    """The host, the service, and what may be the same when the alert ends."""
    labels: JsonObject = {}
    left = list(fields)
    for label, names in (("host", _HOST), ("service", _SERVICE)):
        place = next((each for word in names for each in left if each.name == word), None)
        if place is not None:
            labels[label] = place.expression
            left.remove(place)
        elif beside := next((each for word in names for each in around if each.name == word), None):
            labels[label] = f"{BODY}.{beside.expression}"
    for each in left:
        if len(labels) < _MOST_LABELS and _is_stable(each.value):
            labels.setdefault(each.path[-1], each.expression)
    return labels


def _links(fields: Sequence[_Field]) -> JsonObject:
    """The web addresses by the names of their fields. The first is that of the alert itself."""
    links = {each.path[-1]: each.expression for each in fields if web_address(each.value)}
    return {"source": links.pop(next(iter(links))), **links} if links else {}


def _best(target: str, words: Sequence[str], fields: Sequence[_Field]) -> _Field | None:
    """The field whose name fits best: the same word, else one that ends with it."""
    able = [each for each in fields if _can_be(target, each.value)]
    for fits in (str.__eq__, str.endswith):
        for word in words:
            if word in _AMBIGUOUS and fits is str.endswith:
                continue
            if (found := next((each for each in able if fits(each.name, word)), None)) is not None:
                return found
    return None


def _can_be(target: str, value: JsonValue) -> bool:
    if target.endswith("_at"):
        return moment(value) is not None
    if target in ("name", "description"):
        return isinstance(value, str) and web_address(value) == "" and moment(value) is None
    if target == "severity":
        return known_severity(value) is not None or len(text(value)) <= _LONGEST_LABEL
    return web_address(value) == "" and moment(value) is None


def _is_sentence(value: JsonValue) -> bool:
    return isinstance(value, str) and " " in value.strip() and moment(value) is None and not web_address(value)


def _is_stable(value: JsonValue) -> bool:
    """Whether the value may be the same when the alert ends: no number, moment, link, id or sentence."""
    if not isinstance(value, str) or len(value) > _LONGEST_LABEL or " " in value.strip():
        return False
    return moment(value) is None and web_address(value) == "" and _LIVE.fullmatch(value) is None


def _when(body: JsonObject, alert: JsonObject, listed: tuple[str, JsonObject] | None) -> JsonObject:
    """How the body is recognised: by its fields at the top, of which no other sender has all."""
    tops = [expression_of((key,)) for key, value in body.items() if is_visible(text(value))]
    if listed is not None:
        asked = [listed[0], *(top for top in tops if top != listed[0])]
    else:
        said = [text(alert[field]) for field in ("name", "status", "fingerprint") if field in alert]
        asked = [each for each in said if not each.startswith("=")]  # a constant is in every body
        asked += [top for top in tops if not any(each == top or each.startswith(f"{top}.") for each in asked)]
    return {"has": list[JsonValue](asked[:_MOST_CONDITIONS])}
