"""From what Grafana OnCall's public API lists to a policy, with a list of what was not taken over.

Source: Grafana OnCall's documentation, "OnCall API reference" (version 1 of the HTTP API).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestration.policy.document import Path, read_document
from orchestration.policy.grafana_shifts import Shifts
from orchestration.policy.importing import ConfigReader, Imported, Names, Row
from orchestration.policy.matchers import Matcher, Operator
from orchestration.redaction import shown

_SECTIONS = (
    "integrations",
    "routes",
    "escalation_chains",
    "escalation_policies",
    "schedules",
    "on_call_shifts",
    "users",
)

_SOURCES = {
    "alertmanager": "alertmanager",
    "legacy_alertmanager": "alertmanager",
    "grafana": "grafana",
    "grafana_alerting": "grafana",
    "legacy_grafana_alerting": "grafana",
    "zabbix": "zabbix",
    "datadog": "datadog",
    "newrelic": "newrelic",
    "pagerduty": "pagerduty",
}
"""Our source of an integration's type."""

_NOT_STEPS = {
    "notify_user_group": "notify its people, or a channel of Slack",
    "notify_team_members": "name the people",
    "notify_whole_channel": "name the channel in the route or in a step",
    "notify_if_time_from_to": "steps have no time of the day; a route has: during, mute",
    "notify_if_num_alerts_in_window": "flapping of the policy's timing is the nearest",
    "resolve": "only a sender, a person or the expiry ends an incident",
    "declare_incident": "every alert belongs to an incident",
}
_REPEATS = 5
"""How often Grafana OnCall repeats a chain."""

_EQUALS = r"payload(?:\.\w+)*\.(?:labels|commonLabels|groupLabels)\.(\w+)\s*==\s*(?:\"([^\"]*)\"|'([^']*)')"
_TEMPLATE = re.compile(rf"\s*\{{\{{-?\s*({_EQUALS}(?:\s+and\s+{_EQUALS})*)\s*-?\}}\}}\s*")
_FIELD = re.compile(r'\\?"(\w+)\\?"(?:\\s\*|\s)*:(?:\\s\*|\s)*\\?"([\w -]+)\\?"')
"""A regular expression that looks for one field of JSON: `"severity": "critical"`."""


def import_grafana_oncall(text: str | bytes) -> Imported:
    """The policy that escalates as these chains, schedules and routes do.

    Args:
        text: a JSON object with the lists of the API, each as a list or as the page that the API answers with.

    Raises:
        BadPolicy: the text is no such object; all that is wrong, by line and field.
    """
    return _Import(read_document(text)).run()


@dataclass
class _Import(ConfigReader):
    _rows: dict[str, list[Row]] = field(default_factory=dict[str, list[Row]])
    _people: dict[str, Any] = field(default_factory=dict[str, Any])
    _users: dict[str, Row] = field(default_factory=dict[str, Row])
    _person_names: Names = field(default_factory=Names)
    _schedule_names: Names = field(default_factory=Names)
    _chain_names: Names = field(default_factory=Names)
    _schedules: dict[str, str] = field(default_factory=dict[str, str])
    """The names of the schedules that are taken over, by id."""
    _chains: dict[str, str] = field(default_factory=dict[str, str])

    def run(self) -> Imported:
        """All of the lists."""
        config = self.as_object(self.document.value, ())
        self.problems += self.document.problems
        if not any(name in config for name in _SECTIONS):
            self.refuse(f"has none of the lists of Grafana OnCall's API: {', '.join(_SECTIONS)}")
        for name in (name for name in config if name not in _SECTIONS):
            self.note((name,), f"{name} is not taken over")
        for name in _SECTIONS:
            self._rows[name] = list(self.rows(config, name))
        self._users = {str(user.get("id")): (path, user) for path, user in self._rows["users"]}
        schedules = dict(self._read_schedules())
        escalations = dict(self._read_chains())
        routes = list(self._read_integrations())
        return self.imported(
            {
                "description": "Imported from Grafana OnCall.",
                "routes": routes,
                "escalations": escalations,
                "schedules": schedules,
                "people": self._people,
            }
        )

    # People and schedules

    def person(self, number: object, path: Path) -> str | None:
        """The name of a user, who becomes a person of the policy. None, and a note, if there is none with this id."""
        found = self._users.get(str(number))
        if found is None:
            self.note(path, f"there is no user {shown(number)}: left out")
            return None
        place, user = found
        name = self._person_names.of(str(number), self.text(user, "username", place))
        if name not in self._people:
            email = user.get("email")
            about = f" ({email})" if isinstance(email, str) and email else ""
            self._people[name] = {"contacts": [self.channel(name, place, f"the person {name}{about}")]}
            rules = "personal notification rules are not taken over: all contacts of a person are notified"
            self.note(("users",), rules)
        return name

    def people(self, numbers: object, path: Path) -> list[str]:
        """The names of users, without those who do not exist."""
        found = (self.person(number, (*path, at)) for at, number in enumerate(self.as_list(numbers, path)))
        return [name for name in found if name is not None]

    def _read_schedules(self) -> Iterator[tuple[str, dict[str, Any]]]:
        shifts = Shifts(self, {str(row.get("id")): (path, row) for path, row in self._rows["on_call_shifts"]})
        for path, row in self._rows["schedules"]:
            number, called = str(row.get("id")), self.text(row, "name", path)
            if row.get("ical_url_overrides"):
                self.note((*path, "ical_url_overrides"), f"the overrides of {called} are not taken over")
            if row.get("type") == "ical":
                zone = row.get("time_zone") or "UTC"
                made: dict[str, Any] | None = {"time_zone": zone, "ical": self.text(row, "ical_url_primary", path)}
                self.note(
                    path, f"the events of {called} have to name people as the policy does: {_by_name(self._users)}"
                )
            else:
                made = shifts.schedule(row, path, called)
            if made is None:
                self.note(path, f"the schedule {called} has no shift that can be taken over, and is left out")
                continue
            self._schedules[number] = name = self._schedule_names.of(number, called)
            yield name, made

    # Chains

    def _read_chains(self) -> Iterator[tuple[str, dict[str, Any]]]:
        steps: dict[str, list[Row]] = {}
        for path, row in self._rows["escalation_policies"]:
            steps.setdefault(str(row.get("escalation_chain_id")), []).append((path, row))
        for path, row in self._rows["escalation_chains"]:
            number, called = str(row.get("id")), self.text(row, "name", path)
            listed = steps.pop(number, [])
            ordered = sorted(listed, key=lambda one: self.number(one[1], "position", one[0], otherwise=0))
            made = self._chain(ordered)
            if made is None:
                self.note(path, f"the chain {called} notifies nobody here, and is left out")
                continue
            self._chains[number] = name = self._chain_names.of(number, called)
            yield name, made
        for listed in steps.values():
            self.note(listed[0][0], "is a step of a chain that is not among escalation_chains: left out")

    def _chain(self, rows: Sequence[Row]) -> dict[str, Any] | None:
        """The escalation of these steps. A wait is how long until the step after it. None means that there is none."""
        steps, repeat = list[dict[str, Any]](), 0
        waits = list[int]()
        for path, row in rows:
            kind = row.get("type")
            if kind == "wait":
                seconds = self.number(row, "duration", path, otherwise=300)
                if waits:
                    waits[-1] += seconds
                else:
                    self.note(path, f"a wait of {seconds} s before anybody is notified is not taken over")
            elif kind == "repeat_escalation":
                repeat = _REPEATS
            elif (step := self._step(str(kind), row, path)) is not None:
                steps.append(step)
                waits.append(0)
        if not steps:
            return None
        last = len(steps) - 1
        for at, (step, seconds) in enumerate(zip(steps, waits, strict=True)):
            if seconds or at < last or (repeat and any(waits)):
                step["wait"] = f"{seconds}s" if seconds else 0
        return {"steps": steps, **({"repeat": repeat} if repeat else {})}

    def _step(self, kind: str, row: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
        match kind:
            case "notify_persons" | "notify_person_next_each_time":
                name = "persons_to_notify" if kind == "notify_persons" else "persons_to_notify_next_each_time"
                if kind != "notify_persons":
                    self.note(path, "takes turns with each alert: here all of its people are notified, each time")
                people = self.people(row.get(name), (*path, name))
                return {"people": people} if people else None
            case "notify_on_call_from_schedule":
                schedule = self._schedules.get(str(row.get("notify_on_call_from_schedule")))
                if schedule is None:
                    self.note(path, "notifies by a schedule that is not taken over: left out")
                return None if schedule is None else {"schedule": schedule}
            case "trigger_webhook" | "trigger_action":
                number = row.get("action_to_trigger")
                return {"channels": [self.channel(f"webhook-{number}", path, f"the outgoing webhook {number}")]}
            case _:
                advice = _NOT_STEPS.get(kind)
                self.note(path, f"the step {shown(kind)} is not taken over{f': {advice}' if advice else ''}")
                return None

    # Routes

    def _read_integrations(self) -> Iterator[dict[str, Any]]:
        by_integration: dict[str, list[Row]] = {}
        for path, row in self._rows["routes"]:
            by_integration.setdefault(str(row.get("integration_id")), []).append((path, row))
        types = [row.get("type") for _, row in self._rows["integrations"]]
        for path, row in self._rows["integrations"]:
            called, kind = self.text(row, "name", path), row.get("type")
            source = _SOURCES.get(str(kind)) if types.count(kind) == 1 else None
            made: dict[str, Any] = {"name": called[:100], "matchers": [], "source": source}
            if source is None:
                made["matchers"] = [str(Matcher("integration", Operator.EQUAL, called))]
                self.note(path, f"alerts of {called} are told by a label: give them integration={called}")
            if (self.as_object(row.get("templates") or {}, (*path, "templates"))).get("grouping_key"):
                self.note(
                    (*path, "templates"), f"the grouping of {called} is not taken over: see the policy's grouping"
                )
            own = by_integration.pop(str(row.get("id")), [])
            own = sorted(own, key=lambda one: self.number(one[1], "position", one[0], otherwise=0))
            default = next((one for one in own if one[1].get("is_the_last_route")), None)
            if default is None:
                place = (*path, "default_route")
                default = place, self.as_object(row.get("default_route") or {}, place)
            below = [route for one in own if one is not default for route in self._route(*one)]
            made |= self._target(default[1], default[0])
            yield {name: value for name, value in {**made, "routes": below}.items() if value or name == "channels"}
        for listed in by_integration.values():
            self.note(listed[0][0], "is a route of an integration that is not among integrations: left out")

    def _route(self, path: Path, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        condition = str(row.get("routing_regex") or "")
        matchers = self._matchers(condition)
        if matchers is None:
            self.note(path, f"the condition {shown(condition)} is not taken over: its alerts take the default route")
            return
        yield {"matchers": [str(matcher) for matcher in matchers], **self._target(row, path)}

    def _matchers(self, condition: str) -> list[Matcher] | None:
        """The matchers that say the same as a route's condition. None means that none do."""
        if _TEMPLATE.fullmatch(condition):
            found = re.findall(_EQUALS, condition)
            return [Matcher(name, Operator.EQUAL, double or single) for name, double, single in found]
        if (one := _FIELD.fullmatch(condition)) is not None:
            return [Matcher(one[1], Operator.EQUAL, one[2])]
        return None

    def _target(self, row: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """Who is notified by a route: a channel of Slack, a chain, both, or nobody."""
        slack = self.as_object(row.get("slack") or {}, (*path, "slack")).get("channel_id")
        channels = [self.channel(f"slack-{slack}", path, f"the channel {slack} of Slack")] if slack else []
        number = row.get("escalation_chain_id")
        chain = self._chains.get(str(number))
        if number and chain is None:
            self.note(path, f"its chain {shown(number)} is not taken over")
        for other in ("telegram", "msteams"):
            if row.get(other):
                self.note((*path, other), f"{other} of a route is not taken over: save a channel, and name it")
        return {"channels": channels, **({"escalation": chain} if chain else {})}


def _by_name(users: Mapping[str, Row]) -> str:
    names = [str(user.get("username")) for _, user in users.values()][:3]
    return ", ".join([*names, "…"]) if names else "add people"
