"""From the shifts of a schedule of Grafana OnCall to the layers of ours."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol, cast

from orchestration.policy.document import Path
from orchestration.policy.importing import DAY, WEEK, hours_of
from orchestration.redaction import shown

_UNITS = {"hourly": 60, "daily": DAY, "weekly": WEEK}
_LETTERS = {60: "h", DAY: "d", WEEK: "w"}
_DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_LONGEST_TURN_HOURS = 52 * 7 * 24


class ShiftReader(Protocol):
    """What this needs of the import."""

    def as_list(self, raw: object, path: Path) -> list[Any]: ...

    def text(self, raw: Mapping[str, Any], name: str, path: Path) -> str: ...

    def number(self, raw: Mapping[str, Any], name: str, path: Path, *, otherwise: int, least: int = 0) -> int: ...

    def moment(self, raw: Mapping[str, Any], name: str, path: Path) -> datetime | None: ...

    def people(self, numbers: object, path: Path) -> list[str]: ...

    def wrong(self, path: Path, message: str) -> None: ...

    def note(self, path: Path, message: str) -> None: ...


class Shifts:
    """The shifts of all schedules, by id."""

    def __init__(self, reader: ShiftReader, rows: Mapping[str, tuple[Path, dict[str, Any]]]) -> None:
        self._reader = reader
        self._rows = rows

    def schedule(self, row: Mapping[str, Any], path: Path, called: str) -> dict[str, Any] | None:
        """The schedule with its shifts as layers, those of a higher level last. None means that it has none."""
        reader = self._reader
        is_web = row.get("type") == "web"
        zone = str(row.get("time_zone") or "UTC")
        if is_web:
            reader.note(path, f"the shifts of {called} are read as times in UTC, as the web schedules have them")
        own = list[tuple[int, Path, dict[str, Any]]]()
        for at, number in enumerate(reader.as_list(row.get("shifts"), (*path, "shifts"))):
            if (found := self._rows.get(str(number))) is None:
                reader.note((*path, "shifts", at), f"there is no shift {shown(number)} among on_call_shifts: left out")
                continue
            place, shift = found
            own.append((reader.number(shift, "level", place, otherwise=0), place, shift))
        own.sort(key=lambda one: one[0])
        zones = {str(shift.get("time_zone") or ("UTC" if is_web else zone)) for _, _, shift in own}
        if len(zones) == 1:
            zone = zones.pop()
        elif zones:
            reader.note(path, f"the shifts of {called} have several time zones: all are read in {zone}")
        layers = [layer for _, place, shift in own if (layer := self._layer(shift, place)) is not None]
        return {"time_zone": zone, "layers": layers} if layers else None

    def _layer(self, shift: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
        """One shift as a layer. None, and a note, if layers cannot say the same."""
        reader, kind = self._reader, shift.get("type")
        called = f"the shift {reader.text(shift, 'name', path)}"
        if kind in ("single_event", "override"):
            reader.note(path, f"{called} happens once, and is not taken over: alert-pipeline oncall override")
            return None
        if kind not in ("rolling_users", "recurrent_event"):
            reader.wrong((*path, "type"), f"expected single_event, recurrent_event or rolling_users, got {shown(kind)}")
            return None
        unit = _UNITS.get(str(shift.get("frequency")))
        interval = reader.number(shift, "interval", path, otherwise=1, least=1)
        if (why := self._not_said(shift, unit, interval, rolling=kind == "rolling_users")) is not None or unit is None:
            reader.note(path, f"{called} is not taken over: {why}")
            return None
        begin = self._moment(shift, "start", path)
        if begin is None:
            return None
        turns = self._turns(shift, path)
        if not turns:
            reader.note(path, f"{called} has nobody, and is left out")
            return None
        first = (self._moment(shift, "rotation_start", path) if shift.get("rotation_start") else None) or begin
        hours = self._hours(shift, path, begin, unit, interval)
        return {
            "people": turns,
            "rotate": f"{interval}{_LETTERS[unit]}",
            "handoff": f"{begin:%H:%M}",
            "start": max(first, begin).date().isoformat(),
            **({"hours": hours} if hours else {}),
        }

    def _not_said(self, shift: Mapping[str, Any], unit: int | None, interval: int, *, rolling: bool) -> str | None:
        """Why layers cannot say the same as a shift. None means that they can."""
        if unit is None:
            return f"a layer has no turns of {shown(shift.get('frequency'))}"
        if shift.get("by_month") or shift.get("by_monthday"):
            return "a layer is not restricted to months or days of the month"
        if shift.get("until"):
            return f"a layer has no end, and this one ends on {shown(shift['until'])}"
        if unit * interval > _LONGEST_TURN_HOURS * 60:
            return "a turn lasts 52 weeks at most"
        turns: Any = shift.get("rolling_users")
        several = isinstance(turns, list) and len(cast("list[Any]", turns)) > 1
        if unit == DAY and shift.get("by_day") and several:
            return "its turns are counted on some days of the week only"
        if not rolling and interval > 1:
            return f"it happens every {interval} times only"
        return None

    def _moment(self, shift: Mapping[str, Any], name: str, path: Path) -> datetime | None:
        """A time of the clock in the shift's time zone."""
        found = self._reader.moment(shift, name, path)
        return None if found is None else found.replace(tzinfo=None, second=0)

    def _turns(self, shift: Mapping[str, Any], path: Path) -> list[list[str]]:
        reader = self._reader
        if shift.get("type") == "recurrent_event":
            together = reader.people(shift.get("users"), (*path, "users"))
            return [together] if together else []
        place = (*path, "rolling_users")
        turns = [
            reader.people(each, (*place, at))
            for at, each in enumerate(reader.as_list(shift.get("rolling_users"), place))
        ]
        turns = [turn for turn in turns if turn]
        begin = reader.number(shift, "start_rotation_from_user_index", path, otherwise=0) % max(len(turns), 1)
        return turns[begin:] + turns[:begin]

    def _hours(
        self, shift: Mapping[str, Any], path: Path, begin: datetime, unit: int, interval: int
    ) -> list[dict[str, Any]]:
        """The times of the week to which a shift is restricted; [] means that it is not."""
        reader = self._reader
        minutes = reader.number(shift, "duration", path, otherwise=0) // 60
        place = (*path, "by_day")
        names = [str(day) for day in reader.as_list(shift.get("by_day"), place)]
        if any(name not in _DAYS for name in names):
            reader.wrong(place, f"expected days such as MO, got {shown(names)}")
            names = []
        if unit == 60 or (minutes >= unit * interval and not names):
            return []
        days = [_DAYS.index(name) for name in names] or ([*range(7)] if unit == DAY else [begin.weekday()])
        first = begin.hour * 60 + begin.minute
        return hours_of([(day * DAY + first, day * DAY + first + min(minutes, WEEK)) for day in days])
