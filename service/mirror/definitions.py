"""The definitions in Prefect: each has a block, and a deployment `definition-pipeline/NAME`.

The store is the truth. This module writes it to Prefect, and stores what operators edited there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks.pipeline_definition import DefinitionBlock, PipelineDefinition, PrefectBlocks
from blocks.prefect_api import PAGE_SIZE
from flows.definition_pipeline import definition_pipeline
from flows.definitions import sync_block
from orchestration.definitions import checked_name
from orchestration.errors import BadInput
from orchestration.graph import BadDefinition
from orchestration.signals import logger
from orchestration.store import definitions
from orchestration.store.database import Database
from orchestration.store.definitions import DefinitionRecord
from service.mirror.deployments import TAGS, Deployment, ensure, ensure_pool, is_current
from service.mirror.flow_runs import DEFINITION_FLOW_NAME

DISABLED = "disabled"
"""The tag of a deployment that we paused because its definition is disabled. An operator's pause has no tag."""


def use_prefect_at(prefect_api_url: str) -> AbstractContextManager[Any]:
    """Within the context, Prefect's clients and blocks use this API."""
    return temporary_settings({PREFECT_API_URL: prefect_api_url})


async def store_edit(database: Database, name: str) -> str | None:
    """Store an edit of the block before the block is overwritten. Returns a sentence if the edit is unusable.

    Raises:
        Unavailable: the database or Prefect does not answer.
    """
    blocks = PrefectBlocks()
    if (block := await blocks.read(name)) is None:
        return None
    try:
        await sync_block(database, blocks, block)
    except BadDefinition as error:
        return f"its block had an edit that could not be used ({'; '.join(error.lines)}): the edit was overwritten"
    return None


async def show(client: PrefectClient, database: Database, name: str) -> None:
    """Write a definition to Prefect as it is stored now. Delete its block and deployment if it was deleted.

    Raises:
        Unavailable: the database does not answer.
        Exception: whatever Prefect's client raises; call it within `prefect_errors()`.
    """
    async with database.transaction() as tx:
        record = await definitions.find_definition(tx, name)
    blocks = PrefectBlocks()
    if record is None:
        await blocks.delete(name)
        await _forget_deployment(client, name)
        return
    await _write_block(blocks, record, await blocks.read(name))
    await ensure_pool(client)  # if no worker was ever started on this Prefect
    await _show_deployment(client, record)


async def sync(client: PrefectClient, database: Database) -> None:
    """Write every definition to Prefect, and store the blocks that were edited or created there.

    Raises:
        Unavailable: the database does not answer.
        Exception: whatever Prefect's client raises; call it within `prefect_errors()`.
    """
    await PipelineDefinition.aregister_type_and_schema(client=client)
    blocks = PrefectBlocks()
    found = {block.name: block for block in await blocks.read_all()}
    for block in found.values():
        await _sync_or_warn(database, blocks, block)
    async with database.transaction() as tx:
        stored = await definitions.list_definitions(tx, include_inactive=True)
    deployed = {deployment.name: deployment for deployment in await _deployed(client)}
    for record in stored:
        if record.name not in found:
            await _write_block(blocks, record, None)
        # Usually nothing has changed: one request for all deployments is enough to know that.
        if not _is_shown(deployed.get(record.name), record):
            await _show_deployment(client, record)
    names = {record.name for record in stored}
    for name, block in found.items():
        if name not in names and block.stored_version is not None:
            await blocks.delete(name)
    for name in deployed.keys() - names:
        await _forget_deployment(client, name)


async def _sync_or_warn(database: Database, blocks: PrefectBlocks, block: DefinitionBlock) -> None:
    try:
        checked_name(block.name)
        await sync_block(database, blocks, block)
    except (BadDefinition, BadInput) as error:
        logger.warning("%s", error)


async def _write_block(blocks: PrefectBlocks, record: DefinitionRecord, block: DefinitionBlock | None) -> None:
    if block is None or (block.config, block.stored_version) != (record.config, record.version):
        await blocks.write(record.name, dict(record.config), record.version)


async def _show_deployment(client: PrefectClient, record: DefinitionRecord) -> None:
    """Create or update the deployment of a definition, and pause it if the definition is disabled.

    Operators' own settings of the deployment stay as they are.
    """
    deployment_id = await ensure(client, _wanted(record))
    known = await client.read_deployment(deployment_id)
    paused_by_us = DISABLED in known.tags
    if record.is_active and paused_by_us:
        await client.update_deployment(deployment_id, DeploymentUpdate(paused=False, tags=_tags(known.tags)))
    elif not record.is_active and not known.paused:
        tags = [*_tags(known.tags), DISABLED]
        await client.update_deployment(deployment_id, DeploymentUpdate(paused=True, tags=tags))


def _is_shown(known: DeploymentResponse | None, record: DefinitionRecord) -> bool:
    """Whether the deployment needs no update: its fields are current, and it is paused if it has to be."""
    if known is None or not is_current(known, _wanted(record)):
        return False
    return DISABLED not in known.tags if record.is_active else known.paused


def _wanted(record: DefinitionRecord) -> Deployment:
    return Deployment(
        flow=cast("Flow[..., Any]", definition_pipeline),
        entrypoint="flows.definition_pipeline.definition_pipeline",
        name=record.name,
        description=record.description or f"The pipeline definition {record.name}.",
        parameters={"definition": record.name},
    )


def _tags(tags: Sequence[str]) -> list[str]:
    return [tag for tag in tags if tag != DISABLED]


async def _deployed(client: PrefectClient) -> list[DeploymentResponse]:
    """All deployments of the flow `definition-pipeline`."""
    only = FlowFilter(name=FlowFilterName(any_=[DEFINITION_FLOW_NAME]))
    found: list[DeploymentResponse] = []
    while True:
        page = await client.read_deployments(flow_filter=only, limit=PAGE_SIZE, offset=len(found))
        found += page
        if len(page) < PAGE_SIZE:
            break
    return found


async def _forget_deployment(client: PrefectClient, name: str) -> None:
    try:
        known = await client.read_deployment_by_name(f"{DEFINITION_FLOW_NAME}/{name}")
    except ObjectNotFound:
        return
    if set(TAGS) <= set(known.tags):  # an operator's own deployment does not have our tags
        await client.delete_deployment(known.id)
