"""`why` where evidence is easily read wrong: equal beginnings, what is not recorded or read, what happened often."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import text

from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.states import RunReason
from orchestration.store.database import Database
from orchestration.store.incident_list import find_by_words
from orchestration.store.keys import Scope
from orchestration.store.refused import Refusal, RefusalLog
from orchestration.store.workers import beat
from tests.api_helpers import eventually, open_api, run_to_end
from tests.auth_helpers import FAR, PUBLIC, bearer, make_key, signed
from tests.conftest import MemoryChannels
from tests.life_helpers import execute_timer, let_pass
from tests.notify_helpers import FailingChannel, end_pauses, execute_follow_up, execute_redelivery, repair
from tests.test_why import api, ask, disk_full, is_known, paged, send, timeline

__all__ = ["api", "paged"]


async def refuse(database: Database, body: str, status: int = 413, at: datetime | None = None) -> None:
    """A push that was refused, as the API keeps it."""
    log = RefusalLog(database)
    log.note(Refusal(status=status, reason="it is too large", path="/alerts/webhook/", body=body), at)
    await log.write()


async def test_a_name_in_full_is_meant_before_a_longer_one(
    api: httpx.AsyncClient, paged: Services, database: Database
) -> None:
    await send(api, paged)
    await send(api, paged, status="resolved")
    await send(api, paged, instance="db-10")
    await send(api, None, alertname="DiskFullSoon")

    for what in ("DiskFull on db-1", "diskfull on DB-1"):
        found = await ask(api, what)
        assert found.answer.startswith("slack was notified of DiskFull on db-1 at ")
        assert [one.title for one in found.other_incidents] == ["DiskFull on db-10"]
    assert (await ask(api, "DiskFull")).answer.startswith("slack was notified of DiskFull on db-10 at ")
    assert (await ask(api, "DiskFullS")).answer.startswith("Nobody has been notified of DiskFullSoon on db-1 yet")
    async with database.transaction() as tx:
        acted_on = [(await find_by_words(tx, words)).title for words in ("DiskFull on db-1", "DiskFull on db")]
    assert acted_on == ["DiskFull on db-1", "DiskFull on db-10"]


async def test_the_beginning_of_several_ids_is_no_answer(api: httpx.AsyncClient, database: Database) -> None:
    run_ids = [await send(api, None), await send(api, None, instance="db-2")]
    async with database.transaction() as tx:
        for number, run_id in enumerate(run_ids):
            values = {"new": f"abcd{number}" + run_id[5:], "old": run_id}
            await tx.execute(text("update pipeline_run set run_id = :new where run_id = :old"), values)
    several = await api.get("/why/", params={"what": "abcd"})

    assert several.status_code == 422
    assert "abcd0" in several.json()["error"]
    assert (await ask(api, "abcd1")).run_id == "abcd1" + run_ids[1][5:]


@pytest.mark.parametrize("what", ["DiskFull", "diskf", 'instance="db-1"', '{alertname=~"Disk.*"}'])
async def test_a_push_that_no_worker_has_executed_is_found_by_what_it_says(
    api: httpx.AsyncClient, database: Database, what: str
) -> None:
    run_id = await send(api, None)
    alone = await ask(api, what)
    async with database.transaction() as tx:
        await beat(tx, name="here/1", host="here", pid=1, prefect_ok=True, running=0)
    with_worker = await ask(api, what)

    assert alone.answer.startswith("Nobody has been notified of DiskFull on db-1 yet: the push of ")
    assert "none is alive" in alone.answer
    assert with_worker.answer.endswith(" waits for a worker.")
    assert (with_worker.run_id, with_worker.incident) == (run_id, None)


async def test_the_last_news_of_a_name_is_the_push_that_waits(api: httpx.AsyncClient, paged: Services) -> None:
    await send(api, paged)
    waiting = await send(api, None, instance="db-2")
    same = await send(api, paged, status="resolved")
    found = await ask(api)
    assert (found.run_id, [other.title for other in found.other_incidents]) == (same, [])

    newest = await send(api, None, instance="db-3")
    found = await ask(api)
    assert (found.run_id, [other.title for other in found.other_incidents]) == (newest, ["DiskFull on db-1"])
    assert (await ask(api, 'instance="db-2"')).run_id == waiting


async def test_what_joins_an_incident_is_named_before_it_is_recorded(api: httpx.AsyncClient, paged: Services) -> None:
    group = {"groupKey": "g", "version": "4", "status": "firing", "receiver": "r"}

    async def arrives(*names: str) -> str:
        alerts = [{"status": "firing", "labels": {"alertname": name, "severity": "critical"}} for name in names]
        answer = await api.post("/alerts/webhook/alertmanager/", json={**group, "alerts": alerts})
        return answer.json()["run_id"]

    await run_to_end(paged, await arrives("First"))
    second = await arrives("Second")
    found = await ask(api, "1")

    assert found.run_id == second
    assert "waits for a worker" in found.answer


async def test_an_event_that_said_nothing_is_found_by_its_name(api: httpx.AsyncClient) -> None:
    note = {"event": {"id": "1", "event_type": "incident.annotated", "resource_type": "incident", "data": {}}}
    run_id = (await api.post("/alerts/webhook/pagerduty/", json=note)).json()["run_id"]
    found = await ask(api, "incident.anno")

    assert (found.run_id, "(ignored)" in found.answer) == (run_id, True)


async def test_what_nobody_read_is_no_answer_about_something(api: httpx.AsyncClient, database: Database) -> None:
    await refuse(database, '{"alertname": "DiskFull"}', 422)
    await refuse(database, "")
    named, other = await ask(api), await ask(api, "Backup")
    unread = await ask(api, "refused-2")

    assert "the push was refused with 422" in named.answer
    assert other.answer.startswith("Nobody was notified of Backup: no push about it is on record, neither accepted")
    assert "It may have been in a push from a sender without a key at an unknown address" in other.answer
    assert "that was refused with 413 at " in other.answer
    assert "what it said is not known" in timeline(other)
    assert "Nobody was notified of what the push said" in unread.answer


async def test_a_moment_at_which_something_unread_was_refused(
    api: httpx.AsyncClient, paged: Services, database: Database
) -> None:
    await send(api, paged)
    await let_pass(database, timedelta(hours=2))
    then = datetime.now(UTC) - timedelta(hours=1)
    await refuse(database, "", at=then)
    found = await ask(api, at=then.isoformat())

    assert found.answer.startswith("Nothing about DiskFull on db-1 arrived ")
    assert "It may have been in a push" in found.answer
    assert "slack was notified of DiskFull on db-1" in found.answer


async def test_a_refused_push_that_is_named_shows_what_it_said(settings: Settings, database: Database) -> None:
    key = bearer(await make_key(settings, database, Scope.READ, name="me"))
    async with open_api(settings, database.url, host=PUBLIC, client=FAR, base_url="http://alerts.example.com") as api:
        await api.post("/alerts/webhook/", json=disk_full(password="hunter2-hunter2"))
        api.headers.update(key)
        await eventually(lambda: is_known(api))
        found = await ask(api, "refused-1")

    assert '· it began with: {"alertname":"DiskFull","severity":"critical"' in timeline(found)
    assert "hunter2" not in timeline(found)


async def test_who_sent_a_refused_push_with_the_local_key_is_said(api: httpx.AsyncClient) -> None:
    unknown = {"payload": {"alerts": [], "about": "DiskFull"}}
    assert (await api.post("/orchestration/pipeline/", json=unknown)).status_code == 422
    await eventually(lambda: is_known(api))
    found = await ask(api, "DiskFull")
    assert found.answer.endswith(" It came from the local key at 127.0.0.1.")
    assert "push to /orchestration/pipeline/ from the local key at 127.0.0.1" in timeline(found)


async def test_a_signed_push_that_is_too_large_names_a_key_that_nobody_has_checked(
    settings: Settings, database: Database
) -> None:
    small = settings.model_copy(update={"max_payload_bytes": 4096})
    key = await make_key(settings, database, Scope.TRIGGER, name="grafana")
    reader = bearer(await make_key(settings, database, Scope.READ, name="me"))
    async with open_api(small, database.url, host=PUBLIC, client=FAR, base_url="http://alerts.example.com") as api:
        body = json.dumps(disk_full(text="x" * 5000)).encode()
        answer = await api.post("/alerts/webhook/", content=body, headers=signed(key, body))
        assert answer.status_code == 413
        api.headers.update(reader)
        await eventually(lambda: is_known(api))
        found = await ask(api)
    assert f"It came from a sender that names the key 'grafana', which was not checked, at {FAR[0]}" in found.answer
    assert f"from unchecked key grafana at {FAR[0]}" in timeline(found)


async def test_history_is_told_in_its_order_although_a_transaction_waited_for_another_one(
    api: httpx.AsyncClient, paged: Services, database: Database
) -> None:
    await send(api, paged)
    await send(api, paged, status="resolved")
    before = "select at - interval '1 microsecond' from history where event = 'incident_opened'"
    async with database.transaction() as tx:
        await tx.execute(text(f"update history set at = ({before}) where event = 'incident_resolved'"))
    told = timeline(await ask(api))
    assert told.index("incident 1 opened") < told.index("incident 1 resolved")


async def test_many_repeats_are_one_line_and_hide_nothing(
    api: httpx.AsyncClient, paged: Services, database: Database
) -> None:
    first = await send(api, paged)
    async with database.transaction() as tx:
        # As 200 repeats of a day leave it, without executing 200 runs.
        await tx.exec_driver_sql(
            "insert into pipeline_run (run_id, trace_id, status, incident_id, incident_key, title, source, severity,"
            " environment, payload, skip_reason, completed_at) select md5(n::text), 't', 'skipped', incident_id,"
            " incident_key, title, source, severity, environment, payload, 'repeat', now()"
            " from pipeline_run, generate_series(1, 200) n where reason = 'push'"
        )
    found = await ask(api)

    assert "a repeat: nothing has changed (repeat). slack was notified at " in found.answer
    assert f"✓ message to slack sent {first}" in [f"{one.mark} {one.text} {one.run_id}" for one in found.timeline]
    assert len(found.timeline) < 10
    assert "pushes from generic since " in timeline(found)


async def test_a_long_outage_fits_a_screen(api: httpx.AsyncClient, services: Services) -> None:
    slow = FailingChannel(driver="slack")
    broken = replace(services, channels=MemoryChannels({"slack": slow}))
    failed = await send(api, broken)
    for _ in range(3):
        await end_pauses(broken)
        await execute_redelivery(broken)
    down = await ask(api)
    await repair(broken, slow)
    await execute_redelivery(broken)
    up, old = await ask(api), await ask(api, failed)

    assert "✗ the run failed at notify, attempts 1 to 4: slack: it answered 503" in timeline(down)
    assert "✗ 3 redeliveries since " in timeline(down)
    assert "slack was notified of DiskFull on db-1 at " in up.answer
    assert "Later, slack was notified at " in old.answer
    assert "Nothing tries it again" not in old.answer


async def test_a_push_that_had_to_wait_is_the_answer_not_a_redelivery_that_failed_meanwhile(
    api: httpx.AsyncClient, services: Services
) -> None:
    slow = FailingChannel(driver="slack")
    broken = replace(services, channels=MemoryChannels({"slack": slow}))
    await send(api, broken)
    ended = await send(api, None, status="resolved")
    await execute_redelivery(broken)
    slow.error = None
    await run_to_end(broken, ended)
    found = await ask(api)

    assert found.run_id == ended
    assert "slack was notified of DiskFull on db-1 at " in found.answer
    assert "(resolved)" in found.answer


async def test_a_repeat_of_a_push_whose_message_waits_for_its_channel_says_when_that_is_tried_again(
    api: httpx.AsyncClient, services: Services, database: Database
) -> None:
    broken = replace(services, channels=MemoryChannels({"slack": FailingChannel(driver="slack")}))
    await send(api, broken)
    async with database.transaction() as tx:
        await tx.execute(text("update pipeline_run set status = 'skipped' where reason = 'redelivery'"))
        waits = "update pipeline_run set status = 'retrying', due_at = now() + interval '25 s' where reason = 'push'"
        await tx.execute(text(waits))
    await send(api, broken)
    found = await ask(api)

    assert "Nobody was notified of DiskFull on db-1 at " in found.answer
    assert "No message about it has been sent before. An earlier one is tried again at " in found.answer


async def test_a_reminder_that_was_not_sent_is_called_a_reminder(
    api: httpx.AsyncClient, paged: Services, database: Database
) -> None:
    await send(api, paged)
    assert (await api.post("/incidents/1/acknowledge/", json={"by": "ada"})).status_code == 200
    await let_pass(database, timedelta(hours=1))
    await execute_timer(paged, "1")
    found = await ask(api)

    assert "- reminder: nobody is notified: somebody has acknowledged the incident (acknowledged)" in timeline(found)


async def test_a_push_says_how_many_of_its_alerts_fire(api: httpx.AsyncClient, paged: Services) -> None:
    alerts = [
        {"status": status, "labels": {"alertname": "DiskFull", "instance": name}}
        for name, status in (("a", "firing"), ("b", "firing"), ("c", "resolved"))
    ]
    answer = await api.post("/alerts/webhook/alertmanager/", json={"version": "4", "groupKey": "g", "alerts": alerts})
    await run_to_end(paged, answer.json()["run_id"])

    assert "2 firing, 1 resolved" in timeline(await ask(api))


async def test_what_somebody_resolved_is_said(api: httpx.AsyncClient, paged: Services) -> None:
    await send(api, paged)
    assert (await api.post("/incidents/1/resolve/", json={"by": "ada"})).status_code == 200
    await execute_follow_up(paged, RunReason.ACTION)
    found = await ask(api)

    assert "slack was notified of DiskFull on db-1 at " in found.answer
    assert "somebody has resolved the incident (resolved_by_hand)." in found.answer
    assert "· incident 1 resolved by ada (http)" in timeline(found)
