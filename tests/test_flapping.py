"""An incident that begins and ends again and again: it is said once, and then what is true when it is quiet."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from pydantic import SecretStr

from blocks.channels import PagerDutyChannel
from orchestration.alert import AlertStatus
from orchestration.engine.run import Services
from orchestration.message import Message
from orchestration.states import RunReason, RunStatus
from orchestration.store import actions
from orchestration.store.policies import StoredPolicies
from orchestration.store.records import RunRecord
from orchestration.store.why import read_why
from tests import vendors
from tests.conftest import MemoryChannel, MemoryChannels
from tests.life_helpers import ADA, execute_timer, incident_of, let_pass, next_of, push, story_of
from tests.notify_helpers import execute_follow_up, refused, titles
from tests.oncall_helpers import store_policy
from tests.vendors import ROUTING_KEY

MINUTE = timedelta(minutes=1)
RULE = {"changes": 4, "within": "10m"}


@pytest.fixture
async def services(services: Services) -> Services:
    """The services of a process with a policy that knows flapping."""
    await store_policy(services.database, {"timing": {"flapping": RULE}})
    return replace(services, policies=StoredPolicies(services.database))


async def change(services: Services, status: str = "firing", **more: object) -> RunRecord:
    """A minute passes, and the alert begins or ends."""
    await let_pass(services.database, MINUTE)
    return await push(services, **{"severity": "warning", "status": status} | more)


async def flap(services: Services, times: int, **more: object) -> RunRecord:
    """The alert begins and ends so often; the last run."""
    for _ in range(times):
        await change(services, **more)
        last = await change(services, "resolved", **more)
    return last


def kept_back(message: Message) -> str:
    return message.fact("Kept back")


def first_row(message: Message) -> tuple[str, str]:
    return message.facts[0].label, message.facts[0].value


async def test_flapping_is_said_once_and_what_is_true_is_told_when_it_is_quiet(
    services: Services, channel: MemoryChannel
) -> None:
    last = await flap(services, 2)
    assert last.incident_id is not None
    assert titles(channel) == ["WARNING", "RESOLVED", "WARNING", "WARNING, flapping"]
    held = "4 changes in 10m; held until it is quiet for 10m"
    said = f"it goes on and off, and is not over: at this moment it is resolved; {held}"
    assert first_row(channel.messages[-1]) == ("Flapping", said)
    assert channel.messages[-1].status is AlertStatus.FIRING

    assert (await change(services)).skip_reason == "flapping"
    assert (await flap(services, 2)).skip_reason == "flapping"
    assert (await change(services)).skip_reason == "flapping"
    assert len(channel.messages) == 4
    assert await next_of(services.database, last.incident_id) == "reminder 10"
    async with services.database.transaction() as tx:
        why = await read_why(tx, last.incident_id)
    assert "it begins and ends again and again" in why.answer
    assert "it is told as it is then" in why.upcoming[0].text

    await let_pass(services.database, 10 * MINUTE)
    assert (await execute_timer(services, last.incident_id)).status is RunStatus.NOTIFIED
    assert titles(channel)[4:] == ["WARNING"]
    assert kept_back(channel.messages[-1]) == f"it was kept back: flapping: {held}"
    assert (await incident_of(services.database, last.incident_id)).held is None
    assert await next_of(services.database, last.incident_id) == "reminder 240"
    assert (await change(services, "resolved")).status is RunStatus.NOTIFIED


async def test_what_has_ended_while_it_was_flapping_is_told_as_ended(
    services: Services, channel: MemoryChannel
) -> None:
    await flap(services, 1)
    await change(services)
    await change(services, "resolved")
    await change(services)
    last = await change(services, "resolved")
    assert last.incident_id is not None
    assert last.skip_reason == "flapping"
    assert await next_of(services.database, last.incident_id) == "reminder 10"
    await let_pass(services.database, 10 * MINUTE)
    assert (await execute_timer(services, last.incident_id)).status is RunStatus.NOTIFIED
    assert titles(channel)[-1] == "RESOLVED"
    assert await next_of(services.database, last.incident_id) == "nothing"
    assert (await change(services)).status is RunStatus.NOTIFIED


async def test_the_first_critical_page_is_never_kept_back(services: Services, channel: MemoryChannel) -> None:
    await flap(services, 3)
    sent = len(channel.messages)
    assert (await change(services, severity="critical")).status is RunStatus.NOTIFIED
    assert (await change(services, "resolved", severity="critical")).skip_reason == "flapping"
    assert (await change(services, severity="critical")).skip_reason == "flapping"
    assert titles(channel)[sent:] == ["CRITICAL, flapping"]


async def test_an_incident_that_flaps_for_long_is_said_to_flap_as_often_as_it_would_be_reminded_of(
    services: Services, channel: MemoryChannel
) -> None:
    await flap(services, 40, severity="critical")
    said = titles(channel)
    assert said == ["CRITICAL", "RESOLVED", "CRITICAL", "CRITICAL, flapping", "CRITICAL, flapping"]


async def test_the_escalation_goes_on_until_somebody_acknowledges(services: Services, channel: MemoryChannel) -> None:
    second = MemoryChannel()
    policy = {
        "timing": {"flapping": {"changes": 3, "within": "10m"}},
        "routes": [{"escalation": "all"}],
        "escalations": {"all": {"steps": [{"channels": "memory", "wait": "7m"}, {"channels": "second"}]}},
    }
    await store_policy(services.database, policy)
    channels = MemoryChannels({"memory": channel}, spare={"second": second})
    services = replace(services, policies=StoredPolicies(services.database), channels=channels)
    await flap(services, 1)
    await change(services)
    await change(services, "resolved")
    last = await change(services)
    assert last.incident_id is not None
    assert last.skip_reason == "flapping"
    assert await next_of(services.database, last.incident_id) == "escalation 5"
    await let_pass(services.database, 5 * MINUTE)
    assert (await execute_timer(services, last.incident_id)).status is RunStatus.NOTIFIED
    assert titles(second) == ["WARNING, flapping"]
    assert await next_of(services.database, last.incident_id) in ("escalation 5", "reminder 5")


async def test_what_a_person_does_counts_at_once(services: Services, channel: MemoryChannel) -> None:
    await flap(services, 2)
    last = await change(services)
    assert last.incident_id is not None
    async with services.database.transaction() as tx:
        await actions.resolve(tx, last.incident_id, ADA)
    assert (await execute_follow_up(services, RunReason.ACTION)).status is RunStatus.NOTIFIED
    assert titles(channel)[-1] == "RESOLVED"
    assert (await incident_of(services.database, last.incident_id)).held is None
    assert await next_of(services.database, last.incident_id) == "nothing"


async def test_what_nobody_knows_yet_is_not_kept_back(services: Services, channel: MemoryChannel) -> None:
    channel.failures = [refused() for _ in range(20)]
    await flap(services, 3)
    channel.failures = []
    assert (await change(services)).status is RunStatus.NOTIFIED
    assert titles(channel) == ["WARNING, flapping"]


async def test_what_a_channel_refused_is_sent_again_if_it_is_critical_and_the_hold_goes_on(
    services: Services, channel: MemoryChannel
) -> None:
    spare = MemoryChannel()
    services = replace(services, channels=MemoryChannels({"memory": channel, "spare": spare}))
    await flap(services, 1, severity="critical")
    await change(services, severity="critical")
    spare.failures = [refused() for _ in range(20)]
    await change(services, "resolved", severity="critical")
    last = await change(services, severity="critical")
    assert last.skip_reason == "flapping"
    spare.failures = []
    assert (await execute_follow_up(services, RunReason.REDELIVERY)).status is RunStatus.NOTIFIED
    assert titles(spare)[-1] == "CRITICAL, flapping"
    assert last.incident_id is not None
    assert (await incident_of(services.database, last.incident_id)).is_flapping


async def test_alerts_that_end_one_after_the_other_do_not_flap(services: Services, channel: MemoryChannel) -> None:
    for status in ("firing", "resolved"):
        for host in range(5):
            last = await change(services, status, instance=f"web-{host}", group_key="all")
    assert last.status is RunStatus.NOTIFIED
    assert titles(channel)[-1] == "RESOLVED"
    story = await story_of(services.database, last.incident_id or "")
    assert "incident_held_back" not in {line.event for line in story.history}


async def test_without_a_rule_nothing_flaps(services: Services, channel: MemoryChannel) -> None:
    services = replace(services, policies=None)
    await flap(services, 4)
    assert len(channel.messages) == 8


async def test_nobody_is_led_to_believe_that_what_goes_on_and_off_is_over(services: Services) -> None:
    with vendors.pagerduty() as pagerduty:
        own = PagerDutyChannel(routing_key=SecretStr(ROUTING_KEY), url=pagerduty.url)
        services = replace(services, channels=MemoryChannels({"pagerduty": own}))
        last = await flap(services, 2, severity="critical")
        [page] = pagerduty.incidents[1:]
        assert (page.status, page.events) == ("triggered", ["trigger", "trigger"])
        assert (await change(services, severity="critical")).skip_reason == "flapping"
        assert (await change(services, "resolved", severity="critical")).skip_reason == "flapping"
        await let_pass(services.database, 10 * MINUTE)
        assert last.incident_id is not None
        assert (await execute_timer(services, last.incident_id)).status is RunStatus.NOTIFIED
        assert (page.status, page.events) == ("resolved", ["trigger", "trigger", "resolve"])
