"""Definitions and a real Prefect: a block and a deployment for each, edits that run, broken ones that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import BlockDocumentUpdate, DeploymentUpdate
from prefect.exceptions import ObjectNotFound

from blocks.pipeline_definition import PrefectBlocks
from flows.samples import sample_names, sample_text
from flows.services import open_services
from orchestration.alert import OWN_SOURCE
from orchestration.definitions import POLICY_NAME, Kind, NewDefinition
from orchestration.engine.run import Services
from orchestration.errors import BadInput
from orchestration.graph import decode_definition
from orchestration.policy.parse import parse_policy
from orchestration.requests import RunOptions, RunRequest
from orchestration.settings import Settings
from orchestration.store import definitions, workers
from orchestration.store.database import Database
from orchestration.store.mappings import MappingReader
from orchestration.store.records import RunRecord, new_id
from orchestration.store.runs import RunFilter, list_page
from service.definitions import DefinitionService
from service.mirror.definitions import DISABLED, POLICY_BLOCK, sync
from service.mirror.deployments import POOL_NAME, register
from service.stack import StackAddresses
from service.worker.broken_blocks import BrokenBlocks
from service.worker.warm import WarmWorker
from tasks.ingest.sources.mapping_text import new_mapping
from tasks.kinds import validate_definition
from tests.api_helpers import alert
from tests.cli_helpers import Orchestrators, all_runs, flow_run_of, prefect_of, task_runs_of, worker_with
from tests.definition_helpers import current, look, new, put, versions
from tests.engine_helpers import execute
from tests.notify_helpers import rows
from tests.receivers import HttpReceiver
from tests.worker_helpers import eventually, worker_settings

pytest_plugins = ["tests.cli_helpers"]


@pytest.fixture
async def client(stack: StackAddresses, database: Database) -> AsyncIterator[PrefectClient]:
    """A client of a Prefect that knows our work pool, and no definition of an earlier test."""
    async with prefect_of(stack) as one:
        await register(one)
        yield one
        async with database.transaction() as tx:
            await tx.exec_driver_sql("delete from definition")
        await sync(one, database)


@pytest.fixture
def service(database: Database, settings: Settings, stack: StackAddresses) -> DefinitionService:
    return DefinitionService(database=database, settings=settings, prefect_api_url=stack.prefect_api_url)


async def edit(
    client: PrefectClient, config: dict[str, Any], name: str = "look", *, kind: Kind = Kind.PIPELINE
) -> None:
    """What an operator does in Prefect's UI: the block's document is sent back with another config."""
    slug = PrefectBlocks(kind).slug
    document = await client.read_block_document_by_name(name, slug)
    update = BlockDocumentUpdate(block_schema_id=document.block_schema_id, data={**document.data, "config": config})
    await client.update_block_document(document.id, update)


async def run_by_hand(services: Any, stack: StackAddresses, name: str, payload: dict[str, Any] | None = None) -> Any:
    """A run of a definition in this process, as `run_pipeline --definition` has it."""
    async with worker_with(services, stack) as worker:
        options = RunOptions(definition=name, checker_names=["memory"])
        call: dict[str, Any] = {"source": "cli", "environment": "test", "trace_id": new_id(), "options": options}
        (result,) = await worker.execute_all(await worker.accept(RunRequest(payload=payload, **call)))
        return result


async def test_a_definition_has_a_block_and_a_deployment(client: PrefectClient, service: DefinitionService) -> None:
    done = await service.apply(new(look(description="Looks at this host")), created_by="test")

    assert (done.change, done.in_prefect, done.notes) == ("created", True, [])
    block = await PrefectBlocks().read("look")
    assert block is not None
    assert (block.config, block.stored_version) == (look(description="Looks at this host"), 1)
    deployment = await client.read_deployment_by_name("definition-pipeline/look")
    assert deployment.entrypoint == "flows.definition_pipeline.definition_pipeline"
    assert (deployment.work_pool_name, deployment.description) == (POOL_NAME, "Looks at this host")
    assert deployment.parameters == {"definition": "look"}

    assert (await service.apply(new(look(description="Looks at this host")), created_by="test")).change == "unchanged"
    assert (await service.apply(new(look(description="two")), created_by="test")).definition.version == 2
    assert (await service.rollback("look", 1)).definition.version == 1
    block = await PrefectBlocks().read("look")
    assert block is not None
    assert (block.config["description"], block.stored_version) == ("Looks at this host", 1)


async def test_disabling_pauses_the_deployment_and_deleting_takes_it_away(
    client: PrefectClient, service: DefinitionService
) -> None:
    await service.apply(new(look()), created_by="test")
    await service.set_active("look", active=False)
    paused = await client.read_deployment_by_name("definition-pipeline/look")
    await service.set_active("look", active=True)
    resumed = await client.read_deployment_by_name("definition-pipeline/look")
    # An operator's own pause holds.
    await client.update_deployment(resumed.id, DeploymentUpdate(paused=True))
    await service.apply(new(look(description="new")), created_by="test")
    own = await client.read_deployment_by_name("definition-pipeline/look")

    assert (paused.paused, DISABLED in paused.tags) == (True, True)
    assert (resumed.paused, DISABLED in resumed.tags) == (False, False)
    assert own.paused

    assert (await service.delete("look")).in_prefect
    assert await PrefectBlocks().read("look") is None
    with pytest.raises(ObjectNotFound):
        await client.read_deployment_by_name("definition-pipeline/look")


async def test_what_was_applied_while_prefect_was_away_is_shown_when_it_is_back(
    client: PrefectClient, database: Database, settings: Settings
) -> None:
    away = DefinitionService(database=database, settings=settings, prefect_api_url="http://127.0.0.1:9/api")
    done = await away.apply(new(look()), created_by="test")
    assert (done.change, done.in_prefect) == ("created", False)
    assert done.notes[0].startswith("Prefect's API does not answer: ")
    nobody = DefinitionService(database=database, settings=settings)
    nowhere = await nobody.apply(new(look(), "other"), created_by="test")
    assert nowhere.notes[0].startswith("Prefect does not run here: a worker writes its block")

    await sync(client, database)
    assert {block.name for block in await PrefectBlocks().read_all()} == {"look", "other"}
    assert await client.read_deployment_by_name("definition-pipeline/look")

    await away.delete("look")
    await sync(client, database)
    assert {block.name for block in await PrefectBlocks().read_all()} == {"other"}
    with pytest.raises(ObjectNotFound):
        await client.read_deployment_by_name("definition-pipeline/look")


async def test_an_edit_in_prefect_runs_as_the_next_version_and_of_a_broken_one_the_version_before(
    client: PrefectClient,
    service: DefinitionService,
    database: Database,
    home: Path,
    stack: StackAddresses,
    receiver: HttpReceiver,
) -> None:
    await service.apply(new(look()), created_by="test")
    async with open_services(worker_settings(home, receiver), database.url) as services:
        await edit(client, look(description="edited"))
        result = await run_by_hand(services, stack, "look")
        assert (result.status, result.definition_version) == ("COMPLETED", 2)
        block = await PrefectBlocks().read("look")
        assert block is not None
        assert block.stored_version == 2

        await service.apply(new(look(description="applied")), created_by="test")
        for broken in ([], "x", None, {}, {"nodes": [{"id": "checks", "type": "context", "next": "pager"}]}):
            await edit(client, broken)
            result = await run_by_hand(services, stack, "look")
            assert (result.status, result.definition_version) == ("COMPLETED", 3)
            message = receiver.requests[-1].json["text"]
            assert "version 3 of look runs, as stored. The block pipeline-definition/look was edited" in message
    assert await versions(database) == [3, 2, 1]
    # Whoever writes over a broken edit is told so.
    done = await service.apply(new(look(description="mended")), created_by="test")
    assert done.notes == [
        "its block had an edit that could not be used (node 'checks', field 'next': there is no node 'pager' "
        "(known: checks)): the edit was overwritten"
    ]


async def test_a_broken_edit_is_reported_once_and_so_is_its_end(
    client: PrefectClient, service: DefinitionService, services: Services
) -> None:
    await service.apply(new(look()), created_by="test")
    await edit(client, {"nodes": [{"id": "checks", "type": "context", "next": "pager"}]})
    reports = BrokenBlocks()
    for _ in range(2):
        broken = await sync(client, services.database)
        assert "there is no node 'pager'" in broken["look"]
        await reports.report(services, broken)
    assert await own_alerts(services) == ["firing"]
    await edit(client, look(description="repaired"))
    for _ in range(2):
        await reports.report(services, await sync(client, services.database))
    assert await own_alerts(services) == ["firing", "resolved"]


async def own_alerts(services: Services) -> list[str]:
    """What this installation has said of itself; executed, so that a process that starts now knows what is open."""
    query = """
        select run_id, status as state, payload -> 'alerts' -> 0 ->> 'status' as status
        from pipeline_run where source = :own and reason = 'push' order by id
    """
    found = await rows(services.database, query, own=OWN_SOURCE)
    for row in (one for one in found if one["state"] == "pending"):
        await execute(services, row["run_id"])
    restarted = BrokenBlocks()
    await restarted.report(services, {"look": "broken"} if found[-1]["status"] == "firing" else {})
    assert len(await rows(services.database, query, own=OWN_SOURCE)) == len(found)
    return [row["status"] for row in found]


async def test_an_edit_that_nobody_has_run_is_kept_when_a_file_is_applied(
    client: PrefectClient, service: DefinitionService, database: Database
) -> None:
    await service.apply(new(look()), created_by="test")
    await edit(client, look(description="edited"))
    done = await service.apply(new(look(description="applied")), created_by="test")

    assert done.definition.version == 3
    assert await versions(database) == [3, 2, 1]
    found = await current(database)
    assert found is not None
    assert found.description == "applied"


async def test_every_sample_runs_through_prefect(
    client: PrefectClient,
    service: DefinitionService,
    database: Database,
    home: Path,
    stack: StackAddresses,
    receiver: HttpReceiver,
) -> None:
    for name in sample_names():
        written = decode_definition(sample_text(name))
        await service.apply(NewDefinition.of(validate_definition(written), written), created_by="test")
    async with open_services(worker_settings(home, receiver), database.url) as services:
        for name in sample_names():
            payload = None if name == "local-monitor" else alert(f"Alert of {name}")
            result = await run_by_hand(services, stack, name, payload)
            assert result.status == "COMPLETED", name
            assert (result.definition_name, result.definition_version) == (name, 1)
            assert len(receiver.requests) == sample_names().index(name) + 1

    story = {run.definition_name: run for run in await all_runs(database)}
    hub = await flow_run_of(client, story["central-hub"])
    assert hub.name == "critical · Alert of central-hub on web-1"
    tasks = await task_runs_of(client, hub, {"ingest", "analyze", "notify"})
    assert set(tasks) == {"ingest", "analyze", "notify"}


async def test_prefect_starts_a_definition_by_its_deployment(
    client: PrefectClient,
    service: DefinitionService,
    database: Database,
    home: Path,
    stack: StackAddresses,
    receiver: HttpReceiver,
) -> None:
    await service.apply(new(look(checker_names=["memory"])), created_by="test")
    await service.apply(new(look(checker_names=["memory"]), "off"), created_by="test")
    settings = worker_settings(home, receiver)
    addresses = StackAddresses(database_url=database.url, prefect_api_url=stack.prefect_api_url, embedded=frozenset())
    warm = WarmWorker(POOL_NAME, name="warm definitions", settings=settings, addresses=addresses)
    serving = asyncio.create_task(warm.start(printer=lambda *_: None))
    try:

        async def lives() -> bool:
            async with database.transaction() as tx:
                return bool(await workers.list_workers(tx))

        await eventually(lives, "the worker")
        # As `prefect deployment run definition-pipeline/look` does.
        deployment = await client.read_deployment_by_name("definition-pipeline/look")
        await client.create_flow_run_from_deployment(deployment.id)

        async def over() -> RunRecord | None:
            async with database.transaction() as tx:
                found = (await list_page(tx, RunFilter(), limit=5)).runs
            return found[0] if found and found[0].status.final else None

        run = await eventually(over, "the run")
        assert (run.status.value, run.definition_name, run.definition_version) == ("notified", "look", 1)
        assert len(receiver.requests) == 1

        # Nobody runs what is disabled, also not by hand.
        await service.set_active("off", active=False)
        paused = await client.read_deployment_by_name("definition-pipeline/off")
        refused = await client.create_flow_run_from_deployment(paused.id)

        async def failed() -> str | None:
            state = (await client.read_flow_run(refused.id)).state
            return state.message if state is not None and state.is_final() else None

        message = await eventually(failed, "the refusal")
        assert "The definition 'off' is disabled and runs nothing" in message
    finally:
        serving.cancel()
        await asyncio.wait({serving})
    assert len(await all_runs(database)) == 1


async def test_the_python_api_takes_a_definition(
    orchestrators: Orchestrators, database: Database, client: PrefectClient
) -> None:
    await put(database, look(checker_names=["memory"]))
    orchestrator = orchestrators()
    stored = orchestrator.run_pipeline(None, definition="look", environment="test")
    inline = orchestrator.run_pipeline(None, definition_config=look(checker_names=["process"]))

    assert (stored.status, stored.definition_name, stored.definition_version) == ("COMPLETED", "look", 1)
    assert (inline.status, inline.definition_name, inline.definition_version) == ("COMPLETED", "inline", None)
    assert [node.id for node in inline.nodes] == ["checks", "notify"]
    with pytest.raises(BadInput, match="There is no definition 'nowhere'"):
        orchestrator.run_pipeline(None, definition="nowhere")


async def test_the_policy_is_a_block_and_an_edit_of_it_counts(
    client: PrefectClient, service: DefinitionService, database: Database
) -> None:
    blocks = PrefectBlocks(Kind.POLICY)
    policies = replace(service, kind=Kind.POLICY)
    done = await policies.apply(
        NewDefinition.of_policy(parse_policy({"routes": [{"channels": ["a"]}]})), created_by="test"
    )
    assert (done.change, done.in_prefect, done.notes) == ("created", True, [])
    assert await sync(client, database) == {}
    edited = {"routes": [{"channels": ["b"]}]}
    await edit(client, edited, POLICY_NAME, kind=Kind.POLICY)
    assert await sync(client, database) == {}
    async with database.transaction() as tx:
        found = await definitions.find_policy(tx)
    assert found is not None
    assert (found.version, found.config) == (2, edited)

    await edit(client, {"routes": 5}, POLICY_NAME, kind=Kind.POLICY)
    broken = await sync(client, database)
    assert list(broken) == [POLICY_BLOCK] == ["alert-policy/policy"]
    assert "field 'routes': expected a list, got 5" in broken[POLICY_BLOCK]
    assert (await policies.rollback(POLICY_NAME, 1)).in_prefect
    block = await blocks.read(POLICY_NAME)
    assert block is not None
    assert (block.config, block.stored_version) == ({"routes": [{"channels": ["a"]}]}, 1)
    await policies.delete(POLICY_NAME)
    assert await blocks.read_all() == []


async def test_a_mapping_is_a_block_and_an_edit_of_it_counts(
    client: PrefectClient, service: DefinitionService, database: Database
) -> None:
    document = {"name": "lamp-watch", "when": {"has": ["lamp.id"]}, "alert": {"name": "lamp.title"}}
    config = {key: value for key, value in document.items() if key != "name"}
    mappings = replace(service, kind=Kind.SOURCE)
    done = await mappings.apply(new_mapping(document), created_by="test")
    assert (done.change, done.in_prefect, done.notes) == ("created", True, [])
    assert await sync(client, database) == {}

    await edit(client, {**config, "title": "Lamps"}, "lamp-watch", kind=Kind.SOURCE)
    assert await sync(client, database) == {}
    (known,) = await MappingReader(database).active()
    assert (known.version, known.document["title"]) == (2, "Lamps")

    await edit(client, {**config, "alert": {"name": "lamp["}}, "lamp-watch", kind=Kind.SOURCE)
    broken = await sync(client, database)
    assert list(broken) == ["alert-source/lamp-watch"]
    assert "is no JMESPath" in broken["alert-source/lamp-watch"]
    (known,) = await MappingReader(database).active()
    assert known.version == 2
    await mappings.delete("lamp-watch")
    assert await PrefectBlocks(Kind.SOURCE).read_all() == []
