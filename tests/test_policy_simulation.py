"""What another policy would have changed: who is added, left out, told later, and which person at which hour."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from orchestration.alert import Severity
from orchestration.policy.active import ActivePolicy
from orchestration.policy.oncall import roster_of
from orchestration.policy.parse import parse_policy
from orchestration.policy.replay import PastPage, Replay
from orchestration.policy.routing import Subject
from orchestration.policy.simulation import PageChange, Simulation, simulate

NOON = datetime(2026, 11, 27, 12, 2, tzinfo=UTC)
NIGHT = datetime(2026, 11, 27, 3, 2, tzinfo=UTC)
NOW = datetime(2026, 11, 28, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

NIGHTS = {"night": [{"times": ["00:00-07:00"]}]}
PEOPLE = {"ada": {"contacts": "ada-phone"}, "bob": {"contacts": ["bob-phone", "bob-mail"]}}


def page(at: datetime, *, over: timedelta | None = None, severity: Severity = Severity.CRITICAL) -> PastPage:
    """A page whose incident was over after this time."""
    subject = Subject.from_parts(
        {"team": "db"}, name="DiskFull", severity=severity, source="generic", environment="production"
    )
    return PastPage(title="DiskFull", at=at, subjects=[subject], over_at=None if over is None else at + over)


def replay(policy: dict[str, Any]) -> Replay:
    read = parse_policy(policy).policy
    return Replay(ActivePolicy(policy=read, rosters={name: roster_of(read, name) for name in read.schedules}), NOW)


def simulated(pages: list[PastPage], present: dict[str, Any], other: dict[str, Any]) -> Simulation:
    return simulate(pages, replay(present), replay(other))


def counts(found: Simulation) -> dict[str, int]:
    return {change.value: found.count(change) for change in PageChange if found.count(change)}


def test_a_page_that_a_mute_window_keeps_back_is_later_if_it_still_fires_then() -> None:
    muted = {"windows": NIGHTS, "routes": [{"channels": "ops", "mute": "night"}]}
    pages = [page(NOON), page(NIGHT), page(NIGHT + MINUTE, over=5 * MINUTE)]
    found = simulated(pages, {"routes": [{"channels": "ops"}]}, muted)
    assert (found.unchanged, counts(found)) == (1, {"removed": 1, "later": 1})
    later = next(group for group in found.changes if group.change is PageChange.LATER)
    assert (later.after, later.later_minutes, later.hours) == (("ops",), 238, {3: 1})
    back = simulated(pages, muted, {"routes": [{"channels": "ops"}]})
    assert counts(back) == {"added": 1, "changed": 1}


def test_people_are_counted_by_hour_as_far_as_the_escalation_would_have_come() -> None:
    steps = [{"people": "ada", "wait": "50m"}, {"schedule": "second", "wait": "10m"}, {"channels": "bob-mail"}]
    second = {"time_zone": "UTC", "layers": [{"people": "bob"}]}
    other = {
        "people": PEOPLE,
        "schedules": {"second": second},
        "routes": [{"escalation": "all"}],
        "escalations": {"all": {"steps": steps, "repeat": 5}},
    }
    present = {"people": PEOPLE, "routes": [{"channels": ["ada-phone", "ops"]}]}
    found = simulated([page(NOON, over=55 * MINUTE), page(NIGHT, over=64 * MINUTE)], present, other)
    assert counts(found) == {"changed": 2}
    assert found.people_before == {"ada": {3: 1, 12: 1}}
    assert found.people_after == {"ada": {3: 1, 12: 1}, "bob": {3: 1, 4: 1, 12: 1}}


def test_an_escalation_of_an_open_incident_comes_as_far_as_now_and_not_further() -> None:
    escalation = {"steps": [{"people": "ada", "wait": "6h"}], "repeat": 100}
    other = {"people": PEOPLE, "routes": [{"escalation": "all"}], "escalations": {"all": escalation}}
    found = simulated([page(NOON)], {}, other)
    assert found.people_after == {"ada": {12: 1, 18: 1}}
    assert simulated([page(NOON)], other, other).unchanged == 1


def test_a_route_that_is_always_muted_tells_nobody_however_many_pages_there_are() -> None:
    silent = {"windows": {"always": [{}]}, "routes": [{"channels": "ops", "mute": "always"}]}
    pages = [page(NOON - number * MINUTE) for number in range(3_000)]
    assert counts(simulated(pages, {}, silent)) == {"removed": 3_000}
