"""The deployments: registered by the worker or by `prefect deploy`, the same either way, and left to operators."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import IntervalSchedule
from sqlalchemy import text

from flows.services import open_services
from flows.upkeep import look_after
from orchestration.errors import BadSetting
from orchestration.settings import Settings
from orchestration.store import runs
from orchestration.store.database import Database
from service.mirror import deployments
from service.mirror.deployments import CANARY, POOL_NAME, register, wanted_deployments
from service.stack import StackAddresses
from service.worker.warm import WarmWorker
from tests.conftest import clean_environment
from tests.worker_helpers import eventually, prefect_at, prefect_variables, push, record_of

ROOT = Path(__file__).parent.parent

AUTOMATION = "alert-pipeline: alert received"


def test_prefect_yaml_is_what_the_worker_registers() -> None:
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    wanted = pipeline, upkeep, canary = wanted_deployments()

    assert [one["work_pool"]["name"] for one in declared] == [POOL_NAME] * 3
    assert [one["entrypoint"] for one in declared] == [one.entrypoint for one in wanted]
    assert [f"{one.flow.name}/{one.name}" for one in wanted] == [
        *("alert-pipeline/default", "upkeep/default", "canary/default")
    ]
    assert [one["description"] for one in declared] == [one.description for one in wanted]
    assert [one.active for one in canary.schedules] == [False]
    [schedule], [trigger] = upkeep.schedules, pipeline.triggers
    assert isinstance(schedule.schedule, IntervalSchedule)
    assert schedule.schedule.interval == timedelta(seconds=declared[1]["schedules"][0]["interval"])
    said = declared[0]["triggers"][0]
    assert (trigger.name, trigger.expect, trigger.match.root) == (said["name"], set(said["expect"]), said["match"])
    assert trigger.parameters == said["parameters"]
    assert not pipeline.schedules
    assert not upkeep.triggers


def test_the_wheel_has_prefect_yaml_where_the_worker_reads_it() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]

    assert ROOT / build["force-include"]["prefect.yaml"] == Path(deployments.__file__).with_name("prefect.yaml")


@pytest.mark.parametrize(
    "content",
    [None, "deployments: [", "name: x", "deployments: [{name: default}]", "deployments: [{entrypoint: no.such.flow}]"],
)
def test_a_broken_prefect_yaml_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None) -> None:
    path = tmp_path / "prefect.yaml"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(deployments, "prefect_yaml", lambda: path)

    with pytest.raises(BadSetting, match=r"prefect\.yaml cannot be used"):
        wanted_deployments()


async def test_registering_twice_changes_nothing(stack: StackAddresses) -> None:
    async with prefect_at(stack) as client:
        await register(client)
        before = await client.read_deployments()
        await register(client)
        after = await client.read_deployments()
        automations = await client.read_automations_by_name(AUTOMATION)
        pool = await client.read_work_pool(POOL_NAME)

    assert {one.id for one in before} == {one.id for one in after}
    assert [len(one.schedules) for one in before] == [len(one.schedules) for one in after]
    assert len(automations) == 1
    assert pool.type == WarmWorker.type


async def test_prefect_schedules_the_upkeep(stack: StackAddresses) -> None:
    async with prefect_at(stack) as client:
        await register(client)
        deployment = await client.read_deployment_by_name("upkeep/default")
        of_upkeep = DeploymentFilter.model_validate({"id": {"any_": [deployment.id]}})

        async def scheduled() -> bool:
            return any(one.auto_scheduled for one in await client.read_flow_runs(deployment_filter=of_upkeep))

        await eventually(scheduled, "Prefect's scheduler to plan a run", 150)


async def test_the_canary_flies_once_it_has_a_channel_and_as_long_as_nobody_switches_it_off(
    stack: StackAddresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with prefect_at(stack) as client:

        async def schedule() -> DeploymentSchedule:
            [one] = (await client.read_deployment_by_name(CANARY)).schedules
            return one

        await register(client)
        assert not (await schedule()).active
        await register(client, canary=True)
        assert (await schedule()).active
        deployment = await client.read_deployment_by_name(CANARY)
        await client.update_deployment_schedule(deployment.id, deployment.schedules[0].id, active=False)
        switched_off = await schedule()
        assert switched_off.created is not None
        assert switched_off.updated is not None
        # An operator switches it off later than a test does.
        monkeypatch.setattr(deployments, "_UNTOUCHED", switched_off.updated - switched_off.created)
        await register(client, canary=True)
        assert not (await schedule()).active
        await client.delete_deployment(deployment.id)
        await register(client)


@dataclass
class Operator:
    """Somebody who sets everything that can be set in Prefect, and looks whether it is still there."""

    client: PrefectClient

    async def set_all(self) -> None:
        pipeline, upkeep = await self._deployments()
        limited = DeploymentUpdate(concurrency_limit=3, paused=True, tags=["mine"], parameters={"environment": "lab"})
        await self.client.update_deployment(pipeline.id, limited)
        [schedule] = upkeep.schedules
        hourly = IntervalSchedule(interval=timedelta(hours=1))
        await self.client.update_deployment_schedule(upkeep.id, schedule.id, active=False, schedule=hourly)
        await self.client.update_work_pool(POOL_NAME, WorkPoolUpdate(concurrency_limit=7, is_paused=True))
        [automation] = await self.client.read_automations_by_name(AUTOMATION)
        await self.client.pause_automation(automation.id)

    async def sees(self) -> dict[str, Any]:
        pipeline, upkeep = await self._deployments()
        [schedule] = upkeep.schedules
        pool = await self.client.read_work_pool(POOL_NAME)
        [automation] = await self.client.read_automations_by_name(AUTOMATION)
        assert isinstance(schedule.schedule, IntervalSchedule)
        limit = pipeline.global_concurrency_limit
        return {
            "paused": pipeline.paused,
            "limit": limit.limit if limit is not None else None,
            "tags": pipeline.tags,
            "parameters": pipeline.parameters,
            "schedule": (schedule.schedule.interval, schedule.active),
            "automation": automation.enabled,
            "pool": (pool.concurrency_limit, pool.is_paused),
        }

    async def reset(self) -> None:
        """Delete the deployments; the next registration makes them anew."""
        for deployment in await self._deployments():
            await self.client.delete_deployment(deployment.id)
        for automation in await self.client.read_automations_by_name(AUTOMATION):
            await self.client.delete_automation(automation.id)
        await self.client.update_work_pool(POOL_NAME, WorkPoolUpdate(is_paused=False, concurrency_limit=None))
        await register(self.client)

    async def _deployments(self) -> tuple[DeploymentResponse, DeploymentResponse]:
        return (
            await self.client.read_deployment_by_name("alert-pipeline/default"),
            await self.client.read_deployment_by_name("upkeep/default"),
        )


@pytest.fixture
async def operator(stack: StackAddresses) -> AsyncIterator[Operator]:
    async with prefect_at(stack) as client:
        await register(client)
        one = Operator(client)
        yield one
        await one.reset()


SET = {
    "paused": True,
    "limit": 3,
    "tags": ["mine"],
    "parameters": {"environment": "lab"},
    "schedule": (timedelta(hours=1), False),
    "automation": False,
    "pool": (7, True),
}


async def test_what_operators_set_stays_when_a_worker_starts(operator: Operator) -> None:
    await operator.set_all()
    await register(operator.client)

    assert await operator.sees() == SET


async def test_prefect_deploy_resets_what_docs_prefect_md_says(operator: Operator, stack: StackAddresses) -> None:
    await operator.set_all()
    await deploy_all(stack)

    assert await operator.sees() == {
        "paused": False,
        "limit": None,
        "tags": ["alert-pipeline"],
        "parameters": {},
        "schedule": (timedelta(minutes=10), True),
        "automation": True,
        "pool": (7, True),  # a deploy does not touch the pool
    }


async def deploy_all(stack: StackAddresses) -> None:
    """`prefect deploy --all`, with the words that its user types."""
    done = await asyncio.to_thread(
        subprocess.run,
        [str(Path(sys.executable).parent / "prefect"), "--no-prompt", "deploy", "--all"],
        cwd=ROOT,
        env={**clean_environment(), **prefect_variables(stack)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_prefect_deploy_finds_the_same_deployments(stack: StackAddresses) -> None:
    async with prefect_at(stack) as client:
        await register(client)
        before = await client.read_deployments()
        await deploy_all(stack)
        after = await client.read_deployments()
        automations = await client.read_automations_by_name(AUTOMATION)

    assert {one.id for one in before} == {one.id for one in after}
    # Those of definitions may be there too, if other tests have applied some.
    assert {one.entrypoint for one in wanted_deployments()} <= {one.entrypoint for one in after}
    assert [one.pull_steps or [] for one in after] == [[]] * len(after)
    assert len(automations) == 1


async def test_upkeep_deletes_what_is_old_and_keeps_what_is_not_over(database: Database, settings: Settings) -> None:
    async with open_services(settings, database.url) as services:
        old, waiting, fresh = [await push(services, name, instance=name) for name in ("Old", "Waiting", "Fresh")]
        async with database.transaction() as tx:
            await tx.execute(
                text("update pipeline_run set status = 'notified' where run_id in (:a, :b)"), {"a": old, "b": fresh}
            )
            await tx.execute(
                text(
                    "update pipeline_run set created_at = now() - interval '91 days', "
                    "updated_at = now() - interval '91 days' where run_id in (:a, :b)"
                ),
                {"a": old, "b": waiting},
            )

        found = await look_after(services)

    assert found.deleted["pipeline_run"] == 1
    assert (found.waiting, found.stuck) == (1, 1)
    assert await record_of(database, waiting)
    assert await record_of(database, fresh)
    async with database.transaction() as tx:
        assert await runs.find_runs(tx, old) == []
