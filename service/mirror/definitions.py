"""The definitions in Prefect: each has a block, and a deployment `definition-pipeline/NAME`. The policy and the
mappings of senders have a block each.

The store is the truth. This module writes it to Prefect, and stores what operators edited there.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from prefect import Flow, get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from blocks.pipeline_definition import BLOCK_TYPES, DefinitionBlock, PrefectBlocks
from blocks.prefect_api import prefect_errors
from flows.definition_pipeline import definition_pipeline
from flows.definitions import BrokenEdit, sync_block, write_block
from orchestration.definitions import POLICY_NAME, Kind, checked_name
from orchestration.errors import BadInput
from orchestration.signals import logger
from orchestration.store import definitions
from orchestration.store.database import Database
from orchestration.store.definitions import DefinitionRecord
from service.mirror.deployments import TAGS, Deployment, ensure, ensure_pool, is_current, wanted_deployments
from service.mirror.flow_runs import DEFINITION_FLOW_NAME, definition_deployments
from tasks.ingest.sources.stored import name_problem

POLICY_BLOCK = f"{BLOCK_TYPES[Kind.POLICY].get_block_type_slug()}/{POLICY_NAME}"
"""The address of the policy's block. No definition can have this name."""

SOURCE_BLOCKS = BLOCK_TYPES[Kind.SOURCE].get_block_type_slug()
"""How the addresses of the mappings' blocks begin."""

DISABLED = "disabled"
"""The tag of a deployment that we paused because its definition is disabled. An operator's pause has no tag."""

DEFINITION_ENTRYPOINT = "flows.definition_pipeline.definition_pipeline"
"""The entry point of the deployments of all definitions."""


def own_flows() -> dict[str, Flow[..., Any]]:
    """The flows of our deployments, by entry point: those of prefect.yaml, and that of the definitions.

    Raises:
        BadSetting: prefect.yaml is missing or broken.
    """
    flows: dict[str, Flow[..., Any]] = {deployment.entrypoint: deployment.flow for deployment in wanted_deployments()}
    return {**flows, DEFINITION_ENTRYPOINT: definition_pipeline}


async def store_edit(database: Database, kind: Kind, name: str) -> list[str]:
    """Store an edit of the block before the block is overwritten. Returns a sentence if the edit is unusable.

    Raises:
        Unavailable: the database or Prefect does not answer.
    """
    blocks = PrefectBlocks(kind)
    try:
        if (block := await blocks.read(name)) is not None:
            await sync_block(database, blocks, block)
    except BrokenEdit as error:
        return [f"its block had an edit that could not be used ({'; '.join(error.lines)}): the edit was overwritten"]
    return []


async def show(database: Database, kind: Kind, name: str) -> None:
    """Write a definition to Prefect as it is stored now. Delete its block and deployment if it was deleted.

    Only a pipeline has a deployment.

    Raises:
        Unavailable: the database or Prefect does not answer.
    """
    async with database.transaction() as tx:
        record = await definitions.find_definition(tx, name, kind=kind)
    blocks = PrefectBlocks(kind)
    with prefect_errors():
        async with get_client() as client:
            if record is None:
                await blocks.delete(name)
            else:
                await write_block(blocks, record, await blocks.read(name))
            if kind is not Kind.PIPELINE:
                return
            if record is None:
                await _forget_deployment(client, name)
            else:
                await ensure_pool(client)  # if no worker was ever started on this Prefect
                await _show_deployment(client, record)


async def sync(client: PrefectClient, database: Database) -> dict[str, str]:
    """Write every definition, policy and mapping to Prefect, and store the blocks that were edited or created there.

    Returns:
        What is wrong with the blocks that were edited into something that cannot be used, by the definition's name;
        the policy's is `POLICY_BLOCK`, and that of a mapping begins with `alert-source/`.

    Raises:
        Unavailable: the database does not answer.
        Exception: whatever Prefect's client raises; call it within `prefect_errors()`.
    """
    _, broken_policy = await _sync_blocks(client, database, Kind.POLICY)
    _, broken_mappings = await _sync_blocks(client, database, Kind.SOURCE)
    stored, broken = await _sync_blocks(client, database, Kind.PIPELINE)
    deployed = {deployment.name: deployment for deployment in await definition_deployments(client)}
    for record in stored:
        # Usually nothing has changed: one request for all deployments is enough to know that.
        if not _is_shown(deployed.get(record.name), record):
            await _show_deployment(client, record)
    for name in deployed.keys() - {record.name for record in stored}:
        await _forget_deployment(client, name)
    broken |= {f"{SOURCE_BLOCKS}/{name}": said for name, said in broken_mappings.items()}
    return broken | ({POLICY_BLOCK: broken_policy[POLICY_NAME]} if broken_policy else {})


async def _sync_blocks(
    client: PrefectClient, database: Database, kind: Kind
) -> tuple[list[DefinitionRecord], dict[str, str]]:
    """Bring the store and the blocks of one kind in step. Returns what is stored then, and which blocks are broken."""
    await BLOCK_TYPES[kind].aregister_type_and_schema(client=client)
    blocks = PrefectBlocks(kind)
    found = {block.name: block for block in await blocks.read_all()}
    broken: dict[str, str] = {}
    for block in found.values():
        try:
            _check_name(kind, block)
            await sync_block(database, blocks, block)
        except BrokenEdit as error:
            broken[block.name] = str(error)
        except BadInput as error:
            logger.warning("%s", error)
    async with database.transaction() as tx:
        stored = await definitions.list_definitions(tx, include_inactive=True, kind=kind)
    for record in stored:
        if record.name not in found:
            await write_block(blocks, record, None)
    names = {record.name for record in stored}
    for name, block in found.items():
        if name not in names and block.stored_version is not None:
            await blocks.delete(name)
    return stored, broken


def _check_name(kind: Kind, block: DefinitionBlock) -> None:
    """Check that a block can be one of ours.

    Raises:
        BadInput: a definition or mapping cannot have its name, or it is a second policy.
    """
    if kind is Kind.PIPELINE:
        checked_name(block.name)
    elif kind is Kind.SOURCE:
        if (problem := name_problem(block.name)) is not None:
            raise BadInput(f"The block {SOURCE_BLOCKS}/{block.name} counts for nothing: {problem}")
    elif block.name != POLICY_NAME:
        raise BadInput(f"The block alert-policy/{block.name} counts for nothing: the policy is {POLICY_BLOCK}")


async def _show_deployment(client: PrefectClient, record: DefinitionRecord) -> None:
    """Create or update the deployment of a definition, and pause it if the definition is disabled.

    Operators' own settings of the deployment stay as they are.
    """
    known = await client.read_deployment(await ensure(client, _wanted(record)))
    tags = [tag for tag in known.tags if tag != DISABLED]
    if record.is_active and DISABLED in known.tags:
        await client.update_deployment(known.id, DeploymentUpdate(paused=False, tags=tags))
    elif not record.is_active and not known.paused:
        await client.update_deployment(known.id, DeploymentUpdate(paused=True, tags=[*tags, DISABLED]))


def _is_shown(known: DeploymentResponse | None, record: DefinitionRecord) -> bool:
    """Whether the deployment needs no update: its fields are current, and it is paused if it has to be."""
    if known is None or not is_current(known, _wanted(record)):
        return False
    return DISABLED not in known.tags if record.is_active else known.paused


def _wanted(record: DefinitionRecord) -> Deployment:
    fields = {
        "entrypoint": DEFINITION_ENTRYPOINT,
        "name": record.name,
        "description": record.description or f"The pipeline definition {record.name}.",
        "parameters": {"definition": record.name},
    }
    return Deployment.model_validate(fields)


async def _forget_deployment(client: PrefectClient, name: str) -> None:
    with suppress(ObjectNotFound):
        known = await client.read_deployment_by_name(f"{DEFINITION_FLOW_NAME}/{name}")
        if set(TAGS) <= set(known.tags):  # an operator's own deployment does not have our tags
            await client.delete_deployment(known.id)
