"""Alerts and incidents in the store: what each push changes, whoever pushes at the same time, and the history of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, select, update

from orchestration.alert import Alert, AlertStatus, Incident, IncidentStatus, Severity
from orchestration.contracts import IngestResult
from orchestration.states import RunReason, RunStatus
from orchestration.store import ingest_order, runs
from orchestration.store.alerts import RecordedAlerts, record_alerts, settle_members
from orchestration.store.database import Database
from orchestration.store.incidents import get_incident, lock_incident
from orchestration.store.models import AlertRow, IncidentRow, PipelineRunRow
from tests.store_helpers import add_runs, history_of, new_run, note_notified


def alert(fingerprint: str = "web-1", **more: Any) -> Alert:
    return Alert(**{"source": "generic", "fingerprint": fingerprint, "name": "HighCPU", "incident_key": "key"} | more)


def resolved(fingerprint: str = "web-1", **more: Any) -> Alert:
    return alert(fingerprint, status=AlertStatus.RESOLVED, **more)


@dataclass
class Inbox:
    """Records pushes as runs do."""

    database: Database
    run_ids: list[str] = field(default_factory=list[str])

    async def push(self, *alerts: Alert, ends: RunStatus = RunStatus.NOTIFIED) -> RecordedAlerts:
        """Record the alerts of one run, which then ends so."""
        run = new_run(incident_key=alerts[0].incident_key)
        self.run_ids.append(run.run_id)
        async with self.database.transaction() as tx:
            await add_runs(tx, run)
        async with self.database.transaction() as tx:
            await lock_incident(tx, run.environment, alerts[0].incident_key)
            queued = await ingest_order.get_queued_run(tx, run.run_id)
            recorded = await record_alerts(tx, alerts, queued)
            incident = recorded.incident
            await ingest_order.save_ingest_result(
                tx, run.run_id, IngestResult(incident_id=incident.id if incident else None)
            )
            await runs.finish(tx, run.run_id, ends)
            if ends is RunStatus.NOTIFIED:
                await note_notified(tx, incident.id if incident else None)
        return recorded

    async def settle(self, incident_id: str) -> IncidentStatus:
        """Do what the run does that a member's end in another incident's push has queued; the incident's status."""
        async with self.database.transaction() as tx:
            query = select(PipelineRunRow.run_id).where(
                PipelineRunRow.incident_id == int(incident_id), PipelineRunRow.reason == RunReason.MEMBER_ENDED.value
            )
            queued = await ingest_order.get_queued_run(tx, (await tx.execute(query)).scalar_one())
            return incident_of(await settle_members(tx, int(incident_id), queued)).status

    async def incident(self, incident_id: str) -> Incident:
        async with self.database.transaction() as tx:
            return await get_incident(tx, incident_id)

    async def events(self, incident_id: str) -> list[str]:
        async with self.database.transaction() as tx:
            return [line.event for line in await history_of(tx, incident_id)]

    async def count(self, table: type[AlertRow | IncidentRow]) -> int:
        async with self.database.transaction() as tx:
            return (await tx.execute(select(func.count()).select_from(table))).scalar_one()


@pytest.fixture
def inbox(database: Database) -> Inbox:
    return Inbox(database)


def incident_of(recorded: RecordedAlerts) -> Incident:
    assert recorded.incident is not None
    return recorded.incident


def flags(recorded: RecordedAlerts) -> set[str]:
    names = ("known", "opened", "reopened", "new_episode", "severity_raised", "severity_lowered", "resolved", "stale")
    return {name for name in names if getattr(recorded.change, name)}


async def test_a_first_alert_opens_an_incident(inbox: Inbox) -> None:
    recorded = await inbox.push(alert(severity=Severity.CRITICAL, title="CPU of web-1", description="97 %"))

    assert flags(recorded) == {"opened"}
    assert (recorded.alerts_created, recorded.change.new_firing, recorded.change.still_firing) == (1, 1, 1)
    incident = incident_of(recorded)
    assert (incident.title, incident.severity, incident.status) == ("CPU of web-1", "critical", "open")
    assert incident.description == "97 %"


async def test_an_alert_of_the_same_key_joins_the_open_incident(inbox: Inbox) -> None:
    opened = await inbox.push(alert("web-1"))
    joined = await inbox.push(alert("web-2"))

    assert incident_of(joined).id == incident_of(opened).id
    assert flags(joined) == {"known"}
    assert (joined.alerts_created, joined.change.new_firing, joined.change.still_firing) == (1, 1, 2)


async def test_alerts_of_other_keys_open_incidents_of_their_own(inbox: Inbox) -> None:
    first = await inbox.push(alert("web-1", incident_key="a"))
    second = await inbox.push(alert("web-2", incident_key="b"))

    assert incident_of(first).id != incident_of(second).id
    assert flags(second) == {"opened"}


async def test_a_repeat_changes_nothing(inbox: Inbox) -> None:
    await inbox.push(alert())
    repeat = await inbox.push(alert())

    assert flags(repeat) == {"known"}
    assert (repeat.alerts_created, repeat.alerts_updated, repeat.change.new_firing) == (0, 1, 0)
    assert await inbox.events(incident_of(repeat).id) == ["incident_opened", "alert_created"]


async def test_a_worse_alert_raises_the_incidents_severity(inbox: Inbox) -> None:
    await inbox.push(alert(severity=Severity.WARNING))
    raised = await inbox.push(alert(severity=Severity.CRITICAL))

    assert flags(raised) == {"known", "severity_raised"}
    assert incident_of(raised).severity is Severity.CRITICAL


async def test_an_incident_is_as_severe_as_the_worst_alert_that_fires_now(inbox: Inbox) -> None:
    await inbox.push(alert("web-1", severity=Severity.CRITICAL), alert("web-2", severity=Severity.WARNING))
    lower = await inbox.push(resolved("web-1", severity=Severity.CRITICAL))
    assert flags(lower) == {"known", "severity_lowered"}
    assert incident_of(lower).severity is Severity.WARNING

    milder = await inbox.push(alert("web-2", severity=Severity.INFO))
    assert flags(milder) == {"known", "severity_lowered"}

    second_rise = await inbox.push(alert("web-2", severity=Severity.CRITICAL))
    assert flags(second_rise) == {"known", "severity_raised"}
    assert incident_of(second_rise).severity is Severity.CRITICAL


async def test_an_end_is_as_severe_as_its_beginning(inbox: Inbox) -> None:
    await inbox.push(alert(severity=Severity.CRITICAL))
    over = await inbox.push(resolved(severity=Severity.INFO))

    assert incident_of(over).severity is Severity.CRITICAL
    async with inbox.database.transaction() as tx:
        assert (await tx.execute(select(AlertRow.severity))).scalar_one() == "critical"


async def test_a_resolved_alert_raises_no_severity(inbox: Inbox) -> None:
    await inbox.push(alert("web-1"), alert("web-2"))
    recorded = await inbox.push(resolved("web-2", severity=Severity.CRITICAL))

    assert not recorded.change.severity_raised
    assert incident_of(recorded).severity is Severity.WARNING


async def test_an_incident_stays_open_while_a_part_of_it_fires(inbox: Inbox) -> None:
    await inbox.push(alert("web-1"), alert("web-2"))
    part = await inbox.push(resolved("web-1"))

    assert flags(part) == {"known"}
    assert (part.change.newly_resolved, part.change.still_firing, part.change.new_firing) == (1, 1, 0)
    assert incident_of(part).status is IncidentStatus.OPEN


async def test_the_last_resolved_alert_resolves_the_incident(inbox: Inbox) -> None:
    await inbox.push(alert("web-1"), alert("web-2"))
    await inbox.push(resolved("web-1"))
    last = await inbox.push(resolved("web-2"))

    assert flags(last) == {"known", "resolved"}
    assert incident_of(last).status is IncidentStatus.RESOLVED
    assert incident_of(last).resolved_at is not None


async def test_an_acknowledged_incident_takes_alerts_and_resolves(inbox: Inbox) -> None:
    opened = await inbox.push(alert())
    async with inbox.database.transaction() as tx:
        await tx.execute(update(IncidentRow).values(status="acknowledged", acknowledged_at=func.now()))

    joined = await inbox.push(alert("web-2"))
    assert incident_of(joined).id == incident_of(opened).id
    assert incident_of(joined).status is IncidentStatus.ACKNOWLEDGED
    assert (await inbox.push(resolved(), resolved("web-2"))).change.resolved


async def test_a_refire_reopens_the_incident(inbox: Inbox) -> None:
    opened = await inbox.push(alert(severity=Severity.CRITICAL))
    await inbox.push(resolved())
    again = await inbox.push(alert(severity=Severity.INFO))

    assert flags(again) == {"known", "reopened"}
    assert incident_of(again).id == incident_of(opened).id
    assert incident_of(again).status is IncidentStatus.OPEN
    assert incident_of(again).resolved_at is None
    assert incident_of(again).severity is Severity.INFO, "it is as bad as what fires now"


async def test_a_second_all_clear_changes_nothing(inbox: Inbox) -> None:
    await inbox.push(alert())
    await inbox.push(resolved())
    again = await inbox.push(resolved())

    assert flags(again) == {"known"}
    assert (again.change.newly_resolved, again.change.still_firing) == (0, 0)


async def test_a_closed_incident_is_left_alone(inbox: Inbox) -> None:
    opened = await inbox.push(alert())
    async with inbox.database.transaction() as tx:
        await tx.execute(update(IncidentRow).values(status="closed", closed_at=func.now()))
    again = await inbox.push(alert())

    assert flags(again) == {"opened"}
    assert incident_of(again).id != incident_of(opened).id


async def test_a_resolved_alert_that_nobody_knows_opens_nothing(inbox: Inbox) -> None:
    recorded = await inbox.push(resolved())

    assert flags(recorded) == set()
    assert recorded.incident is None
    assert await inbox.count(IncidentRow) == 0
    assert await inbox.count(AlertRow) == 1


async def test_an_alert_can_be_in_two_incidents_and_ends_in_both(inbox: Inbox) -> None:
    first = incident_of(await inbox.push(alert("web-1", incident_key="by severity"))).id
    joined = await inbox.push(alert("web-1", incident_key="by team"))
    second = incident_of(joined).id

    assert flags(joined) == {"opened"}
    assert (joined.change.new_firing, joined.alerts_created) == (1, 0)
    for _ in range(2):
        for key in ("by severity", "by team"):
            assert flags(await inbox.push(alert("web-1", incident_key=key))) == {"known"}, "a repeat is silent"

    over = await inbox.push(resolved("web-1", incident_key="by severity"))
    assert (incident_of(over).id, flags(over)) == (first, {"known", "resolved"})
    assert (await inbox.incident(second)).status is IncidentStatus.OPEN, "its own run ends it"
    assert await inbox.settle(second) == IncidentStatus.RESOLVED
    assert flags(await inbox.push(resolved("web-1", incident_key="by team"))) == {"known"}


async def test_an_alert_that_resolves_under_another_key_ends_the_incident_that_it_is_in(inbox: Inbox) -> None:
    opened = incident_of(await inbox.push(alert("web-1", incident_key="grouped by host"))).id
    over = await inbox.push(resolved("web-1", incident_key="grouped by cluster"))

    assert (over.incident, flags(over)) == (None, set())
    assert await inbox.settle(opened) == IncidentStatus.RESOLVED


async def test_alerts_of_two_incidents_that_resolve_under_one_key_end_both(inbox: Inbox) -> None:
    first = incident_of(await inbox.push(alert("web-1", incident_key="a"))).id
    second = incident_of(await inbox.push(alert("web-2", incident_key="b"))).id
    await inbox.push(resolved("web-1", incident_key="c"), resolved("web-2", incident_key="c"))

    assert [await inbox.settle(one) for one in (first, second)] == [IncidentStatus.RESOLVED] * 2


@pytest.mark.parametrize(
    ("ends", "notified"),
    [
        (RunStatus.FAILED, False),
        (RunStatus.NOTIFIED, True),
        (RunStatus.RETRYING, True),  # still at work
    ],
)
async def test_nobody_was_notified_if_the_last_message_failed(inbox: Inbox, ends: RunStatus, notified: bool) -> None:
    await inbox.push(alert(), ends=ends)

    assert (await inbox.push(alert())).change.notified_before is notified


async def test_a_skipped_run_notifies_nobody_and_hides_no_failed_one(inbox: Inbox) -> None:
    await inbox.push(alert(), ends=RunStatus.FAILED)
    await inbox.push(alert(), ends=RunStatus.SKIPPED)

    assert not (await inbox.push(alert())).change.notified_before


async def test_a_failed_run_of_another_incident_does_not_count(inbox: Inbox) -> None:
    await inbox.push(alert())
    await inbox.push(alert("db-1", incident_key="other"), ends=RunStatus.FAILED)

    assert (await inbox.push(alert())).change.notified_before


async def test_of_many_pushes_at_once_exactly_one_opens_the_incident(inbox: Inbox) -> None:
    recorded = await asyncio.gather(*(inbox.push(alert(f"web-{n}")) for n in range(8)))

    assert sum(one.change.opened for one in recorded) == 1
    assert sum(one.change.new_firing for one in recorded) == 8
    assert await inbox.count(IncidentRow) == 1
    assert max(one.change.still_firing for one in recorded) == 8


async def test_the_same_alert_pushed_at_once_is_one_alert_and_new_once(inbox: Inbox) -> None:
    recorded = await asyncio.gather(*(inbox.push(alert()) for _ in range(8)))

    assert await inbox.count(AlertRow) == 1
    assert sum(one.change.new_firing for one in recorded) == 1
    assert sum(one.alerts_created for one in recorded) == 1


async def test_an_alert_is_known_by_source_and_fingerprint(inbox: Inbox) -> None:
    await inbox.push(alert("same", source="generic", incident_key="a"))
    await inbox.push(alert("same", source="grafana", incident_key="b"))
    again = await inbox.push(alert("same", source="grafana", incident_key="b", description="worse"))

    assert (again.alerts_created, again.alerts_updated) == (0, 1)
    assert await inbox.count(AlertRow) == 2


async def test_ten_thousand_alerts_of_one_push_are_one_incident(inbox: Inbox) -> None:
    many = [alert(f"web-{n}", labels={"instance": f"web-{n}"}) for n in range(10_000)]
    recorded = await inbox.push(*many)

    assert (recorded.alerts_created, recorded.change.new_firing, recorded.change.still_firing) == (10_000,) * 3
    assert len(await inbox.events(incident_of(recorded).id)) == 10_001


async def test_a_resolution_without_a_start_leaves_the_moment_at_which_it_all_began(inbox: Inbox) -> None:
    began = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
    await inbox.push(alert(started_at=began))
    await inbox.push(alert(status=AlertStatus.RESOLVED, started_at=None))

    async with inbox.database.transaction() as tx:
        assert (await tx.execute(select(AlertRow.started_at))).scalar_one() == began


async def test_the_history_tells_the_story_in_order(inbox: Inbox) -> None:
    opened = await inbox.push(alert())
    await inbox.push(alert())
    await inbox.push(alert(severity=Severity.CRITICAL))
    await inbox.push(resolved(severity=Severity.CRITICAL))
    await inbox.push(alert(severity=Severity.CRITICAL))

    async with inbox.database.transaction() as tx:
        story = await history_of(tx, incident_of(opened).id)
    first, _, raising, resolving, reopening = inbox.run_ids
    assert [(line.run_id, line.event, line.old_status, line.new_status) for line in story] == [
        (first, "incident_opened", None, "open"),
        (first, "alert_created", None, "firing"),
        (raising, "alert_severity_changed", "warning", "critical"),
        (raising, "incident_severity_raised", "warning", "critical"),
        (resolving, "alert_resolved", "firing", "resolved"),
        (resolving, "incident_resolved", "open", "resolved"),
        (reopening, "incident_reopened", "resolved", "open"),
        (reopening, "alert_refired", "resolved", "firing"),
    ]
    assert [line.alert_id is not None for line in story] == [line.event.startswith("alert") for line in story]
