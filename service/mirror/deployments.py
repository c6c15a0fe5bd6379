"""Registers in Prefect what our runs need: the work pool, the deployments of prefect.yaml, the types of the blocks.

A worker does so when it starts. It creates what is missing and updates description, entry point and parameter schema;
whatever an operator can set (pause, limits, schedules, tags, parameters, automations) stays as it is.

The coroutines raise whatever Prefect's client raises: call them within `blocks.prefect_api.prefect_errors()`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import yaml
from prefect.automations import AutomationCore
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, FlowFilter, FlowFilterName
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.callables import parameter_schema
from prefect_warm_worker import WarmProcessWorker
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ImportString

from blocks.analysis_model import AnalysisModel
from blocks.channels import CHANNELS
from blocks.dependencies import ServiceDependencies
from blocks.prometheus.source import PrometheusSource
from orchestration.errors import BadSetting
from orchestration.signals import logger

POOL_NAME = "alerts"
"""The work pool of all deployments."""

POOL_TYPE = "warm"
"""The type of the work pool, and of the workers that run its flow runs."""

TAGS = ("alert-pipeline",)
"""The tags of a new deployment. `service/mirror/definitions.py` deletes no deployment without them."""

CANARY = "canary/default"
"""The deployment whose schedule is off until it is configured."""

_UNTOUCHED = timedelta(seconds=1)
_OF_SCHEDULE = ("active", "slug", "parameters", "max_scheduled_runs")


def _schedule(entry: dict[str, Any]) -> dict[str, Any]:
    # prefect.yaml has one level where the API has two.
    outer = {name: entry[name] for name in _OF_SCHEDULE if name in entry}
    inner = {name: value for name, value in entry.items() if name not in outer}
    return {"schedule": inner, **outer}


class Deployment(BaseModel):
    """A deployment as it should be in Prefect. Validates an entry of prefect.yaml, and imports its flow."""

    model_config = ConfigDict(frozen=True)

    flow: ImportString[Any] = Field(validation_alias="entrypoint")
    entrypoint: str
    name: str
    description: str
    tags: Sequence[str] = TAGS
    parameters: Mapping[str, Any]
    schedules: Sequence[Annotated[DeploymentScheduleCreate, BeforeValidator(_schedule)]] = ()
    triggers: Sequence[DeploymentEventTrigger] = ()


def wanted_deployments() -> list[Deployment]:
    """The deployments of prefect.yaml.

    Raises:
        BadSetting: prefect.yaml is missing or broken.
    """
    path = prefect_yaml()
    try:
        declared: list[dict[str, Any]] = yaml.safe_load(path.read_text())["deployments"]
        return [Deployment.model_validate(entry) for entry in declared]
    except (OSError, yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ImportError) as error:
        problem = " ".join(str(error).split())
        raise BadSetting(f"{path} cannot be used: {type(error).__name__}: {problem[:300]}") from error


def prefect_yaml() -> Path:
    """The path of prefect.yaml: in the installed package (pyproject.toml puts it there), else in the project folder."""
    installed = Path(__file__).with_name("prefect.yaml")
    return installed if installed.exists() else Path(__file__).parents[2] / "prefect.yaml"


async def register(client: PrefectClient, *, canary: bool = False) -> None:
    """Create the work pool, the deployments and the types of the blocks in Prefect, or update them.

    `canary` is whether the canary has a channel, so that its schedule may run.

    Raises:
        BadSetting: prefect.yaml is missing or broken.
    """
    await ensure_pool(client)
    await asyncio.gather(*(ensure(client, deployment) for deployment in wanted_deployments()))
    if canary:
        await _switch_on(client, CANARY)
    for block_type in (*CHANNELS.values(), AnalysisModel, PrometheusSource, ServiceDependencies):
        await block_type.aregister_type_and_schema(client=client)
    logger.info("Prefect knows the work pool %s and the deployments", POOL_NAME)


async def _switch_on(client: PrefectClient, name: str) -> None:
    """Switch on the schedules of a deployment that nobody has changed since they were made."""
    deployment = await client.read_deployment_by_name(name)
    for schedule in deployment.schedules:
        made, changed = schedule.created, schedule.updated
        untouched = made is not None and changed is not None and changed - made < _UNTOUCHED
        if untouched and not schedule.active:
            await client.update_deployment_schedule(deployment.id, schedule.id, active=True)
            logger.info("The schedule of the deployment %s is on, because CANARY_CHANNEL is set", name)


async def is_registered(client: PrefectClient) -> bool:
    """Whether Prefect has each deployment of prefect.yaml, on a work pool. It is one request.

    Raises:
        BadSetting: prefect.yaml is missing or broken.
    """
    wanted = {(deployment.entrypoint, deployment.name): deployment for deployment in wanted_deployments()}
    found = await client.read_deployments(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[deployment.flow.name for deployment in wanted.values()])),
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name for _, name in wanted])),
    )
    there = {(deployment.entrypoint, deployment.name) for deployment in found if deployment.work_pool_name}
    missing = [f"{deployment.flow.name}/{deployment.name}" for key, deployment in wanted.items() if key not in there]
    if missing:
        logger.warning("Prefect no longer has the deployments %s: they are registered again", ", ".join(missing))
    return not missing


async def ensure_pool(client: PrefectClient) -> None:
    """Create the work pool, unless it exists."""
    try:
        pool = await client.read_work_pool(POOL_NAME)
    except ObjectNotFound:
        wanted = WorkPoolCreate(
            name=POOL_NAME,
            type=POOL_TYPE,
            description="Runs of the warm worker.",
            base_job_template=WarmProcessWorker.get_default_base_job_template(),
        )
        with suppress(ObjectAlreadyExists):  # another worker started at the same time
            await client.create_work_pool(wanted)
    else:
        if pool.type != POOL_TYPE:
            logger.warning(
                "The work pool %s has the type %s: scheduled runs need %s. Delete it, and the next worker creates it",
                POOL_NAME,
                pool.type,
                POOL_TYPE,
            )


async def ensure(client: PrefectClient, wanted: Deployment) -> UUID:
    """Create the deployment, or update the fields that operators do not set; its id."""
    own = _own_fields(wanted)
    try:
        known = await client.read_deployment_by_name(f"{wanted.flow.name}/{wanted.name}")
    except ObjectNotFound:
        deployment_id = await client.create_deployment(
            flow_id=await client.create_flow_from_name(wanted.flow.name),
            name=wanted.name,
            **own,
            work_pool_name=POOL_NAME,
            tags=list(wanted.tags),
            parameters=dict(wanted.parameters),
            schedules=list(wanted.schedules),
            enforce_parameter_schema=True,
        )
    else:
        deployment_id = known.id
        if known.work_pool_name is None:  # somebody has deleted the pool, and with it this field
            own["work_pool_name"] = POOL_NAME
        if "work_pool_name" in own or not is_current(known, wanted):
            await client.update_deployment(deployment_id, DeploymentUpdate.model_validate(own))
    for trigger in wanted.triggers:
        await _ensure_automation(client, trigger, deployment_id)
    return deployment_id


async def _ensure_automation(client: PrefectClient, trigger: DeploymentEventTrigger, deployment_id: UUID) -> None:
    """Create the automation that starts the deployment, unless it exists.

    One that starts a deployment that was deleted is replaced; whether operators have enabled it stays as it is.
    """
    trigger.set_deployment_id(deployment_id)
    automation = AutomationCore.model_validate(trigger.as_automation().model_dump())
    found = await client.read_automations_by_name(automation.name)
    left_behind = [known for known in found if await _starts_nothing(client, known)]
    for known in left_behind:
        # Not an update: Prefect's API refuses one that names an owner, as its own client sends it.
        await client.delete_automation(known.id)
    if len(left_behind) == len(found):
        enabled = all(known.enabled for known in found)
        await client.create_automation(automation.model_copy(update={"enabled": enabled}))


async def _starts_nothing(client: PrefectClient, automation: AutomationCore) -> bool:
    """Whether the automation starts deployments, and none of them exists."""
    started = [id_ for action in automation.actions if (id_ := getattr(action, "deployment_id", None)) is not None]
    for deployment_id in started:
        with suppress(ObjectNotFound):
            await client.read_deployment(deployment_id)
            return False
    return bool(started)


def is_current(known: DeploymentResponse, wanted: Deployment) -> bool:
    """Whether the fields that operators do not set are as they should be."""
    return all(getattr(known, name) == value for name, value in _own_fields(wanted).items())


def _own_fields(wanted: Deployment) -> dict[str, Any]:
    return {
        "description": wanted.description,
        "entrypoint": wanted.entrypoint,
        "parameter_openapi_schema": parameter_schema(wanted.flow).model_dump_for_openapi(),
    }
