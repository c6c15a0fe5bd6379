"""An incident goes from one person to the next, until somebody has it."""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from orchestration.contracts import Delivery
from orchestration.engine.run import Services
from orchestration.errors import BadInput
from orchestration.message import Message, NamedChannel
from orchestration.policy.active import ActivePolicy
from orchestration.policy.oncall import roster_of
from orchestration.policy.parse import parse_policy, read_policy
from orchestration.policy.problems import BadPolicy
from orchestration.settings import Settings
from orchestration.states import RunReason, RunStatus
from orchestration.store import actions, standings
from tests.api_helpers import open_api, run_to_end
from tests.conftest import MemoryChannel, MemoryChannels
from tests.life_helpers import ADA, execute_timer, incident_of, let_pass, next_of, push, story_of, upcoming
from tests.notify_helpers import WaitingChannel, busy, execute_follow_up, refused, titles

MINUTE = timedelta(minutes=1)

POLICY = """
catch_all: fallback
routes:
  - matchers: severity="critical"
    channels: chat
    escalation: database
escalations:
  database:
    steps:
      - {schedule: primary, wait: 5m}
      - {people: bob, wait: 10m}
people:
  ann: {contacts: ann-phone}
  bob: {contacts: [bob-phone, bob-mail]}
schedules:
  primary:
    time_zone: Europe/Berlin
    layers:
      - {people: [ann], rotate: weekly, start: 2026-01-05}
"""


@dataclass
class SlowChannel(MemoryChannel):
    """A channel whose messages arrive some time after they were sent, each with the key of its incident."""

    seconds: float = 0.0
    arrivals: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, message: Message) -> Delivery:
        self.asked.set()
        await asyncio.sleep(self.seconds)
        self.arrivals.append((time.monotonic(), message.dedup_key))
        return await super().send(message)


@dataclass
class OnePolicy:
    """The policy of a test, which may be edited."""

    text: str = POLICY

    async def active(self) -> ActivePolicy:
        policy = read_policy(self.text).policy
        return ActivePolicy(policy=policy, rosters={name: roster_of(policy, name) for name in policy.schedules})


@dataclass
class FixedPolicy:
    """A policy that was stored before."""

    policy: ActivePolicy

    async def active(self) -> ActivePolicy:
        return self.policy


NAMES = ("chat", "ann-phone", "bob-phone", "bob-mail", "fallback")


@pytest.fixture
def channels() -> dict[str, MemoryChannel]:
    return {name: MemoryChannel() for name in NAMES}


@pytest.fixture
def services(services: Services, channels: dict[str, MemoryChannel], channel: MemoryChannel) -> Services:
    return replace(services, channels=MemoryChannels({"memory": channel}, channels), policies=OnePolicy())


def told(channels: dict[str, MemoryChannel]) -> dict[str, list[str]]:
    """What each channel was told; those that were told nothing are left out."""
    return {name: titles(channel) for name, channel in channels.items() if channel.messages}


async def open_incident(services: Services) -> str:
    run = await push(services)
    assert run.incident_id is not None
    return run.incident_id


async def next_step(services: Services, incident_id: str, passed: timedelta) -> RunStatus:
    await let_pass(services.database, passed)
    return (await execute_timer(services, incident_id)).status


async def acknowledge(services: Services, incident_id: str) -> None:
    async with services.database.transaction() as tx:
        await actions.acknowledge(tx, incident_id, ADA, services.settings)


async def test_an_incident_goes_to_the_next_person_until_somebody_acknowledges_it(
    services: Services, channels: dict[str, MemoryChannel], channel: MemoryChannel
) -> None:
    incident_id = await open_incident(services)
    assert told(channels) == {"chat": ["CRITICAL"], "ann-phone": ["CRITICAL"]}
    assert channel.messages == []  # a route that says who is notified replaces the default channels
    facts = {fact.label: fact.value for fact in channels["chat"].messages[0].follow_ups}
    assert facts["On call"] == "ann"
    assert facts["Next"].startswith("bob is notified (step 2 of 2) at ")
    assert await next_of(services.database, incident_id) == "escalation 5"

    assert await next_step(services, incident_id, 5 * MINUTE) is RunStatus.NOTIFIED
    assert told(channels) == {
        "chat": ["CRITICAL"], "ann-phone": ["CRITICAL"], "bob-phone": ["CRITICAL"], "bob-mail": ["CRITICAL"]
    }  # fmt: skip
    assert await next_of(services.database, incident_id) == "escalation 10"
    why_now = {fact.label: fact.value for fact in channels["bob-phone"].messages[0].facts}["Why now"]
    assert why_now == "nobody has acknowledged it so far, so it goes on to you"

    await acknowledge(services, incident_id)
    assert await next_of(services.database, incident_id) == "reminder 480"
    await push(services, status="resolved")
    everybody = ("chat", "ann-phone", "bob-phone", "bob-mail")
    assert told(channels) == {name: ["CRITICAL", "RESOLVED"] for name in everybody}


async def test_a_repeat_of_the_alert_tells_nobody_again_and_delays_no_step(
    services: Services, channels: dict[str, MemoryChannel]
) -> None:
    incident_id = await open_incident(services)
    await next_step(services, incident_id, 5 * MINUTE)
    before = told(channels)
    assert (await push(services)).skip_reason == "repeat"
    assert told(channels) == before
    assert await next_of(services.database, incident_id) == "escalation 10"


async def test_the_end_of_the_chain_is_told_to_the_catch_all_channel_and_then_everybody_is_reminded(
    services: Services, channels: dict[str, MemoryChannel]
) -> None:
    incident_id = await open_incident(services)
    await next_step(services, incident_id, 5 * MINUTE)
    await next_step(services, incident_id, 10 * MINUTE)
    assert told(channels)["fallback"] == ["CRITICAL"]
    said = {fact.label: fact.value for fact in channels["fallback"].messages[0].facts}["Why now"]
    assert said == "everybody of its escalation was notified, and nobody has acknowledged it"
    assert await next_of(services.database, incident_id) == "reminder 60"
    await next_step(services, incident_id, 60 * MINUTE)
    assert all(count == ["CRITICAL"] * 2 for count in told(channels).values())


async def test_a_rise_in_severity_begins_the_escalation(services: Services, channels: dict[str, MemoryChannel]) -> None:
    run = await push(services, severity="warning")
    assert run.incident_id is not None
    assert told(channels) == {}
    await push(services, severity="critical")
    assert told(channels) == {"chat": ["CRITICAL"], "ann-phone": ["CRITICAL"]}
    assert await next_of(services.database, run.incident_id) == "escalation 5"


async def test_an_acknowledgement_that_ends_begins_the_escalation_again(
    services: Services, channels: dict[str, MemoryChannel]
) -> None:
    incident_id = await open_incident(services)
    await next_step(services, incident_id, 5 * MINUTE)
    await acknowledge(services, incident_id)
    async with services.database.transaction() as tx:
        await actions.unacknowledge(tx, incident_id, ADA, services.settings)
    assert await next_of(services.database, incident_id) == "escalation 0"
    assert await next_step(services, incident_id, MINUTE) is RunStatus.NOTIFIED
    assert told(channels)["ann-phone"] == ["CRITICAL", "CRITICAL"]
    assert len(told(channels)["bob-phone"]) == 1
    assert await next_of(services.database, incident_id) == "escalation 5"


async def test_whoever_only_gets_new_messages_is_up_to_date_after_an_acknowledgement_and_a_step(
    services: Services, channels: dict[str, MemoryChannel]
) -> None:
    channels["chat"].shows_state = True
    incident_id = await open_incident(services)
    await next_step(services, incident_id, 5 * MINUTE)
    await acknowledge(services, incident_id)
    async with services.database.transaction() as tx:
        await actions.unacknowledge(tx, incident_id, ADA, services.settings)
    assert await next_step(services, incident_id, MINUTE) is RunStatus.NOTIFIED
    before = told(channels)
    assert (await push(services)).skip_reason == "repeat"
    assert told(channels) == before
    # The chat still has to show that the acknowledgement was taken back, and hears of nothing twice.
    assert (await execute_follow_up(services, RunReason.STATE)).status is RunStatus.NOTIFIED
    assert [one.silent for one in channels["chat"].messages] == [False, True]
    assert (await execute_follow_up(services, RunReason.STATE)).skip_reason == "coalesced"


async def test_a_worker_that_was_away_does_not_send_the_steps_all_at_once(
    services: Services, channels: dict[str, MemoryChannel]
) -> None:
    incident_id = await open_incident(services)
    await next_step(services, incident_id, 60 * MINUTE)
    assert "fallback" not in told(channels)
    assert await next_of(services.database, incident_id) == "escalation 10"


async def test_a_step_that_waits_for_its_channel_is_not_sent_once_somebody_has_the_incident(
    services: Services, channels: dict[str, MemoryChannel]
) -> None:
    channels["bob-phone"] = slow = WaitingChannel()
    channels["bob-mail"].failures = [busy(retry_after_seconds=0.5)] * 2
    services = replace(services, channels=MemoryChannels({}, channels))
    incident_id = await open_incident(services)
    await let_pass(services.database, 5 * MINUTE)
    step = asyncio.create_task(execute_timer(services, incident_id))
    await slow.asked.wait()
    await acknowledge(services, incident_id)
    slow.let_go.set()
    await step
    assert told(channels) == {"chat": ["CRITICAL"], "ann-phone": ["CRITICAL"], "bob-phone": ["CRITICAL"]}
    assert channels["bob-mail"].messages == []


async def test_whoever_acknowledges_is_answered_after_the_page_that_is_on_its_way(
    services: Services, settings: Settings, channels: dict[str, MemoryChannel]
) -> None:
    channels["bob-phone"] = slow = WaitingChannel()
    services = replace(services, channels=MemoryChannels({}, channels))
    incident_id = await open_incident(services)
    await let_pass(services.database, 5 * MINUTE)
    step = asyncio.create_task(execute_timer(services, incident_id))
    await slow.asked.wait()
    async with open_api(settings, services.database.url) as api:
        pressed = asyncio.create_task(api.post(f"/incidents/{incident_id}/acknowledge/"))
        answered, _ = await asyncio.wait({pressed}, timeout=0.3)
        assert not answered
        slow.let_go.set()
        assert (await pressed).json()["incident"]["status"] == "acknowledged"
    assert titles(slow) == ["CRITICAL"]
    await step


@pytest.mark.timeout(300 if "ACKNOWLEDGEMENT_RACES" not in os.environ else 3600)
async def test_no_page_arrives_after_the_answer_whenever_somebody_acknowledges(
    services: Services, settings: Settings, channels: dict[str, MemoryChannel]
) -> None:
    dice = random.Random(7)
    channels["bob-phone"] = phone = SlowChannel(seconds=0.1)
    races = int(os.environ.get("ACKNOWLEDGEMENT_RACES", "20"))
    opened = [(await push(services, f"HighCPU-{number}")).incident_id for number in range(races)]
    await let_pass(services.database, 5 * MINUTE)
    steps = {one: (await upcoming(services.database, one))[0].run_id for one in opened}
    answers = dict[str, float]()
    async with open_api(settings, services.database.url) as api:
        for number, (incident_id, run_id) in enumerate(steps.items()):
            phone.asked.clear()
            step = asyncio.create_task(run_to_end(services, run_id))
            if number % 2:  # while the page is on its way
                await phone.asked.wait()
            await asyncio.sleep(dice.uniform(0, 0.1))
            answer = await api.post(f"/incidents/{incident_id}/acknowledge/")
            assert answer.json()["changed"] is True
            answers[str(incident_id)] = time.monotonic()
            with suppress(BadInput):  # it was cancelled before it began
                await step
    late = [at - answers[key.partition("-")[0]] for at, key in phone.arrivals if at > answers[key.partition("-")[0]]]
    assert len(answers) == races
    assert late == []
    assert races // 2 <= len(phone.arrivals)


async def test_a_page_that_hangs_keeps_nobody_waiting_for_long(
    services: Services, channels: dict[str, MemoryChannel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standings, "ANSWER_SECONDS", 0.1)
    channels["chat"] = slow = WaitingChannel()
    services = replace(services, channels=MemoryChannels({}, channels))
    page = asyncio.create_task(push(services))
    await slow.asked.wait()
    (timer,) = await upcoming(services.database)
    incident_id = str(timer.incident_id)
    await acknowledge(services, incident_id)
    assert not await standings.wait_for_messages(services.database, incident_id)
    slow.let_go.set()
    await page
    assert await standings.wait_for_messages(services.database, incident_id)


async def test_a_step_that_was_refused_is_sent_again_although_a_later_one_has_been_taken(
    services: Services, channels: dict[str, MemoryChannel]
) -> None:
    channels["bob-phone"].failures = [refused()]
    incident_id = await open_incident(services)
    assert await next_step(services, incident_id, 5 * MINUTE) is RunStatus.FAILED
    assert "bob-phone" not in told(channels)
    await let_pass(services.database, 10 * MINUTE)
    assert (await execute_follow_up(services, RunReason.ESCALATION)).status is RunStatus.NOTIFIED
    assert "fallback" in told(channels)

    assert (await execute_follow_up(services, RunReason.REDELIVERY)).status is RunStatus.NOTIFIED
    assert set(told(channels)) == set(NAMES)
    assert all(count == ["CRITICAL"] for count in told(channels).values())


async def test_what_the_step_says_of_its_people_is_in_the_history(services: Services) -> None:
    incident_id = await open_incident(services)
    await next_step(services, incident_id, 5 * MINUTE)
    history = (await story_of(services.database, incident_id)).history
    steps = [line for line in reversed(history) if line.event == "incident_escalated"]
    assert [(line.details["number"], line.details["people"]) for line in steps] == [(1, ["ann"]), (2, ["bob"])]


async def test_the_message_says_until_when_somebody_is_on_call_on_the_clock_of_the_schedule(
    services: Services, channels: dict[str, MemoryChannel]
) -> None:
    shared = POLICY.replace("people: [ann]", "people: [[ann, bob], [bob, ann]]")
    await open_incident(replace(services, policies=OnePolicy(shared)))
    on_call = {fact.label: fact.value for fact in channels["chat"].messages[0].follow_ups}["On call"]
    assert re.fullmatch(r"(ann, bob|bob, ann), until \S+ 0[78]:00:00 UTC \(09:00 CES?T\)", on_call)


@pytest.mark.parametrize(
    ("edit", "note"),
    [
        (("people: [ann]", "people: [carl]"), "the policy does not say how to reach carl"),
        (("start: 2026-01-05", "start: 2099-01-05"), "nobody is on call by the schedule primary"),
    ],
)
async def test_a_step_that_reaches_nobody_is_told_to_the_catch_all_channel(
    services: Services, channels: dict[str, MemoryChannel], edit: tuple[str, str], note: str
) -> None:
    await open_incident(replace(services, policies=OnePolicy(POLICY.replace(*edit))))
    assert told(channels) == {"chat": ["CRITICAL"], "fallback": ["CRITICAL"]}
    said = {fact.label: fact.value for fact in channels["fallback"].messages[0].follow_ups}
    assert note in said["On call"]


async def test_an_edit_of_the_policy_moves_no_step_of_an_escalation_that_has_begun(
    services: Services, channels: dict[str, MemoryChannel]
) -> None:
    incident_id = await open_incident(services)
    services = replace(services, policies=OnePolicy("routes: []"))
    assert await next_step(services, incident_id, 5 * MINUTE) is RunStatus.NOTIFIED
    # Nobody can say any more how to reach bob.
    assert told(channels)["fallback"] == ["CRITICAL"]


async def test_resolving_ends_the_escalation(services: Services) -> None:
    incident_id = await open_incident(services)
    async with services.database.transaction() as tx:
        await actions.resolve(tx, incident_id, ADA)
    assert RunReason.ESCALATION not in [run.reason for run in await upcoming(services.database, incident_id)]
    assert (await incident_of(services.database, incident_id)).status.ended


CRITICAL_ONLY = """
catch_all: fallback
routes:
  - matchers: alertname="HighCPU"
    escalation: critonly
escalations:
  critonly: {steps: [{people: bob, severity: critical, wait: 10m}]}
people:
  bob: {contacts: [bob-phone]}
"""


async def test_an_incident_for_whose_severity_the_escalation_has_no_step_is_told_to_the_catch_all_at_once(
    services: Services, channels: dict[str, MemoryChannel]
) -> None:
    services = replace(services, policies=OnePolicy(CRITICAL_ONLY))
    run = await push(services, severity="warning")
    incident_id = str(run.incident_id)
    assert run.status is RunStatus.NOTIFIED
    assert told(channels) == {"fallback": ["WARNING"]}
    note = "the escalation critonly has no step for an incident of this severity"
    said = {fact.label: fact.value for fact in channels["fallback"].messages[0].follow_ups}
    assert note in said["On call"]
    history = (await story_of(services.database, incident_id)).history
    assert f"escalated to fallback (step 1): {note}" in [line.in_words for line in history]
    # The channel that was told is reminded, and hears of what follows.
    assert await next_of(services.database, incident_id) == "reminder 240"
    assert await next_step(services, incident_id, 240 * MINUTE) is RunStatus.NOTIFIED
    await push(services, severity="critical")
    assert told(channels) == {"fallback": ["WARNING", "WARNING", "CRITICAL"], "bob-phone": ["CRITICAL"]}
    await push(services, status="resolved")
    assert told(channels)["fallback"][-1] == told(channels)["bob-phone"][-1] == "RESOLVED"


async def test_without_a_catch_all_it_is_told_to_the_default_channels(
    services: Services, channels: dict[str, MemoryChannel], channel: MemoryChannel
) -> None:
    services = replace(services, policies=OnePolicy(CRITICAL_ONLY.replace("catch_all: fallback\n", "")))
    run = await push(services, severity="warning")
    assert titles(channel) == ["WARNING"]
    await acknowledge(services, str(run.incident_id))
    async with services.database.transaction() as tx:
        await actions.unacknowledge(tx, str(run.incident_id), ADA, services.settings)
    assert await next_step(services, str(run.incident_id), MINUTE) is RunStatus.NOTIFIED
    await next_step(services, str(run.incident_id), 240 * MINUTE)
    assert titles(channel) == ["WARNING"] * 3
    assert told(channels) == {}


async def test_channels_of_the_route_are_enough_for_a_severity_without_a_step(
    services: Services, channels: dict[str, MemoryChannel]
) -> None:
    with_chat = CRITICAL_ONLY.replace("    escalation:", "    channels: chat\n    escalation:")
    await push(replace(services, policies=OnePolicy(with_chat)), severity="warning")
    assert told(channels) == {"chat": ["WARNING"]}


@pytest.mark.parametrize("catch_all", [("fallback",), ()])
async def test_a_step_of_a_stored_policy_that_names_nobody_is_told_to_the_catch_all(
    services: Services, channels: dict[str, MemoryChannel], channel: MemoryChannel, catch_all: tuple[str, ...]
) -> None:
    raw = {
        "catch_all": list(catch_all),
        "routes": [{"escalation": "empty"}],
        "escalations": {"empty": {"steps": [{"wait": "20s"}, {"channels": [], "people": []}]}},
    }
    with pytest.raises(BadPolicy, match="names nobody to notify"):
        parse_policy(raw, warn=True)
    stored = ActivePolicy(policy=parse_policy(raw).policy)
    incident_id = await open_incident(replace(services, policies=FixedPolicy(stored)))
    heard = channels["fallback"] if catch_all else channel
    assert titles(heard) == ["CRITICAL"]
    assert "the step names nobody" in str(heard.messages[0].follow_ups)
    await next_step(services, incident_id, MINUTE)
    assert titles(heard) == ["CRITICAL", "CRITICAL"]


@dataclass
class SomeGone(MemoryChannels):
    """Channels of which some were deleted, or never existed."""

    gone: tuple[str, ...] = ()

    async def select(self, name: str | None) -> list[NamedChannel]:
        if name in self.gone:
            raise BadInput(f"There is no channel or driver {name!r}")
        return await super().select(name)


UNREACHABLE = """
catch_all: fallback
routes: [{channels: chat, escalation: e, matchers: severity="critical"}, {escalation: e}]
escalations: {e: {steps: [{people: bob, wait: 10m}]}}
people: {bob: {contacts: [bob-phone, bob-mail]}}
"""


@pytest.mark.parametrize("severity", ["warning", "critical"])
@pytest.mark.parametrize("how", ["gone", "refuses"])
async def test_a_person_none_of_whose_contacts_works_is_told_to_the_catch_all_and_to_nobody_else(
    services: Services, channels: dict[str, MemoryChannel], channel: MemoryChannel, severity: str, how: str
) -> None:
    gone = ("bob-phone", "bob-mail") if how == "gone" else ("bob-phone",)
    channels["bob-mail"].failures = [refused()] * 9
    found = SomeGone({"memory": channel}, channels, gone=gone)
    services = replace(services, channels=found, policies=OnePolicy(UNREACHABLE))
    run = await push(services, severity=severity)
    others = {"chat": ["CRITICAL"]} if severity == "critical" else {}
    assert told(channels) == {"fallback": [severity.upper()], **others}
    assert channel.messages == []
    assert run.status is RunStatus.FAILED
    assert "notified instead: fallback" in str(run.last_error_message)
    assert "bob-mail did not accept it" in channels["fallback"].messages[0].text
    # Tried again, and told to nobody twice.
    await execute_follow_up(services, RunReason.REDELIVERY)
    assert told(channels)["fallback"] == [severity.upper()]


async def test_a_person_with_one_contact_that_works_is_reached(
    services: Services, channels: dict[str, MemoryChannel], channel: MemoryChannel
) -> None:
    found = SomeGone({"memory": channel}, channels, gone=("bob-phone",))
    await push(replace(services, channels=found, policies=OnePolicy(UNREACHABLE)), severity="warning")
    assert told(channels) == {"bob-mail": ["WARNING"]}


async def test_everybody_is_told_if_the_catch_all_does_not_accept_it_either(
    services: Services, channels: dict[str, MemoryChannel], channel: MemoryChannel
) -> None:
    channels["fallback"].failures = [refused()]
    found = SomeGone({"memory": channel}, channels, gone=("bob-phone", "bob-mail"))
    await push(replace(services, channels=found, policies=OnePolicy(UNREACHABLE)), severity="warning")
    assert titles(channel) == ["WARNING"]
    assert told(channels)["chat"] == ["WARNING"]


async def test_a_channel_that_does_not_exist_is_not_tried_any_more_once_the_incident_is_over(
    services: Services, channels: dict[str, MemoryChannel], channel: MemoryChannel
) -> None:
    found = SomeGone({"memory": channel}, channels, gone=("bob-phone", "bob-mail"))
    services = replace(services, channels=found, policies=OnePolicy(UNREACHABLE))
    await push(services, severity="warning")
    assert (await push(services, severity="warning", status="resolved")).status is RunStatus.NOTIFIED
    assert told(channels) == {"fallback": ["WARNING", "RESOLVED"]}
    again = await execute_follow_up(services, RunReason.REDELIVERY)
    assert again.skip_reason == "coalesced"
    assert await upcoming(services.database) == []
