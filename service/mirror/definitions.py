"""Prefect's side of the definitions: a block for each, and a deployment `definition-pipeline/NAME`.

The store is the truth. This writes what Prefect shows of it, and takes up what was edited there.
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
from flows.definition_pipeline import definition_pipeline
from flows.definitions import take_up_block
from orchestration.definitions import checked_name
from orchestration.errors import BadInput
from orchestration.graph import BadDefinition
from orchestration.signals import logger
from orchestration.store import definitions
from orchestration.store.database import Database
from orchestration.store.definitions import DefinitionRecord
from service.mirror.deployments import TAGS, Deployment, ensure, ensure_pool, is_current

FLOW_NAME = "definition-pipeline"

DISABLED = "disabled"
"""The tag of a deployment that was paused because its definition is disabled, and by nobody else."""

_PAGE = 200


def at(prefect_api_url: str) -> AbstractContextManager[Any]:
    """Within, Prefect's clients and blocks are those of this API."""
    return temporary_settings({PREFECT_API_URL: prefect_api_url})


async def take_up(database: Database, name: str) -> str | None:
    """Keep what was edited in the block, before something is written over it; what cannot be kept, in words.

    Raises:
        Unavailable: the database or Prefect does not answer.
    """
    blocks = PrefectBlocks()
    if (block := await blocks.read(name)) is None:
        return None
    try:
        await take_up_block(database, blocks, block)
    except BadDefinition as error:
        return f"its block had an edit that could not be used ({'; '.join(error.lines)}): it was written over"
    return None


async def show(client: PrefectClient, database: Database, name: str) -> None:
    """Have Prefect show a definition as it is stored now, or no more.

    Raises:
        httpx.HTTPError, prefect.exceptions.PrefectException, Unavailable: Prefect's API or the database broke off.
    """
    async with database.transaction() as tx:
        record = await definitions.find_definition(tx, name)
    blocks = PrefectBlocks()
    if record is None:
        await blocks.delete(name)
        await _forget_deployment(client, name)
        return
    await _write_block(blocks, record, await blocks.read(name))
    await ensure_pool(client)  # on a Prefect on which no worker was ever started
    await _show_deployment(client, record)


async def sync(client: PrefectClient, database: Database) -> None:
    """Have Prefect show every definition; take up what was edited or made there.

    Raises as `show()`.
    """
    await PipelineDefinition.aregister_type_and_schema(client=client)
    blocks = PrefectBlocks()
    found = {block.name: block for block in await blocks.read_all()}
    for block in found.values():
        await _take_up_or_say(database, blocks, block)
    async with database.transaction() as tx:
        stored = await definitions.list_definitions(tx, include_inactive=True)
    deployed = {one.name: one for one in await _deployed(client)}
    for record in stored:
        if record.name not in found:
            await _write_block(blocks, record, None)
        # Most of the time nothing has changed, and one request has told so of them all.
        if not _is_shown(deployed.get(record.name), record):
            await _show_deployment(client, record)
    names = {record.name for record in stored}
    for name, block in found.items():
        if name not in names and block.stored_version is not None:
            await blocks.delete(name)
    for name in deployed.keys() - names:
        await _forget_deployment(client, name)


async def _take_up_or_say(database: Database, blocks: PrefectBlocks, block: DefinitionBlock) -> None:
    try:
        checked_name(block.name)
        await take_up_block(database, blocks, block)
    except (BadDefinition, BadInput) as error:
        logger.warning("%s", error)


async def _write_block(blocks: PrefectBlocks, record: DefinitionRecord, block: DefinitionBlock | None) -> None:
    if block is None or (block.config, block.stored_version) != (record.config, record.version):
        await blocks.write(record.name, dict(record.config), record.version)


async def _show_deployment(client: PrefectClient, record: DefinitionRecord) -> None:
    """The deployment of a definition; that of a disabled one is paused. What operators set of it stays."""
    deployment_id = await ensure(client, _wanted(record))
    known = await client.read_deployment(deployment_id)
    ours = DISABLED in known.tags
    if record.is_active and ours:
        await client.update_deployment(deployment_id, DeploymentUpdate(paused=False, tags=_tags(known.tags)))
    elif not record.is_active and not known.paused:
        tags = [*_tags(known.tags), DISABLED]
        await client.update_deployment(deployment_id, DeploymentUpdate(paused=True, tags=tags))


def _is_shown(known: DeploymentResponse | None, record: DefinitionRecord) -> bool:
    """Whether a deployment is as `_show_deployment()` would leave it."""
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
    """The deployments of the flow."""
    only = FlowFilter(name=FlowFilterName(any_=[FLOW_NAME]))
    found: list[DeploymentResponse] = []
    while True:
        page = await client.read_deployments(flow_filter=only, limit=_PAGE, offset=len(found))
        found += page
        if len(page) < _PAGE:
            break
    return found


async def _forget_deployment(client: PrefectClient, name: str) -> None:
    try:
        known = await client.read_deployment_by_name(f"{FLOW_NAME}/{name}")
    except ObjectNotFound:
        return
    if set(TAGS) <= set(known.tags):  # one that somebody made by hand is theirs
        await client.delete_deployment(known.id)
