"""What a policy says: who is notified, how and when. Frozen; `parse.read_policy()` makes one of what came from outside.

The names of the fields are those of the document.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Literal, cast

from pydantic import BeforeValidator, Field, JsonValue, PlainSerializer, ValidationError

from orchestration.alert import Severity
from orchestration.contracts import Contract
from orchestration.policy.matchers import Matcher, parse_matchers
from orchestration.policy.rotations import Schedule
from orchestration.policy.windows import Period
from orchestration.redaction import shown
from orchestration.signals import logger
from orchestration.states import RunReason

ALL_LABELS = "..."
"""In a grouping: every label. Alerts are in one incident only if all their labels are equal."""

MAX_ROUTES = 2_000
"""Routes of a policy, those below other routes included."""


def _as_matchers(value: object) -> tuple[Matcher, ...]:
    texts = cast("Sequence[object]", value if isinstance(value, list | tuple) else (value,))
    found = list[Matcher]()
    for text in texts:
        if isinstance(text, Matcher):
            found.append(text)
        elif isinstance(text, str):
            found += parse_matchers(text)
        else:
            raise ValueError(f'expected a list of texts such as team="db", got {shown(text)}')
    return tuple(found)


Matchers = Annotated[
    tuple[Matcher, ...],
    BeforeValidator(_as_matchers),
    PlainSerializer(lambda matchers: [str(each) for each in matchers], return_type=list[str]),
]
"""Conditions on labels, which must all hold: a text, or a list of texts, with one or more matchers each."""


def _as_tuple(value: object) -> object:
    """One text stands for a list of one."""
    return (value,) if isinstance(value, str) else value


_Name = Annotated[str, Field(min_length=1, max_length=100)]
Names = Annotated[tuple[_Name, ...], BeforeValidator(_as_tuple), Field(strict=False)]
"""Names, such as those of channels or windows: a list, or one text."""

Severities = Annotated[
    tuple[Annotated[Severity, Field(strict=False)], ...], BeforeValidator(_as_tuple), Field(strict=False)
]

_DURATION = re.compile(r"(?:(\d{1,4})w)?(?:(\d{1,5})d)?(?:(\d{1,6})h)?(?:(\d{1,7})m)?(?:(\d{1,8})s)?")
_SECONDS = (7 * 86_400, 86_400, 3_600, 60, 1)
_LONGEST = timedelta(days=366)


def as_duration(value: object) -> timedelta:
    """A time span such as 1h30m, as a policy writes it.

    Raises:
        ValueError: it is none, or longer than a year.
    """
    if isinstance(value, timedelta):
        return value
    if value == 0 and not isinstance(value, bool):
        return timedelta(0)
    found = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if found is None:
        raise ValueError(f"expected a duration such as 30s, 5m, 1h30m or 2d, got {shown(value)}")
    seconds = sum(int(part or 0) * unit for part, unit in zip(found.groups(), _SECONDS, strict=True))
    duration = timedelta(seconds=seconds)
    if duration > _LONGEST:
        raise ValueError(f"{shown(value)} is longer than a year")
    return duration


def written_duration(duration: timedelta) -> str:
    """A duration as a policy writes it, such as 1h30m; 0s for none."""
    rest, text = int(duration.total_seconds()), ""
    for unit, seconds in zip("wdhms", _SECONDS, strict=True):
        count, rest = divmod(rest, seconds)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


Duration = Annotated[timedelta, BeforeValidator(as_duration), PlainSerializer(written_duration, return_type=str)]
"""A time span in whole seconds: 30s, 5m, 1h30m, 2d, 1w, or 0."""


class Grouping(Contract, strict=True):
    """Which alerts make one incident: those that have these labels in common. The first that matches counts."""

    matchers: Matchers = ()
    by: Names = Field(description='Names of labels; "..." means all labels.')


class Route(Contract, strict=True):
    """Alerts that meet the conditions, and who is notified of them.

    The first route of a list that matches counts, and those after it only where it says `continue`. An alert that
    matches goes on to the routes below, and gets the target of this one if none of those matches.
    """

    name: str | None = Field(default=None, min_length=1, max_length=100, description="For people: how outputs name it.")
    matchers: Matchers = ()
    severity: Severities = ()
    source: Names = ()
    environment: Names = ()
    during: Names = Field(default=(), description="Windows: outside all of them the route does not match.")
    active: Names = Field(default=(), description="Windows: outside all of them the route matches and is silent.")
    mute: Names = Field(default=(), description="Windows: inside one of them the route matches and is silent.")
    continue_: bool = Field(default=False, alias="continue", description="Whether the routes after it are looked at.")
    channels: Names | None = Field(
        default=None, description="Names of channels. None means those of the route above; [] notifies nobody."
    )
    escalation: str | None = None
    definition: str | None = Field(default=None, description="The pipeline definition that runs of these alerts use.")
    routes: tuple[Route, ...] = Field(default=(), strict=False)

    @property
    def has_target(self) -> bool:
        """Whether it says who is notified. Otherwise the route above does."""
        return self.channels is not None or self.escalation is not None


class Step(Contract, strict=True):
    """One step of an escalation."""

    channels: Names = ()
    schedule: str | None = Field(default=None, description="Notify who is on call.")
    people: Names = ()
    severity: Severities = Field(default=(), description="Severities of incidents for which the step counts.")
    wait: Duration = Field(default=timedelta(minutes=5), description="How long until the next step.")

    def counts_for(self, severity: Severity) -> bool:
        """Whether the step is taken for an incident of this severity."""
        return not self.severity or severity in self.severity

    @property
    def names_nobody(self) -> bool:
        """Whether it says of nobody that they are notified."""
        return not (self.channels or self.schedule or self.people)


class Escalation(Contract, strict=True):
    """Who is notified one after the other, until somebody acknowledges."""

    steps: tuple[Step, ...] = Field(strict=False, min_length=1, max_length=50)
    repeat: int = Field(default=0, ge=0, le=100, description="How often all steps are repeated after the last one.")


class Person(Contract, strict=True):
    """Somebody who can be notified."""

    contacts: Names = Field(min_length=1, description="Names of channels that reach this person.")


class Inhibition(Contract, strict=True):
    """Alerts that are not told of while another one fires that explains them."""

    source_matchers: Matchers = Field(min_length=1)
    target_matchers: Matchers = Field(min_length=1)
    equal: Names = Field(default=(), description="Labels in which both must agree; two missing ones do.")


class CheckRule(Contract, strict=True):
    """Which checkers look at the target of alerts that match. The first rule that matches counts."""

    matchers: Matchers = ()
    checkers: Names = Field(description="Names of checkers; [] checks nothing.")
    configs: dict[_Name, dict[str, JsonValue]] = Field(
        default_factory=dict[str, dict[str, JsonValue]], description="Options of checkers, by their name."
    )


class Flapping(Contract, strict=True):
    """When an incident counts as flapping: so many changes within this time."""

    changes: int = Field(ge=2, le=1_000)
    within: Duration


class Storm(Contract, strict=True):
    """When incidents count as one storm: more than `threshold` of one route opened within `window`."""

    threshold: int = Field(default=20, ge=1, le=100_000)
    window: Duration = timedelta(minutes=1)


class Timing(Contract, strict=True):
    """When incidents are told of again, expire, or flap. None means that the settings say it; 0 means never."""

    remind_after: Duration | None = None
    remind_critical_after: Duration | None = None
    expire_after: Duration | None = None
    flapping: Flapping | None = None
    storm: Storm | Literal[False] = Storm()
    """False means that there are no storms: each incident is notified by itself."""

    def note_on(self, reason: RunReason, severity: Severity) -> str:
        """What the policy says of a reminder or an expiry, in words; "" if it says nothing."""
        if reason is RunReason.EXPIRY:
            return "" if self.expire_after is None else f"after {written_duration(self.expire_after)}, by the policy"
        every = self.remind_critical_after if severity is Severity.CRITICAL else self.remind_after
        is_said = reason is RunReason.REMINDER and every
        return f"every {written_duration(every)}, by the policy" if is_said and every else ""


def timing_of(raw: object) -> Timing:
    """The `timing` of a stored policy. None means that there is no policy, or that it says nothing of it."""
    try:
        return Timing() if raw is None else Timing.model_validate(raw)
    except ValidationError as error:
        logger.error("The timing of the policy cannot be read, the settings count: %d problems", error.error_count())
        return Timing()


class Policy(Contract, strict=True):
    """Who is notified, how and when. An empty policy is the same as none: the default channels."""

    version: Literal[1] = 1
    description: str = Field(default="", max_length=2_000)
    catch_all: Names = Field(default=(), description="Channels that are told what reached nobody.")
    grouping: tuple[Grouping, ...] = Field(default=(), strict=False, max_length=MAX_ROUTES)
    routes: tuple[Route, ...] = Field(default=(), strict=False)
    windows: dict[_Name, Annotated[tuple[Period, ...], Field(strict=False, min_length=1)]] = Field(
        default_factory=dict[str, tuple[Period, ...]]
    )
    inhibitions: tuple[Inhibition, ...] = Field(default=(), strict=False, max_length=1_000)
    checks: tuple[CheckRule, ...] = Field(default=(), strict=False, max_length=1_000)
    escalations: dict[_Name, Escalation] = Field(default_factory=dict[str, Escalation])
    people: dict[_Name, Person] = Field(default_factory=dict[str, Person])
    schedules: dict[_Name, Schedule] = Field(default_factory=dict[str, Schedule])
    timing: Timing = Timing()

    @property
    def holds_back(self) -> bool:
        """Whether it can keep an incident back by itself: in a window, or because another alert explains it."""
        return bool(self.windows or self.inhibitions)
