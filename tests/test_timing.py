"""When an incident is spoken of again by itself: the rules, for every state that an incident can have."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.alert import Incident, IncidentStatus, Severity
from orchestration.errors import BadSetting
from orchestration.setting_rules import SecondsBySource
from orchestration.settings import load_settings
from orchestration.states import RunReason
from orchestration.timing import Timing, is_due, is_quiet, next_follow_up

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
OPEN = (IncidentStatus.OPEN, IncidentStatus.ACKNOWLEDGED)
DEFAULTS = Timing(remind=14400, remind_critical=3600, acknowledge=28800, expire=86400)

moments = st.floats(-200_000, 0).map(lambda seconds: NOW + timedelta(seconds=seconds))
seconds = st.one_of(st.just(0.0), st.floats(1, 200_000))
timings = st.builds(Timing, remind=seconds, remind_critical=seconds, acknowledge=seconds, expire=seconds)


@st.composite
def incidents(draw: st.DrawFn) -> Incident:
    """An incident in any state that the store allows."""
    status = draw(st.sampled_from(IncidentStatus))
    return incident(
        status=status,
        severity=draw(st.sampled_from(Severity)),
        opened_at=NOW - timedelta(days=3),
        heard_at=draw(moments),
        acknowledged_at=draw(moments) if status is IncidentStatus.ACKNOWLEDGED else None,
        snoozed_until=draw(st.none() | st.floats(-9000, 9000).map(lambda at: NOW + timedelta(seconds=at))),
    )


def incident(**more: Any) -> Incident:
    return Incident(**{"id": "1", "incident_key": "k", "title": "t", "opened_at": NOW, "heard_at": NOW} | more)


@given(incidents(), timings, st.none() | moments, st.none() | st.floats(1, 100_000))
def test_what_comes_next_follows_the_rules(
    one: Incident, timing: Timing, notified_at: datetime | None, repeat: float | None
) -> None:
    found = next_follow_up(one, timing, notified_at=notified_at, repeat_seconds=repeat, now=NOW)
    if one.status not in OPEN:
        assert found is None
        return
    if found is None:
        assert not timing.expire
        is_silent_for_good = one.status is IncidentStatus.ACKNOWLEDGED and not timing.acknowledge
        assert is_silent_for_good or (not is_quiet(one) and not timing.remind_after(one))
        return
    heard_at = one.heard_at or one.opened_at
    if found.reason is RunReason.EXPIRY:
        silence = (found.due_at - heard_at).total_seconds()
        assert silence == pytest.approx(max(timing.expire, 3 * (repeat or 0)), abs=1e-3)
        return
    if one.snoozed_until is not None:
        assert found.due_at >= one.snoozed_until
    if one.status is IncidentStatus.ACKNOWLEDGED:
        assert one.acknowledged_at is not None
        assert (found.due_at - one.acknowledged_at).total_seconds() >= timing.acknowledge - 1e-3
    if not is_quiet(one):
        waited = (found.due_at - (notified_at or one.opened_at)).total_seconds()
        assert waited == pytest.approx(timing.remind_after(one), abs=1e-3)


@given(incidents(), timings, moments)
def test_nothing_is_due_while_somebody_wants_silence(one: Incident, timing: Timing, notified_at: datetime) -> None:
    found = next_follow_up(one, timing, notified_at=notified_at, repeat_seconds=None, now=NOW)
    if found is None or found.reason is RunReason.EXPIRY or not is_due(found, one, timing, NOW):
        return
    assert one.snoozed_until is None or one.snoozed_until <= NOW
    acknowledged_until = timing.acknowledged_until(one)
    assert acknowledged_until is None or acknowledged_until <= NOW


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, "reminder 240"),
        ({"severity": Severity.CRITICAL}, "reminder 60"),
        ({"status": IncidentStatus.ACKNOWLEDGED, "acknowledged_at": NOW}, "reminder 480"),
        ({"snoozed_until": NOW + timedelta(minutes=5)}, "reminder 5"),
        (
            {"status": IncidentStatus.ACKNOWLEDGED, "acknowledged_at": NOW, "snoozed_until": NOW + timedelta(hours=9)},
            "reminder 540",
        ),
        ({"heard_at": NOW - timedelta(hours=21)}, "expiry 180"),
        ({"heard_at": NOW - timedelta(hours=30)}, "expiry -360"),
    ],
)
def test_the_defaults(state: dict[str, Any], expected: str) -> None:
    found = next_follow_up(incident(**state), DEFAULTS, notified_at=NOW, repeat_seconds=None, now=NOW)
    assert found is not None
    assert f"{found.reason} {(found.due_at - NOW).total_seconds() / 60:g}" == expected


def test_of_an_overdue_reminder_and_an_overdue_expiry_only_the_expiry_counts() -> None:
    one = incident(opened_at=NOW - timedelta(days=2), heard_at=NOW - timedelta(days=2))
    found = next_follow_up(one, DEFAULTS, notified_at=NOW - timedelta(days=2), repeat_seconds=None, now=NOW)
    assert found is not None
    assert found.reason is RunReason.EXPIRY


def test_a_reminder_may_come_as_early_as_the_message_before_came_late() -> None:
    one = incident(severity=Severity.CRITICAL)
    for seconds_early, due in ((20, True), (600, False)):
        notified_at = NOW - timedelta(seconds=3600 - seconds_early)
        found = next_follow_up(one, DEFAULTS, notified_at=notified_at, repeat_seconds=None, now=NOW)
        assert is_due(found, one, DEFAULTS, NOW) is due


def test_each_source_can_have_its_own_time_to_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCIDENT_EXPIRE_AFTER_SECONDS", "86400, pagerduty = 604800,zabbix=0")
    settings = load_settings()
    found = {source: Timing.of(settings, source).expire for source in ("grafana", "pagerduty", "zabbix")}
    assert found == {"grafana": 86400, "pagerduty": 604800, "zabbix": 0}
    assert str(settings.incident_expire_after_seconds) == "86400,pagerduty=604800,zabbix=0"
    assert SecondsBySource.parse("1.5").of("any") == 1.5


@pytest.mark.parametrize(
    "wrong", ["-1", "soon", "inf", "nan", "86400,pagerduty", "86400,=5", "86400,Page Duty=5", "5,x=-1"]
)
def test_a_wrong_time_to_expire_is_refused_by_name(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCIDENT_EXPIRE_AFTER_SECONDS", wrong)
    with pytest.raises(BadSetting, match=r"INCIDENT_EXPIRE_AFTER_SECONDS=.*source=seconds"):
        load_settings()
