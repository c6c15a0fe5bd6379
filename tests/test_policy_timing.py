"""The policy's `timing`: reminders and expiry come when the policy says, and where it says nothing, by the settings."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from orchestration.engine.run import Services
from orchestration.policy.model import timing_of
from orchestration.settings import load_settings
from orchestration.store.database import Database
from orchestration.store.policies import StoredPolicies
from orchestration.store.why import read_why
from orchestration.timing import Timing
from tests.conftest import MemoryChannel
from tests.life_helpers import execute_timer, let_pass, next_of, opened, push, story_of
from tests.notify_helpers import titles
from tests.oncall_helpers import store_policy


async def test_reminders_come_as_the_policy_says(services: Services, channel: MemoryChannel) -> None:
    await store_policy(services.database, {"timing": {"remind_after": "2h", "remind_critical_after": "10m"}})
    services = replace(services, policies=StoredPolicies(services.database))
    warning = await push(services, "DiskFull", severity="warning")
    critical = await push(services)
    assert warning.incident_id is not None
    assert critical.incident_id is not None
    assert await next_of(services.database, warning.incident_id) == "reminder 120"
    assert await next_of(services.database, critical.incident_id) == "reminder 10"

    await let_pass(services.database, timedelta(minutes=10))
    await execute_timer(services, critical.incident_id)
    assert titles(channel) == ["WARNING", "CRITICAL", "CRITICAL"]
    assert await next_of(services.database, critical.incident_id) == "reminder 10"
    assert "(every 10m, by the policy)" in await what_comes_next(services.database, critical.incident_id)
    assert (await story_of(services.database, critical.incident_id)).timing.remind_after == timedelta(hours=2)


async def test_an_edit_of_the_policy_counts_from_the_next_reminder_on(services: Services) -> None:
    incident = await opened(services)
    assert await next_of(services.database, incident) == "reminder 60"
    await store_policy(services.database, {"timing": {"remind_critical_after": "3h"}})
    await let_pass(services.database, timedelta(hours=1))
    assert (await execute_timer(services, incident)).skip_reason == "not_due"
    assert await next_of(services.database, incident) == "reminder 120"

    await store_policy(services.database, {"timing": {"remind_critical_after": 0, "expire_after": "4h"}})
    await let_pass(services.database, timedelta(hours=2))
    assert (await execute_timer(services, incident)).skip_reason == "not_due"
    assert await next_of(services.database, incident) == "expiry 60"
    assert "(after 4h, by the policy)" in await what_comes_next(services.database, incident)
    await let_pass(services.database, timedelta(hours=1))
    assert (await execute_timer(services, incident)).status == "notified"


def test_a_source_that_the_settings_name_keeps_its_own_time_to_expire(monkeypatch) -> None:
    monkeypatch.setenv("INCIDENT_EXPIRE_AFTER_SECONDS", "86400,zabbix=0")
    said = timing_of({"expire_after": "2h"})
    found = {source: Timing.of(load_settings(), source, said).expire for source in ("grafana", "zabbix", "heartbeat")}
    assert found == {"grafana": 7200, "zabbix": 0, "heartbeat": 0}


def test_a_timing_that_cannot_be_read_leaves_it_to_the_settings(caplog) -> None:
    assert timing_of({"remind_after": "soon"}) == timing_of(None)
    assert "the settings count" in caplog.text


async def what_comes_next(database: Database, incident_id: str) -> str:
    """The lines of `why` about the future."""
    async with database.transaction() as tx:
        return "\n".join(event.text for event in (await read_why(tx, incident_id)).upcoming)
