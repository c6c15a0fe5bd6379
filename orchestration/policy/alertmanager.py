"""From Alertmanager's configuration to a policy, with a list of what was not taken over."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from orchestration.policy.document import Path, read_document
from orchestration.policy.importing import ConfigReader, Imported
from orchestration.policy.matchers import BadMatcher, Matcher, Operator, parse_matchers
from orchestration.redaction import shown

KNOWN_LABELS = ("severity", "source", "environment", "alertname")
"""Labels that every alert has in a policy, also where its sender gives it none."""

_ROUTE_FIELDS = {
    *("receiver", "match", "match_re", "matchers", "continue", "routes", "group_by", "mute_time_intervals"),
    "active_time_intervals",
}
_NOT_OF_ROUTES = {
    "group_wait": "alert-pipeline notifies at once, and Alertmanager has waited before it pushes",
    "group_interval": "alert-pipeline notifies of each change at once",
    "repeat_interval": "reminders are the policy's timing: remind_after and remind_critical_after",
}
_NOT_TAKEN = {
    "global": "credentials and servers of channels are in their blocks",
    "templates": "messages have a form of their own",
    "tracing": "it is a setting of Alertmanager itself",
}
_TAKEN = {"route", "receivers", "inhibit_rules", "mute_time_intervals", "time_intervals"}


def import_alertmanager(text: str | bytes) -> Imported:
    """The policy that routes as this configuration of Alertmanager does.

    Raises:
        BadPolicy: the text is no configuration of Alertmanager; all that is wrong, by line and field.
    """
    document = read_document(text, plain_text=True)
    return _Import(document).run()


@dataclass
class _Import(ConfigReader):
    _receivers: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    _grouping: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def run(self) -> Imported:
        """All of the configuration."""
        config = self.as_object(self.document.value, ())
        self.problems += self.document.problems
        if "route" not in config:
            self.wrong((), "has no route: expected Alertmanager's configuration")
        for name in (name for name in config if name not in _TAKEN):
            self.note((name,), f"{name} is not taken over: {_NOT_TAKEN.get(name, 'there is nothing like it')}")
        self._read_receivers(config.get("receivers"))
        windows = {name: periods for name, periods in self._windows(config)}
        routes = [self._route(config["route"], ("route",), [], None)] if "route" in config else []
        rules = list(self._inhibitions(config.get("inhibit_rules")))
        raw = {
            "description": "Imported from Alertmanager.",
            "grouping": self._groupings(),
            "routes": routes,
            "windows": windows,
            "inhibitions": rules,
        }
        return self.imported(raw, receivers=self._receivers)

    # Receivers

    def _read_receivers(self, raw: object) -> None:
        taken = set[str]()
        for at, each in enumerate(self.as_list(raw, ("receivers",))):
            path: Path = ("receivers", at)
            receiver = self.as_object(each, path)
            name = receiver.get("name")
            if not isinstance(name, str) or not name:
                self.wrong(path, "has no name")
                continue
            integrations = [
                (kind.removesuffix("_configs"), (*path, kind, number))
                for kind in receiver
                if kind.endswith("_configs")
                for number, _ in enumerate(self.as_list(receiver[kind], (*path, kind)))
            ]
            self._receivers[name] = tuple(
                self._channel(name, kind, place, alone=len(integrations) == 1, taken=taken)
                for kind, place in integrations
            )
            for _, place in integrations:
                options = self.as_object(receiver[str(place[-2])][place[-1]], place)
                if str(options.get("send_resolved")).lower() == "false":
                    self.note(place, f"send_resolved of {name} is not taken over: whoever is paged hears of the end")
            if not integrations:
                self.note(path, f"the receiver {name} has no integration: its routes notify nobody")

    def _channel(self, receiver: str, kind: str, path: Path, *, alone: bool, taken: set[str]) -> str:
        """The name of the channel that stands for one integration of a receiver."""
        plain = re.sub(r"[^a-z0-9]+", "-", receiver.lower()).strip("-")[:80] or "receiver"
        wanted = plain if alone else f"{plain}-{kind}"
        name, number = wanted, 1
        while name in taken:
            number += 1
            name = f"{wanted}-{number}"
        taken.add(name)
        self.note(path, f"the receiver {receiver} ({kind}) is the channel {name}: save a block of this name")
        return name

    # Routes

    def _route(self, raw: object, path: Path, above: list[str], group_by: list[str] | None) -> dict[str, Any]:
        route = self.as_object(raw, path)
        for name in (name for name in route if name not in _ROUTE_FIELDS):
            self.note((*path, name), f"{name} of a route is not taken over: {_NOT_OF_ROUTES.get(name, 'unknown')}")
        own = self._matchers(route, path, {"match": Operator.EQUAL, "match_re": Operator.MATCHES}, "matchers")
        if route.get("group_by") is not None:
            group_by = [str(name) for name in self.as_list(route["group_by"], (*path, "group_by"))]
        goes_on = str(route.get("continue", "")).lower() == "true"
        found: dict[str, Any] = {"name": "alertmanager"} if path == ("route",) else {}
        found |= {
            "matchers": own,
            "mute": self.as_list(route.get("mute_time_intervals"), (*path, "mute_time_intervals")),
            "active": self.as_list(route.get("active_time_intervals"), (*path, "active_time_intervals")),
            "continue": goes_on,
        }
        found = {name: value for name, value in found.items() if value}
        if (receiver := route.get("receiver")) is not None:
            if receiver not in self._receivers:
                self.wrong((*path, "receiver"), f"there is no receiver {shown(receiver)}")
            found["channels"] = list(self._receivers.get(str(receiver), ()))
        elif path == ("route",):
            self.wrong(path, "the first route has no receiver")
        matchers = [*above, *own]
        below = [
            self._route(each, (*path, "routes", at), matchers, group_by)
            for at, each in enumerate(self.as_list(route.get("routes"), (*path, "routes")))
        ]
        self._note_grouping(matchers, group_by, path, goes_on=goes_on)
        return {**found, "routes": below} if below else found

    def _note_grouping(self, matchers: list[str], by: list[str] | None, path: Path, *, goes_on: bool) -> None:
        """Keep how alerts of this route are grouped. A route comes after those below it: they are tried first."""
        if by == []:
            self.note(path, "an empty group_by is not taken over: everything would be one incident")
        if by:
            self._grouping.append({"matchers": matchers, "by": by} if matchers else {"by": by})
        if by and goes_on:
            self.note(path, "the groups of a route with continue: an alert is grouped by the first route that it takes")

    def _groupings(self) -> list[dict[str, Any]]:
        """The groupings, or one for all where they are the same."""
        distinct = {tuple(grouping["by"]) for grouping in self._grouping}
        if len(distinct) == 1 and "matchers" not in self._grouping[-1]:
            return [{"by": list(distinct.pop())}]
        return self._grouping

    def _matchers(self, raw: Mapping[str, Any], path: Path, old: Mapping[str, Operator], new: str) -> list[str]:
        """The matchers of a route or a rule: of its older fields and of the newer one, as texts."""
        found = list[Matcher]()
        for name, operator in old.items():
            for label, value in self.as_object(raw.get(name) or {}, (*path, name)).items():
                try:
                    found.append(Matcher(label, operator, value if isinstance(value, str) else ""))
                except BadMatcher as error:
                    self.wrong((*path, name, label), str(error))
        given = raw.get(new)
        for at, text in enumerate([given] if isinstance(given, str) else self.as_list(given, (*path, new))):
            try:
                found += parse_matchers(str(text))
            except BadMatcher as error:
                self.wrong((*path, new, at), str(error))
        for matcher in found:
            if matcher.label in KNOWN_LABELS and matcher.matches({}):
                self.note(
                    (*path, new if new in raw else next(iter(raw.keys() & old.keys()), new)),
                    f"{matcher} also matches alerts without the label {matcher.label} in Alertmanager; in a policy "
                    "every alert has it",
                )
        return [str(matcher) for matcher in found]

    # Windows and inhibitions

    def _windows(self, config: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
        for section in ("mute_time_intervals", "time_intervals"):
            for at, each in enumerate(self.as_list(config.get(section), (section,))):
                interval = self.as_object(each, (section, at))
                periods = self.as_list(interval.get("time_intervals"), (section, at, "time_intervals"))
                never = [{"years": "1"}]  # an interval without a period has no moment
                yield str(interval.get("name", "")), [self._period(period) for period in periods] or never

    def _period(self, raw: object) -> object:
        """A period, without the fields that are empty."""
        if not isinstance(raw, Mapping):
            return raw
        return {name: value for name, value in cast("Mapping[str, Any]", raw).items() if value not in (None, [])}

    def _inhibitions(self, raw: object) -> Iterator[dict[str, Any]]:
        for at, each in enumerate(self.as_list(raw, ("inhibit_rules",))):
            path: Path = ("inhibit_rules", at)
            rule = self.as_object(each, path)
            source, target = (
                self._matchers(
                    rule,
                    path,
                    {f"{side}_match": Operator.EQUAL, f"{side}_match_re": Operator.MATCHES},
                    f"{side}_matchers",
                )
                for side in ("source", "target")
            )
            if not source or not target:
                self.note(path, "an inhibition without source or target matchers is not taken over")
                continue
            found: dict[str, Any] = {"source_matchers": source, "target_matchers": target}
            if rule.get("equal"):
                found["equal"] = rule["equal"]
            yield found
