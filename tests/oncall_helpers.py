"""A policy with people and schedules, for tests of who is on call."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from orchestration.definitions import NewDefinition
from orchestration.policy.parse import parse_policy
from orchestration.store.database import Database
from orchestration.store.definitions import store_definition

POLICY: dict[str, Any] = {
    "people": {name: {"contacts": [f"{name}-phone"]} for name in ("ada", "grace", "linus")},
    "schedules": {
        "backend": {
            "time_zone": "Europe/Berlin",
            "layers": [{"people": ["ada", "grace"], "rotate": "weekly", "handoff": "09:00", "start": "2026-11-02"}],
        },
        "office": {
            "time_zone": "America/New_York",
            "layers": [{"people": "linus", "hours": [{"weekdays": ["monday:friday"], "times": ["09:00-17:00"]}]}],
        },
    },
}


async def store_policy(database: Database, policy: dict[str, Any]) -> None:
    """Make this the policy that counts."""
    new = NewDefinition.of_policy(parse_policy(policy))
    async with database.transaction() as tx:
        await store_definition(tx, new, created_by="test")


async def switch_storms_off(database: Database) -> None:
    """Let each incident be told by itself, however many there are."""
    await store_policy(database, {"timing": {"storm": False}})


def assert_lists(notes: Sequence[str], *parts: str) -> None:
    """What an import has left out is listed: each of these is said, and each note names its line, or its field if it is
    about what was made."""
    said = "\n".join(notes)
    for part in parts:
        assert part in said, said
    assert all(re.match(r"line \d|[a-z_]+\[\d+\]: ", note) for note in notes), notes
