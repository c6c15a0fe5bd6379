"""Names that a policy refers to and that do not exist, and escalations that notify nobody or too often.

The names are looked up in the document as it was written, so that they are listed together with all other mistakes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, cast

from orchestration.message import is_channel
from orchestration.policy.document import Path
from orchestration.policy.model import Policy
from orchestration.redaction import shown

_OF_ROUTES = {"during": "windows", "active": "windows", "mute": "windows", "escalation": "escalations"}
_OF_STEPS = {"schedule": "schedules", "people": "people"}
_ONE = {"windows": "window", "escalations": "escalation", "schedules": "schedule", "people": "person"}
_SHOWN_NAMES = 30


def unknown_names(raw: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """The path and the message of each name that refers to nothing."""
    known = {section: _names_in(raw.get(section)) for section in _ONE}
    yield from _unknown_in_routes(raw.get("routes"), ("routes",), known)
    for name, escalation in _members(raw.get("escalations")):
        for at, step in enumerate(_items(_field(escalation, "steps"))):
            yield from _unknown_in(step, ("escalations", name, "steps", at), _OF_STEPS, known)


def unknown_channels(raw: Mapping[str, Any], known: Collection[str]) -> Iterator[tuple[Path, str]]:
    """The path and the message of each channel that does not exist, and of each person whom nothing reaches.

    `known` are the names of all channels and drivers.
    """
    yield from _unknown_channels_in(raw, "catch_all", (), known)
    yield from _unknown_channels_in_routes(raw.get("routes"), ("routes",), known)
    for name, escalation in _members(raw.get("escalations")):
        for at, step in enumerate(_items(_field(escalation, "steps"))):
            yield from _unknown_channels_in(step, "channels", ("escalations", name, "steps", at), known)
    for name, person in _members(raw.get("people")):
        contacts = _texts(_field(person, "contacts"))
        if contacts and not any(is_channel(contact, known) for contact in contacts):
            listed = ", ".join(map(shown, contacts))
            yield ("people", name), f"nothing reaches {shown(name)}: there is no channel that is a contact ({listed})"
        else:
            yield from _unknown_channels_in(person, "contacts", ("people", name), known)


def _unknown_channels_in_routes(raw: object, path: Path, known: Collection[str]) -> Iterator[tuple[Path, str]]:
    for at, route in enumerate(_items(raw)):
        yield from _unknown_channels_in(route, "channels", (*path, at), known)
        yield from _unknown_channels_in_routes(_field(route, "routes"), (*path, at, "routes"), known)


def _unknown_channels_in(raw: object, field: str, path: Path, known: Collection[str]) -> Iterator[tuple[Path, str]]:
    for name in _texts(_field(raw, field)):
        if not is_channel(name, known):
            there_are = f"there are: {_some(sorted(known))}" if known else "none is set up"
            yield (*path, field), f"there is no channel {shown(name)} ({there_are})"


def _texts(value: object) -> list[str]:
    return [each for each in ([value] if isinstance(value, str) else _items(value)) if isinstance(each, str)]


def useless_steps(policy: Policy) -> Iterator[tuple[Path, str]]:
    """The path and a message of each step that notifies nobody, and of steps that are repeated without any wait."""
    for name, escalation in policy.escalations.items():
        for at, step in enumerate(escalation.steps):
            if step.names_nobody:
                message = "names nobody to notify: give the step channels, a schedule or people"
                yield ("escalations", name, "steps", at), message
        if escalation.repeat and not any(step.wait for step in escalation.steps):
            message = "repeats steps that wait for nothing: everybody would be notified at once, again and again"
            yield ("escalations", name, "repeat"), f"{message}. Give a step a wait"


def _unknown_in_routes(raw: object, path: Path, known: Mapping[str, list[str]]) -> Iterator[tuple[Path, str]]:
    for at, route in enumerate(_items(raw)):
        yield from _unknown_in(route, (*path, at), _OF_ROUTES, known)
        yield from _unknown_in_routes(_field(route, "routes"), (*path, at, "routes"), known)


def _unknown_in(
    raw: object, path: Path, fields: Mapping[str, str], known: Mapping[str, list[str]]
) -> Iterator[tuple[Path, str]]:
    """The names in these fields of an object that the section of their kind does not have."""
    for field, section in fields.items():
        value = _field(raw, field)
        for at, name in enumerate([value] if isinstance(value, str) else _items(value)):
            if isinstance(name, str) and name not in known[section]:
                place = (*path, field) if isinstance(value, str) else (*path, field, at)
                yield place, f"there is no {_ONE[section]} {shown(name)} ({_listed(known[section], section)})"


def _listed(names: Sequence[str], section: str) -> str:
    return f"known: {_some(names)}" if names else f"the policy has no {section}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return f"{', '.join(names[:_SHOWN_NAMES])}{more}"


def _names_in(section: object) -> list[str]:
    return [name for name, _ in _members(section)]


def _members(raw: object) -> list[tuple[str, object]]:
    if not isinstance(raw, Mapping):
        return []
    return [(key, value) for key, value in cast("Mapping[object, object]", raw).items() if isinstance(key, str)]


def _items(raw: object) -> list[object]:
    return list(cast("Sequence[object]", raw)) if isinstance(raw, list | tuple) else []


def _field(raw: object, name: str) -> object:
    return cast("Mapping[str, object]", raw).get(name) if isinstance(raw, Mapping) else None
