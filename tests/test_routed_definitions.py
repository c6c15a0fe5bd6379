"""A route names the definition that the runs of its alerts execute; one that cannot be executed stops no page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestration.contracts import PipelineOutcome
from orchestration.engine.run import Services
from orchestration.message import Message
from orchestration.requests import RunOptions, RunRequest
from orchestration.settings import Settings
from orchestration.states import RunStatus
from orchestration.store.database import Database
from orchestration.store.definitions import StoredDefinitions, set_active
from orchestration.store.policies import StoredPolicies
from orchestration.store.records import RunRecord
from service.stack import StackAddresses
from tests.api_helpers import alert, open_api, run_of, run_to_end
from tests.broken_definitions import node, nodes
from tests.cli_helpers import worker_with
from tests.conftest import MemoryChannel
from tests.definition_helpers import look, put
from tests.inbox_helpers import accept_push
from tests.life_helpers import execute_timer, push
from tests.notify_helpers import titles
from tests.oncall_helpers import store_policy

HUB = nodes(node("record", "ingest"), node("page", "notify"))
POLICY = {"routes": [{"matchers": 'team="db"', "definition": "hub"}, {}]}


@pytest.fixture
async def services(services: Services) -> Services:
    """The services of a process with a policy whose route names a definition."""
    await store_policy(services.database, POLICY)
    database = services.database
    return replace(services, policies=StoredPolicies(database), definitions=StoredDefinitions(database))


async def db_push(services: Services, **more: Any) -> RunRecord:
    return await push(services, "DiskFull", **{"team": "db"} | more)


def pipeline_note(message: Message) -> str:
    return {fact.label: fact.value for fact in message.details}.get("Pipeline", "")


async def test_a_route_chooses_the_definition_of_its_alerts(services: Services, channel: MemoryChannel) -> None:
    await put(services.database, HUB, "hub")
    run = await db_push(services)
    assert (run.status, run.definition_name, run.definition_version) == (RunStatus.NOTIFIED, "hub", 1)
    assert (await push(services)).chosen_definition is None
    assert titles(channel) == ["CRITICAL", "CRITICAL"]
    assert run.incident_id is not None
    assert (await execute_timer(services, run.incident_id)).chosen_definition == "hub"
    assert (await db_push(services, status="resolved")).status is RunStatus.NOTIFIED


async def test_through_prefect_a_missing_definition_is_executed_as_the_linear_pipeline(
    services: Services, channel: MemoryChannel, stack: StackAddresses
) -> None:
    async with worker_with(services, stack) as worker:
        for stored in (False, True):
            if stored:
                await put(services.database, HUB, "hub")
            request = RunRequest(payload=alert(f"Disk{stored}", team="db"), source="webhook")
            (result,) = await worker.execute_all(await worker.accept(request))
            assert result.status is PipelineOutcome.COMPLETED
            assert result.definition_name == ("hub" if stored else None)
    assert "the linear pipeline ran instead" in pipeline_note(channel.messages[0])
    assert pipeline_note(channel.messages[1]) == ""


async def test_a_definition_that_a_person_names_counts(services: Services, channel: MemoryChannel) -> None:
    await put(services.database, HUB, "hub")
    await put(services.database, HUB, "own")
    asked = RunOptions(definition="own")
    payload = alert("DiskFull", team="db")
    (run_id,) = await accept_push(services, payload, source="webhook", environment="production", options=asked)
    assert (await run_to_end(services, run_id)).definition_name == "own"
    assert len(channel.messages) == 1


async def test_runs_of_the_linear_flow_stay_linear(services: Services) -> None:
    payload = alert("DiskFull", team="db")
    (run_id,) = await accept_push(services, payload, source="webhook", environment="production", linear=True)
    assert not (await run_of(services.database, run_id)).options.defined


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        (None, "There is no definition 'hub'"),
        (HUB, "The definition 'hub' is disabled"),
        (look(), "it does not begin with ingest"),
        (nodes(node("pick", "transform", config={"source_node": "payload", "extract": "x"}), *HUB["nodes"]), "ingest"),
    ],
)
async def test_a_definition_that_cannot_be_executed_stops_no_page(
    services: Services, channel: MemoryChannel, stored: dict[str, Any] | None, why: str
) -> None:
    if stored is not None:
        await put(services.database, stored, "hub")
    if stored is HUB:
        async with services.database.transaction() as tx:
            await set_active(tx, "hub", active=False)
    run = await db_push(services)
    assert (run.status, run.chosen_definition) == (RunStatus.NOTIFIED, None)
    assert titles(channel) == ["CRITICAL"]
    note = pipeline_note(channel.messages[0])
    assert note.startswith("the policy names the definition 'hub', and the linear pipeline ran instead: ")
    assert why in note
    assert run.incident_id is not None
    await db_push(services, status="resolved")
    assert titles(channel) == ["CRITICAL", "RESOLVED"]


async def test_the_api_lets_the_policy_choose(settings: Settings, database: Database) -> None:
    await store_policy(database, POLICY)
    async with open_api(settings, database.url) as api:
        body = {"payload": alert("DiskFull", team="db"), "source": "webhook"}
        answer = (await api.post("/orchestration/pipeline/", json=body)).json()
    run = await run_of(database, answer["run_id"])
    assert (run.options.definition, run.options.routed) == ("hub", True)
