"""What the imports of other programs' configurations share: reading them by line and field, and the times of shifts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn, cast

from orchestration.policy.document import Document, Path
from orchestration.policy.parse import ReadPolicy, parse_policy
from orchestration.policy.problems import BadPolicy, PolicyProblem
from orchestration.problems import path_of
from orchestration.redaction import shown

DAY = 24 * 60
WEEK = 7 * DAY
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_NAME_CHARACTERS = 100
_FIRST_YEAR, _END_YEAR = 1990, 2200

Row = tuple[Path, dict[str, Any]]
"""An object of the configuration, and where it stands."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A policy that was made of another program's configuration."""

    policy: ReadPolicy
    receivers: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """The channels that stand for each receiver of Alertmanager."""
    notes: tuple[str, ...]
    """What was not taken over, and what is left to do, in sentences that name the line."""


@dataclass
class ConfigReader:
    """Reads a configuration, and collects what is wrong with it and what is not taken over."""

    document: Document
    problems: list[PolicyProblem] = field(default_factory=list[PolicyProblem])
    notes: list[str] = field(default_factory=list[str])
    _channels: dict[str, str] = field(default_factory=dict[str, str])

    def imported(self, raw: Mapping[str, Any], *, receivers: Mapping[str, tuple[str, ...]] | None = None) -> Imported:
        """The policy with these fields; empty ones are left out.

        Raises:
            BadPolicy: anything was wrong.
        """
        if self.problems:
            raise BadPolicy(sorted(self.problems, key=lambda problem: problem.line or 0))
        policy = parse_policy({name: value for name, value in raw.items() if value}, warn=True)
        self.notes += [f"{warning.field}: {warning.message}" for warning in policy.warnings]
        return Imported(policy=policy, receivers=receivers or {}, notes=tuple(dict.fromkeys(self.notes)))

    def as_object(self, raw: object, path: Path) -> dict[str, Any]:
        """The value as an object; an empty one, and a problem, if it is none."""
        if isinstance(raw, dict):
            return cast("dict[str, Any]", raw)
        self.wrong(path, "expected an object")
        return {}

    def as_list(self, raw: object, path: Path) -> list[Any]:
        """The value as a list; an empty one, and a problem, if it is none. Null is an empty list."""
        if raw is None:
            return []
        if isinstance(raw, list):
            return cast("list[Any]", raw)
        self.wrong(path, "expected a list")
        return []

    def text(self, raw: Mapping[str, Any], name: str, path: Path) -> str:
        """A field that must be a text; "", and a problem, if it is none."""
        value = raw.get(name)
        if isinstance(value, str) and value:
            return value
        self.wrong((*path, name) if name in raw else path, f"{name}: expected a text, got {shown(value)}")
        return ""

    def number(self, raw: Mapping[str, Any], name: str, path: Path, *, otherwise: int, least: int = 0) -> int:
        """A field that is a whole number of at least `least`; `otherwise`, and a problem, if it is none."""
        value = raw.get(name, otherwise)
        if value is None:
            return otherwise
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= 10**9:
            return value
        self.wrong((*path, name), f"expected a number from {least} on, got {shown(value)}")
        return otherwise

    def moment(self, raw: Mapping[str, Any], name: str, path: Path) -> datetime | None:
        """A field that must be a moment, with its time zone if it names one. None, and a problem, if it is none."""
        text = self.text(raw, name, path)
        if not text:
            return None
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            found = None
        if found is None or not _FIRST_YEAR <= found.year < _END_YEAR:
            example = "expected a moment such as 2026-11-30T09:00:00"
            self.wrong((*path, name), f"{example}, from {_FIRST_YEAR} to {_END_YEAR - 1}, got {shown(text)}")
            return None
        return found

    def rows(self, config: Mapping[str, Any], name: str, within: Path = ()) -> Iterator[Row]:
        """The objects of a list, each with its path; a page of an answer has them as `results` or `nodes`."""
        raw, path = config.get(name), (*within, name)
        for inner in ("results", "nodes"):
            if isinstance(raw, dict) and inner in raw:
                page = cast("dict[str, Any]", raw)
                more = self.as_object(page.get("pageInfo") or {}, (*path, "pageInfo")).get("hasNextPage")
                if page.get("next") or more:
                    self.note(path, f"{name} has more pages than this one: add what all of them have")
                raw, path = page[inner], (*path, inner)
                break
        for at, each in enumerate(self.as_list(cast("object", raw), path)):
            if row := self.as_object(each, (*path, at)):
                yield (*path, at), row

    def channel(self, wanted: str, path: Path, what: str) -> str:
        """The name of the channel that stands for something, with a note that says so once.

        `wanted` is what the name is made of.
        """
        name = slug(wanted)
        if self._channels.setdefault(name, what) == what:
            self.note(path, f"{what} is the channel {name}: save a block of this name")
            return name
        number = 2
        while self._channels.get(f"{name}-{number}", what) != what:
            number += 1
        return self.channel(f"{wanted}-{number}", path, what)

    def wrong(self, path: Path, message: str) -> None:
        """Note a problem."""
        line = self.document.line_of(path)
        self.problems.append(PolicyProblem(line=line, field=path_of(path), message=message))

    def note(self, path: Path, message: str) -> None:
        """Note what is not taken over, or is left to do."""
        line = self.document.line_of(path)
        self.notes.append(f"line {line}: {message}" if line is not None else message)

    def refuse(self, message: str) -> NoReturn:
        """Refuse the whole configuration.

        Raises:
            BadPolicy: always.
        """
        raise BadPolicy([PolicyProblem(line=1, field="", message=message)])


class Names:
    """Names of one kind in the policy: each is there once, and short enough."""

    def __init__(self) -> None:
        self._by_id: dict[str, str] = {}

    def of(self, number: str, wanted: str) -> str:
        """The name of the thing with this id; the same one each time."""
        if number not in self._by_id:
            plain = " ".join(wanted.split())[:_NAME_CHARACTERS] or "unnamed"
            taken, name, count = set(self._by_id.values()), plain, 1
            while name in taken:
                count += 1
                name = f"{plain[: _NAME_CHARACTERS - 6]} {count}"
            self._by_id[number] = name
        return self._by_id[number]


def slug(text: str) -> str:
    """A text as the name of a block: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80].strip("-") or "channel"


def hours_of(minutes: Iterable[tuple[int, int]]) -> list[dict[str, Any]]:
    """The `hours` of a layer that cover these spans of the week, in minutes from Monday 00:00; the end does not count.

    A span may go over the end of the week. Days with the same times are written together. All of the week is [].
    """
    by_day = [set[tuple[int, int]]() for _ in range(7)]
    for begin, end in minutes:
        at = begin
        while at < end:
            until = min(end, (at // DAY + 1) * DAY)
            by_day[at // DAY % 7].add((at % DAY, (until - 1) % DAY + 1))
            at = until
    joined = [_joined(times) for times in by_day]
    if all(times == ((0, DAY),) for times in joined):
        return []
    found = dict[tuple[tuple[int, int], ...], list[str]]()
    for day, times in zip(WEEKDAYS, joined, strict=True):
        if times:
            found.setdefault(times, []).append(day)
    return [_written_hours(days, times) for times, days in found.items()]


def _joined(times: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The times in their order; those that touch or overlap are one."""
    found = list[tuple[int, int]]()
    for begin, end in sorted(times):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((begin, end))
    return tuple(found)


def _written_hours(days: list[str], times: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    written = [f"{_clock(begin)}-{_clock(end)}" for begin, end in times]
    return {
        **({} if len(days) == 7 else {"weekdays": days}),
        **({} if written == ["00:00-24:00"] else {"times": written}),
    }


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
