"""Which alerts belong together, and when somebody is notified."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.alert import Alert
from orchestration.reasons import Reason, meaning_of
from tasks.ingest.incidents import IncidentChange, NotifyDecision, decide, split_by_incident

QUIET: dict[str, Any] = {"still_firing": 1, "known": True, "notified_before": True}


@pytest.mark.parametrize(
    ("what_happened", "notify", "reason"),
    [
        ({"opened": True, "new_firing": 3, "notified_before": False}, True, "opened"),
        ({"reopened": True, "new_firing": 1}, True, "reopened"),
        ({"severity_raised": True}, True, "severity_raised"),
        ({"severity_raised": True, "new_firing": 1}, True, "severity_raised"),
        ({"new_firing": 1, "newly_resolved": 2}, True, "new_alerts"),
        ({"resolved": True, "newly_resolved": 2, "still_firing": 0}, True, "resolved"),
        ({"resolved": True, "severity_raised": True, "still_firing": 0}, True, "resolved"),
        ({"notified_before": False}, True, "untold"),
        ({"notified_before": False, "newly_resolved": 1}, True, "untold"),
        ({}, False, "repeat"),
        ({"still_firing": 0}, False, "repeat"),
        ({"newly_resolved": 1}, False, "some_resolved"),
        ({"newly_resolved": 1, "still_firing": 0}, False, "repeat"),
        ({"new_episode": True}, True, "new_episode"),
        ({"new_episode": True, "severity_raised": True}, True, "severity_raised"),
        ({"severity_lowered": True}, False, "severity_lowered"),
        ({"severity_lowered": True, "newly_resolved": 1}, False, "some_resolved"),
        ({"stale": True}, False, "stale"),
        ({"stale": True, "notified_before": False}, False, "stale"),
        ({"snoozed": True, "new_firing": 1}, False, "snoozed"),
        ({"snoozed": True, "severity_raised": True}, True, "severity_raised"),
        ({"snoozed": True, "resolved": True, "still_firing": 0}, True, "resolved"),
        ({"snoozed": True}, False, "repeat"),
        ({"known": False, "still_firing": 0}, False, "nothing_open"),
        ({"known": False, "still_firing": 0, "notified_before": False}, False, "nothing_open"),
    ],
)
def test_what_is_notified(what_happened: dict[str, Any], notify: bool, reason: str) -> None:
    assert decide(IncidentChange(**QUIET | what_happened)) == NotifyDecision(notify, Reason(reason))


NOTIFIED = {
    Reason.OPENED,
    Reason.REOPENED,
    Reason.NEW_EPISODE,
    Reason.RESOLVED,
    Reason.SEVERITY_RAISED,
    Reason.NEW_ALERTS,
    Reason.UNTOLD,
}
some = st.integers(0, 3)
flag = st.booleans()
changes = st.builds(
    IncidentChange,
    **{field.name: flag if field.type == "bool" else some for field in fields(IncidentChange)},
)


@given(changes)
def test_every_combination_has_one_reason_and_the_reason_decides(change: IncidentChange) -> None:
    decision = decide(change)
    assert decision.notify == (decision.reason in NOTIFIED)
    assert decide(change) == decision


@given(changes)
def test_somebody_is_notified_iff_there_is_news_or_the_page_was_lost(change: IncidentChange) -> None:
    urgent = change.opened or change.reopened or change.resolved or change.severity_raised
    news = urgent or (change.material and not change.snoozed)
    lost = change.known and not change.notified_before and not change.stale and not change.material
    assert decide(change).notify == (news or lost)


@given(changes)
def test_an_all_clear_is_never_worded_as_a_page(change: IncidentChange) -> None:
    if change.resolved and not change.opened and not change.reopened:
        assert decide(change).reason is Reason.RESOLVED


def test_every_reason_has_words() -> None:
    assert [reason for reason in Reason if not meaning_of(reason)] == []


def test_a_push_over_several_incidents_is_split_in_its_own_order() -> None:
    alerts = [
        Alert(source="generic", fingerprint=str(number), name="x", incident_key=key)
        for number, key in enumerate(["b", "a", "b", "c", "a"])
    ]
    assert [[alert.fingerprint for alert in group] for group in split_by_incident(alerts)] == [
        ["0", "2"],
        ["1", "4"],
        ["3"],
    ]
    assert split_by_incident([]) == []
