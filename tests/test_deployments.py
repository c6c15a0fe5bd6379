"""The deployments: registered by the worker or by `prefect deploy`, the same either way, and left to operators."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter
from sqlalchemy import text

from flows.services import open_services
from flows.upkeep import look_after
from orchestration.settings import Settings
from orchestration.store import runs
from orchestration.store.database import Database
from service.mirror.deployments import POOL_NAME, Deployment, register, wanted_deployments
from service.stack import StackAddresses
from service.worker.warm import WarmWorker
from tests.conftest import clean_environment
from tests.worker_helpers import eventually, prefect_at, push, record_of

ROOT = Path(__file__).parent.parent


def declared() -> list[dict[str, Any]]:
    return yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("wanted", wanted_deployments(), ids=lambda wanted: wanted.entrypoint)
def test_prefect_yaml_says_what_the_worker_registers(wanted: Deployment) -> None:
    (found,) = [one for one in declared() if one["entrypoint"] == wanted.entrypoint]

    assert (found["name"], found["description"]) == (wanted.name, wanted.description)
    assert found["work_pool"]["name"] == POOL_NAME
    seconds = [schedule.schedule.interval.total_seconds() for schedule in wanted.schedules]
    assert [schedule["interval"] for schedule in found.get("schedules", [])] == seconds
    assert [trigger_facts(trigger) for trigger in found.get("triggers", [])] == [
        {
            "name": trigger.name,
            "expect": set(trigger.expect),
            "match": trigger.match.root,
            "parameters": trigger.parameters,
        }
        for trigger in wanted.triggers
    ]


def trigger_facts(trigger: dict[str, Any]) -> dict[str, Any]:
    return {**{name: trigger[name] for name in ("name", "match", "parameters")}, "expect": set(trigger["expect"])}


async def test_registering_twice_changes_nothing(stack: StackAddresses) -> None:
    async with prefect_at(stack.prefect_api_url) as client:
        await register(client)
        before = await client.read_deployments()
        await register(client)
        after = await client.read_deployments()
        automations = await client.read_automations_by_name("alert-pipeline: alert received")
        pool = await client.read_work_pool(POOL_NAME)

    assert {one.id for one in before} == {one.id for one in after}
    assert [len(one.schedules) for one in before] == [len(one.schedules) for one in after]
    assert len(automations) == 1
    assert pool.type == WarmWorker.type


async def test_prefect_schedules_the_upkeep(stack: StackAddresses) -> None:
    async with prefect_at(stack.prefect_api_url) as client:
        await register(client)
        deployment = await client.read_deployment_by_name("upkeep/default")
        of_upkeep = DeploymentFilter.model_validate({"id": {"any_": [deployment.id]}})

        async def scheduled() -> bool:
            found = await client.read_flow_runs(deployment_filter=of_upkeep, limit=1)
            return bool(found) and found[0].auto_scheduled

        await eventually(scheduled, "Prefect's scheduler to plan a run", 75)


async def test_what_operators_set_stays(stack: StackAddresses) -> None:
    async with prefect_at(stack.prefect_api_url) as client:
        await register(client)
        deployment = await client.read_deployment_by_name("alert-pipeline/default")
        await client.update_deployment(deployment.id, DeploymentUpdate(concurrency_limit=3, paused=True))
        await client.update_work_pool(POOL_NAME, WorkPoolUpdate(concurrency_limit=7, is_paused=True))
        try:
            await register(client)
            deployment = await client.read_deployment_by_name("alert-pipeline/default")
            pool = await client.read_work_pool(POOL_NAME)
        finally:
            await client.update_work_pool(POOL_NAME, WorkPoolUpdate(is_paused=False, concurrency_limit=None))
            await client.update_deployment(deployment.id, DeploymentUpdate(concurrency_limit=None, paused=False))

    assert deployment.paused
    assert deployment.global_concurrency_limit is not None
    assert deployment.global_concurrency_limit.limit == 3
    assert (pool.concurrency_limit, pool.is_paused) == (7, True)


async def test_prefect_deploy_finds_the_same_deployments(stack: StackAddresses) -> None:
    async with prefect_at(stack.prefect_api_url) as client:
        await register(client)
        before = await client.read_deployments()
        done = await asyncio.to_thread(
            subprocess.run,
            [str(Path(sys.executable).parent / "prefect"), "--no-prompt", "deploy", "--all"],
            cwd=ROOT,
            env={**clean_environment(), "PREFECT_API_URL": stack.prefect_api_url or ""},
            capture_output=True,
            text=True,
            timeout=60,
        )
        after = await client.read_deployments()
        automations = await client.read_automations_by_name("alert-pipeline: alert received")

    assert done.returncode == 0, done.stdout + done.stderr
    assert {one.id for one in before} == {one.id for one in after}
    # Those of definitions may be there too, if other tests have applied some.
    assert {one.entrypoint for one in wanted_deployments()} <= {one.entrypoint for one in after}
    assert len(automations) == 1


async def test_upkeep_deletes_what_is_old_and_keeps_what_is_not_over(database: Database, settings: Settings) -> None:
    async with open_services(settings, database.url) as services:
        old, waiting, fresh = [await push(services, name, instance=name) for name in ("Old", "Waiting", "Fresh")]
        async with database.transaction() as tx:
            await tx.execute(
                text("update pipeline_run set status = 'notified' where run_id in (:a, :b)"), {"a": old, "b": fresh}
            )
            await tx.execute(
                text("update pipeline_run set updated_at = now() - interval '91 days' where run_id in (:a, :b)"),
                {"a": old, "b": waiting},
            )

        found = await look_after(services)

    assert found.deleted["pipeline_run"] == 1
    assert (found.waiting, found.stuck) == (1, 1)
    assert await record_of(database, waiting)
    assert await record_of(database, fresh)
    async with database.transaction() as tx:
        assert await runs.find_runs(tx, old) == []
