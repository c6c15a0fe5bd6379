"""What a push becomes that is more than people can be told: one alert that says so.

Thousands of pages at once are none: nobody reads them, and what matters waits behind them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from orchestration.alert import TOO_LARGE, TOO_MANY, Alert, AlertStatus, Severity
from orchestration.redaction import one_line
from orchestration.store import alerts, incidents
from orchestration.store.database import Database
from tasks.ingest.alert_secrets import identity_without_secrets, stored_key
from tasks.ingest.sources import Push

_NAMES_SHOWN = 10
_NAME_CHARACTERS = 80
_NAME = re.compile(
    r'''"(?:alert_?name|alert_title|condition_name|rule_?name|check_name|name|title)"\s*:\s*"((?:[^"\\]|\\.){1,200})"''',
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Storm:
    """A push with more incidents than `ceiling`: its alerts, one list for each incident."""

    push: Push
    groups: list[list[Alert]]
    ceiling: int
    keys: list[str]
    """Of each group, the incident key under which it is stored."""
    fingerprints: list[set[str]]

    @classmethod
    def of(cls, push: Push, groups: list[list[Alert]], ceiling: int) -> Self:
        """Everything that takes time, so that it can be done in a thread."""
        fingerprints = [{identity_without_secrets(alert.fingerprint) for alert in group} for group in groups]
        return cls(push, groups, ceiling, [stored_key(group[0]) for group in groups], fingerprints)

    async def split(self, database: Database, environment: str) -> list[list[Alert]]:
        """The groups that become a run each, and at the end the alert that stands for all others, if there are any.

        Whoever was told of an incident is told its end too, so what the push says of incidents and alerts that are
        known to fire is a run of its own. They are no more than people have been told of one by one.

        Raises:
            Unavailable: the database does not answer.
        """
        own, source = _key(self.push.source), self.push.source
        async with database.transaction() as tx:
            live = await incidents.live_keys(tx, environment, {own, *self.keys})
            firing = await alerts.list_firing(tx, source, environment, set[str]().union(*self.fingerprints))
        known, others = list[list[Alert]](), list[list[Alert]]()
        for group, key, fingerprints in zip(self.groups, self.keys, self.fingerprints, strict=True):
            (known if key in live or fingerprints & firing else others).append(group)
        fires = any(alert.firing for group in others for alert in group)
        if len(others) > self.ceiling or (others and not fires and own in live):
            others = [[too_many_incidents(source, others, self.ceiling)]]
        return [*known, *others]


def _key(source: str) -> str:
    return f"{TOO_MANY}/{source}"


def too_many_incidents(source: str, groups: Sequence[Sequence[Alert]], ceiling: int) -> Alert:
    """The one alert that stands for more than `ceiling` incidents. It fires as long as one of them does."""
    found = [alert for group in groups for alert in group]
    firing = [alert for alert in found if alert.firing]
    names = Counter(one_line(alert.name, _NAME_CHARACTERS) for alert in found)
    frequent = ", ".join(f"{name} ({count:,})" for name, count in names.most_common(_NAMES_SHOWN))
    others = f" and {len(names) - _NAMES_SHOWN:,} other names" if len(names) > _NAMES_SHOWN else ""
    return Alert(
        source=source,
        fingerprint=_key(source),
        incident_key=_key(source),
        name=TOO_MANY,
        title=f"{len(groups):,} incidents in one push from {source}",
        severity=Severity.worst(*(alert.severity for alert in firing or found)),
        status=AlertStatus.FIRING if firing else AlertStatus.RESOLVED,
        description=f"A push has {len(found):,} alerts of {len(groups):,} incidents, {len(firing):,} of them "
        f"firing. That is more than ORCHESTRATION_MAX_INCIDENTS_PER_PUSH={ceiling}, so this is one message for all, "
        f"and nobody is notified of each. The most frequent: {frequent}{others}",
    )


def too_large_push(source: str, sender: str, size_bytes: int | None, limit: str, beginning: str) -> dict[str, object]:
    """The body of the generic source that stands for a push that could not be read.

    Args:
        source: who sent it, as the address or the body says.
        sender: the name of the key; "" means the local key.
        size_bytes: how large it is, as far as that is known.
        limit: what is too large about it, in a sentence.
        beginning: the text of its beginning.
    """
    size = f" of {size_bytes:,} bytes" if size_bytes else ""
    name = first_name(beginning)
    begins = f"It begins with the alert {name!r}." if name else "No alert's name could be read."
    return {
        "name": TOO_LARGE,
        "title": f"A push{size} from {source} is too large to be read: {name or 'its alerts are not known'}",
        # What it says is not known, so it may be the worst.
        "severity": "critical",
        "status": "firing",
        "description": f"{limit}. Nobody is notified of the alerts in it. {begins} Its beginning: {beginning}",
        "fingerprint": f"{TOO_LARGE}/{source}/{sender}",
        "incident_key": f"{TOO_LARGE}/{source}/{sender}",
    }


def first_name(text: str) -> str:
    """The name of the first alert in the beginning of a body; "" if none can be read."""
    found = _NAME.search(text)
    return one_line(found[1], _NAME_CHARACTERS) if found else ""
