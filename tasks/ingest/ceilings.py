"""Pushes that are too large: one of more incidents than people can read, and one that cannot be read at all.

Nobody reads thousands of pages at once, and what matters waits behind them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from orchestration.alert import TOO_LARGE, Alert
from orchestration.policy.active import ActivePolicy
from orchestration.redaction import one_line
from orchestration.store import incidents, storms
from orchestration.store.database import Database
from tasks.ingest.sources import Push
from tasks.ingest.storms import key_of, route_of

_NAME_CHARACTERS = 80
_NAME = re.compile(
    r'''"(?:alert_?name|alert_title|condition_name|rule_?name|check_name|name|title)"\s*:\s*"((?:[^"\\]|\\.){1,200})"''',
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class HugePush:
    """A push with so many incidents that it is a storm by itself."""

    push: Push
    groups: list[list[Alert]]
    """Its alerts as they are stored, one list for each incident."""
    environment: str
    routes: list[str]
    """The route of each group."""

    @classmethod
    def of(cls, push: Push, groups: list[list[Alert]], environment: str, policy: ActivePolicy | None) -> Self:
        """The push with the routes of its alerts. This takes time and no database, so a thread can do it."""
        return cls(
            push=push,
            groups=groups,
            environment=environment,
            routes=[route_of(policy, group, environment) for group in groups],
        )

    async def split(self, database: Database, ceiling: int) -> tuple[list[list[Alert]], Mapping[str, list[Alert]]]:
        """The groups that become a run each, and the alerts of storms by the storm's key.

        Whoever was notified of an incident is notified of its end too: what the push says of an open incident, or of an
        alert that fires in one, is a run of its own. There are never more of these than messages were sent before.

        Raises:
            Unavailable: the database does not answer.
        """
        source, named = self.push.source, {alert.fingerprint for group in self.groups for alert in group}
        keys = {group[0].incident_key for group in self.groups}
        async with database.transaction() as tx:
            live = await incidents.live_keys(tx, self.environment, keys)
            firing = await incidents.list_firing(tx, source, self.environment, named)
            members = await storms.members_of_storms(tx, list(named))
        alone, folded = list[list[Alert]](), defaultdict[str, list[Alert]](list)
        many = list[list[Alert]]()
        for group, route in zip(self.groups, self.routes, strict=True):
            names = {alert.fingerprint for alert in group}
            storm = next((found for name in names if (found := members.get((self.environment, source, name)))), None)
            if group[0].incident_key in live or (storm is None and names & firing):
                alone.append(group)
                continue
            many.append(group)
            folded[storm or key_of(source, route)] += group
        return ([*alone, *many], {}) if len(many) <= ceiling else (alone, folded)


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
