"""Storms: many incidents that open on one route at once are one, from its first page to its one all-clear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.report import tell_story
from orchestration.alert import Alert, AlertStatus, Severity
from orchestration.engine.run import Services
from orchestration.policy.model import Storm
from orchestration.requests import StoredPush
from orchestration.states import RunStatus
from orchestration.store.database import Database
from orchestration.store.open_storms import count_by_label
from orchestration.store.policies import StoredPolicies
from orchestration.store.records import RunRecord
from orchestration.store.storms import WaitingRun
from tasks.ingest.storms import Waiting, choose, fold_storms, release_calm
from tests.api_helpers import alert, run_to_end
from tests.conftest import MemoryChannel
from tests.inbox_helpers import accept_push
from tests.life_helpers import let_pass
from tests.notify_helpers import rows
from tests.oncall_helpers import store_policy


@pytest.fixture
def services(services: Services) -> Services:
    """The services of a process that reads its policy from the database."""
    return replace(services, policies=StoredPolicies(services.database))


async def accept(services: Services, count: int, *, first: int = 0, **more: object) -> list[str]:
    """A push with so many distinct alerts, each an incident of its own."""
    alerts = [alert(f"DiskFull{n % 3}", instance=f"db-{n}", **more) for n in range(first, first + count)]
    return await accept_push(services, {"alerts": alerts}, source="generic", environment="production")


async def work(services: Services) -> list[RunRecord]:
    """What a worker does with all that waits: fold, then execute. Returns the runs that it has executed."""
    done: list[RunRecord] = []
    while True:
        while (await fold_storms(services)).more:
            pass
        waiting = await rows(
            services.database,
            "select run_id from pipeline_run where status = 'pending' "
            "and (due_at is null or due_at <= clock_timestamp()) order by priority desc, id",
        )
        if not waiting:
            return done
        done.append(await run_to_end(services, waiting[0]["run_id"]))


async def statuses(database: Database) -> Mapping[str, int]:
    found = await rows(
        database,
        "select status || ' ' || coalesce(skip_reason, '') as s, count(*) as n from pipeline_run "
        "where reason = 'push' group by 1",
    )
    return {row["s"].strip(): row["n"] for row in found}


async def test_a_storm_is_one_incident_from_its_first_page_to_its_all_clear(
    services: Services, channel: MemoryChannel
) -> None:
    for batch in range(6):
        await accept(services, 100, first=100 * batch, severity="warning")
    await work(services)
    assert await statuses(services.database) == {"notified": 1, "skipped folded": 598, "skipped storm_grew": 1}
    (message,) = channel.messages
    assert message.title.startswith("[WARNING, storm] ")
    (storm,) = await rows(services.database, "select * from incident")
    members = await rows(services.database, "select 1 from membership where status = 'firing'")
    assert (storm["status"], len(members)) == ("open", 600)
    linked = await rows(services.database, "select 1 from pipeline_run where incident_id is null")
    assert linked == []

    await accept(services, 1, first=5, severity="warning")  # a repeat of a member
    (repeat,) = await work(services)
    assert (repeat.status, repeat.skip_reason, len(channel.messages)) == (RunStatus.SKIPPED, "repeat", 1)

    for batch in range(6):
        await accept(services, 100, first=100 * batch, severity="warning", status="resolved")
    await work(services)
    assert [message.status for message in channel.messages] == ["firing", "resolved"]
    (storm,) = await rows(services.database, "select * from incident")
    assert storm["status"] == "resolved"
    assert await rows(services.database, "select 1 from alert where status = 'firing'") == []


async def test_what_outlives_a_storm_becomes_an_incident_of_its_own(services: Services, channel: MemoryChannel) -> None:
    await accept(services, 60, severity="warning", team="storage")
    await work(services)
    await accept(services, 57, severity="warning", status="resolved", team="storage")
    await work(services)
    await release_calm(services)
    assert len(channel.messages) == 1  # it is not calm yet
    await let_pass(services.database, timedelta(minutes=30))
    await release_calm(services)
    await work(services)
    first, *others = channel.messages
    assert "team=storage" in first.text
    assert sorted((message.status, message.title.partition(" ")[0]) for message in others) == [
        *[("firing", "[WARNING]")] * 3,
        ("resolved", "[RESOLVED]"),
    ]
    (over,) = [message for message in others if message.status == "resolved"]
    assert "3 still fire, each as an incident of its own" in over.text
    found = await rows(services.database, "select incident_key, status from incident order by id")
    assert [row["status"] for row in found] == ["resolved", *["open"] * 3]


async def test_the_first_critical_ones_of_a_storm_are_told_by_themselves(
    services: Services, channel: MemoryChannel
) -> None:
    await accept(services, 100, severity="critical")
    await fold_storms(services)
    await accept(services, 100, first=100, severity="critical")  # before the storm is an incident
    await work(services)
    assert len(channel.messages) == 4
    assert sum("storm" in message.title for message in channel.messages) == 1


async def test_a_critical_alert_that_is_unlike_an_open_storm_is_told_by_itself(
    services: Services, channel: MemoryChannel
) -> None:
    await accept(services, 60, severity="critical")
    await work(services)
    told = len(channel.messages)
    await let_pass(services.database, timedelta(minutes=2))
    await accept(services, 1, first=60, severity="critical")  # a straggler of the storm
    others = [alert(f"Payments{n}", instance="pay", severity="critical") for n in range(5)]
    await accept_push(services, {"alerts": others}, source="generic", environment="production")
    await work(services)
    new = [message.title.partition(" on ")[0] for message in channel.messages[told:]]
    assert new == ["[CRITICAL] Payments0", "[CRITICAL] Payments1", "[CRITICAL] Payments2"]


async def test_a_storm_that_fires_on_hides_nothing_that_comes_now_and_then(
    services: Services, channel: MemoryChannel
) -> None:
    await accept(services, 60, severity="warning")
    await work(services)
    assert len(channel.messages) == 1
    for n in range(3):
        await let_pass(services.database, timedelta(minutes=3))
        await accept(services, 1, first=60 + n, severity="warning")
        await work(services)
    own = [message.title for message in channel.messages[1:]]
    assert own == ["[WARNING] DiskFull1 on db-61 (production)", "[WARNING] DiskFull2 on db-62 (production)"]
    await let_pass(services.database, timedelta(minutes=3))
    await accept(services, 30, first=63, severity="warning")
    await work(services)
    assert len(channel.messages) == 3  # so many at once are a storm again, and in the message that is there


async def test_a_storm_that_gets_worse_is_told_and_one_that_grows_is_not(
    services: Services, channel: MemoryChannel
) -> None:
    await accept(services, 100, severity="warning")
    await work(services)
    await accept(services, 1, first=100, severity="warning")
    await work(services)
    assert len(channel.messages) == 1
    await accept(services, 1, first=101, severity="critical")
    await work(services)
    assert [message.title.partition("]")[0] for message in channel.messages] == ["[WARNING, storm", "[CRITICAL, storm"]


async def test_few_at_once_are_no_storm(services: Services, channel: MemoryChannel) -> None:
    await accept(services, 20, severity="warning")
    await work(services)
    assert len(channel.messages) == 20
    await accept(services, 1, first=20, severity="warning")  # one more of the same minute
    await work(services)
    assert "storm" in channel.messages[-1].title


async def test_a_policy_can_switch_storms_off(services: Services, channel: MemoryChannel) -> None:
    await store_policy(services.database, {"timing": {"storm": False}})
    await accept(services, 40, severity="warning")
    await work(services)
    assert len(channel.messages) == 40


async def test_another_route_is_no_part_of_a_storm(services: Services, channel: MemoryChannel) -> None:
    routes = [{"name": "db", "matchers": ["team=db"], "channels": ["memory"]}, {"name": "web", "channels": ["memory"]}]
    await store_policy(services.database, {"routes": routes})
    await accept(services, 100, severity="warning", team="db")
    await accept(services, 2, first=500, severity="warning", team="web")
    await work(services)
    assert sorted("storm" in message.title for message in channel.messages) == [False, False, True]


async def test_what_has_an_open_incident_is_told_by_itself(services: Services, channel: MemoryChannel) -> None:
    await accept(services, 1, severity="warning")
    await work(services)
    await accept(services, 1, severity="warning", status="resolved")
    await accept(services, 100, first=1, severity="warning")
    await work(services)
    assert [message.status for message in channel.messages] in (
        ["firing", "resolved", "firing"],
        ["firing", "firing", "resolved"],
    )


async def test_an_alert_that_ends_within_the_batch_is_recorded_in_order(
    services: Services, channel: MemoryChannel
) -> None:
    await accept(services, 100, severity="warning")
    await accept(services, 40, severity="warning", status="resolved")
    await accept(services, 40, severity="warning")
    await work(services)
    assert len(await rows(services.database, "select 1 from membership where status = 'firing'")) == 100
    await accept(services, 100, severity="warning", status="resolved")
    await work(services)
    assert [message.status for message in channel.messages] == ["firing", "resolved"]


async def ends_first(services: Services) -> None:
    """Execute what waits for the alerts that end before the runs of storms, whose priority is lower."""
    ends = "select run_id from pipeline_run where status = 'pending' and not starts_with(incident_key, 'policy:')"
    for row in await rows(services.database, f"{ends} and due_at is null order by id"):
        await run_to_end(services, row["run_id"])


async def test_an_end_that_is_executed_before_the_storm_that_has_its_alert_ends_it(
    services: Services, channel: MemoryChannel
) -> None:
    await accept(services, 60, severity="warning")
    await fold_storms(services)
    await accept(services, 60, severity="warning", status="resolved")
    await ends_first(services)
    await work(services)
    assert await rows(services.database, "select 1 from alert where status = 'firing'") == []
    assert await rows(services.database, "select 1 from incident where status in ('open', 'acknowledged')") == []
    assert [message.status for message in channel.messages] == ["firing", "resolved"]


async def test_an_end_that_overtakes_the_huge_push_with_its_alert_ends_it(
    services: Services, channel: MemoryChannel
) -> None:
    services = replace(services, settings=services.settings.model_copy(update={"max_incidents_per_push": 50}))
    await accept(services, 60, severity="warning")
    await accept(services, 1, first=7, severity="warning", status="resolved")
    await ends_first(services)
    await work(services)
    firing = await rows(services.database, "select 1 from alert where status = 'firing'")
    members = await rows(services.database, "select 1 from membership where status = 'firing'")
    assert (len(firing), len(members)) == (59, 59)
    assert [message.status for message in channel.messages] == ["firing"]


async def test_a_storm_lists_its_alerts_by_label_and_in_its_artifact(
    services: Services, channel: MemoryChannel
) -> None:
    await accept(services, 60, severity="warning", team="storage")
    first, *_ = await work(services)
    async with services.database.transaction() as tx:
        by_label = {one.label: one for one in await count_by_label(tx, str(first.incident_id))}
    assert by_label["team"].most == {"storage": 60}
    assert by_label["alertname"].most == {"DiskFull0": 20, "DiskFull1": 20, "DiskFull2": 20}
    assert (by_label["instance"].different, len(by_label["instance"].most)) == (60, 5)
    told = await tell_story(services.database, first.run_id)
    assert "| DiskFull0 | db-0 | warning | firing |" in told.replace("\\", "")


@given(waiting=st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.booleans(), st.sampled_from("ab")), max_size=40))
def test_whatever_waits_each_run_is_folded_at_most_once_and_in_order(
    waiting: list[tuple[int, bool, bool, str]],
) -> None:
    runs = [
        made(number, f"key-{key}", firing=firing, critical=critical, route=route)
        for number, (key, firing, critical, route) in enumerate(waiting)
    ]
    chosen, alone = choose(
        runs, Storm(threshold=3), opened={}, hot={}, names={}, known={("production", "key-0")}, members={}
    )
    ids = [one.run.id for group in chosen.values() for one in group] + [one.run.id for one in alone]
    assert len(ids) == len(set(ids))
    for group in chosen.values():
        assert [one.run.id for one in group] == sorted(one.run.id for one in group)
        assert len({one.route for one in group}) == 1
        assert all(one.run.incident_key != "key-0" and one.firing for one in group)
    by_route = {group[0].route for group in chosen.values()}
    for route in "ab":
        opening = {one.key for one in runs if one.route == route and one.firing and one.run.incident_key != "key-0"}
        assert len(opening) > 3 or route not in by_route


def made(number: int, key: str, *, firing: bool, critical: bool, route: str) -> Waiting:
    severity = Severity.CRITICAL if critical else Severity.WARNING
    status = AlertStatus.FIRING if firing else AlertStatus.RESOLVED
    one = Alert(source="s", fingerprint=f"{key}-{number}", name="A", incident_key=key, severity=severity, status=status)
    run = WaitingRun(
        id=number,
        run_id=str(number),
        trace_id="t",
        source="s",
        environment="production",
        incident_key=key,
        payload={},
        options={},
    )
    return Waiting(run=run, push=StoredPush(alerts=[one]), route=route)
