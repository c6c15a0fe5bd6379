"""The inbox: workers are woken, duplicates are found, and reserved runs are not claimed."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from orchestration.contracts import StageError
from orchestration.engine.lease import lease_run, new_lease_owner
from orchestration.engine.run import Services
from orchestration.errors import BadInput, KeyReused, RunBusy, Unavailable
from orchestration.requests import RunOptions
from orchestration.states import RunStatus
from orchestration.store import claims, runs
from orchestration.store.claims import claim_runs
from orchestration.store.database import Database, notifications
from orchestration.store.pushes import NewPush, PushWriter, WrittenPush
from orchestration.store.retention import delete_batch
from tasks.ingest.inbox import PushMetadata
from tests.api_helpers import alert, all_runs, run_of, run_to_end
from tests.conftest import RecordedSignals
from tests.inbox_helpers import accept_health_check, accept_push, written_push
from tests.store_helpers import new_run


async def take(services: Services, payload: object | None = None, **metadata: Any) -> WrittenPush:
    return await written_push(
        services,
        payload or alert(),
        source="webhook",
        environment="test",
        metadata=PushMetadata(**{"skip_duplicates": True} | metadata),
    )


async def status_of(services: Services, push: WrittenPush) -> tuple[RunStatus, str | None]:
    run = await run_of(services.database, push.run_ids[0])
    return run.status, run.skip_reason


async def fail(services: Services, push: WrittenPush) -> None:
    async with services.database.transaction() as tx:
        await runs.finish(tx, push.run_ids[0], RunStatus.FAILED)


DUPLICATE = (RunStatus.SKIPPED, "duplicate")
NEWS = (RunStatus.PENDING, None)


# Duplicates


async def test_a_repeat_of_a_waiting_alert_is_skipped_at_the_door(services: Services, signals: RecordedSignals) -> None:
    first = await take(services)
    again = await take(services)

    run = await run_of(services.database, again.run_ids[0])
    assert (run.status, run.skip_reason) == DUPLICATE
    assert run.duplicate_of == first.run_ids[0]
    assert run.completed_at is not None
    assert run.prefect_flow_run_id is None
    assert again.duplicates == {again.run_ids[0]: first.run_ids[0]}
    assert signals.names() == ["started/pipeline/1", "completed/pipeline/1"]
    assert signals.seen[-1][2] | {"duration_ms": 0} == {
        "status": "skipped",
        "reason": "duplicate",
        "duplicate_of": first.run_ids[0],
        "duration_ms": 0,
    }
    assert await status_of(services, first) == NEWS


async def test_every_repeat_is_linked_to_the_run_that_is_handled(services: Services) -> None:
    first = await take(services)
    for _ in range(3):
        again = await take(services)
        assert again.duplicates == {again.run_ids[0]: first.run_ids[0]}


async def test_a_repeat_of_a_told_alert_is_skipped_at_the_door(services: Services) -> None:
    first = await take(services)
    assert (await run_to_end(services, first.run_ids[0])).status is RunStatus.NOTIFIED

    assert await status_of(services, await take(services)) == DUPLICATE


async def test_a_repeat_of_a_repeat_that_ingest_found_is_skipped_at_the_door(services: Services) -> None:
    await run_to_end(services, (await take(services)).run_ids[0])
    later = await take(services, skip_duplicates=False)
    assert (await run_to_end(services, later.run_ids[0])).skip_reason == "repeat"

    again = await take(services)
    assert again.duplicates == {again.run_ids[0]: later.run_ids[0]}


async def test_a_repeat_of_a_failed_alert_gets_its_chance(services: Services) -> None:
    await fail(services, await take(services))

    assert await status_of(services, await take(services)) == NEWS


async def test_a_refire_after_the_all_clear_is_news(services: Services) -> None:
    await take(services)
    await take(services, alert(status="resolved"))

    assert await status_of(services, await take(services)) == NEWS


async def test_a_refire_is_news_also_when_the_all_clear_came_under_another_key(
    services: Services, database: Database
) -> None:
    first = await take(services)
    done = await run_to_end(services, first.run_ids[0])
    async with database.transaction() as tx:
        await tx.exec_driver_sql(f"update incident set status = 'resolved' where id = {done.incident_id}")

    assert await status_of(services, await take(services)) == NEWS


async def test_a_repeated_all_clear_is_skipped_at_the_door(services: Services) -> None:
    await run_to_end(services, (await take(services)).run_ids[0])
    await run_to_end(services, (await take(services, alert(status="resolved"))).run_ids[0])

    assert await status_of(services, await take(services, alert(status="resolved"))) == DUPLICATE


@pytest.mark.parametrize(
    "change", [{"severity": "warning"}, {"status": "resolved"}, {"instance": "web-2"}, {"alertname": "HighMemory"}]
)
async def test_what_differs_is_news(services: Services, change: dict[str, str]) -> None:
    await take(services)

    assert await status_of(services, await take(services, alert() | change)) == NEWS


async def test_another_text_or_value_is_no_news(services: Services) -> None:
    await take(services, alert(description="93 % busy"))

    assert await status_of(services, await take(services, alert(description="95 % busy"))) == DUPLICATE


async def test_one_new_alert_among_known_ones_is_news(services: Services) -> None:
    group = {"version": "4", "groupKey": "g", "status": "firing", "alerts": []}
    alerts = [{"status": "firing", "labels": {"alertname": "Down", "host": str(n)}} for n in range(3)]
    await take(services, group | {"alerts": alerts[:2]})

    assert await status_of(services, await take(services, group | {"alerts": alerts})) == NEWS
    assert await status_of(services, await take(services, group | {"alerts": alerts[::-1]})) == DUPLICATE


async def test_other_wishes_are_no_duplicate(services: Services) -> None:
    await take(services)
    wishes = RunOptions(notify_driver="email")
    other = await written_push(
        services,
        alert(),
        source="webhook",
        environment="test",
        options=wishes,
        metadata=PushMetadata(skip_duplicates=True),
    )

    assert await status_of(services, other) == NEWS


async def test_after_the_window_a_repeat_goes_its_way(services: Services, database: Database) -> None:
    await take(services)
    async with database.transaction() as tx:
        await tx.exec_driver_sql("update pipeline_run set created_at = now() - interval '301 seconds'")

    assert await status_of(services, await take(services)) == NEWS


async def test_a_window_of_nothing_switches_it_off(services: Services) -> None:
    off = replace(services, settings=services.settings.model_copy(update={"duplicate_window_seconds": 0.0}))
    await take(off)

    assert await status_of(off, await take(off)) == NEWS


async def test_of_a_push_only_the_repeated_incidents_are_skipped(services: Services) -> None:
    first = await take(services)
    both = await take(services, {"alerts": [alert(), alert(instance="web-2")]})

    assert both.duplicates == {both.run_ids[0]: first.run_ids[0]}
    assert (await run_of(services.database, both.run_ids[1])).status is RunStatus.PENDING


# Idempotency keys


async def test_the_same_key_and_push_is_the_same_push(services: Services) -> None:
    first = await take(services, idempotency_key="k1")
    again = await take(services, dict(reversed(alert().items())), idempotency_key="k1")

    assert (again.run_ids, again.trace_id, again.repeated) == (first.run_ids, first.trace_id, True)
    assert len(await all_runs(services.database)) == 1


async def test_a_key_that_comes_with_another_push_is_refused(services: Services) -> None:
    await take(services, idempotency_key="k1")

    with pytest.raises(KeyReused, match="'k1' was used for another push"):
        await take(services, alert("Other"), idempotency_key="k1")
    assert len(await all_runs(services.database)) == 1


async def test_of_one_key_at_once_one_push_is_written(services: Services) -> None:
    taken = await asyncio.gather(*(take(services, idempotency_key="k1") for _ in range(8)))

    assert len({tuple(push.run_ids) for push in taken}) == 1
    assert sum(not push.repeated for push in taken) == 1
    assert len(await all_runs(services.database)) == 1


async def test_two_senders_may_choose_the_same_key(services: Services) -> None:
    one = await take(services, idempotency_key="k1", sender="a")
    other = await take(services, alert("Other"), idempotency_key="k1", sender="b")

    assert one.run_ids != other.run_ids


async def test_a_key_of_a_push_that_was_not_written_is_free(services: Services) -> None:
    with pytest.raises(BadInput):
        await take(services, {"nothing": "known"}, idempotency_key="k1")

    assert not (await take(services, idempotency_key="k1")).repeated


async def test_accept_push_knows_keys_too(services: Services) -> None:
    call = {"source": "webhook", "environment": "test", "idempotency_key": "k1"}
    assert await accept_push(services, alert(), **call) == await accept_push(services, alert(), **call)


async def test_old_keys_are_forgotten(services: Services, database: Database) -> None:
    first = await take(services, idempotency_key="k1")
    async with database.transaction() as tx:
        assert (await delete_batch(tx, "push", days=1))[0] == 0
        await tx.exec_driver_sql("update push set created_at = now() - interval '2 days'")
        assert (await delete_batch(tx, "push", days=1))[0] == 1

    assert (await take(services, idempotency_key="k1")).run_ids != first.run_ids


# Workers


async def test_a_push_wakes_the_workers_once_at_commit(services: Services) -> None:
    heard: list[str] = []
    async with aclosing(notifications(services.database.url, runs.INBOX_CHANNEL)) as notices:
        await anext(notices)
        push = await take(services, {"alerts": [alert(instance=f"web-{n}") for n in range(12)]})
        heard.append(await anext(notices))
        await take(services)  # a duplicate is nothing for a worker
        await take(services, alert("Other"))
        heard.append(await anext(notices))

    assert heard == ["", ""]
    assert len(push.run_ids) == 12
    assert len({(await run_of(services.database, run_id)).trace_id for run_id in push.run_ids}) == 1


async def test_critical_alerts_are_claimed_before_older_ones(services: Services, database: Database) -> None:
    names = ("info", "warning", "critical", "critical")
    pushed = [await take(services, alert(name, severity=name, instance=str(n))) for n, name in enumerate(names)]
    async with database.transaction() as tx:
        claimed = await claim_runs(tx, process="w", limit=9, lease_seconds=9, deadline_seconds=30)

    assert [claim.run_id for claim in claimed] == [pushed[n].run_ids[0] for n in (2, 3, 1, 0)]


async def test_runs_that_their_process_holds_are_not_claimed(services: Services, database: Database) -> None:
    holder = new_lease_owner()
    call = {"source": "webhook", "environment": "test", "reserved_by": holder}
    (held,) = await accept_push(services, alert(), **call)
    (half, free) = await accept_push(
        services,
        {"alerts": [alert("A"), alert("B")]},
        reserved_runs=1,
        source="webhook",
        environment="t",
        reserved_by=holder,
    )
    health = await accept_health_check(services, trace_id=None, options=RunOptions(), **call)
    async with database.transaction() as tx:
        claimed = await claim_runs(tx, process="w", limit=9, lease_seconds=9, deadline_seconds=30)
        assert await claims.renew_all(tx, holder, seconds=30) == 3

    assert [claim.run_id for claim in claimed] == [free]
    for run_id in (held, half, health):
        async with lease_run(services, run_id, engine="test", owner=holder) as run:
            assert run.owner == holder


async def test_only_one_takes_a_run_that_its_process_holds(services: Services) -> None:
    owner = new_lease_owner()
    (run_id,) = await accept_push(services, alert(), source="webhook", environment="test", reserved_by=owner)
    async with lease_run(services, run_id, engine="test", owner=owner):
        with pytest.raises(RunBusy):
            async with lease_run(services, run_id, engine="test"):
                pass


async def test_the_end_of_a_run_is_heard(services: Services, database: Database) -> None:
    push = await take(services)
    async with aclosing(notifications(database.url, runs.DONE_CHANNEL)) as notices:
        await anext(notices)
        await fail(services, push)
        assert await anext(notices) == push.run_ids[0]


# Many pushes at once


async def test_pushes_that_come_together_are_written_together_and_answered_apart(services: Services) -> None:
    writer = PushWriter(services.database)

    async def push(number: int) -> WrittenPush:
        payload = {"alerts": [alert(instance=f"{number}-{n}") for n in range(3)]}
        return await written_push(
            services, payload, source="webhook", environment="t", trace_id=f"trace-{number}", write=writer.write
        )

    taken = await asyncio.gather(*(push(number) for number in range(50)))

    stored = {run.run_id: run.trace_id for run in await all_runs(services.database)}
    assert stored == {run_id: push.trace_id for push in taken for run_id in push.run_ids}
    assert len(stored) == 150


async def test_a_push_is_written_at_whatever_moment_it_comes(services: Services) -> None:
    writer = PushWriter(services.database)
    async with asyncio.timeout(20):
        for number in range(50):
            # At once after the answer: the writer of the one before is just ending.
            payload = alert(instance=str(number))
            await written_push(services, payload, source="webhook", environment="t", write=writer.write)

    assert len(await all_runs(services.database)) == 50


async def test_what_the_database_refuses_does_not_take_its_neighbours_along(services: Services) -> None:
    writer = PushWriter(services.database)
    broken = NewPush(runs=(replace(new_run(), payload=b"no JSON"),))
    good = [
        written_push(services, alert(instance=str(n)), source="webhook", environment="t", write=writer.write)
        for n in range(5)
    ]
    answers = await asyncio.gather(*good[:2], writer.write(broken), *good[2:], return_exceptions=True)

    assert [isinstance(answer, WrittenPush) for answer in answers] == [True, True, False, True, True, True]
    assert len(await all_runs(services.database)) == 5


async def test_more_pushes_than_can_wait_are_refused_at_once_and_those_that_wait_are_stored(
    services: Services, database: Database
) -> None:
    writer = PushWriter(services.database)
    most = PushWriter.MAX_PUSHES + PushWriter.MAX_WAITING
    async with database.transaction() as tx:
        await tx.exec_driver_sql("lock table pipeline_run in exclusive mode")
        pushes = [asyncio.create_task(writer.write(NewPush(runs=(new_run(),)))) for _ in range(2 * most)]
        # Those that are refused are answered while nothing can be stored.
        async with asyncio.timeout(20):
            await asyncio.wait(pushes, return_when=asyncio.FIRST_COMPLETED)
    answers = await asyncio.gather(*pushes, return_exceptions=True)

    refused = [answer for answer in answers if not isinstance(answer, WrittenPush)]
    assert all(isinstance(answer, Unavailable) and "wait to be stored" in str(answer) for answer in refused)
    assert len(refused) >= most - PushWriter.MAX_PUSHES
    assert len(await all_runs(services.database)) == len(answers) - len(refused)


async def test_without_a_database_everybody_is_told(services: Services) -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/none")
    writer = PushWriter(away)
    answers = await asyncio.gather(
        *(
            written_push(services, alert(instance=str(n)), source="webhook", environment="t", write=writer.write)
            for n in range(5)
        ),
        return_exceptions=True,
    )
    await away.close()

    assert all(isinstance(answer, Unavailable) for answer in answers)


# Resumes


async def test_a_failed_run_is_given_back_to_the_workers(services: Services, database: Database) -> None:
    push = await take(services)
    async with lease_run(services, push.run_ids[0], engine="test") as run:
        async with database.transaction() as tx:
            await runs.change(tx, run.run_id, values=runs.error_columns(StageError(error_type="E", message="m")))
        await run.end(RunStatus.FAILED)
    async with aclosing(notifications(database.url, runs.INBOX_CHANNEL)) as notices:
        await anext(notices)
        async with database.transaction() as tx:
            resumed = await runs.request_resume(tx, push.run_ids[0])
        assert await anext(notices) == ""

    assert resumed.status is RunStatus.RETRYING
    async with database.transaction() as tx:
        (claim,) = await claim_runs(tx, process="w", limit=9, lease_seconds=9, deadline_seconds=30)
    assert claim.run_id == push.run_ids[0]
