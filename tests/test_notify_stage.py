"""Notify and its ledger: one message for each channel, whatever fails, however often it is tried."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from orchestration.contracts import Delivery, NotifyResult
from orchestration.engine.lease import lease_run
from orchestration.engine.run import ActiveRun, Services, StageFailed
from orchestration.errors import BadInput, DeliveryFailed, RunBusy
from orchestration.message import Message, NamedChannel
from orchestration.requests import RunOptions
from orchestration.states import RunStatus
from orchestration.store import claims, deliveries, runs
from orchestration.store.deliveries import Place
from orchestration.store.records import AttemptRecord, DeliveryRecord
from orchestration.store.story import Story, read_story
from tests.conftest import MemoryChannel, MemoryChannels
from tests.engine_helpers import attempt, execute
from tests.inbox_helpers import accept_push

SECRET = "hunter2xyzzy"


def busy(text: str = "it answered 503") -> DeliveryFailed:
    return DeliveryFailed(text, retryable=True)


def refused(text: str = "it answered 404") -> DeliveryFailed:
    return DeliveryFailed(text, retryable=False)


@pytest.fixture
async def run_id(services: Services) -> str:
    """A run that has come as far as notify."""
    payload = {"name": "HighCPU", "severity": "critical", "host": "web-1"}
    (run_id,) = await accept_push(services, payload, source="generic", environment="test")
    async with lease_run(services, run_id, engine="test") as run:
        await attempt(run, "ingest")
    return run_id


def with_channels(services: Services, **channels: Any) -> Services:
    return replace(services, channels=MemoryChannels(channels))


async def notify(services: Services, run_id: str, *, tries: int = 1) -> NotifyResult | StageFailed:
    """Try notify until it succeeds, must not be tried again, or `tries` are spent; then end the run."""
    async with lease_run(services, run_id, engine="test") as run:
        result = await _tried(run, tries)
        await run.end(RunStatus.FAILED if isinstance(result, StageFailed) else RunStatus.NOTIFIED)
    return result


async def _tried(run: ActiveRun, tries: int) -> NotifyResult | StageFailed:
    for left in reversed(range(tries)):
        try:
            return await attempt(run, "notify", retries_left=left)
        except StageFailed as failed:
            if not (failed.retryable and left):
                return failed
    raise AssertionError("no tries")


def sent(result: NotifyResult | StageFailed) -> NotifyResult:
    assert isinstance(result, NotifyResult), result
    return result


async def story_of(services: Services, run_id: str) -> Story:
    async with services.database.transaction() as tx:
        return await read_story(tx, run_id)


async def ledger_of(services: Services, run_id: str) -> dict[str, DeliveryRecord]:
    return {row.channel: row for row in (await story_of(services, run_id)).deliveries}


async def attempts_of(services: Services, run_id: str) -> list[AttemptRecord]:
    return [row for row in (await story_of(services, run_id)).attempts if row.node_id == "notify"]


async def test_a_message_goes_out_once_and_is_on_the_ledger(
    services: Services, run_id: str, channel: MemoryChannel
) -> None:
    result = sent(await notify(services, run_id))

    (message,) = channel.messages
    assert message.idempotency_key == f"{run_id}/notify/memory"
    assert message.severity == "critical"
    assert (result.channels_attempted, result.channels_succeeded, result.channels_failed) == (1, 1, 0)
    assert result.provider_ids == ["m1"]
    assert result.messages == [message.text]
    (row,) = (await ledger_of(services, run_id)).values()
    assert (row.status, row.tries, row.provider_id, row.error) == ("sent", 1, "m1", None)
    assert (row.driver, row.target, row.idempotency_key) == ("memory", "memory", message.idempotency_key)
    assert row.settled_at is not None


async def test_three_tries_of_which_two_fail_are_one_message(
    services: Services, run_id: str, channel: MemoryChannel
) -> None:
    channel.failures = [busy(), busy()]
    result = sent(await notify(services, run_id, tries=4))

    assert len(channel.messages) == 1
    assert result.channels_succeeded == 1
    (row,) = (await ledger_of(services, run_id)).values()
    assert (row.status, row.tries, row.error) == ("sent", 3, None)
    assert [row.status for row in await attempts_of(services, run_id)] == ["retrying", "retrying", "succeeded"]


async def test_a_resume_after_the_channel_came_back_is_one_message(
    services: Services, run_id: str, channel: MemoryChannel
) -> None:
    channel.failures = [busy(), busy()]
    assert isinstance(await notify(services, run_id, tries=2), StageFailed)
    assert channel.messages == []
    sent(await notify(services, run_id))

    assert len(channel.messages) == 1
    assert [row.attempt for row in await attempts_of(services, run_id)] == [1, 2, 3]


async def test_a_message_that_is_out_is_not_sent_by_a_later_try(
    services: Services, run_id: str, channel: MemoryChannel
) -> None:
    sent_already = MemoryChannel()
    both = with_channels(services, sent=sent_already, down=MemoryChannel(failures=[busy(), busy()]))
    result = sent(await notify(both, run_id, tries=3))

    assert len(sent_already.messages) == 1
    assert {one.channel: (one.status, one.provider_id) for one in result.deliveries} == {
        "sent": ("already_sent", "m1"),
        "down": ("sent", "m1"),
    }
    ledger = await ledger_of(services, run_id)
    assert {name: (row.status, row.tries) for name, row in ledger.items()} == {"sent": ("sent", 1), "down": ("sent", 3)}


async def test_the_error_says_which_channels_have_the_message(services: Services, run_id: str) -> None:
    both = with_channels(services, good=MemoryChannel(), bad=MemoryChannel(failures=[busy("it answered 503")]))
    failed = await notify(both, run_id)

    assert isinstance(failed, StageFailed)
    assert failed.error.message == "bad: it answered 503 (1 of 2 channels have it)"
    assert failed.error.error_type == "DeliveryFailed"


async def test_a_channel_that_refuses_for_good_ends_it_at_once(
    services: Services, run_id: str, channel: MemoryChannel
) -> None:
    channel.failures = [refused()]
    failed = await notify(services, run_id, tries=4)

    assert isinstance(failed, StageFailed)
    assert not failed.retryable
    assert [row.status for row in await attempts_of(services, run_id)] == ["failed"]
    assert (await ledger_of(services, run_id))["memory"].status == "failed"


async def test_one_channel_that_may_come_back_is_worth_another_try(services: Services, run_id: str) -> None:
    down = MemoryChannel(failures=[busy()])
    both = with_channels(services, gone=MemoryChannel(failures=[refused(), refused()]), down=down)
    failed = await notify(both, run_id, tries=4)

    assert isinstance(failed, StageFailed)
    assert failed.error.message == "gone: it answered 404 (1 of 2 channels have it)"
    assert len(down.messages) == 1
    assert len(await attempts_of(services, run_id)) == 2


def place_of(run_id: str, owner: str) -> Place:
    """Where the message of a run goes, as its notify node has it."""
    to = {"channel": "memory", "driver": "memory", "target": "memory"}
    return Place(run_id=run_id, node_id="notify", owner=owner, lease_seconds=30.0, **to)


async def test_a_process_that_overslept_its_lease_has_it_again_before_it_sends(services: Services, run_id: str) -> None:
    async with lease_run(services, run_id, engine="test") as run, services.database.transaction() as tx:
        place = place_of(run_id, run.owner)
        await tx.exec_driver_sql("update pipeline_run set lease_expires_at = clock_timestamp() - interval '1 s'")
        assert await deliveries.open_try(tx, place) is not None
        claimed = await claims.claim_runs(tx, process="other/1/2", limit=1, lease_seconds=30.0, deadline_seconds=30.0)
        assert claimed == []


async def test_a_message_whose_sending_nobody_saw_end_is_sent_again_under_the_same_key(
    services: Services, run_id: str, channel: MemoryChannel
) -> None:
    async with lease_run(services, run_id, engine="test") as run, services.database.transaction() as tx:
        place = place_of(run_id, run.owner)
        await deliveries.open_try(tx, place)

    sent(await notify(services, run_id))

    assert [message.idempotency_key for message in channel.messages] == [f"{run_id}/notify/memory"]
    row = (await ledger_of(services, run_id))["memory"]
    assert (row.status, row.tries) == ("sent", 2)


async def test_a_process_that_slept_until_another_one_had_its_run_sends_nothing(
    services: Services, run_id: str, channel: MemoryChannel
) -> None:
    class Overslept(MemoryChannels):
        async def select(self, name: str | None) -> list[NamedChannel]:
            async with services.database.transaction() as tx:
                await runs.change(tx, run_id, values={"lease_owner": "elsewhere/1/2/3"})
            return await super().select(name)

    async with lease_run(replace(services, channels=Overslept({"memory": channel})), run_id, engine="test") as run:
        with pytest.raises(RunBusy, match="taken over by elsewhere"):
            await attempt(run, "notify")

    assert not channel.messages
    assert not await ledger_of(services, run_id), "the other process opens the try"


async def test_the_ledger_keeps_failures_without_their_secrets(
    services: Services, run_id: str, channel: MemoryChannel
) -> None:
    channel.failures = [busy(f"https://hooks.slack.com/services/T0/B0/{SECRET} answered 500, token={SECRET}")]
    await notify(services, run_id)

    story = await story_of(services, run_id)
    (row,) = story.deliveries
    assert row.status == "failed"
    assert "answered 500" in str(row.error)
    assert SECRET not in story.model_dump_json()


async def test_a_retry_clears_the_error_of_the_try_before(
    services: Services, run_id: str, channel: MemoryChannel
) -> None:
    channel.failures = [busy()]
    await notify(services, run_id)
    during: list[DeliveryRecord] = []

    class Watching(MemoryChannel):
        async def send(self, message: Message) -> Delivery:
            during.append((await ledger_of(services, run_id))["memory"])
            return await super().send(message)

    sent(await notify(with_channels(services, memory=Watching(target="elsewhere")), run_id))

    (row,) = during
    assert (row.status, row.error, row.settled_at, row.target) == ("sending", None, None, "elsewhere")


@dataclass
class OddChannel:
    """A channel whose vendor answers what no database takes."""

    messages: list[Message] = field(default_factory=list[Message])
    driver: str = "odd"
    target: str = "odd"
    shows_state: bool = False

    async def send(self, message: Message) -> Delivery:
        self.messages.append(message)
        return Delivery(
            driver="odd",
            provider="odd",
            channel="odd",
            status="sent",
            provider_id="id\x00\ud800",
            response={"body": f"nul\x00 token={SECRET}", "counter": 2**64},
        )


async def test_what_the_vendor_answers_cannot_make_a_message_go_out_twice(services: Services, run_id: str) -> None:
    odd = OddChannel()
    sent(await notify(with_channels(services, odd=odd), run_id, tries=3))

    assert len(odd.messages) == 1
    row = (await ledger_of(services, run_id))["odd"]
    assert (row.status, row.provider_id) == ("sent", "id\ufffd?")
    assert SECRET not in row.model_dump_json()


@dataclass
class BuggyChannel(MemoryChannel):
    """A channel that breaks in a way that it does not know of itself."""

    error: Exception = field(default_factory=lambda: KeyError("ts"))

    async def send(self, message: Message) -> Delivery:
        raise self.error


async def test_a_channel_with_a_bug_is_a_failed_channel_and_costs_the_others_nothing(
    services: Services, run_id: str
) -> None:
    good = MemoryChannel()
    both = with_channels(services, bug=BuggyChannel(), good=good)
    failed = await notify(both, run_id, tries=3)

    assert isinstance(failed, StageFailed)
    assert failed.error.message == "bug: an unexpected error (KeyError: 'ts') (1 of 2 channels have it)"
    assert not failed.retryable
    assert len(good.messages) == 1
    ledger = await ledger_of(services, run_id)
    assert (ledger["bug"].status, ledger["good"].status) == ("failed", "sent")


async def test_a_broken_exchange_that_the_channel_did_not_expect_is_worth_another_try(
    services: Services, run_id: str
) -> None:
    failed = await notify(with_channels(services, bug=BuggyChannel(error=ConnectionResetError("reset"))), run_id)

    assert isinstance(failed, StageFailed)
    assert failed.retryable


async def test_a_slow_channel_is_settled_before_the_stage_ends_though_another_breaks(
    services: Services, run_id: str
) -> None:
    let_go = asyncio.Event()

    class Slow(MemoryChannel):
        async def send(self, message: Message) -> Delivery:
            await let_go.wait()
            return await super().send(message)

    class Breaks(MemoryChannel):
        async def send(self, message: Message) -> Delivery:
            let_go.set()
            raise KeyError("ts")

    slow = Slow()
    await notify(with_channels(services, breaks=Breaks(), slow=slow), run_id)

    assert len(slow.messages) == 1
    assert (await ledger_of(services, run_id))["slow"].status == "sent"


@dataclass
class Listed:
    """Channels as an operator lists them."""

    channels: Sequence[NamedChannel]

    async def select(self, name: str | None) -> Sequence[NamedChannel]:
        return self.channels

    async def others(self, names: Collection[str]) -> Sequence[NamedChannel]:
        return []


async def test_a_channel_that_is_listed_twice_gets_one_message(
    services: Services, run_id: str, channel: MemoryChannel
) -> None:
    twice = Listed([NamedChannel(name="memory", channel=channel)] * 2)
    result = sent(await notify(replace(services, channels=twice), run_id))

    assert len(channel.messages) == 1
    assert result.channels_attempted == 1


@dataclass
class NoSuchChannel:
    """Channels among which the one that is asked for is not."""

    async def select(self, name: str | None) -> Sequence[NamedChannel]:
        raise BadInput(f"There is no channel or driver {name!r}")

    async def others(self, names: Collection[str]) -> Sequence[NamedChannel]:
        return []


async def test_a_channel_that_does_not_exist_is_not_tried_again(services: Services, run_id: str) -> None:
    failed = await notify(replace(services, channels=NoSuchChannel()), run_id, tries=4)

    assert isinstance(failed, StageFailed)
    assert not failed.retryable
    assert await ledger_of(services, run_id) == {}


@dataclass
class OneIsGone:
    """Two channels, and one whose block was deleted."""

    right: MemoryChannel
    spare: MemoryChannel

    async def select(self, name: str | None) -> Sequence[NamedChannel]:
        if name == "right":
            return [NamedChannel(name="right", channel=self.right)]
        raise BadInput(f"There is no channel or driver {name!r}")

    async def others(self, names: Collection[str]) -> Sequence[NamedChannel]:
        return [NamedChannel(name="spare", channel=self.spare)] if "spare" not in names else []


@pytest.mark.parametrize("names", [["gone"], ["gone", "right"], None])
async def test_a_channel_that_does_not_exist_costs_no_page(
    services: Services, channel: MemoryChannel, names: list[str] | None
) -> None:
    channels = OneIsGone(channel, spare := MemoryChannel())
    page: Any = {"id": "page", "type": "notify", "config": {"channels": names}}
    nodes: Any = [{"id": "ingest", "type": "ingest", "next": "page"}, page]
    options = RunOptions(definition_config={"nodes": nodes} if names else None)
    (run_id,) = await accept_push(
        services, {"name": "HighCPU", "severity": "warning"}, source="generic", environment="test", options=options
    )
    record = await execute(replace(services, channels=channels), run_id)

    told = channel if names and "right" in names else spare
    assert [len(one.messages) for one in (channel, spare)] == ([1, 0] if told is channel else [0, 1])
    assert record.status is RunStatus.FAILED
    assert "There is no channel or driver" in str(record.last_error_message)
    if told is spare:
        assert "notified instead: spare" in str(record.last_error_message)
        assert "There is no channel or driver" in spare.messages[0].text
