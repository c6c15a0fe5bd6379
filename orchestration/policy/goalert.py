"""From what GoAlert's GraphQL API answers to a policy, with a list of what was not taken over.

Source: GoAlert's GraphQL schema (`graphql2/schema.graphql` of its repository).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from orchestration.policy.document import Path, read_document
from orchestration.policy.importing import DAY, WEEK, ConfigReader, Imported, Names, Row, hours_of
from orchestration.policy.matchers import Matcher, Operator
from orchestration.policy.windows import zone
from orchestration.redaction import shown

_SECTIONS = ("services", "escalationPolicies", "schedules", "rotations", "users")
_UNITS = {"hourly": timedelta(hours=1), "daily": timedelta(days=1), "weekly": timedelta(weeks=1)}
_LETTERS = {"hourly": "h", "daily": "d", "weekly": "w"}
_MOST_REPEATS = 100

_ACTIONS = {
    "builtin-user": ("user", "user_id"),
    "builtin-schedule": ("schedule", "schedule_id"),
    "builtin-rotation": ("rotation", "rotation_id"),
    "builtin-slack-channel": ("slackChannel", "slack_channel_id"),
    "builtin-webhook": ("chanWebhook", "webhook_url"),
}
"""Newer versions name what a step notifies as an action: its type, and the argument with the id."""

Span = tuple[int, int]


def import_goalert(text: str | bytes, now: datetime | None = None) -> Imported:
    """The policy that escalates as these services, policies, schedules and rotations do.

    Args:
        text: a JSON object with the lists of the API, each as a list or as {"nodes": [...]}; also as {"data": {...}}.
        now: the moment of the export, for whose turn it is in a rotation. None means now.

    Raises:
        BadPolicy: the text is no such object; all that is wrong, by line and field.
    """
    return _Import(read_document(text), now=now or datetime.now(UTC)).run()


@dataclass(kw_only=True)
class _Rotation:
    people: list[str]
    rotate: str
    starts_at: datetime
    """The beginning of the present turn, which is that of the first person."""


@dataclass
class _Import(ConfigReader):
    now: datetime = field(kw_only=True, default_factory=lambda: datetime.now(UTC))
    _rows: dict[str, list[Row]] = field(default_factory=dict[str, list[Row]])
    _people: dict[str, Any] = field(default_factory=dict[str, Any])
    _schedules: dict[str, Any] = field(default_factory=dict[str, Any])
    _names: dict[str, Names] = field(default_factory=dict[str, Names])

    def run(self) -> Imported:
        """All of the lists."""
        config, within = self.as_object(self.document.value, ()), ()
        self.problems += self.document.problems
        if not config.get("data") and (errors := self.as_list(config.get("errors"), ("errors",))):
            said = self.as_object(errors[0], ("errors", 0)).get("message")
            self.refuse(f"is an answer with errors, and no export: {shown(str(said))}")
        if isinstance(config.get("data"), dict):
            config, within = config["data"], ("data",)
        if not any(name in config for name in _SECTIONS):
            self.refuse(f"has none of the lists of GoAlert's API: {', '.join(_SECTIONS)}")
        for name in (name for name in config if name not in _SECTIONS):
            override = name == "userOverrides"
            self.note((*within, name), f"{name} is not taken over{': alert-pipeline oncall override' * override}")
        for name in _SECTIONS:
            self._rows[name] = list(self.rows(config, name, within))
            self._names[name] = Names()
        for path, row in self._rows["schedules"]:
            self._read_schedule(path, row)
        escalations = dict(self._read_policies())
        return self.imported(
            {
                "description": "Imported from GoAlert.",
                "routes": list(self._read_services(escalations)),
                "escalations": escalations,
                "schedules": {name: made for name, made in self._schedules.items() if made},
                "people": self._people,
            }
        )

    def _find(self, section: str, number: object) -> Row | None:
        return next((one for one in self._rows[section] if one[1].get("id") == number), None)

    def _name(self, section: str, path: Path, row: Mapping[str, Any]) -> str:
        return self._names[section].of(str(row.get("id")), self.text(row, "name", path))

    # People, rotations and schedules

    def _person(self, number: object, path: Path) -> str | None:
        """The name of a user, who becomes a person of the policy. None, and a note, if there is none with this id."""
        if (found := self._find("users", number)) is None:
            self.note(path, f"there is no user {shown(number)} among users: left out")
            return None
        place, user = found
        name = self._name("users", place, user)
        if name not in self._people:
            self._people[name] = {"contacts": list(dict.fromkeys(self._contacts(name, user, place)))}
        return name

    def _contacts(self, name: str, user: Mapping[str, Any], path: Path) -> Iterator[str]:
        methods = self.as_list(user.get("contactMethods"), (*path, "contactMethods"))
        working = 0
        for at, each in enumerate(methods):
            place = (*path, "contactMethods", at)
            method = self.as_object(each, place)
            if method.get("disabled"):
                self.note(place, f"a disabled contact method of {name} is not taken over")
                continue
            working += 1
            kind = str(method.get("type") or "contact").lower()
            value = method.get("value")
            # The address of a webhook may have a credential in it.
            about = f" to {value}" if isinstance(value, str) and kind in ("sms", "voice", "email") else ""
            yield self.channel(f"{name}-{kind}", place, f"{kind}{about} for {name}")
        if not working:
            yield self.channel(name, path, f"the person {name}, who has no contact method that works,")
        rules = self.as_list(user.get("notificationRules"), (*path, "notificationRules"))
        place = (*path, "notificationRules")
        if any(self.as_object(rule, (*place, at)).get("delayMinutes") for at, rule in enumerate(rules)):
            self.note(place, f"the delays of {name}'s contacts are not taken over: all at once")

    def _rotation(self, number: object, path: Path, zone_name: str) -> _Rotation | None:
        """A rotation in a time zone. None, and a note, if there is none that can be taken over."""
        if (found := self._find("rotations", number)) is None:
            self.note(path, f"there is no rotation {shown(number)} among rotations: left out")
            return None
        place, row = found
        kind, called = str(row.get("type")), self.text(row, "name", place)
        if kind not in _UNITS:
            self.note(place, f"the rotation {called} is not taken over: there are no turns of {shown(row.get('type'))}")
            return None
        own_zone, begin = self._zone(row, place), self.moment(row, "start", place)
        count = self.number(row, "shiftLength", place, otherwise=1, least=1)
        people = self._people_of(row, place)
        if begin is None or not people:
            self.note(place, f"the rotation {called} has nobody, and is left out")
            return None
        length = _UNITS[kind] * min(count, 9_999)
        begin = begin if begin.tzinfo else begin.replace(tzinfo=UTC)
        local, now = (moment.astimezone(ZoneInfo(own_zone)).replace(tzinfo=None) for moment in (begin, self.now))
        turns = max((now - local) // length, 0)
        active = self.number(row, "activeUserIndex", place, otherwise=turns % len(people)) % len(people)
        started = (local + turns * length).replace(tzinfo=ZoneInfo(own_zone))
        if own_zone != zone_name:
            self.note(place, f"the rotation {called} has the clock of {own_zone}, and here that of {zone_name}")
        order = [name for name in people[active:] + people[:active] if name]
        starts_at = started.astimezone(ZoneInfo(zone_name))
        return _Rotation(people=order, rotate=f"{count}{_LETTERS[kind]}", starts_at=starts_at)

    def _people_of(self, row: Mapping[str, Any], path: Path) -> list[str]:
        listed, place = row.get("userIDs"), (*path, "userIDs")
        if listed is None:
            place = (*path, "users")
            users = self.as_list(row.get("users"), place)
            listed = [self.as_object(user, (*place, at)).get("id") for at, user in enumerate(users)]
        found = (self._person(each, (*place, at)) for at, each in enumerate(self.as_list(listed, place)))
        return [name for name in found if name is not None]

    def _zone(self, row: Mapping[str, Any], path: Path) -> str:
        name = self.text(row, "timeZone", path)
        try:
            zone(name)
        except ValueError as error:
            self.wrong((*path, "timeZone"), str(error))
            return "UTC"
        return name

    def _read_schedule(self, path: Path, row: Mapping[str, Any]) -> None:
        name, zone_name = self._name("schedules", path, row), self._zone(row, path)
        for other in ("temporarySchedules", "onCallNotificationRules"):
            if row.get(other):
                self.note((*path, other), f"{other} of {name} are not taken over")
        layers, taken = list[dict[str, Any]](), list[Span]()
        for at, each in enumerate(self.as_list(row.get("targets"), (*path, "targets"))):
            place = (*path, "targets", at)
            assigned = self.as_object(each, place)
            spans = list(self._spans(assigned, place))
            layer = self._layer(self.as_object(assigned.get("target"), (*place, "target")), place, zone_name)
            if layer is None or not spans:
                continue
            if any(begin < other_end and other < end for begin, end in _in_week(spans) for other, other_end in taken):
                self.note(place, f"in {name} two are on call together here: in a policy the later layer wins")
            taken += _in_week(spans)
            layers.append({**layer, **({"hours": hours} if (hours := hours_of(spans)) else {})})
        self._schedules[name] = {"time_zone": zone_name, "layers": layers} if layers else None
        if not layers:
            self.note(path, f"the schedule {name} has nobody, and is left out")

    def _layer(self, target: Mapping[str, Any], path: Path, zone_name: str) -> dict[str, Any] | None:
        match target.get("type"):
            case "user":
                person = self._person(target.get("id"), path)
                return None if person is None else {"people": [person]}
            case "rotation":
                return self._layer_of_rotation(target.get("id"), path, zone_name)
            case other:
                self.note(path, f"a target {shown(other)} of a schedule is not taken over")
                return None

    def _layer_of_rotation(self, number: object, path: Path, zone_name: str) -> dict[str, Any] | None:
        found = self._rotation(number, path, zone_name)
        if found is None:
            return None
        begin = found.starts_at
        return {
            "people": found.people,
            "rotate": found.rotate,
            "handoff": f"{begin:%H:%M}",
            "start": begin.date().isoformat(),
        }

    def _spans(self, assigned: Mapping[str, Any], path: Path) -> Iterator[Span]:
        """The times of the week of a target's rules, in minutes from Monday 00:00."""
        for at, each in enumerate(self.as_list(assigned.get("rules"), (*path, "rules"))):
            place = (*path, "rules", at)
            rule = self.as_object(each, place)
            begin, end = (self._clock(rule, name, place) for name in ("start", "end"))
            days = self.as_list(rule.get("weekdayFilter"), (*place, "weekdayFilter")) or [True] * 7
            if len(days) != 7:
                self.wrong((*place, "weekdayFilter"), f"expected 7 values, from Sunday on, got {len(days)}")
                continue
            length = end - begin if end > begin else end - begin + DAY
            for day in (day for day in range(7) if days[day] is True):
                first = (day - 1) % 7 * DAY + begin
                yield first, first + length

    def _clock(self, rule: Mapping[str, Any], name: str, path: Path) -> int:
        text = rule.get(name)
        try:
            hour, minute = (int(part) for part in str(text).split(":")[:2])
        except ValueError:
            hour, minute = -1, 0
        if not (0 <= hour < 24 and 0 <= minute < 60):
            self.wrong((*path, name), f"expected a time of the day such as 09:00, got {shown(text)}")
            return 0
        return hour * 60 + minute

    # Escalations and services

    def _read_policies(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for path, row in self._rows["escalationPolicies"]:
            name = self._name("escalationPolicies", path, row)
            steps = list[dict[str, Any]]()
            place = (*path, "steps")
            listed = [
                ((*place, at), self.as_object(each, (*place, at)))
                for at, each in enumerate(self.as_list(row.get("steps"), place))
            ]
            for at, step in sorted(listed, key=lambda one: self.number(one[1], "stepNumber", one[0], otherwise=0)):
                steps += self._steps(step, at)
            if not steps:
                self.note(path, f"the escalation policy {name} notifies nobody here, and is left out")
                continue
            repeat = min(self.number(row, "repeat", path, otherwise=0), _MOST_REPEATS)
            yield name, {"steps": steps, **({"repeat": repeat} if repeat else {})}

    def _steps(self, step: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
        """The steps that stand for one of GoAlert's: a step of a policy has one schedule at most."""
        people, channels, schedules = list[str](), list[str](), list[str]()
        for place, kind, number, called in self._targets(step, path):
            match kind:
                case "user":
                    people += [name] if (name := self._person(number, place)) else []
                case "schedule" | "rotation":
                    schedules += [name] if (name := self._schedule(kind, number, place)) else []
                case "slackChannel":
                    channels.append(self.channel(f"slack-{called}", place, f"the channel {called} of Slack"))
                case "chanWebhook" | "notificationChannel":
                    called = _host_of(called)
                    channels.append(self.channel(f"webhook-{called}", place, f"the webhook {called}"))
                case other:
                    self.note(place, f"a target {shown(other)} of a step is not taken over")
        wait = f"{max(self.number(step, 'delayMinutes', path, otherwise=5), 1)}m"
        direct = {name: value for name, value in (("people", people), ("channels", channels)) if value}
        made: list[dict[str, Any]] = [{"schedule": name, "wait": 0} for name in schedules]
        if direct:
            made = [{**direct, **(made.pop(0) if made else {"wait": 0})}, *made]
        if made:
            made[-1]["wait"] = wait
        else:
            self.note(path, f"a step that notifies nobody is left out; the next one comes {wait} sooner")
        return made

    def _targets(self, step: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, str, object, object]]:
        """What a step notifies: where it stands, its type, its id, and what it is called."""
        for at, each in enumerate(self.as_list(step.get("targets"), (*path, "targets"))):
            place = (*path, "targets", at)
            target = self.as_object(each, place)
            yield place, str(target.get("type")), target.get("id"), target.get("name") or target.get("id")
        if step.get("targets"):
            return
        for at, each in enumerate(self.as_list(step.get("actions"), (*path, "actions"))):
            place = (*path, "actions", at)
            action = self.as_object(each, place)
            kind, argument = _ACTIONS.get(str(action.get("type")), (str(action.get("type")), ""))
            number = self.as_object(action.get("args") or {}, (*place, "args")).get(argument)
            yield place, kind, number, number

    def _schedule(self, kind: str, number: object, path: Path) -> str | None:
        """The name of a schedule. A rotation that a step names directly becomes one."""
        section = "schedules" if kind == "schedule" else "rotations"
        if (found := self._find(section, number)) is None:
            self.note(path, f"there is no {kind} {shown(number)} among {section}: left out")
            return None
        place, row = found
        if kind == "schedule":
            name = self._name(section, place, row)
        else:
            name = f"{self._name(section, place, row)[:80]} (rotation)"
            if name not in self._schedules:
                zone_name = self._zone(row, place)
                layer = self._layer_of_rotation(number, path, zone_name)
                self._schedules[name] = {"time_zone": zone_name, "layers": [layer]} if layer else None
        if self._schedules.get(name) is None:
            self.note(path, f"{shown(name)} is not taken over: the step leaves it out")
            return None
        return name

    def _read_services(self, escalations: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for path, row in self._rows["services"]:
            name = self.text(row, "name", path)
            policy = self.as_object(row.get("escalationPolicy") or {}, (*path, "escalationPolicy"))
            number = row.get("escalationPolicyID") or policy.get("id")
            found = self._find("escalationPolicies", number)
            escalation = self._name("escalationPolicies", *found) if found else None
            self.note(path, f"alerts of the service {name} are told by a label: give them service={name}")
            for at, monitor in enumerate(self.as_list(row.get("heartbeatMonitors"), (*path, "heartbeatMonitors"))):
                place = (*path, "heartbeatMonitors", at)
                self.note(place, f"a heartbeat is not taken over: POST {_beat(self.as_object(monitor, place))}")
            route: dict[str, Any] = {"name": name[:100], "matchers": [str(Matcher("service", Operator.EQUAL, name))]}
            if escalation in escalations:
                yield {**route, "escalation": escalation}
            else:
                self.note(path, f"the service {name} has no escalation policy here: nobody is notified")
                yield {**route, "channels": []}


def _in_week(spans: Sequence[Span]) -> list[Span]:
    """The spans cut at the end of the week."""
    found = list[Span]()
    for begin, end in spans:
        found += [(begin, min(end, WEEK))] + ([(0, end - WEEK)] if end > WEEK else [])
    return found


def _host_of(called: object) -> str:
    """The host of a webhook's address, which may have a credential in it; a name as it is."""
    text = str(called)
    return urlsplit(text).hostname or "webhook" if "://" in text else text


def _beat(monitor: Mapping[str, Any]) -> str:
    minutes = monitor.get("timeoutMinutes")
    return f"/heartbeats/{monitor.get('name')}/?every={minutes if isinstance(minutes, int) else 5}m"
