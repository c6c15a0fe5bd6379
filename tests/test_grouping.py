"""The policy's `grouping`: which alerts are one incident, from the door on, and while the policy changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestration.alert import Severity
from orchestration.engine.run import Services
from orchestration.policy.grouping import key_of
from orchestration.policy.parse import parse_policy
from orchestration.settings import Settings
from orchestration.states import RunReason, RunStatus
from orchestration.store.database import Database
from orchestration.store.policies import StoredPolicies
from orchestration.store.records import RunRecord
from tasks.ingest.sources import parse_push
from tests.api_helpers import alert, open_api, run_of, run_to_end
from tests.conftest import MemoryChannel
from tests.inbox_helpers import accept_push
from tests.life_helpers import incident_of, next_of, push, story_of
from tests.notify_helpers import execute_follow_up, titles
from tests.oncall_helpers import store_policy

BY_CLUSTER = {"grouping": [{"matchers": 'team="db"', "by": ["cluster"]}]}
BY_NAME = {"grouping": [{"matchers": 'team="db"', "by": ["alertname"]}]}


async def by_policy(services: Services, policy: dict[str, object]) -> Services:
    """The services of a process that has just read this policy."""
    await store_policy(services.database, policy)
    return replace(services, policies=StoredPolicies(services.database))


async def db_push(services: Services, name: str = "DiskFull", **more: object) -> RunRecord:
    return await push(services, name, **{"team": "db", "cluster": "eu", "severity": "warning"} | more)


async def test_alerts_of_several_pushes_are_one_incident(services: Services, channel: MemoryChannel) -> None:
    services = await by_policy(services, BY_CLUSTER)
    first = await db_push(services)
    second = await db_push(services, "SlowQuery")
    other = await db_push(services, cluster="us")
    unmatched = await db_push(services, team="web")
    assert first.incident_id is not None
    assert second.incident_id == first.incident_id
    assert len({first.incident_id, other.incident_id, unmatched.incident_id}) == 3
    incident = await incident_of(services.database, first.incident_id)
    assert incident.incident_key == 'policy:{team="db"}:{cluster="eu"}'
    assert len(titles(channel)) == 4

    await db_push(services, status="resolved")
    assert (await db_push(services, "SlowQuery", status="resolved")).status is RunStatus.NOTIFIED
    assert (await incident_of(services.database, first.incident_id)).status.ended


async def test_an_incident_of_several_alerts_is_named_after_the_worst_that_fires(
    services: Services, channel: MemoryChannel
) -> None:
    services = await by_policy(services, BY_CLUSTER)
    minor, dead = {"instance": "web-1"}, {"instance": "db-1", "severity": "critical", "summary": "primary is gone"}
    incident_id = (await db_push(services, "MinorWeb", **minor)).incident_id or ""
    await db_push(services, "DbDead", **dead)
    assert channel.messages[-1].title == "[CRITICAL] DbDead on db-1 and 1 more alert (production)"
    assert channel.messages[-1].facts[0].value == "DbDead (critical): primary is gone"
    incident = await incident_of(services.database, incident_id)
    assert (incident.title, incident.description) == ("DbDead on db-1 and 1 more", "primary is gone")

    await db_push(services, "DbDead", status="resolved", **dead)
    await db_push(services, "OtherWeb", instance="web-2")
    assert channel.messages[-1].title == "[WARNING] MinorWeb on web-1 and 1 more alert (production)"
    assert (await incident_of(services.database, incident_id)).title == "MinorWeb on web-1"


async def test_an_environment_is_an_incident_of_its_own(services: Services) -> None:
    services = await by_policy(services, BY_CLUSTER)
    found = set[str | None]()
    for environment in ("production", "staging"):
        payload = alert("DiskFull", team="db", cluster="eu")
        (run_id,) = await accept_push(services, payload, source="webhook", environment=environment)
        found.add((await run_to_end(services, run_id)).incident_id)
    assert len(found) == 2


@pytest.mark.parametrize(("before", "after"), [(None, BY_CLUSTER), (BY_CLUSTER, {}), (BY_CLUSTER, BY_NAME)])
async def test_an_incident_keeps_its_alerts_until_they_end_when_the_grouping_changes(
    services: Services, channel: MemoryChannel, before: dict[str, object] | None, after: dict[str, object]
) -> None:
    services = services if before is None else await by_policy(services, before)
    first = await db_push(services)
    assert first.incident_id is not None
    services = await by_policy(services, after)

    repeat = await db_push(services)
    assert (repeat.skip_reason, repeat.incident_id) == ("kept_elsewhere", first.incident_id)
    await db_push(services, severity="critical")
    raised = await execute_follow_up(services, RunReason.MEMBER_ENDED)
    assert raised.status is RunStatus.NOTIFIED
    assert (await incident_of(services.database, first.incident_id)).severity is Severity.CRITICAL

    new = await db_push(services, "SlowQuery")
    assert new.incident_id != first.incident_id
    await db_push(services, severity="critical", status="resolved")
    await execute_follow_up(services, RunReason.MEMBER_ENDED)
    assert (await incident_of(services.database, first.incident_id)).status.ended
    assert titles(channel) == ["WARNING", "CRITICAL", "WARNING", "RESOLVED"]

    again = await db_push(services)
    assert again.incident_id != first.incident_id


async def test_what_gets_worse_in_an_incident_of_the_grouping_before_is_escalated(
    services: Services, channel: MemoryChannel
) -> None:
    routed = {
        "routes": [{"escalation": "all"}],
        "escalations": {"all": {"steps": [{"channels": "memory", "severity": "critical", "wait": "5m"}]}},
    }
    first = await db_push(await by_policy(services, BY_CLUSTER | routed))
    services = await by_policy(services, BY_NAME | routed)
    await db_push(services, severity="critical")
    assert (await execute_follow_up(services, RunReason.MEMBER_ENDED)).status is RunStatus.NOTIFIED
    assert first.incident_id is not None
    assert await next_of(services.database, first.incident_id) == "escalation 5"
    assert titles(channel)[-1] == "CRITICAL"


async def test_a_group_of_the_sender_that_has_ended_ends_no_other_alert(services: Services) -> None:
    services = await by_policy(services, BY_CLUSTER)
    first = await db_push(services, "SlowQuery")
    group = {
        "version": "4",
        "groupKey": "{}:{}",
        "receiver": "x",
        "status": "firing",
        "alerts": [{"status": "firing", "labels": {"alertname": "DiskFull", "team": "db", "cluster": "eu"}}],
    }
    for status in ("firing", "resolved"):
        body = {**group, "status": status, "alerts": [{**group["alerts"][0], "status": status}]}
        (run_id,) = await accept_push(services, body, source="alertmanager", environment="production")
        assert (await run_to_end(services, run_id)).incident_id == first.incident_id
    assert first.incident_id is not None
    assert not (await incident_of(services.database, first.incident_id)).status.ended
    assert {one.name: one.status for one in (await story_of(services.database, first.incident_id)).alerts} == {
        "SlowQuery": "firing",
        "DiskFull": "resolved",
    }


async def test_the_api_groups_by_the_policy_and_tests_are_not_grouped(settings: Settings, database: Database) -> None:
    await store_policy(database, BY_CLUSTER)
    async with open_api(settings, database.url) as api:
        body = {"payload": alert("DiskFull", team="db", cluster="eu"), "source": "webhook"}
        grouped = (await api.post("/orchestration/pipeline/", json=body)).json()["run_id"]
        test = (await api.post("/orchestration/pipeline/", json={**body, "test": True})).json()["run_id"]
    assert ((await run_of(database, grouped)).incident_key or "").startswith("policy:")
    assert not ((await run_of(database, test)).incident_key or "").startswith("policy:")


def test_a_key_is_the_same_in_every_order_and_has_no_secret() -> None:
    policy = parse_policy({"grouping": [{"matchers": ['b="x"', 'a!="y"'], "by": ["password", "cluster", "x" * 90]}]})
    other = parse_policy({"grouping": [{"matchers": 'a!="y",b="x"', "by": ["x" * 90, "cluster", "password"]}]})
    payload = {"name": "A", "labels": {"b": "x", "password": "hunter2-long-secret", "x" * 90: "z" * 900}}
    (one,) = parse_push(payload, source="generic").alerts
    key = key_of(policy.policy, one, environment="production")
    assert key == key_of(other.policy, one, environment="production")
    assert key is not None
    assert "hunter2" not in key
    assert len(key.encode()) <= 512


@pytest.mark.parametrize("source", ["alert-pipeline", "heartbeat"])
def test_what_this_installation_reports_is_not_grouped(source: str) -> None:
    policy = parse_policy({"grouping": [{"by": "alertname"}]}).policy
    (one,) = parse_push({"name": "A"}, source="generic").alerts
    assert key_of(policy, one.model_copy(update={"source": source}), environment="production") is None
    assert key_of(policy, one, environment="production") == 'policy:{}:{alertname="A"}'
