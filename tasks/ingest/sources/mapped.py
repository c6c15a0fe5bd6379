"""A mapping as a source: it reads bodies with the same cleaning, words and identities as the vendors in code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TypeVar

from pydantic import JsonValue

from orchestration.alert import Alert, AlertStatus, Severity
from orchestration.errors import BadInput, Unreadable
from orchestration.json_text import to_json
from tasks.ingest.sources.cleaning import clean
from tasks.ingest.sources.expressions import Expression, Lookup, TooMuchWork, first_said, is_something, squashed_names
from tasks.ingest.sources.fields import (
    alert_of,
    annotations_of,
    known_severity,
    labels_of,
    moment,
    objects_in,
    one_line_text,
    tags_of,
)
from tasks.ingest.sources.mapping import Condition, SourceMapping, word_of
from tasks.ingest.sources.source import NOT_MINE, VENDOR, JsonObject, Push, Source
from tasks.ingest.sources.spelling import squashed
from tasks.ingest.sources.status import status_of, unknown_severity, unknown_status

BODY = "_body"
"""Under this name each alert of a list sees the body around it."""

_ALL = "*"
_WORK_OF_AN_ALERT = 20
"""What an alert takes beside its expressions, in steps of theirs."""
_SAMPLE_AGE = timedelta(minutes=10)


def source_of(mapping: SourceMapping) -> Source:
    """The source that this mapping describes."""
    reader = _Reader(mapping)
    return Source(
        name=mapping.name,
        title=mapping.shown_title,
        recognises=reader.recognises,
        parse=lambda body: reader.parse(body, mapping.name),
        sample=reader.sample,
        parse_as=reader.parse,
        unknown_words=reader.unknown_words,
        shown_by=reader.shown_by,
    )


T = TypeVar("T")


@dataclass(frozen=True)
class _Reader:
    """Reads bodies with a mapping."""

    mapping: SourceMapping

    @cached_property
    def _conditions(self) -> list[tuple[frozenset[str], Condition]]:
        """Each condition with the fields at the top that it needs: nearly every push lacks them."""
        spelled = self.mapping.any_spelling
        return [
            (frozenset(map(squashed, each.first_fields)) if spelled else each.first_fields, each)
            for each in self.mapping.when
        ]

    @property
    def shown_by(self) -> frozenset[str]:
        """A field at the top of a body for each condition, the longest, as others seldom have it."""
        needed = [fields for fields, _ in self._conditions]
        if self.mapping.any_spelling or self.mapping.unwrap is not None or not all(needed):
            return frozenset()
        return frozenset(max(fields, key=lambda name: (len(name), name)) for fields in needed)

    def recognises(self, body: JsonObject) -> int:
        """The bid for a body: the more the condition asks for that holds, the higher."""
        inner = body if self.mapping.unwrap is None else _unwrapped(self.mapping, body)
        names = frozenset(map(squashed, inner)) if self.mapping.any_spelling else inner.keys()
        near = [condition for needed, condition in self._conditions if needed <= names]
        if not near:
            return NOT_MINE
        seen, lookup = _seen(self.mapping, inner), _lookup(self.mapping, inner)
        try:
            sizes = [each.size for each in near if each.holds(seen, lookup)]
        except TooMuchWork:
            return NOT_MINE
        return VENDOR + VENDOR * max(sizes) if sizes else NOT_MINE

    def parse(self, body: JsonObject, source: str) -> Push:
        """The alerts of a body, as alerts of `source`.

        Raises:
            Unreadable: the mapping takes too much work with it.
        """
        return self._read(body, lambda reading: reading.push(source))

    def unknown_words(self, body: JsonObject) -> list[str]:
        """The words for a status or a severity in a body that neither the mapping nor any source knows.

        Raises:
            Unreadable: the mapping takes too much work with it.
        """
        return self._read(body, lambda reading: list(reading.unknown_words()))

    def _read(self, body: JsonObject, read: Callable[[_Reading], T]) -> T:
        try:
            return read(_Reading(self.mapping, body, _lookup(self.mapping, body)))
        except TooMuchWork:
            raise Unreadable(
                f"the mapping {self.mapping.name} takes too much work with this body: an expression repeats what it "
                "finds, or looks through all alerts for each of them"
            ) from None

    def sample(self, mark: str) -> JsonObject:
        """The sample of the mapping, with fresh moments.

        Raises:
            BadInput: the mapping has none.
        """
        if self.mapping.sample is None:
            raise BadInput(f"The mapping {self.mapping.name!r} has no sample: write one into it under `sample`")
        now = datetime.now(UTC)
        ago = now - _SAMPLE_AGE
        values: dict[str, str | int] = {
            "{mark}": mark,
            "{now}": now.isoformat(),
            "{ago}": ago.isoformat(),
            "{now_s}": int(now.timestamp()),
            "{ago_s}": int(ago.timestamp()),
            "{ago_ms}": int(ago.timestamp() * 1000),
        }
        filled = _filled(self.mapping.sample, values)
        return filled if isinstance(filled, dict) else {}


def _lookup(mapping: SourceMapping, body: JsonObject) -> Lookup:
    return Lookup(size_bytes=len(to_json(body)), any_spelling=mapping.any_spelling)


def _unwrapped(mapping: SourceMapping, body: JsonObject) -> JsonObject:
    """The object that the sender wraps as a text; any other body as it is."""
    unwrap = mapping.unwrap
    if unwrap is None or (unwrap.first_field is not None and unwrap.first_field not in body):
        return body
    inner: JsonValue = None
    with suppress(TooMuchWork):
        inner = unwrap.find(body, Lookup(size_bytes=len(to_json(body))))
    if isinstance(inner, str) and inner.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError, BadInput):
            inner = clean(json.loads(inner))
    return inner if isinstance(inner, dict) and inner else body


def _seen(mapping: SourceMapping, body: JsonObject) -> JsonObject:
    """The body as the expressions see it."""
    spelled = squashed_names(body) if mapping.any_spelling else body
    return spelled if isinstance(spelled, dict) else body


@dataclass(frozen=True)
class _Reading:
    """One body, as a mapping reads it. Whatever it looks for, it raises `TooMuchWork` if no work is left."""

    mapping: SourceMapping
    body: JsonObject
    lookup: Lookup

    def push(self, source: str) -> Push:
        """The alerts of the body."""
        items, errors = self._items()
        alerts, ignored, one = list[Alert](), "", self.mapping.alerts is None
        for index, item, seen in items:
            if because := self._ignored(seen):
                ignored = ignored or because
            elif name := self._name(seen):
                alerts.append(self._alert(seen, name, source, self.body if one else item))
            else:
                errors.append(f"{'the body' if one else f'alerts[{index}]'} says nothing where {source} writes a name")
        if ignored and not alerts and not errors:
            return Push(source=source, ignored=ignored)
        return Push(source=source, alerts=tuple(alerts), errors=tuple(errors))

    def unknown_words(self) -> Iterator[str]:
        """The words for a status or a severity that neither the mapping nor any source knows."""
        words, fields = self.mapping.words, self.mapping.alert
        for _, _, seen in self._items()[0]:
            status = self._said(fields.status, seen)
            if word_of(status) not in (*words.firing, *words.resolved):
                yield from unknown_status(status)
            own = (*words.critical, *words.warning, *words.info)
            said = self._all_said(fields.severity, seen)
            if not any(word_of(each) in own for each in said):
                yield from unknown_severity(said)

    def _items(self) -> tuple[list[tuple[int, JsonObject, JsonObject]], list[str]]:
        """Each alert with its number, as it was sent and as the expressions see it; and what is none."""
        around = _seen(self.mapping, _unwrapped(self.mapping, self.body))
        if self.mapping.alerts is None:
            return [(0, around, around)], []
        listed = self.mapping.alerts.find(around, self.lookup)
        items, errors = objects_in([listed] if isinstance(listed, dict) else listed)
        self.lookup.spend(len(items) * _WORK_OF_AN_ALERT)
        body = squashed(BODY) if self.mapping.any_spelling else BODY
        return [(index, item, {body: around, **item}) for index, item in items], errors

    def _said(self, expressions: Sequence[Expression], seen: JsonObject) -> JsonValue:
        return first_said(expressions, seen, self.lookup)

    def _all_said(self, expressions: Sequence[Expression], seen: JsonObject) -> list[JsonValue]:
        return [value for each in expressions if (value := self._said((each,), seen)) is not None]

    def _ignored(self, seen: JsonObject) -> str:
        """Why this says nothing about the state of an alert; "" if it does."""
        return next((each.because for each in self.mapping.ignore if each.holds(seen, self.lookup)), "")

    def _name(self, seen: JsonObject) -> str:
        """The alert's name. A variable that its sender could not fill in is better than no name."""
        expressions = self.mapping.alert.name
        written = filter(is_something, (each.find(seen, self.lookup) for each in expressions))
        return one_line_text(self._said(expressions, seen)) or one_line_text(next(written, None))

    def _alert(self, seen: JsonObject, name: str, source: str, sent: JsonObject) -> Alert:
        fields = self.mapping.alert
        status = self._status(seen)
        fingerprint = one_line_text(self._said(fields.fingerprint, seen), None)
        title = one_line_text(self._said(fields.title, seen))
        ended_at = self._moment(fields.ended_at, seen)
        return alert_of(
            source,
            sent,
            name=name,
            severity=self._severity(seen),
            status=status,
            labels=self._labels(seen),
            annotations=self._annotations(seen),
            description=self._said(fields.description, seen),
            links={link: self._said(expressions, seen) for link, expressions in fields.links.items()},
            fingerprint=fingerprint,
            group=one_line_text(self._said(fields.incident_key, seen), None) or fingerprint,
            title=title if title != name else "",
            started_at=self._moment(fields.started_at, seen),
            ended_at=ended_at,
            episode_at=self._moment(fields.episode_at, seen),
            occurred_at=self._moment(fields.occurred_at, seen)
            or (ended_at if status is AlertStatus.RESOLVED else None),
            state_reason=one_line_text(self._said(fields.state_reason, seen)),
        )

    def _status(self, seen: JsonObject) -> AlertStatus:
        said = self._said(self.mapping.alert.status, seen)
        word, words = word_of(said), self.mapping.words
        if word in words.firing:
            return AlertStatus.FIRING
        return AlertStatus.RESOLVED if word in words.resolved else status_of(said)

    def _severity(self, seen: JsonObject) -> Severity:
        """The first word that is known; warning if none is."""
        words = self.mapping.words
        own = {Severity.CRITICAL: words.critical, Severity.WARNING: words.warning, Severity.INFO: words.info}
        for said in self._all_said(self.mapping.alert.severity, seen):
            found = next((severity for severity, each in own.items() if word_of(said) in each), known_severity(said))
            if found is not None:
                return found
        return Severity.WARNING

    def _moment(self, expressions: Sequence[Expression], seen: JsonObject) -> datetime | None:
        return next(filter(None, map(moment, self._all_said(expressions, seen))), None)

    def _labels(self, seen: JsonObject) -> dict[str, str]:
        named = {name: self._said(expressions, seen) for name, expressions in self.mapping.alert.labels.items()}
        listed = named.pop(_ALL, None)
        every = labels_of(listed) if isinstance(listed, dict) else tags_of(listed)
        return every | labels_of(named)

    def _annotations(self, seen: JsonObject) -> dict[str, str]:
        named = {name: self._said(expressions, seen) for name, expressions in self.mapping.alert.annotations.items()}
        return annotations_of(named.pop(_ALL, None)) | annotations_of(named)


def _filled(value: JsonValue, values: Mapping[str, str | int]) -> JsonValue:
    """The value with the places of its texts filled in. A text that is nothing but a number's place is the number."""
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    if isinstance(value, dict):
        return {name: _filled(item, values) for name, item in value.items()}
    if not isinstance(value, str):
        return value
    if value in values:
        return values[value]
    for place, filled in values.items():
        value = value.replace(place, str(filled))
    return value
