"""What keeps an incident back: silences, mute windows of a route, and alerts that explain others."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from orchestration.engine.run import Services
from orchestration.errors import BadInput
from orchestration.policy.active import ActivePolicy
from orchestration.policy.holding import Silence
from orchestration.policy.matchers import parse_matchers
from orchestration.policy.parse import read_policy
from orchestration.states import RunReason, RunStatus
from orchestration.store import actions
from orchestration.store.silences import add_silence, end_silence, list_silences
from tests.conftest import MemoryChannel
from tests.life_helpers import ADA, events_of, execute_timer, incident_of, let_pass, next_of, push
from tests.notify_helpers import execute_follow_up, refused, titles

HOUR = timedelta(hours=1)


class OnePolicy:
    """The policy of a test."""

    def __init__(self, text: str) -> None:
        self._policy = ActivePolicy(policy=read_policy(text).policy)

    async def active(self) -> ActivePolicy:
        return self._policy


async def silence(services: Services, matchers: str = "alertname=HighCPU", until: timedelta = HOUR) -> Silence:
    async with services.database.transaction() as tx:
        return await add_silence(tx, parse_matchers(matchers), ADA, until=until, comment="new disks")


async def test_a_silence_keeps_an_incident_back_and_it_is_told_when_the_silence_ends(
    services: Services, channel: MemoryChannel
) -> None:
    made = await silence(services)
    run = await push(services)
    assert (run.status, run.skip_reason) == (RunStatus.SKIPPED, "silenced")
    assert run.incident_id is not None
    assert await next_of(services.database, run.incident_id) == "reminder 60"
    assert (await push(services)).skip_reason == "silenced"
    assert channel.messages == []
    assert "incident_held_back" in await events_of(services.database, run.incident_id)

    async with services.database.transaction() as tx:
        await end_silence(tx, made.id)
    assert await next_of(services.database, run.incident_id) == "reminder 0"
    assert (await execute_timer(services, run.incident_id)).status is RunStatus.NOTIFIED
    said = {fact.label: fact.value for fact in channel.messages[0].facts}
    assert said["Why now"] == "it was kept back until now, and still fires"
    assert said["Kept back"].startswith("it was kept back: silenced by ada until ")
    assert said["Kept back"].endswith(": new disks")
    assert (await incident_of(services.database, run.incident_id)).held is None
    assert await next_of(services.database, run.incident_id) == "reminder 60"


async def test_an_incident_that_ends_during_its_silence_is_told_to_nobody(
    services: Services, channel: MemoryChannel
) -> None:
    await silence(services)
    await push(services)
    assert (await push(services, status="resolved")).skip_reason == "silenced"
    assert channel.messages == []


async def test_an_incident_that_a_person_resolves_during_its_silence_is_told_to_nobody(
    services: Services, channel: MemoryChannel
) -> None:
    await silence(services)
    run = await push(services)
    assert run.incident_id is not None
    async with services.database.transaction() as tx:
        await actions.resolve(tx, run.incident_id, ADA)
    assert (await execute_follow_up(services, RunReason.ACTION)).skip_reason == "silenced"
    assert channel.messages == []


async def test_what_a_channel_refused_is_not_sent_again_during_a_silence(
    services: Services, channel: MemoryChannel
) -> None:
    channel.failures = [refused()]
    run = await push(services)
    assert run.status is RunStatus.FAILED
    await silence(services)
    assert (await execute_follow_up(services, RunReason.REDELIVERY)).skip_reason == "silenced"
    assert channel.messages == []
    assert run.incident_id is not None
    assert await next_of(services.database, run.incident_id) == "reminder 60"


async def test_the_all_clear_of_what_was_told_is_never_kept_back(services: Services, channel: MemoryChannel) -> None:
    await push(services)
    await silence(services)
    assert (await push(services, status="resolved")).status is RunStatus.NOTIFIED
    assert titles(channel) == ["CRITICAL", "RESOLVED"]


async def test_a_reminder_waits_for_the_end_of_a_silence(services: Services, channel: MemoryChannel) -> None:
    run = await push(services)
    assert run.incident_id is not None
    await silence(services, until=3 * HOUR)
    await let_pass(services.database, HOUR)
    assert (await execute_timer(services, run.incident_id)).skip_reason == "silenced"
    assert titles(channel) == ["CRITICAL"]
    assert await next_of(services.database, run.incident_id) == "reminder 180"


async def test_one_alert_that_is_not_silenced_is_told(services: Services, channel: MemoryChannel) -> None:
    await silence(services, 'alertname="DiskFull"')
    assert (await push(services, "DiskFull", group_key="all")).skip_reason == "silenced"
    assert (await push(services, "HighCPU", group_key="all")).status is RunStatus.NOTIFIED
    assert len(channel.messages) == 1


@pytest.mark.parametrize(
    ("matchers", "until", "error"),
    [
        ("", HOUR, "needs a matcher"),
        ('alertname=~".*"', HOUR, "holds for every alert"),
        ("alertname=HighCPU", timedelta(0), "ends in the future"),
        ("alertname=HighCPU", timedelta(days=400), "after 366 days at most"),
    ],
)
async def test_a_silence_that_makes_no_sense_is_refused(
    services: Services, matchers: str, until: timedelta, error: str
) -> None:
    with pytest.raises(BadInput, match=error):
        await silence(services, matchers, until)


async def test_a_silence_that_has_ended_cannot_be_ended_again(services: Services) -> None:
    made = await silence(services)
    async with services.database.transaction() as tx:
        await end_silence(tx, made.id)
        assert await list_silences(tx) == []
        assert [one.by for one in await list_silences(tx, ended=True)] == ["ada"]
    async with services.database.transaction() as tx:
        with pytest.raises(BadInput, match="no silence"):
            await end_silence(tx, made.id)


MUTED = """
routes: [{channels: memory, mute: always}]
windows: {always: [{}]}
"""


async def test_a_mute_window_of_the_route_keeps_an_incident_back(services: Services, channel: MemoryChannel) -> None:
    services = replace(services, policies=OnePolicy(MUTED))
    run = await push(services)
    assert run.skip_reason == "muted"
    assert run.incident_id is not None
    assert channel.messages == []
    held = (await incident_of(services.database, run.incident_id)).held
    assert held is not None
    assert held["why"] == "muted: it is always now"

    services = replace(services, policies=None)
    assert (await push(services)).status is RunStatus.NOTIFIED
    assert {fact.label: fact.value for fact in channel.messages[0].facts}["Kept back"].endswith("always now")


INHIBITED = """
inhibitions:
  - source_matchers: alertname="HostDown"
    target_matchers: severity="warning"
    equal: instance
"""


async def test_an_alert_that_another_one_explains_is_kept_back_as_long_as_that_fires(
    services: Services, channel: MemoryChannel
) -> None:
    services = replace(services, policies=OnePolicy(INHIBITED))
    await push(services, "HostDown", instance="db-1")
    run = await push(services, "DiskSlow", severity="warning", instance="db-1")
    assert run.skip_reason == "inhibited"
    assert run.incident_id is not None
    assert (await push(services, "DiskSlow", severity="warning", instance="db-2")).status is RunStatus.NOTIFIED

    await push(services, "HostDown", instance="db-1", status="resolved")
    await let_pass(services.database, timedelta(minutes=6))
    assert (await execute_timer(services, run.incident_id)).status is RunStatus.NOTIFIED
    said = {fact.label: fact.value for fact in channel.messages[-1].facts}
    assert said["Kept back"] == "it was kept back: HostDown fires, which explains it"


def test_until_when_a_silence_holds():
    now = datetime(2026, 11, 27, 18, 0, tzinfo=UTC)
    one = Silence(matchers=parse_matchers("a=b"), starts_at=now, ends_at=now + HOUR, by="ada")
    assert one.holds({"a": "b"}, now)
    assert not one.holds({"a": "c"}, now)
    assert not one.holds({"a": "b"}, now + HOUR)


async def test_an_acknowledged_incident_under_a_silence_stays_acknowledged(services: Services) -> None:
    run = await push(services)
    assert run.incident_id is not None
    async with services.database.transaction() as tx:
        await actions.acknowledge(tx, run.incident_id, ADA, services.settings)
    await silence(services)
    assert await next_of(services.database, run.incident_id) == "reminder 480"
