"""What Prefect's server has to know of us: the work pool, the deployments with their trigger, the block types.

`prefect deploy --all` does the same from prefect.yaml. This does it without a project folder, fast and as often
as one likes: a worker does it when it starts. What an operator has changed (paused, limits) stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from prefect import Flow
from prefect.automations import AutomationCore
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.callables import parameter_schema

from blocks.channels import CHANNELS
from flows.alert_pipeline import alert_pipeline
from flows.upkeep import upkeep
from orchestration.signals import logger
from service.worker.warm import POOL_NAME, WarmWorker

UPKEEP_MINUTES = 10

TAGS = ["alert-pipeline"]

EVENT = "alert.received"
EVENT_RESOURCE = "alert.*"
EVENT_PARAMETERS: dict[str, Any] = {
    "payload": {
        "__prefect_kind": "json",
        "value": {"__prefect_kind": "jinja", "template": "{{ event.payload | tojson }}"},
    }
}
"""The event's payload, handed on as an object."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One deployment as it should be."""

    flow: Flow[..., Any]
    entrypoint: str
    name: str = "default"
    description: str
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    schedules: Sequence[DeploymentScheduleCreate] = field(default=())
    triggers: Sequence[DeploymentEventTrigger] = field(default=())


def wanted_deployments() -> list[Deployment]:
    """The deployments, as prefect.yaml has them."""
    return [
        Deployment(
            flow=cast("Flow[..., Any]", alert_pipeline),
            entrypoint="flows.alert_pipeline.alert_pipeline",
            description="Takes one incident's alerts to the person on call.",
            triggers=[
                DeploymentEventTrigger(
                    name="alert-pipeline: alert received",
                    expect={EVENT},
                    match={"prefect.resource.id": EVENT_RESOURCE},
                    parameters=EVENT_PARAMETERS,
                )
            ],
        ),
        Deployment(
            flow=cast("Flow[..., Any]", upkeep),
            entrypoint="flows.upkeep.upkeep",
            description="Looks for runs that are stuck, and deletes what is older than the retention time.",
            schedules=[DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(minutes=UPKEEP_MINUTES)))],
        ),
    ]


async def register(client: PrefectClient) -> None:
    """Make the server know everything that is above.

    Raises:
        httpx.HTTPError, prefect.exceptions.PrefectException: Prefect's API broke off.
    """
    await ensure_pool(client)
    await asyncio.gather(*(ensure(client, deployment) for deployment in wanted_deployments()))
    for driver in CHANNELS.values():
        await driver.aregister_type_and_schema(client=client)
    logger.info("Prefect knows the work pool %s and the deployments", POOL_NAME)


async def ensure_pool(client: PrefectClient) -> None:
    """Create the work pool, unless it is there.

    Raises:
        httpx.HTTPError, prefect.exceptions.PrefectException: Prefect's API broke off.
    """
    try:
        pool = await client.read_work_pool(POOL_NAME)
    except ObjectNotFound:
        template = WarmWorker.get_default_base_job_template()
        wanted = WorkPoolCreate(
            name=POOL_NAME,
            type=WarmWorker.type,
            description="Runs of the warm worker.",
            base_job_template=template,
        )
        try:
            await client.create_work_pool(wanted)
        except ObjectAlreadyExists:
            return
    else:
        if pool.type != WarmWorker.type:
            logger.warning(
                "The work pool %s has the type %s: scheduled runs need %s. Delete it, and it is made anew",
                POOL_NAME,
                pool.type,
                WarmWorker.type,
            )


async def ensure(client: PrefectClient, wanted: Deployment) -> UUID:
    """Create the deployment, or bring what is ours of it up to date: queue, pause, limit and schedule are theirs.

    Raises:
        httpx.HTTPError, prefect.exceptions.PrefectException: Prefect's API broke off.
    """
    own = _own_fields(wanted)
    try:
        known = await client.read_deployment_by_name(f"{wanted.flow.name}/{wanted.name}")
    except ObjectNotFound:
        deployment_id = await client.create_deployment(
            flow_id=await client.create_flow_from_name(wanted.flow.name),
            name=wanted.name,
            **own,
            work_pool_name=POOL_NAME,
            tags=TAGS,
            parameters=dict(wanted.parameters),
            schedules=list(wanted.schedules),
            enforce_parameter_schema=True,
        )
    else:
        deployment_id = known.id
        if not is_current(known, wanted):
            await client.update_deployment(deployment_id, DeploymentUpdate.model_validate(own))
    await _ensure_triggers(client, deployment_id, wanted)
    return deployment_id


def is_current(known: DeploymentResponse, wanted: Deployment) -> bool:
    """Whether what is ours of a deployment is as it should be."""
    return all(getattr(known, name) == value for name, value in _own_fields(wanted).items())


def _own_fields(wanted: Deployment) -> dict[str, Any]:
    return {
        "description": wanted.description,
        "entrypoint": wanted.entrypoint,
        "parameter_openapi_schema": parameter_schema(wanted.flow).model_dump_for_openapi(),
    }


async def _ensure_triggers(client: PrefectClient, deployment_id: UUID, wanted: Deployment) -> None:
    for trigger in wanted.triggers:
        trigger.set_deployment_id(deployment_id)
        automation = trigger.as_automation()
        known = await client.read_automations_by_name(automation.name)
        if not known:
            await client.create_automation(AutomationCore.model_validate(automation.model_dump()))
