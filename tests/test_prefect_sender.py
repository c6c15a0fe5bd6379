"""Prefect as a sender: a server's flow runs and workers become pages through its own automations."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import FlowRunCreate
from prefect.client.schemas.objects import State, StateType
from prefect.events.actions import CallWebhook
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.utilities.user_templates import render_user_template_sync
from prefect.states import Completed, Crashed, Failed, Running, to_state_create

from orchestration.alert import Severity
from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.store.database import Database
from orchestration.store.records import RunRecord
from service.mirror.automations import KnownAutomation, apply_set, delete_set, delete_webhook, read_sets
from service.mirror.sender import Watched, sending_automations
from service.mirror.setting_up import SenderOrder, set_up_sender
from service.stack import StackAddresses
from tests.api_helpers import all_runs, run_to_end, serve_api
from tests.cli_helpers import json_of, prefect_of, says_in_one_line
from tests.conftest import Command, MemoryChannel
from tests.worker_helpers import prefect_variables

SET = "test"
HOSTILE = "no \"orders\" \\ \n\t{{ event.id }} {% raw %} </script> 'x' 😀\u2028" + "é" * 1_000_000


class Installation:
    """Our API and, instead of workers, this test, which executes each run that Prefect's events become."""

    def __init__(self, services: Services, client: PrefectClient, url: str) -> None:
        self.services = services
        self.client = client
        self.url = url
        self.seen: set[str] = set()

    async def watch(self, **watched: Any) -> None:
        """Set up Prefect as a sender."""
        order = SenderOrder(
            set_name=SET,
            watched=Watched(ui_url="http://prefect.example.com:4200", **watched),
            url=self.url,
            key=self.services.settings.home.joinpath("local.key").read_text().strip(),
            environment="test",
            check=False,
        )
        await set_up_sender(self.client, order)

    async def flow_run(self, flow: str, *states: State[Any], name: str = "a-run", tags: tuple[str, ...] = ()) -> str:
        """A flow run that goes through these states, as Prefect's engine reports them. Returns its id."""
        flow_id = await self.client.create_flow_from_name(flow)
        wanted = FlowRunCreate(name=name, tags=list(tags), flow_id=flow_id, state=to_state_create(states[0]))
        created = await self.client.request("POST", "/flow_runs/", json=wanted.model_dump(mode="json"))
        flow_run_id = created.json()["id"]
        for state in states[1:]:
            await self.client.set_flow_run_state(flow_run_id, state, force=True)
        return str(flow_run_id)

    async def emit(
        self, event: str, resource: dict[str, str], related: list[dict[str, str]] | None = None, *, later: int = 0
    ) -> None:
        """An event, as Prefect's server writes one of its own, now or so many seconds later."""
        body = {
            "id": str(uuid4()),
            "occurred": (datetime.now(UTC) + timedelta(seconds=later)).isoformat(),
            "event": event,
            "resource": resource,
            "related": related or [],
        }
        await self.client.request("POST", "/events", json=[body])

    async def next_run(self) -> RunRecord:
        """The run of the next event that comes in, executed to its end."""

        async def look() -> RunRecord | None:
            return next((run for run in await all_runs(self.services.database) if run.run_id not in self.seen), None)

        async with asyncio.timeout(40):
            while (found := await look()) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # Prefect's server tells nobody when it has called a webhook
        self.seen.add(found.run_id)
        return found if found.status.final else await run_to_end(self.services, found.run_id)


@pytest.fixture
async def installation(
    services: Services, settings: Settings, database: Database, stack: StackAddresses
) -> AsyncIterator[Installation]:
    async with serve_api(settings, database.url) as (host, port), prefect_of(stack) as client:
        try:
            yield Installation(services, client, f"http://{host}:{port}")
        finally:
            await delete_set(client, SET)
            await delete_webhook(client, f"alert-pipeline-{SET}")


async def test_a_failed_flow_run_is_a_page_and_the_next_good_run_is_its_end(
    installation: Installation, channel: MemoryChannel
) -> None:
    flow = f"orders-{uuid4().hex[:6]}"
    await installation.watch(flows=["orders-*"])
    await installation.flow_run("another", Failed(message="nobody asked"))
    failed = await installation.flow_run(
        flow, Running(), Failed(name="Bad data", message="no orders"), name="cute-otter", tags=("team-a", "nightly")
    )
    run = await installation.next_run()
    assert (run.source, run.environment, run.severity) == ("prefect", "test", "critical")
    (page,) = channel.messages
    assert page.title == f"[CRITICAL] Flow {flow} (test)"
    assert "Bad data: no orders" in page.text
    assert f"http://prefect.example.com:4200/runs/flow-run/{failed}" in page.text
    assert "tags=nightly, team-a" in page.text

    await installation.flow_run(flow, Crashed(message="again"))
    assert (await installation.next_run()).skip_reason == "duplicate"

    await installation.flow_run(flow, Completed(name="Loaded"))
    await installation.next_run()
    assert [message.title for message in channel.messages[1:]] == [f"[RESOLVED] Flow {flow} (test)"]


async def test_flow_runs_that_are_good_again_and_again_are_not_executed_each_time(
    installation: Installation, channel: MemoryChannel
) -> None:
    flow = f"orders-{uuid4().hex[:6]}"
    await installation.watch(flows=["orders-*"])
    reasons: list[str | None] = []
    for state in (Completed(), Completed(), Failed(message="no orders"), Completed(), Completed()):
        await installation.flow_run(flow, state)
        reasons.append((await installation.next_run()).skip_reason)
    assert reasons == ["nothing_open", "duplicate", None, None, "duplicate"]
    assert [message.title.partition("]")[0] for message in channel.messages] == ["[CRITICAL", "[RESOLVED"]


async def test_what_a_state_says_arrives_cut_and_never_as_broken_json(
    installation: Installation, channel: MemoryChannel
) -> None:
    flow = f'orders-"{uuid4().hex[:6]}" {{x}} \'😀\\'
    await installation.watch(flows=["orders-*"])
    await installation.flow_run(
        flow, Failed(message=HOSTILE), name='{{ x }} </a> "\n' + "n" * 5000, tags=('a"b', "{{ y }}")
    )
    run = await installation.next_run()
    assert run.source == "prefect"
    (page,) = channel.messages
    assert flow in page.text
    assert 'no "orders" \\' in page.text


@settings_of_hypothesis(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.text(max_size=40) | st.sampled_from(["{{ x }}", '"', "\\", "</script>", "\n"]), min_size=4, max_size=4
    ),
    resource=st.sampled_from(["prefect.flow-run.1", "prefect.work-pool.x", "prefect.deployment.y"]),
)
def test_whatever_an_event_says_its_body_is_json(texts: tuple[str, ...], resource: str) -> None:
    name, message, tag, flow = texts
    of_flow = {"prefect.resource.id": "prefect.flow.1", "prefect.resource.role": "flow", "prefect.resource.name": flow}
    event = ReceivedEvent.model_validate(
        {
            "id": uuid4(),
            "occurred": datetime.now(UTC),
            "event": f"prefect.{name[:20]}x",
            "resource": {
                "prefect.resource.id": resource,
                "prefect.resource.name": name,
                "prefect.state-message": message * 10_000,
            },
            "related": [
                {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"},
                of_flow,
            ]
            * 20,
        }
    )
    watched = Watched(running_longer_than=timedelta(hours=1), ui_url='http://x/{{ y }}"')
    for automation in sending_automations(watched, uuid4()):
        (action,) = automation.actions
        assert isinstance(action, CallWebhook)
        for about in (event, None):
            body = render_user_template_sync(action.payload, {"event": about})
            said = json.loads(body)
            assert len(body) < 100_000
            assert about is None or (said["name"], said["flow"]["name"]) == (name, flow)


async def test_late_and_long_runs_are_warnings_until_they_fail(
    installation: Installation, channel: MemoryChannel
) -> None:
    flow = f"orders-{uuid4().hex[:6]}"
    await installation.client.create_flow_from_name(flow)
    await installation.watch(flows=[flow])
    late = State(type=StateType.SCHEDULED, name="Late")
    await installation.flow_run(flow, late, name="slow-otter")
    assert (await installation.next_run()).severity == "warning"
    await installation.flow_run(flow, Failed(message="no orders"))
    assert (await installation.next_run()).severity == "critical"
    first, second = channel.messages
    assert "slow-otter is late" in first.text
    assert "no orders" in second.text


async def test_a_pool_without_workers_is_a_page_but_not_when_it_is_new(
    installation: Installation, channel: MemoryChannel
) -> None:
    await installation.watch()
    pool = {"prefect.resource.id": f"prefect.work-pool.{uuid4()}", "prefect.resource.name": "default"}
    await installation.emit("prefect.work-pool.not-ready", pool)
    await installation.next_run()
    await installation.emit("prefect.work-pool.ready", pool)
    await installation.next_run()
    assert [message.title for message in channel.messages] == [
        "[CRITICAL] Work pool default (test)",
        "[RESOLVED] Work pool default (test)",
    ]
    name = f"new-{uuid4().hex[:6]}"
    await installation.client.request("POST", "/work_pools/", json={"name": name, "type": "process"})
    try:
        found = (await installation.client.request("GET", "/work_pools/{name}", path_params={"name": name})).json()
        pool = {"prefect.resource.id": f"prefect.work-pool.{found['id']}", "prefect.resource.name": name}
        assert (await installation.next_run()).skip_reason == "ignored"  # Prefect itself says that it is not ready
        await installation.emit("prefect.work-pool.not-ready", pool, later=11)
        await installation.next_run()
        assert channel.messages[-1].title == f"[CRITICAL] Work pool {name} (test)"
    finally:
        await installation.client.delete_work_pool(name)


async def test_our_own_flows_page_nobody_about_themselves(installation: Installation, channel: MemoryChannel) -> None:
    await installation.watch()
    await installation.flow_run("alert-pipeline", Failed(message="no page"))
    await installation.flow_run("definition-pipeline", Failed(message="no page"))
    await installation.flow_run("upkeep", Failed(message="disk full"), tags=("alert-pipeline",))
    assert (await installation.next_run()).title == "a run of alert-pipeline itself"
    await installation.flow_run("upkeep", Failed(message="a flow of somebody else"))
    assert (await installation.next_run()).skip_reason is None
    assert len(await all_runs(installation.services.database)) == 2
    assert len(channel.messages) == 1


async def automations(client: PrefectClient) -> dict[str, KnownAutomation]:
    """The automations of the test's set, by their names without the name of the set."""
    return {one.name.partition(": ")[2]: one for one in await read_sets(client) if one.set_name == SET}


async def test_what_an_operator_changes_in_prefect_stays(installation: Installation) -> None:
    client = installation.client
    await installation.watch()
    known = await automations(client)
    late = (
        await client.request("GET", "/automations/{id}", path_params={"id": known["flow runs that are late"].id})
    ).json()
    changed = {name: late[name] for name in ("name", "description", "enabled", "tags", "trigger", "actions")}
    changed["trigger"] = {**changed["trigger"], "threshold": 3, "within": 600}
    await client.request("PUT", "/automations/{id}", path_params={"id": late["id"]}, json=changed)
    failing = known["flow runs that fail, and the next good one"]
    await client.pause_automation(failing.id)

    await installation.watch(severity=Severity.WARNING)
    after = await automations(client)
    assert {one.id for one in after.values()} == {one.id for one in known.values()}
    assert [name for name, one in after.items() if one.changed] == ["flow runs that are late"]
    assert [name for name, one in after.items() if not one.enabled] == ["flow runs that fail, and the next good one"]
    assert (await apply_set(client, SET, []))[-1].done == "deleted"
    assert list(await automations(client)) == ["flow runs that are late"]


async def test_the_command_sets_up_shows_and_deletes(
    installation: Installation, command: Command, stack: StackAddresses, tmp_path: Path
) -> None:
    async def ask(*words: str, **env: str) -> Any:
        variables = {**prefect_variables(stack), **env}
        return await asyncio.to_thread(command, "alert-pipeline", "automations", *words, env=variables)

    wanted = ("apply", "--name", SET, "--url", installation.url, "--running-longer-than", "30m", "--json")
    planned, created, again = [await ask(*wanted, *more) for more in (("--dry-run",), (), ())]
    assert [[one["done"] for one in json_of(each)] for each in (planned, created, again)] == [
        ["created"] * 5,
        ["created"] * 5,
        ["unchanged"] * 5,
    ]
    unknown = await ask("apply", "--name", SET, "--url", installation.url, "--flow", "ordres")
    assert "Prefect has no flow 'ordres'" in says_in_one_line(unknown, 1)
    key = await ask("apply", "--name", SET, "--url", installation.url, "--key", "wrong")
    assert "refuses the key (401)" in says_in_one_line(key, 1)
    elsewhere = {"ALERT_PIPELINE_HOME": str(tmp_path), "PREFECT_API_AUTH_STRING": "nobody:wrong"}
    locked = await ask("list", **elsewhere)
    assert "PREFECT_API_AUTH_STRING" in says_in_one_line(locked, 1)
    assert json_of(await ask("delete", "--name", SET, "--json"))["deleted"][0].startswith("alert-pipeline")
    assert "no automation of the set" in says_in_one_line(await ask("delete", "--name", SET), 1)
