"""Turns on a channel: nobody asks earlier than it has asked for, one message tries it, and its pace is kept."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from orchestration.contracts import Delivery
from orchestration.engine.run import Services
from orchestration.message import Message
from orchestration.states import RunStatus
from orchestration.store import channels
from tests.conftest import MemoryChannel
from tests.engine_helpers import execute
from tests.notify_helpers import (
    FailingChannel,
    WaitingChannel,
    busy,
    change,
    push,
    redeliveries,
    rows,
    tell,
    with_channels,
    with_settings,
)
from tests.worker_helpers import eventually


@dataclass
class GatedChannel(MemoryChannel):
    """A channel that answers each message when the test says so, and as it says."""

    seconds_between_messages: float = 0.0
    asked: list[str] = field(default_factory=list[str])
    gates: dict[str, asyncio.Future[None]] = field(default_factory=dict[str, "asyncio.Future[None]"])

    def gate(self, name: str) -> asyncio.Future[None]:
        return self.gates.setdefault(name, asyncio.get_running_loop().create_future())

    async def send(self, message: Message) -> Delivery:
        name = message.title.split()[1]
        self.asked.append(name)
        await self.gate(name)
        return await super().send(message)

    async def until_asked(self, name: str) -> None:
        async def asked() -> bool:
            return name in self.asked

        await eventually(asked, f"{name} to be sent")


def start(services: Services, name: str) -> asyncio.Task[Any]:
    # A critical one would look after 30 s whether it is time for another channel.
    return asyncio.create_task(tell(services, name=name, severity="warning"))


async def test_nothing_is_sent_before_the_moment_for_which_a_channel_asked(services: Services) -> None:
    slack = FailingChannel(error=busy("it answered 429", retry_after_seconds=120))
    services = with_channels(services, slack=slack)
    # A critical one would look after 30 s whether it is time for another channel.
    await tell(services, severity="warning")
    await tell(services, name="Another", severity="warning")

    assert len(slack.asked) == 1
    (health,) = await rows(
        services.database, "select extract(epoch from not_before - clock_timestamp()) as wait from channel_health"
    )
    assert 100 < health["wait"] <= 120
    row = (await rows(services.database, "select * from delivery order by id"))[1]
    assert (row["status"], row["tries"]) == ("failed", 0)
    assert "nothing is sent for another" in row["error"]
    assert all(float(run["due_in"]) > 100 for run in await redeliveries(services.database))


async def let_pause_end(services: Services, channel: str) -> None:
    """The channel has failed three times, and may be tried again now."""
    await change(
        services.database,
        "insert into channel_health (name, failures, failing_since, not_before) values (:channel, 3, now(), now())",
        channel=channel,
    )


async def test_when_the_time_is_over_one_message_at_a_time_tries_the_channel(services: Services) -> None:
    slow = WaitingChannel()
    services = with_channels(services, slow=slow)
    await let_pause_end(services, "slow")
    first = asyncio.create_task(tell(services))
    await slow.asked.wait()
    meanwhile = await _turn(services, "slow")
    slow.let_go.set()

    assert (meanwhile.granted, meanwhile.wait_seconds > 5) == (False, True)
    assert (await first).status is RunStatus.NOTIFIED
    assert (await rows(services.database, "select failures, reserved_until from channel_health"))[0] == {
        "failures": 0,
        "reserved_until": None,
    }
    assert (await _turn(services, "slow")).granted


async def _turn(services: Services, channel: str) -> channels.Turn:
    async with services.database.transaction() as tx:
        return await channels.reserve_turn(tx, channel, pace_seconds=0.0)


async def test_the_pause_of_a_channel_that_fails_grows_up_to_10_seconds(services: Services) -> None:
    services = with_settings(services, backoff_factor=2.0)
    failing = channels.refusal(busy(), pause_seconds=1.0)
    pauses: list[float] = []
    for _ in range(6):
        await change(
            services.database,
            f"with settled as (select 1), {channels.REFUSED} select 1",
            **{**failing, "channel": "dead", "error": "503", "reserved_until": None},
        )
        (health,) = await rows(
            services.database, "select extract(epoch from not_before - clock_timestamp()) as wait from channel_health"
        )
        pauses.append(round(float(health["wait"])))

    assert pauses == [1, 2, 4, 8, 10, 10]


async def test_messages_to_one_channel_keep_its_pace_over_all_runs(services: Services) -> None:
    times: list[float] = []

    class Paced(MemoryChannel):
        seconds_between_messages = 0.6

        async def send(self, message: Message) -> Delivery:
            times.append(asyncio.get_running_loop().time())
            return await super().send(message)

    services = with_channels(services, paced=Paced())
    runs = [await push(services, name=f"Alert{number}") for number in range(4)]
    await asyncio.gather(*(execute(services, run_id) for run_id in runs))

    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(times) == 4
    assert all(gap > 0.2 for gap in gaps), gaps


async def test_a_message_that_was_on_its_way_does_not_end_the_wait_for_which_the_channel_has_asked(
    services: Services,
) -> None:
    channel = GatedChannel()
    services = with_channels(services, gated=channel)
    late, refused = start(services, "Late"), start(services, "Refused")
    await channel.until_asked("Late")
    await channel.until_asked("Refused")
    channel.gate("Refused").set_exception(busy("it answered 429", retry_after_seconds=120))
    await refused
    channel.gate("Late").set_result(None)
    await late
    channel.gate("Next").set_result(None)
    await start(services, "Next")

    assert sorted(channel.asked) == ["Late", "Refused"]
    deliveries = await rows(services.database, "select error from delivery order by id")
    assert "it has asked to be left alone" in deliveries[2]["error"]


async def test_a_pause_that_a_channel_has_just_asked_for_is_kept_before_it_is_on_record(services: Services) -> None:
    channel = MemoryChannel()
    services = with_channels(services, busy=channel)
    services.asked_pauses.note("busy", 120)
    record = await tell(services, severity="warning")

    assert (record.status, channel.messages) == (RunStatus.FAILED, [])
    (delivery,) = await rows(services.database, "select status, error from delivery")
    assert (delivery["status"], "it has asked to be left alone" in delivery["error"]) == ("failed", True)
    assert await rows(services.database, "select last_error from channel_health") == [], "the channel has said nothing"


async def test_who_waits_for_a_turn_waits_anew_if_the_channel_asks_for_it_meanwhile(services: Services) -> None:
    channel = GatedChannel(seconds_between_messages=2.0)
    services = with_channels(services, gated=channel)
    refused = start(services, "Refused")
    await channel.until_asked("Refused")
    reserved = await rows(services.database, "select * from channel_health")
    channel.gate("Next").set_result(None)
    following = start(services, "Next")

    async def has_its_turn() -> bool:
        return await rows(services.database, "select * from channel_health") != reserved

    await eventually(has_its_turn, "the turn of the next message")
    channel.gate("Refused").set_exception(busy("it answered 429", retry_after_seconds=120))
    await asyncio.gather(refused, following)

    assert channel.asked == ["Refused"]


async def test_while_one_message_tries_the_channel_the_others_wait_for_its_answer(services: Services) -> None:
    channel = GatedChannel()
    services = with_channels(services, gated=channel)
    await let_pause_end(services, "gated")
    first = start(services, "First")
    await channel.until_asked("First")
    channel.gate("Next").set_result(None)
    following = start(services, "Next")

    async def is_notifying() -> bool:
        return bool(await rows(services.database, "select 1 from stage_execution where stage = 'notify' offset 1"))

    await eventually(is_notifying, "the next message to be at notify")
    channel.gate("First").set_result(None)

    assert [(await run).status for run in (first, following)] == [RunStatus.NOTIFIED] * 2
    assert len(await rows(services.database, "select 1 from stage_execution where stage = 'notify'")) == 2


async def test_the_turn_of_the_message_that_tries_a_channel_ends_with_its_answer(services: Services) -> None:
    channel = GatedChannel()
    services = with_channels(services, gated=channel)
    late = start(services, "Late")
    await channel.until_asked("Late")
    channel.gate("Refused").set_exception(busy(retry_after_seconds=0))
    await start(services, "Refused")
    probe = start(services, "Probe")
    await channel.until_asked("Probe")
    for name, run in (("Late", late), ("Probe", probe)):
        channel.gate(name).set_result(None)
        await run

    async with services.database.transaction() as tx:
        turn = await channels.reserve_turn(tx, "gated", pace_seconds=0.1)
    assert turn.granted
    assert turn.wait_seconds < 1
