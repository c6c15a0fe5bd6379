"""A mapping: how the bodies of one sender become alerts, as a document that people write (`docs/sources.md`)."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import Annotated, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from orchestration.alert import web_address
from orchestration.redaction import shown
from tasks.ingest.sources.expressions import Expression, Lookup, is_something
from tasks.ingest.sources.fields import text

MAX_BYTES = 64 * 1024
"""The size of a mapping as a text."""

MAX_DEPTH = 24
"""How deep its objects and lists may be nested. Only a sample needs more than five levels."""

MAX_EXPRESSIONS = 20
"""The expressions of one field, and the conditions of one list."""

_MAX_WORDS = 100
_MAX_FIELDS = 50
_NAME = "^[a-z0-9]+(-[a-z0-9]+)*$"


def _expressions(given: object) -> tuple[Expression, ...]:
    """One expression, or a list of those of which the first one that says something counts."""
    return tuple(map(_expression, _listed(given, MAX_EXPRESSIONS, "expressions")))


def _expression(given: object) -> Expression:
    if isinstance(given, Expression):
        return given
    if not isinstance(given, str):
        raise ValueError(f"expected a JMESPath expression as a text, got {shown(given)}")
    return Expression(given)


def _words(given: object) -> tuple[str, ...]:
    """A value or a list of values, as words without case: `true` and 1 are words too."""
    listed = _listed(given, _MAX_WORDS, "words")
    if any(isinstance(each, list | dict) for each in listed):
        raise ValueError("expected words or numbers, got a list or an object")
    return tuple(map(word_of, cast("list[JsonValue]", listed)))


def _listed(given: object, most: int, what: str) -> list[object]:
    """A list, or the list of a single value."""
    listed = cast("list[object]", given) if isinstance(given, list | tuple) else [given]
    if len(listed) > most:
        raise ValueError(f"has {len(listed)} {what}: at most {most} are possible")
    return listed


def word_of(value: JsonValue) -> str:
    """A value as words are compared: without case, and without spaces around it. `null` for no value."""
    return "null" if value is None else text(value).strip().casefold()


def _web_page(written: str) -> str:
    if written and not web_address(written):
        raise ValueError(f"{shown(written)} is no http or https address")
    return written


def _conditions(given: object) -> object:
    return [cast("object", given)] if isinstance(given, dict) else given


Expressions = Annotated[tuple[Expression, ...], BeforeValidator(_expressions)]
OneExpression = Annotated[Expression, BeforeValidator(_expression)]
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
NamedExpressions = Annotated[dict[str, Expressions], Field(max_length=_MAX_FIELDS)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Condition(_Part):
    """What a body must be like. All parts must hold."""

    has: Expressions = ()
    """Each of these says something."""
    equals: Annotated[dict[str, Words], Field(max_length=_MAX_FIELDS)] = {}
    """Each of these expressions gives one of its words."""
    lacks: Expressions = ()
    """None of these says anything."""

    def model_post_init(self, _context: object) -> None:
        """Refuse a condition that holds for every body.

        Raises:
            ValueError: it asks for nothing, or an expression is wrong.
        """
        if all(each.is_constant for each in self._asked):
            raise ValueError(
                "a condition needs `has` or `equals` with a field of the body: "
                "otherwise it holds for the bodies of all senders"
            )

    @cached_property
    def _equal(self) -> tuple[tuple[Expression, tuple[str, ...]], ...]:
        return tuple((Expression(written), words) for written, words in self.equals.items())

    @property
    def _asked(self) -> tuple[Expression, ...]:
        return (*self.has, *(expression for expression, _ in self._equal))

    @property
    def size(self) -> int:
        """How much it asks for: of two mappings for a body the one that asks for more counts."""
        return len(self.has) + len(self.equals)

    @property
    def first_fields(self) -> frozenset[str]:
        """The fields at the top that every body has for which the condition holds."""
        return frozenset(each.first_field for each in self._asked if each.first_field is not None)

    def holds(self, body: JsonValue, lookup: Lookup) -> bool:
        """Whether it holds for this body.

        Raises:
            TooMuchWork: the expressions take too much work.
        """

        def found(expression: Expression) -> JsonValue:
            return expression.find(body, lookup)

        return (
            all(is_something(found(each)) for each in self.has)
            and all(word_of(found(each)) in words for each, words in self._equal)
            and not any(is_something(found(each)) for each in self.lacks)
        )


class Ignored(Condition):
    """A body, or one of its alerts, that says nothing about the state of an alert."""

    because: Annotated[str, Field(min_length=1, max_length=120)]
    """What it is, in words that end the sentence "Nobody is notified of …"."""


class AlertFields(_Part):
    """Where the sender writes each field of an alert. Of several expressions the first that says something counts."""

    name: Expressions
    title: Expressions = ()
    severity: Expressions = ()
    status: Expressions = ()
    description: Expressions = ()
    fingerprint: Expressions = ()
    """The sender's own id, the same when the alert fires and when it ends. Without one it is name and labels."""
    incident_key: Expressions = ()
    """The sender's own group of alerts. Without one each fingerprint is an incident."""
    labels: NamedExpressions = {}
    """Labels by name. Under `*` an object, or a list of tags, whose members become labels."""
    annotations: NamedExpressions = {}
    links: NamedExpressions = {}
    """Links by name: `runbook`, `dashboard`, `panel`, `silence`, `source`, or any other."""
    started_at: Expressions = ()
    ended_at: Expressions = ()
    episode_at: Expressions = ()
    """When this firing began, if every event about it, its end too, has the same moment."""
    occurred_at: Expressions = ()
    """When the event itself happened."""
    state_reason: Expressions = ()


class StateWords(_Part):
    """The sender's words, beside those that all sources know. The case does not matter."""

    firing: Words = ()
    resolved: Words = ()
    critical: Words = ()
    warning: Words = ()
    info: Words = ()

    def model_post_init(self, _context: object) -> None:
        """Refuse a word that would mean two things.

        Raises:
            ValueError: it stands under two states, or under two severities.
        """
        for meanings in ((self.firing, self.resolved), (self.critical, self.warning, self.info)):
            times = Counter(word for words in meanings for word in set(words))
            if twice := [shown(word) for word, count in times.items() if count > 1]:
                raise ValueError(
                    f"{', '.join(sorted(twice))} cannot mean two things: the case of a word does not matter"
                )


class SourceMapping(_Part):
    """How the bodies of one sender become alerts."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=_NAME)]
    title: Annotated[str, Field(max_length=64)] = ""
    description: Annotated[str, Field(max_length=1000)] = ""
    docs: Annotated[str, Field(max_length=500), AfterValidator(_web_page)] = ""
    """The page on which the sender describes its body."""
    any_spelling: bool = False
    """Whether `HOSTNAME`, `host_name` and `hostName` are the same field."""
    unwrap: OneExpression | None = None
    """A field that may hold the body as a JSON text, as the `Message` of Amazon SNS does."""
    when: Annotated[tuple[Condition, ...], BeforeValidator(_conditions), Field(min_length=1, max_length=20)]
    """How a body of this sender is recognised: one of these conditions holds."""
    ignore: Annotated[tuple[Ignored, ...], BeforeValidator(_conditions), Field(max_length=20)] = ()
    alerts: OneExpression | None = None
    """The list of alerts. Without it the body is one alert. In an alert, `_body` is the body around it."""
    alert: AlertFields
    words: StateWords = StateWords()
    sample: dict[str, JsonValue] | None = None
    """A body as the sender writes it, for `run_pipeline --sample`. `{mark}`, `{now}` and `{ago}` in its texts are
    replaced by a mark, the present moment, and the moment ten minutes ago."""

    @property
    def shown_title(self) -> str:
        """The sender's name for people."""
        return self.title or self.name
