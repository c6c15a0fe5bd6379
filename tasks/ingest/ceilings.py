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
from orchestration.store import incidents
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
    """A push with more incidents than `ceiling`."""

    push: Push
    groups: list[list[Alert]]
    """Its alerts, one list for each incident."""
    ceiling: int
    keys: list[str]
    """The incident key under which each group is stored."""
    fingerprints: list[set[str]]
    """The fingerprints under which the alerts of each group are stored."""

    @classmethod
    def of(cls, push: Push, groups: list[list[Alert]], ceiling: int) -> Self:
        """The storm with the identities of its alerts. This takes time and no database, so a thread can do it."""
        fingerprints = [{identity_without_secrets(alert.fingerprint) for alert in group} for group in groups]
        return cls(push, groups, ceiling, [stored_key(group[0]) for group in groups], fingerprints)

    async def split(self, database: Database, environment: str) -> list[list[Alert]]:
        """The groups that become a run each. The last one may be the alert that stands for all that are not open yet.

        Whoever was told of an incident is told its end too, so what the push says of open incidents and firing alerts
        is a run for each. There are never more of those than people were told of one by one.

        Raises:
            Unavailable: the database does not answer.
        """
        source, own = self.push.source, _key_of_storm(self.push.source)
        async with database.transaction() as tx:
            live = await incidents.live_keys(tx, environment, {own, *self.keys})
            firing = await incidents.list_firing(tx, source, environment, set[str]().union(*self.fingerprints))
        known, others = list[list[Alert]](), list[list[Alert]]()
        for group, key, fingerprints in zip(self.groups, self.keys, self.fingerprints, strict=True):
            (known if key in live or fingerprints & firing else others).append(group)
        # However few ends are left, they may be those that the open storm waits for.
        ends_storm = own in live and not any(alert.firing for group in others for alert in group)
        if len(others) > self.ceiling or (others and ends_storm):
            others = [[_too_many_incidents(source, others, self.ceiling)]]
        return [*known, *others]


def _key_of_storm(source: str) -> str:
    return f"{TOO_MANY}/{source}"


def _too_many_incidents(source: str, groups: Sequence[Sequence[Alert]], ceiling: int) -> Alert:
    """The one alert that stands for more than `ceiling` incidents. It fires as long as one of them does."""
    found = [alert for group in groups for alert in group]
    firing = [alert for alert in found if alert.firing]
    names = Counter(one_line(alert.name, _NAME_CHARACTERS) for alert in found)
    frequent = ", ".join(f"{name} ({count:,})" for name, count in names.most_common(_NAMES_SHOWN))
    others = f" and {len(names) - _NAMES_SHOWN:,} other names" if len(names) > _NAMES_SHOWN else ""
    return Alert(
        source=source,
        fingerprint=_key_of_storm(source),
        incident_key=_key_of_storm(source),
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
