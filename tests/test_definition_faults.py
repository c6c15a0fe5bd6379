"""A large definition, through Prefect and without it: what dies in the middle goes on, and the rows are the same."""

from __future__ import annotations

import socket
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import StateType

from flows.services import open_services
from orchestration.contracts import NodeResult
from orchestration.engine.execution import DIRECT, Execution
from orchestration.engine.lease import lease_run
from orchestration.engine.run import Services
from orchestration.requests import RunOptions
from orchestration.states import RunStatus, StageStatus
from orchestration.store.database import Database
from orchestration.store.story import Story, read_story
from service.stack import StackAddresses
from tasks.kinds import validate_definition
from tests.broken_definitions import node, nodes
from tests.cli_helpers import flow_run_of, task_runs_of
from tests.conftest import MemoryChannel
from tests.inbox_helpers import accept_push
from tests.receivers import http_receiver
from tests.worker_helpers import (
    DeafHost,
    WorkerProcess,
    beside,
    eventually,
    keys,
    over,
    prefect_at,
    worker_settings,
)

MEMORY = {"checker_names": ["memory"]}


def chain(prefix: str, length: int, last: str) -> list[dict[str, Any]]:
    """Transforms one after the other, each of the one before it; the first works on the payload."""
    names = [f"{prefix}{number}" for number in range(1, length + 1)]
    return [
        node(
            name,
            "transform",
            config={"source_node": names[at - 1] if at else "payload", **({} if at else {"extract": "alerts.0"})},
            next=names[at + 1] if at + 1 < length else last,
        )
        for at, name in enumerate(names)
    ]


def thirty_nodes(host: str) -> dict[str, Any]:
    """Three branches, one of which waits for `host`, one with a node that fails and may; a condition; two messages."""
    slow = {"checker_names": ["network"], "checker_configs": {"network": {"hosts": [host], "timeout": 50.0}}}
    return nodes(
        node("intake", "ingest", next=["left1", "slow", "right1"]),
        *chain("left", 9, "join"),
        node("slow", config=slow, next="think"),
        node("think", "intelligence", next="mid1"),
        *chain("mid", 4, "join"),
        *chain("right", 4, "broken"),
        node(
            "broken", "transform", config={"source_node": "right4", "extract": "nothing"}, required=False, next="spare"
        ),
        node("spare", config=MEMORY, skip_if_errors=["broken"], next="memory"),
        node("memory", config=MEMORY, next="join"),
        node("join", "transform", config={"source_node": "think", "extract": "summary"}, next="gate"),
        node(
            "gate",
            "condition",
            config={
                "expression": "broken.has_errors and memory.checks_run == 1 and run.severity == 'critical'",
                "if_true": ["page", "copy"],
                "if_false": "quiet",
            },
        ),
        node("page", "notify", next="end"),
        node("copy", "notify", next="end"),
        node("quiet", "notify", next="quieter"),
        node("quieter", "transform", config={"source_node": "gate"}, next="end"),
        node("end", "transform", config={"source_node": "payload", "extract": "alerts.0.name"}),
    )


STORY = {
    **{f"left{n}": "succeeded" for n in range(1, 10)},
    **{f"mid{n}": "succeeded" for n in range(1, 5)},
    **{f"right{n}": "succeeded" for n in range(1, 5)},
    **dict.fromkeys(["intake", "slow", "think", "memory", "join", "gate", "page", "copy", "end"], "succeeded"),
    "broken": "failed",
    "spare": "skipped: errors_in: broken",
    "quiet": "skipped: branch_not_taken: gate",
    "quieter": "skipped: branch_not_taken: quiet",
}


def told(story: Story) -> dict[str, str]:
    """How each node ended."""
    return {one.id: f"{one.status}: {one.skip_reason}" if one.skip_reason else one.status for one in story.nodes}


def attempts_of(story: Story) -> Counter[str]:
    return Counter(row.node_id for row in story.attempts)


async def story_of(database: Database, run_id: str) -> Story:
    async with database.transaction() as tx:
        return await read_story(tx, run_id)


async def accepted(services: Services, definition: dict[str, Any], name: str) -> str:
    alert = {"alertname": name, "severity": "critical", "instance": socket.gethostname()}
    options = RunOptions(definition_config=definition)
    (run_id,) = await accept_push(services, alert, source="generic", environment="test", options=options)
    return run_id


async def test_thirty_nodes_go_on_after_a_kill_and_tell_the_same_story_on_both_engines(
    database: Database,
    home: Path,
    stack: StackAddresses,
    services: Services,
    channel: MemoryChannel,
    tmp_path: Path,
) -> None:
    host = DeafHost()
    definition = thirty_nodes(host.name)
    assert len(validate_definition(definition).nodes) == len(STORY) == 30
    with http_receiver() as receiver:
        settings = worker_settings(home, receiver)
        environment = {"CHECKERS_TIMEOUT_SECONDS": "50", "ORCHESTRATION_PREFECT_PATIENCE_SECONDS": "30"}
        async with open_services(settings, database.url) as own:
            run_id = await accepted(own, definition, "Killed")

        async def only_the_slow_branch_is_left() -> bool:
            ended = told(await story_of(database, run_id))
            return ended.get("slow") == "running" and {"left9", "memory"} <= ended.keys() - _running(ended)

        with beside(WorkerProcess(settings, stack, tmp_path / "first.log", **environment)) as (first,):
            await eventually(only_the_slow_branch_is_left, "two of the three branches to be through", 40)
            before = await story_of(database, run_id)
            first.kill()
        host.close()
        with beside(WorkerProcess(settings, stack, tmp_path / "second.log", **environment)) as (second,):
            run = await over(database, run_id, 40)
            assert second.end() == 0

        after = await story_of(database, run_id)
        assert run.status is RunStatus.NOTIFIED
        assert told(after) == STORY
        # What was through before stayed so; the attempt that died is on record, and one more was made.
        kept = {row.idempotency_key: row for row in after.attempts}
        assert all(kept[row.idempotency_key] == row for row in before.attempts if row.status is not StageStatus.RUNNING)
        assert attempts_of(after) == Counter(STORY.keys()) + Counter(["slow"])
        assert [row.error_type for row in after.attempts if row.node_id == "slow"] == ["ProcessLost", None]
        assert Counter(key.split("/", 1)[1] for key in keys(receiver)) == {"1/page/generic": 1, "1/copy/generic": 1}

    async with prefect_at(stack) as client:
        flow_run = await flow_run_of(client, run)
        assert (await client.read_flow(flow_run.flow_id)).name == "definition-pipeline"
        assert (flow_run.state_name, flow_run.state_type) == ("Notified", StateType.COMPLETED)
        of_second = {"slow", "think", "mid4", "join", "gate", "page", "copy", "end"}
        task_runs = await task_runs_of(client, flow_run, of_second)
        assert of_second <= set(task_runs)
        assert task_runs.keys().isdisjoint({"intake", "left1", "broken", "spare"})
        killed = await client.read_flow_run(UUID(before.run.prefect_flow_run_id))
        assert killed.state_type is StateType.CRASHED

    direct_id = await accepted(services, definition, "Direct")
    async with lease_run(services, direct_id, engine=DIRECT) as active:
        await Execution(active).execute_directly()
    direct = await story_of(database, direct_id)
    assert direct.run.engine == "direct"
    assert told(direct) == told(after)
    assert attempts_of(direct) == Counter(STORY.keys())
    assert {one.id: _shape(one) for one in direct.nodes} == {one.id: _shape(one) for one in after.nodes}
    assert len(channel.messages) == 2


def _running(ended: dict[str, str]) -> set[str]:
    return {node_id for node_id, status in ended.items() if status == "running"}


def _shape(one: NodeResult) -> tuple[str, list[str], str | None]:
    """What of a node's result does not depend on the day."""
    return one.stage.value, sorted(one.result or {}), one.error.error_type if one.error else None
