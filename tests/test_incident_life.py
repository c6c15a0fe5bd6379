"""The life of an incident: people acknowledge, resolve, close and snooze it; it reminds them, and it expires."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from orchestration.alert import Alert, IncidentStatus, Severity
from orchestration.engine.run import Services
from orchestration.errors import BadInput, IllegalTransition, IncidentNotFound
from orchestration.requests import RunOptions, StoredPush
from orchestration.setting_rules import SecondsBySource
from orchestration.states import RunReason, RunStatus
from orchestration.store import actions
from orchestration.store.actions import Actor, Done, Via
from orchestration.store.present import read_present
from orchestration.store.runs import RunFilter, list_page
from orchestration.store.timers import list_without
from service.worker.incidents import start_timers
from tests.api_helpers import alert, run_to_end
from tests.conftest import MemoryChannel
from tests.inbox_helpers import accept_push
from tests.life_helpers import (
    ADA,
    BOB,
    events_of,
    execute_timer,
    heard_everywhere,
    incident_of,
    let_pass,
    next_of,
    opened,
    push,
    story_of,
    upcoming,
)
from tests.notify_helpers import execute_follow_up
from tests.store_helpers import add_runs, new_run

HOUR = timedelta(hours=1)


async def acknowledge(services: Services, incident_id: str, who: Actor = ADA) -> Done:
    async with services.database.transaction() as tx:
        return await actions.acknowledge(tx, incident_id, who, services.settings)


async def unacknowledge(services: Services, incident_id: str, who: Actor = ADA) -> Done:
    async with services.database.transaction() as tx:
        return await actions.unacknowledge(tx, incident_id, who, services.settings)


async def resolve(services: Services, incident_id: str, who: Actor = ADA) -> Done:
    async with services.database.transaction() as tx:
        return await actions.resolve(tx, incident_id, who)


async def close(services: Services, incident_id: str, who: Actor = ADA) -> Done:
    async with services.database.transaction() as tx:
        return await actions.close(tx, incident_id, who)


async def snooze(services: Services, incident_id: str, until: datetime | timedelta, who: Actor = ADA) -> Done:
    async with services.database.transaction() as tx:
        return await actions.snooze(tx, incident_id, who, services.settings, until=until)


async def note(services: Services, incident_id: str, text: str, who: Actor = ADA) -> Done:
    async with services.database.transaction() as tx:
        return await actions.note(tx, incident_id, who, text)


async def test_an_incident_that_nobody_acknowledges_is_spoken_of_again_every_hour_or_four(
    services: Services, channel: MemoryChannel
) -> None:
    critical = await opened(services)
    warning = await opened(services, "DiskFull", severity="warning", instance="db-1")
    assert await next_of(services.database, critical) == "reminder 60"
    assert await next_of(services.database, warning) == "reminder 240"
    assert [run.incident_id for run in await upcoming(services.database)] == [critical, warning]

    await let_pass(services.database, HOUR)
    before = (await incident_of(services.database, critical)).version
    reminder = await execute_timer(services, critical)

    assert (reminder.status, reminder.reason) == (RunStatus.NOTIFIED, RunReason.REMINDER)
    assert (await incident_of(services.database, critical)).version == before + 1
    assert await next_of(services.database, critical) == "reminder 60"
    assert await next_of(services.database, warning) == "reminder 180"
    assert (await events_of(services.database, critical))[-1] == "incident_reminded"
    assert len(channel.messages) == 3


async def test_reminders_wait_in_the_queue_but_count_as_no_work_that_is_late(services: Services) -> None:
    await opened(services)
    async with services.database.transaction() as tx:
        listed = (await list_page(tx, RunFilter(), limit=10)).runs
        everything = (await list_page(tx, RunFilter(upcoming=True), limit=10)).runs
    assert [run.reason for run in listed] == [RunReason.PUSH]
    assert [run.reason for run in everything] == [RunReason.REMINDER, RunReason.PUSH]


async def test_an_acknowledgement_stops_reminders_survives_a_repeat_and_times_out(
    services: Services, channel: MemoryChannel
) -> None:
    incident_id = await opened(services)
    done = await acknowledge(services, incident_id)
    assert done.changed
    assert done.message.startswith("Incident 1 (HighCPU on web-1) is acknowledged by ada: no reminders until 20")
    assert await next_of(services.database, incident_id) == "reminder 480"

    again = await acknowledge(services, incident_id, BOB)
    assert not again.changed
    assert again.message.startswith("Incident 1 (HighCPU on web-1) is acknowledged already, by ada since 20")
    await push(services, value=7)
    assert (await incident_of(services.database, incident_id)).acknowledged_by == "ada"
    assert len(channel.messages) == 1

    await let_pass(services.database, 7 * HOUR)
    early = await execute_timer(services, incident_id)
    assert (early.status, early.skip_reason) == (RunStatus.SKIPPED, "acknowledged")
    assert await next_of(services.database, incident_id) == "reminder 60"

    await let_pass(services.database, HOUR)
    late = await execute_timer(services, incident_id)
    assert late.status is RunStatus.NOTIFIED
    over = await incident_of(services.database, incident_id)
    assert (over.status, over.acknowledged_by) == (IncidentStatus.OPEN, None)
    assert await next_of(services.database, incident_id) == "reminder 60"
    assert (await events_of(services.database, incident_id))[1:] == [
        "incident_acknowledged",
        "acknowledgement_ended",
        "incident_reminded",
    ]
    ended = next(
        line
        for line in (await story_of(services.database, incident_id)).history
        if line.event == "acknowledgement_ended"
    )
    assert ended.details == {"why": "it has timed out", "by": "ada"}
    assert ended.in_words == "acknowledgement of ada ended: it has timed out"


async def test_an_acknowledgement_ends_when_it_gets_worse(services: Services, channel: MemoryChannel) -> None:
    incident_id = await opened(services, severity="warning")
    await acknowledge(services, incident_id)
    await push(services, severity="critical")
    assert (await incident_of(services.database, incident_id)).status is IncidentStatus.OPEN
    assert await next_of(services.database, incident_id) == "reminder 60"
    assert len(channel.messages) == 2


def fact(channel: MemoryChannel, label: str) -> str:
    """A fact of the last message."""
    return next((fact.value for fact in channel.messages[-1].facts if fact.label == label), "")


async def test_who_did_what_and_from_where_is_in_the_history(services: Services) -> None:
    incident_id = await opened(services)
    await acknowledge(services, incident_id, BOB)
    await unacknowledge(services, incident_id)
    assert not (await unacknowledge(services, incident_id)).changed
    await note(services, incident_id, "  a disk was replaced\x07\nsee #42 ")
    assert not (await note(services, incident_id, "a disk was replaced\nsee #42")).changed
    await resolve(services, incident_id)
    await note(services, incident_id, "it was the fan", BOB)
    await close(services, incident_id, Actor(by="oncall", via=Via.ADMIN))

    story = await story_of(services.database, incident_id)
    told = [(line.event, line.details) for line in reversed(story.history) if line.details]
    assert told == [
        ("incident_acknowledged", {"by": "bob", "via": "http", "key": "pager"}),
        ("incident_unacknowledged", {"by": "ada", "via": "cli"}),
        ("incident_note", {"by": "ada", "via": "cli", "text": "a disk was replaced\nsee #42"}),
        ("incident_resolved", {"by": "ada", "via": "cli"}),
        ("incident_note", {"by": "bob", "via": "http", "key": "pager", "text": "it was the fan"}),
        ("incident_closed", {"by": "oncall", "via": "admin"}),
    ]
    changes = [(line.old_status, line.new_status) for line in reversed(story.history) if line.details]
    assert changes[0] == ("open", "acknowledged")
    assert changes[-1] == ("resolved", "closed")


async def test_a_name_with_a_secret_in_it_is_stored_and_sent_without(
    services: Services, channel: MemoryChannel
) -> None:
    incident_id = await opened(services)
    bot = Actor(by="bot password=Tr0ub4dor&3x", via=Via.HTTP, key="pager")
    await acknowledge(services, incident_id, bot)
    assert (await note(services, incident_id, "restarted", bot)).changed
    assert not (await note(services, incident_id, "restarted", bot)).changed
    await resolve(services, incident_id, bot)
    await execute_follow_up(services, RunReason.ACTION)

    story = await story_of(services.database, incident_id)
    assert {line.details["by"] for line in story.history if "by" in line.details} == {"bot password=[redacted]"}
    assert story.incident.acknowledged_by == "bot password=[redacted]"
    assert fact(channel, "Resolved by") == "bot password=[redacted]"


async def test_what_makes_no_sense_is_refused_and_says_why(services: Services) -> None:
    incident_id = await opened(services)
    with pytest.raises(IllegalTransition, match=r"\(HighCPU on web-1\) is open: resolve it before you close it"):
        await close(services, incident_id)
    with pytest.raises(BadInput, match="A snooze ends in the future, after 30 days at most"):
        await snooze(services, incident_id, timedelta(days=31))
    with pytest.raises(BadInput, match="A snooze ends in the future"):
        await snooze(services, incident_id, datetime(2020, 1, 1, tzinfo=UTC))
    await resolve(services, incident_id)
    for act in (acknowledge, unacknowledge):
        with pytest.raises(IllegalTransition, match=r"is resolved since 20.*: it cannot be (un)?acknowledged"):
            await act(services, incident_id)
    with pytest.raises(IllegalTransition, match="it cannot be snoozed"):
        await snooze(services, incident_id, HOUR)
    with pytest.raises(BadInput, match="A note has 1 to 2000 characters, not 2001"):
        await note(services, incident_id, "x" * 2001)
    with pytest.raises(BadInput, match="by: expected a name"):
        Actor(by="a\nb", via=Via.CLI)
    for unknown in ("4711", "9" * 30, "none"):
        with pytest.raises(IncidentNotFound):
            await resolve(services, unknown)


async def test_a_person_resolves_it_and_everybody_hears_it(services: Services, channel: MemoryChannel) -> None:
    incident_id = await opened(services)
    before = (await incident_of(services.database, incident_id)).version

    done = await resolve(services, incident_id)
    assert done.message == "Incident 1 (HighCPU on web-1) is resolved by ada"
    assert done.incident.version == before + 1
    assert await upcoming(services.database) == []
    async with services.database.transaction() as tx:
        firing_now = (await read_present(tx, incident_id)).firing
        (run, *_) = (await list_page(tx, RunFilter(), limit=1)).runs
    assert firing_now == 0
    assert (run.reason, run.status) == (RunReason.ACTION, RunStatus.PENDING)
    ended = await run_to_end(services, run.run_id)
    assert ended.status is RunStatus.NOTIFIED
    assert len(channel.messages) == 2
    again = await resolve(services, incident_id, BOB)
    assert not again.changed
    assert again.message.startswith("Incident 1 (HighCPU on web-1) is resolved already, since 20")


async def test_a_repeat_of_a_firing_that_a_person_has_resolved_does_not_open_it_again_unless_it_is_worse(
    services: Services,
) -> None:
    began = datetime.now(UTC) - HOUR
    firing = Alert(source="alertmanager", fingerprint="f", name="DiskFull", incident_key="k", episode_at=began)

    async def push_again(one: Alert) -> str:
        run = new_run(
            incident_key="k", environment="production", payload=StoredPush(alerts=[one]).model_dump(mode="json")
        )
        async with services.database.transaction() as tx:
            await add_runs(tx, replace(run, awaits_ingest=True))
        return (await run_to_end(services, run.run_id)).incident_id or ""

    incident_id = await push_again(firing)
    await resolve(services, incident_id)
    await push_again(firing)
    assert (await incident_of(services.database, incident_id)).status is IncidentStatus.RESOLVED
    await push_again(firing.model_copy(update={"severity": Severity.CRITICAL}))
    worse = await incident_of(services.database, incident_id)
    assert (worse.status, worse.severity) == (IncidentStatus.OPEN, Severity.CRITICAL)

    await resolve(services, incident_id)
    await push_again(firing)
    assert (await incident_of(services.database, incident_id)).status is IncidentStatus.RESOLVED
    await push_again(firing.model_copy(update={"episode_at": datetime.now(UTC) + HOUR}))
    assert (await incident_of(services.database, incident_id)).status is IncidentStatus.OPEN


async def test_the_message_says_who_has_resolved_the_incident(services: Services, channel: MemoryChannel) -> None:
    await resolve(services, await opened(services))
    await execute_follow_up(services, RunReason.ACTION)
    assert fact(channel, "Why now") == "somebody has resolved the incident"
    assert fact(channel, "Resolved by") == "ada"

    await push(services, value=2)
    await push(services, status="resolved", value=2)
    assert fact(channel, "Why now") == "every alert of the incident is resolved"
    assert fact(channel, "Resolved by") == ""


async def test_what_has_closed_stays_closed_and_what_fires_again_is_a_new_incident(
    services: Services, channel: MemoryChannel
) -> None:
    first = await opened(services)
    await resolve(services, first)
    said = len(channel.messages)
    assert (await close(services, first)).message == "Incident 1 (HighCPU on web-1) is closed by ada"
    assert not (await close(services, first)).changed
    assert len(channel.messages) == said
    second = await opened(services, status="firing", value=9)
    assert second != first
    assert (await incident_of(services.database, first)).status is IncidentStatus.CLOSED


async def test_a_snoozed_incident_is_silent_until_the_end_of_the_snooze_unless_it_gets_worse(
    services: Services, channel: MemoryChannel
) -> None:
    incident_id = await opened(services, severity="warning")
    done = await snooze(services, incident_id, timedelta(hours=2))
    assert done.message.startswith("Incident 1 (HighCPU on web-1) is snoozed by ada until 20")
    assert await next_of(services.database, incident_id) == "reminder 120"
    assert not (await snooze(services, incident_id, done.incident.snoozed_until or HOUR)).changed

    repeat = await push(services, severity="warning", value=3)
    assert repeat.status is RunStatus.SKIPPED
    await push(services, severity="critical")
    assert len(channel.messages) == 2
    await heard_everywhere(services.database, incident_id)

    await let_pass(services.database, HOUR)
    early = await execute_timer(services, incident_id)
    assert (early.status, early.skip_reason) == (RunStatus.SKIPPED, "snoozed")
    await let_pass(services.database, HOUR)
    over = await execute_timer(services, incident_id)
    assert over.status is RunStatus.NOTIFIED
    assert (await incident_of(services.database, incident_id)).snoozed_until is None
    assert await next_of(services.database, incident_id) == "reminder 60"


async def test_a_snooze_can_be_ended(services: Services) -> None:
    incident_id = await opened(services)
    assert not (await snooze(services, incident_id, timedelta())).changed
    await snooze(services, incident_id, timedelta(hours=9))
    assert (await snooze(services, incident_id, timedelta())).message.endswith("is not snoozed any more")
    assert await next_of(services.database, incident_id) == "reminder 60"


async def test_what_came_during_a_snooze_is_said_when_a_person_ends_the_snooze(
    services: Services, channel: MemoryChannel
) -> None:
    group = {"incident_key": "disks", "severity": "warning"}
    incident_id = (await push(services, fingerprint="a", **group)).incident_id or ""
    await snooze(services, incident_id, timedelta(hours=9))
    hushed = await push(services, fingerprint="b", **group)
    assert (hushed.status, hushed.skip_reason) == (RunStatus.SKIPPED, "snoozed")

    await snooze(services, incident_id, timedelta())
    said = await execute_follow_up(services, RunReason.ACTION)
    assert said.status is RunStatus.NOTIFIED
    assert fact(channel, "Why now") == "nothing new, but not every channel knew what is true"
    assert len(channel.messages) == 2
    assert await next_of(services.database, incident_id) == "reminder 240"


async def test_a_repeat_does_not_say_what_the_run_for_a_persons_action_is_about_to_say(services: Services) -> None:
    push_of = {"severity": "warning", "startsAt": (datetime.now(UTC) - HOUR).isoformat()}
    incident_id = (await push(services, **push_of)).incident_id or ""
    await resolve(services, incident_id)
    repeat = await push(services, **push_of)
    assert (repeat.status, repeat.skip_reason) == (RunStatus.SKIPPED, "repeat")


async def test_what_nobody_hears_of_any_more_expires_and_fires_again_when_it_is_heard_of(
    services: Services, channel: MemoryChannel
) -> None:
    settings = services.settings.model_copy(
        update={"notify_remind_after_seconds": 0, "notify_remind_critical_after_seconds": 0}
    )
    services = replace(services, settings=settings)
    incident_id = await opened(services)
    assert await next_of(services.database, incident_id) == "expiry 1440"
    await let_pass(services.database, 20 * HOUR)
    await push(services, value=3)  # heard of: the timer looks at that when it is due
    await let_pass(services.database, 4 * HOUR)
    early = await execute_timer(services, incident_id)
    assert (early.status, early.skip_reason) == (RunStatus.SKIPPED, "heard_of")
    # Its sender repeats it every 20 hours, so it may be silent for three times as long.
    assert await next_of(services.database, incident_id) == f"expiry {60 * (3 * 20 - 4)}"

    await let_pass(services.database, 57 * HOUR)
    expired = await execute_timer(services, incident_id)
    assert (expired.status, expired.reason) == (RunStatus.NOTIFIED, RunReason.EXPIRY)
    over = await incident_of(services.database, incident_id)
    assert over.status is IncidentStatus.RESOLVED
    assert (await events_of(services.database, incident_id))[-1] == "incident_expired"
    assert await next_of(services.database, incident_id) == "nothing"
    assert len(channel.messages) >= 2
    assert fact(channel, "Why now").startswith("nobody has heard of it for long, so it counts as over")

    await push(services, value=4)
    assert (await incident_of(services.database, incident_id)).status is IncidentStatus.OPEN


async def test_nothing_expires_while_a_push_about_it_waits_to_be_recorded(services: Services) -> None:
    incident_id = await opened(services)
    await let_pass(services.database, 25 * HOUR)
    await accept_push(services, alert(value=8), source="webhook", environment="production")
    run = await execute_timer(services, incident_id)
    assert (run.status, run.skip_reason) == (RunStatus.SKIPPED, "heard_of")
    assert (await incident_of(services.database, incident_id)).status is IncidentStatus.OPEN
    assert await next_of(services.database, incident_id) == "expiry 5"


async def test_each_source_can_have_its_own_time_to_expire_and_zero_switches_all_off(services: Services) -> None:
    off = {
        "notify_remind_after_seconds": 0,
        "notify_remind_critical_after_seconds": 0,
        "incident_expire_after_seconds": SecondsBySource.parse("0,generic=7200"),
    }
    ours = replace(services, settings=services.settings.model_copy(update=off))
    assert await next_of(services.database, await opened(ours)) == "expiry 120"
    off["incident_expire_after_seconds"] = SecondsBySource.parse("0")
    silent = replace(services, settings=services.settings.model_copy(update=off))
    assert await next_of(services.database, await opened(silent, "Other")) == "nothing"


async def test_the_end_of_an_incident_ends_its_timer(services: Services) -> None:
    incident_id = await opened(services)
    (timer,) = await upcoming(services.database, incident_id)
    await push(services, status="resolved")
    assert await upcoming(services.database, incident_id) == []
    story = await story_of(services.database, incident_id)
    cancelled = next(run for run in story.runs if run.run_id == timer.run_id)
    assert (cancelled.status, cancelled.skip_reason) == (RunStatus.SKIPPED, "not_due")


async def test_a_test_reminds_nobody(services: Services) -> None:
    (run_id,) = await accept_push(
        services, alert(), source="webhook", environment="production", options=RunOptions(test=True)
    )
    await run_to_end(services, run_id)
    assert await upcoming(services.database) == []


async def test_people_who_act_at_the_same_time_act_one_after_the_other(services: Services) -> None:
    incident_id = await opened(services)
    done = await asyncio.gather(*(acknowledge(services, incident_id, who) for who in (ADA, BOB) * 5))
    assert sum(one.changed for one in done) == 1
    assert len(await upcoming(services.database, incident_id)) == 1
    ends = await asyncio.gather(*(resolve(services, incident_id, who) for who in (ADA, BOB) * 5))
    assert sum(one.changed for one in ends) == 1
    async with services.database.transaction() as tx:
        queued = [run for run in (await list_page(tx, RunFilter(), limit=100)).runs if run.reason is RunReason.ACTION]
    assert len(queued) == 1


async def test_an_incident_that_cannot_be_read_keeps_no_other_without_a_timer(services: Services) -> None:
    strange, other = await opened(services, "Strange"), await opened(services, "Other")
    async with services.database.transaction() as tx:
        await tx.execute(text("delete from pipeline_run where reason in ('reminder', 'expiry')"))
        unknown = text("update incident set severity = 'of_a_later_version' where id = :id")
        await tx.execute(unknown, {"id": int(strange)})

    await start_timers(services)

    async with services.database.transaction() as tx:
        assert await list_without(tx) == [strange]
    assert await next_of(services.database, other)


async def test_a_sender_that_names_no_start_is_told_since_when_it_is_so_again(
    services: Services, channel: MemoryChannel
) -> None:
    incident_id = await opened(services)
    await push(services, status="resolved")
    await let_pass(services.database, HOUR)
    again = await push(services)
    assert again.incident_id == incident_id
    (since,) = [fact.value for fact in channel.messages[-1].facts if fact.label == "Since"]
    assert again.created_at is not None
    assert since == f"{again.created_at:%Y-%m-%d %H:%M:%S} UTC"
