"""What an alert of a push says, next to what is known: the table of event time and order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.alert import Alert, AlertStatus, Severity
from orchestration.news import KnownAlert, Moments, News, news_of

DAY = datetime(2026, 11, 26, tzinfo=UTC)


def at(clock: str) -> datetime:
    hour, minute, *second = map(int, clock.split(":"))
    return DAY.replace(hour=hour, minute=minute, second=second[0] if second else 0)


class Sender:
    """One alert of one sender: what is known of it, push by push, as the store keeps it."""

    def __init__(self) -> None:
        self.known: KnownAlert | None = None
        self.runs = 0

    def push(
        self,
        status: str,
        start: str | None = None,
        *,
        end: str | None = None,
        happened: str | None = None,
        received: str = "23:00",
        run: int | None = None,
    ) -> News:
        self.runs = self.runs + 1
        number = self.runs if run is None else run
        alert = Alert(
            source="generic",
            fingerprint="f",
            name="n",
            incident_key="k",
            status=AlertStatus(status),
            episode_at=at(start) if start else None,
            ended_at=at(end) if end else None,
            occurred_at=at(happened) if happened else None,
        )
        overtaken = self.known is not None and number < (self.known.last_run or 0)
        moments = Moments.of(alert, at(received), overtaken=overtaken)
        news = news_of(alert, self.known, moments)
        if news is not News.STALE:
            self.known = self._after(alert, news, moments, number)
        return news

    def _after(self, alert: Alert, news: News, moments: Moments, run: int) -> KnownAlert:
        known = self.known
        same = known is not None and news in (News.REPEAT, News.RESOLVED)
        starts = [one for one in (known.episode_at if known and same else None, moments.episode_at) if one]
        latest = [one for one in (known.occurred_at if known else None, moments.latest) if one]
        return KnownAlert(
            status=alert.status,
            severity=Severity.WARNING,
            episode_at=(min if alert.firing else max)(starts, default=None),
            occurred_at=max(latest, default=None),
            heard_at=moments.heard_at(known if same else None),
            received_at=moments.received_at,
            started_at=None,
            ended_at=moments.ended_at,
            last_run=max(run, known.last_run or 0 if known else 0),
        )


def test_a_new_start_after_a_lost_end_is_a_new_episode() -> None:
    alertmanager = Sender()
    assert alertmanager.push("firing", "01:00", received="01:01") is News.CREATED
    assert alertmanager.push("firing", "01:00", received="05:01") is News.REPEAT
    assert alertmanager.push("firing", "09:00", received="09:01") is News.NEW_EPISODE
    assert alertmanager.push("resolved", "09:00", end="09:30", received="09:31") is News.RESOLVED


def test_so_it_is_when_the_pushes_themselves_come_a_day_late() -> None:
    replayed = Sender()
    assert replayed.push("firing", "01:00", received="22:00") is News.CREATED
    assert replayed.push("firing", "06:30", received="22:01") is News.NEW_EPISODE


def test_a_start_that_moves_while_it_is_heard_of_is_no_new_episode() -> None:
    restarted = Sender()
    restarted.push("firing", "01:00", received="01:01")
    assert restarted.push("firing", "01:00", received="02:00") is News.REPEAT
    assert restarted.push("firing", "01:45", received="02:01") is News.REPEAT, "it was heard of at 02:00"
    assert restarted.push("firing", "01:00", received="02:05") is News.REPEAT


def test_two_servers_of_a_pair_name_two_starts_of_one_firing() -> None:
    pair = Sender()
    pair.push("firing", "01:00:00", received="01:01")
    assert pair.push("firing", "01:00:25", received="01:01:05") is News.REPEAT
    assert pair.push("firing", "01:00:00", received="01:02") is News.REPEAT
    assert pair.push("resolved", "01:00:00", end="01:10", received="01:11") is News.RESOLVED
    assert pair.push("firing", "01:00:25", received="01:11:01") is News.STALE, "the other one has not noticed yet"
    assert pair.push("resolved", "01:00:25", end="01:10:05", received="01:11:30") is News.REPEAT


def test_the_late_end_of_the_episode_before_ends_nothing() -> None:
    sender = Sender()
    sender.push("firing", "01:20", received="01:21")
    assert sender.push("resolved", "01:00", end="01:10", received="01:22") is News.STALE
    assert sender.push("resolved", "01:20", end="01:30", received="01:31") is News.RESOLVED


def test_a_firing_that_comes_after_its_own_end_is_stale() -> None:
    sender = Sender()
    assert sender.push("resolved", "01:00", end="01:10", received="01:11") is News.CREATED
    assert sender.push("firing", "01:00", received="01:12") is News.STALE
    assert sender.push("firing", "01:15", received="01:16") is News.REFIRED


def test_a_firing_that_goes_on_after_its_end_has_not_ended() -> None:
    alertmanager = Sender()
    alertmanager.push("firing", "01:00", received="01:01")
    assert alertmanager.push("resolved", "01:00", end="02:00", received="02:00") is News.RESOLVED, (
        "not heard of in time"
    )
    assert alertmanager.push("firing", "01:00", received="02:03") is News.STALE, "this one is late"
    assert alertmanager.push("firing", "01:00", received="02:05") is News.REFIRED
    assert alertmanager.push("resolved", "01:00", end="02:30", received="02:31") is News.RESOLVED

    before = Sender()
    before.push("resolved", "01:00", end="02:00", received="02:00")
    assert before.push("firing", "00:50", received="03:00") is News.STALE, "the firing before this one"


def test_a_sender_that_names_only_the_moment_of_the_event() -> None:
    pagerduty = Sender()
    pagerduty.push("firing", happened="01:00")
    assert pagerduty.push("firing", happened="01:05") is News.REPEAT, "an acknowledgement"
    assert pagerduty.push("firing", happened="01:00") is News.STALE, "delivered again"
    assert pagerduty.push("resolved", happened="01:04") is News.STALE
    assert pagerduty.push("resolved", happened="01:10") is News.RESOLVED
    assert pagerduty.push("firing", happened="01:09") is News.STALE
    assert pagerduty.push("firing", happened="01:20") is News.REFIRED


def test_a_sender_whose_moments_never_change_is_believed_in_the_order_of_acceptance() -> None:
    healthchecks = Sender()
    pushed = [healthchecks.push(status, happened="01:00") for status in ("firing", "resolved", "firing", "resolved")]
    assert pushed == [News.CREATED, News.RESOLVED, News.REFIRED, News.RESOLVED]


def test_without_moments_the_order_of_acceptance_decides() -> None:
    script = Sender()
    assert script.push("firing", run=5) is News.CREATED
    assert script.push("resolved", run=3) is News.STALE, "a run that failed at first, and was resumed"
    assert script.push("resolved", run=6) is News.RESOLVED
    assert script.push("firing", run=4) is News.STALE
    assert script.push("firing", run=7) is News.REFIRED


def test_a_firing_before_the_one_that_is_known_is_old_though_it_was_accepted_before_that_began() -> None:
    two_groups = Sender()
    assert two_groups.push("firing", "08:17", received="08:18", run=7) is News.CREATED
    assert two_groups.push("firing", "07:24", received="07:25", run=3) is News.STALE
    assert two_groups.push("firing", "08:17", received="08:17", run=6) is News.REPEAT, "this one is of the other group"
    assert two_groups.push("firing", "08:17", received="08:40", run=9) is News.REPEAT
    assert two_groups.push("firing", "08:17", received="08:19", run=8) is News.REPEAT
    assert two_groups.push("firing", "08:30", received="08:42", run=10) is News.REPEAT, "heard of until 08:40"


def test_a_clock_that_is_ahead_does_not_win_for_ever() -> None:
    ahead = Sender()
    ahead.push("firing", happened="20:00", received="01:00")
    assert ahead.push("resolved", happened="02:00", received="02:00") is News.RESOLVED
    assert ahead.push("firing", "12:00", received="03:00") is News.REFIRED
    assert ahead.push("resolved", "12:00", end="12:30", received="03:10") is News.RESOLVED
    assert ahead.push("firing", "04:00", received="04:00") is News.REFIRED, "the clock was set right"


def test_a_sender_that_names_local_times_is_compared_with_itself() -> None:
    zabbix = Sender()
    assert zabbix.push("firing", "03:00", received="01:00") is News.CREATED
    assert zabbix.push("firing", "03:00", happened="03:10", received="01:10") is News.REPEAT, "an update"
    assert zabbix.push("firing", "03:00", happened="03:30", received="01:30") is News.REPEAT
    assert zabbix.push("resolved", "03:00", end="03:40", received="01:40") is News.RESOLVED
    assert zabbix.push("firing", "03:00", happened="03:30", received="01:41") is News.STALE
    assert zabbix.push("firing", "04:00", received="02:00") is News.REFIRED
    assert zabbix.push("firing", "06:00", received="04:00") is News.NEW_EPISODE


moments = st.one_of(st.none(), st.integers(0, 40).map(lambda minutes: f"{10 + minutes // 60}:{minutes % 60:02}"))


@given(st.lists(st.tuples(st.sampled_from(["firing", "resolved"]), moments, moments, moments), max_size=12))
def test_any_sequence_has_an_answer(pushes: list[tuple[str, str | None, str | None, str | None]]) -> None:
    sender = Sender()
    for minute, (status, start, end, happened) in enumerate(pushes):
        more: dict[str, Any] = {"end": end, "happened": happened, "received": f"11:{minute:02}"}
        news = sender.push(status, start, **more)
        assert sender.known is not None
        if news in (News.CREATED, News.REFIRED, News.NEW_EPISODE, News.RESOLVED):
            assert sender.known.status == status


@pytest.mark.parametrize("gap", [0, 1, 60, 299])
def test_a_quick_flap_with_a_new_start_in_each_push_is_not_swallowed(gap: int) -> None:
    flapping, moment = Sender(), DAY

    def push(status: str) -> News:
        nonlocal moment
        moment += timedelta(seconds=gap + 1)
        clock = f"{moment:%H:%M:%S}"
        return flapping.push(status, clock, end=clock if status == "resolved" else None, received=clock)

    pushed = [push(status) for status in ("firing", "resolved", "firing", "resolved", "firing")]
    assert pushed == [News.CREATED, News.RESOLVED, News.REFIRED, News.RESOLVED, News.REFIRED]
