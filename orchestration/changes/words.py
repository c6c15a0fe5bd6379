"""What the ranking says about an entity, in one sentence with its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from orchestration.changes.deviations import Deviation
from orchestration.changes.shown import Shown


def reason(shown: Shown, entity: str, blame: Mapping[str, float]) -> str:
    """Why an entity is where it is in the ranking."""
    found = [one for one in shown.of(entity) if one.excess > 0]
    if not found:
        said = "nothing of it is outside of its normal range" if shown.of(entity) else "none of its series has a value"
    else:
        own = shown.own(entity)
        said = _says(own if own in found else max(found, key=lambda one: (one.strength, one.name)))
    return f"{said}{_part(shown, entity, blame)}"


def _says(one: Deviation) -> str:
    since = f", since {datetime.fromtimestamp(one.since, UTC):%H:%M:%S} UTC" if one.since is not None else ""
    if one.normal is None:
        return f"{one.name[1]} is {one.now:.4g}, and has no past to compare{since}"
    return f"{one.name[1]} is {one.now:.4g}, normally {one.normal.low:.4g} to {one.normal.high:.4g}{since}"


def _part(shown: Shown, entity: str, blame: Mapping[str, float]) -> str:
    part = blame.get(entity)
    if blame and part is None:
        return f"; {shown.target} does not depend on it"
    if entity == shown.target:
        return f"; what it depends on leaves {part:.0%} of this to itself" if part is not None else ""
    if part is not None and part >= 0.01:
        return f"; by its size and calls it explains {part:.0%} of what {shown.target} shows"
    return ""
