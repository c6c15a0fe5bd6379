"""Runs of definitions, without Prefect: which nodes run, what they are told, what they leave, and how a run goes on."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field, replace
from typing import Any, cast

import psycopg
import pytest

from orchestration.analysis import AnalysisInput
from orchestration.contracts import AnalyzeResult, Contract, Stage
from orchestration.engine.execution import DIRECT, DirectTask, Execution
from orchestration.engine.lease import lease_run
from orchestration.engine.run import ActiveRun, Services, StageFailed
from orchestration.errors import BadInput, DeliveryFailed, Unavailable
from orchestration.graph import StoredDefinition
from orchestration.requests import RunOptions
from orchestration.states import RunStatus, StageStatus
from orchestration.store import attempts
from orchestration.store.records import Node, RunRecord
from orchestration.store.story import Story, read_story
from tests.broken_definitions import BROKEN, node, nodes
from tests.conftest import MemoryChannel, MemoryChannels, RecordedSignals
from tests.engine_helpers import attempt, execute, execute_leased
from tests.inbox_helpers import accept_push
from tests.notify_helpers import execute_redelivery
from tests.store_helpers import open_attempts
from tests.worker_helpers import eventually

ALERT = {"name": "HighCPU", "severity": "critical", "host": socket.gethostname()}
MEMORY = {"checker_names": ["memory"]}
FAILS = {"source_node": "payload", "extract": "not.there"}
"""The config of a transform that always fails."""


@dataclass
class ScriptedAnalysis:
    """An analysis that is told what it says, and keeps what it was asked."""

    failures: list[Exception] = field(default_factory=list[Exception])
    cases: list[AnalysisInput] = field(default_factory=list[AnalysisInput])
    name: str = "scripted"

    async def analyze(self, case: AnalysisInput) -> AnalyzeResult:
        self.cases.append(case)
        if self.failures:
            raise self.failures.pop(0)
        advice = [
            {"type": "cpu", "priority": "low", "title": "Look at cron"},
            {"type": "cpu", "priority": "high", "title": "Stop the job", "actions": ["kill 7"]},
        ]
        return AnalyzeResult.model_validate({"summary": "A job ran wild", "recommendations": advice})


async def accepted(services: Services, definition: dict[str, Any], payload: object = None, **options: Any) -> str:
    wanted = RunOptions(definition_config=definition, **options)
    (run_id,) = await accept_push(services, payload, source="generic", environment="test", options=wanted)
    return run_id


async def run_of(services: Services, definition: dict[str, Any], payload: object = None, **options: Any) -> RunRecord:
    return await execute(services, await accepted(services, definition, payload, **options))


async def story_of(services: Services, run: RunRecord) -> Story:
    async with services.database.transaction() as tx:
        return await read_story(tx, run.run_id)


async def rows_of(services: Services, run: RunRecord) -> list[str]:
    """`node/attempt status`, with the reason of what was skipped, in the order of the nodes' names."""
    return sorted(
        f"{row.node_id}/{row.attempt} {row.status}"
        + (f": {(row.output_snapshot or {})['skipped']}" if row.status is StageStatus.SKIPPED else "")
        for row in (await story_of(services, run)).attempts
    )


def gate(expression: str, **config: Any) -> dict[str, Any]:
    return node("gate", "condition", config={"expression": expression, **config})


# Ways through the graph


async def test_a_definition_without_alerts_runs_on_anything(services: Services, channel: MemoryChannel) -> None:
    definition = nodes(node("checks", config=MEMORY), node("page", "notify"))
    run = await run_of(services, definition, {"title": "Nightly look", "who": "cron"})

    assert (run.status, run.title, run.incident_id) == (RunStatus.NOTIFIED, "Nightly look", None)
    assert (run.definition_name, run.definition_version) == ("inline", None)
    assert await rows_of(services, run) == ["checks/1 succeeded", "page/1 succeeded"]
    assert len(channel.messages) == 1
    story = await story_of(services, run)
    assert [(row.node_id, row.stage.value) for row in story.attempts] == [("checks", "check"), ("page", "notify")]
    assert story.attempts[1].input_ref == f"output/{run.run_id}/checks/1"
    assert story.deliveries[0].idempotency_key == f"{run.run_id}/page/memory"


async def test_of_two_branches_the_one_not_taken_is_left_out_with_all_that_only_it_leads_to(
    services: Services, channel: MemoryChannel
) -> None:
    definition = nodes(
        node("checks", next="gate", config=MEMORY),
        gate("checks.checks_run > 5", if_true="deep", if_false="log"),
        node("deep", next="deeper"),
        node("deeper", next="join"),
        node("log", "notify", next="join"),
        node("join", "transform", config={"source_node": "checks", "extract": "checks_run"}),
    )
    run = await run_of(services, definition)

    assert run.status is RunStatus.NOTIFIED
    assert await rows_of(services, run) == [
        "checks/1 succeeded",
        "deep/1 skipped: branch_not_taken: gate",
        "deeper/1 skipped: branch_not_taken: deep",
        "gate/1 succeeded",
        "join/1 succeeded",
        "log/1 succeeded",
    ]
    result = (await story_of(services, run)).result()
    assert result.stages_completed == ["checks", "gate", "log", "join"]


@pytest.mark.parametrize(("who", "told"), [("root", True), ("cron", False)])
async def test_a_condition_in_a_list_guards_what_follows(
    services: Services, channel: MemoryChannel, who: str, told: bool
) -> None:
    definition = nodes(gate("payload.who == 'root'"), node("page", "notify"))
    run = await run_of(services, definition, {"who": who})

    assert run.status is (RunStatus.NOTIFIED if told else RunStatus.SKIPPED)
    assert run.skip_reason == (None if told else "branch_not_taken: gate")
    assert len(channel.messages) == int(told)


async def test_nodes_are_left_out_by_their_own_rules_and_what_follows_goes_on(
    services: Services, channel: MemoryChannel
) -> None:
    definition = nodes(
        node("broken", "transform", config=FAILS, required=False),
        node("any", config=MEMORY, skip_if_errors=True),
        node("named", config=MEMORY, skip_if_errors=["broken"]),
        node("other", config=MEMORY, skip_if_condition="run.environment == 'test'"),
        node("fine", config=MEMORY, skip_if_errors=["any"], skip_if_condition="named.checks_run > 0"),
        node("derived", "transform", config={"source_node": "named"}),
        node("page", "notify"),
    )
    run = await run_of(services, definition)

    assert run.status is RunStatus.NOTIFIED
    assert run.last_error_type is None
    assert await rows_of(services, run) == [
        "any/1 skipped: errors_in: broken",
        "broken/1 failed",
        "derived/1 skipped: no_result_of: named",
        "fine/1 succeeded",
        "named/1 skipped: errors_in: broken",
        "other/1 skipped: skip_if_condition: run.environment == 'test'",
        "page/1 succeeded",
    ]
    assert len(channel.messages) == 1


async def test_a_definition_that_tells_nobody_ends_skipped(services: Services, channel: MemoryChannel) -> None:
    run = await run_of(services, nodes(node("checks", config=MEMORY)))

    assert (run.status, run.skip_reason) == (RunStatus.SKIPPED, "no_notify_node")
    assert channel.messages == []


async def test_when_the_only_message_was_optional_and_failed_the_run_says_that_nobody_was_told(
    services: Services, channel: MemoryChannel
) -> None:
    channel.failures = [DeliveryFailed("no such channel", retryable=False)]
    run = await run_of(services, nodes(node("page", "notify", required=False)))

    assert (run.status, run.skip_reason) == (RunStatus.SKIPPED, "errors_in: page")


async def test_a_repeat_tells_nobody_and_has_a_row_for_each_node_behind_ingest(
    services: Services, channel: MemoryChannel
) -> None:
    definition = nodes(
        node("intake", "ingest", next=["a", "b"]),
        node("a", config=MEMORY, next="page"),
        node("b", "intelligence", next="page"),
        node("page", "notify"),
    )
    first = await run_of(services, definition, ALERT)
    run = await run_of(services, definition, ALERT)
    all_clear = await run_of(services, definition, ALERT | {"status": "resolved"})

    assert first.status is RunStatus.NOTIFIED
    assert (run.status, run.skip_reason) == (RunStatus.SKIPPED, "repeat")
    assert await rows_of(services, run) == [
        "a/1 skipped: repeat",
        "b/1 skipped: repeat",
        "intake/1 succeeded",
        "page/1 skipped: repeat",
    ]
    assert all_clear.status is RunStatus.NOTIFIED
    assert (await rows_of(services, all_clear))[:2] == ["a/1 skipped: resolved", "b/1 skipped: resolved"]
    assert [message.status for message in channel.messages] == ["firing", "resolved"]


async def test_an_incident_of_which_a_definition_told_nobody_is_news_until_somebody_is_told(
    services: Services, channel: MemoryChannel
) -> None:
    definition = nodes(node("intake", "ingest"), gate("run.labels.team == 'web'"), node("page", "notify"))
    silent = await run_of(services, definition, ALERT)
    still_silent = await run_of(services, definition, ALERT)
    told = await run_of(services, definition, ALERT, labels={"team": "web"})
    repeat = await run_of(services, definition, ALERT, labels={"team": "web"})

    assert [run.status.value for run in (silent, still_silent, told, repeat)] == [
        "skipped",
        "skipped",
        "notified",
        "skipped",
    ]
    assert still_silent.skip_reason == "branch_not_taken: gate"
    assert repeat.skip_reason == "repeat"
    assert len(channel.messages) == 1


# What nodes are told


async def test_a_node_hears_of_all_nodes_before_it_and_of_no_other(services: Services, channel: MemoryChannel) -> None:
    analysis = ScriptedAnalysis()
    second = MemoryChannel()
    services = replace(services, analysis=analysis, channels=MemoryChannels({"memory": channel, "second": second}))
    definition = nodes(
        node("intake", "ingest", next=["memory", "process", "early"]),
        node("memory", config=MEMORY, next="think"),
        node("process", config={"checker_names": ["process"]}, next="think"),
        node("early", "notify", config={"channels": ["second"]}),
        node("think", "intelligence", next="urgent"),
        node(
            "urgent",
            "transform",
            next="page",
            config={
                "source_node": "think",
                "extract": "recommendations",
                "filter_priority": "high",
                "mapping": {"do": "title", "how": "actions.0"},
            },
        ),
        node("page", "notify", config={"driver": "memory"}),
    )
    run = await run_of(services, definition, ALERT)

    assert run.status is RunStatus.NOTIFIED
    (case,) = analysis.cases
    assert case.check
    assert [one.name for one in case.check.checks] == ["memory", "process"]
    (page,), (early,) = channel.messages, second.messages
    assert len(page.checks) == 2
    assert "A job ran wild" in page.text
    assert "urgent: do: Stop the job, how: kill 7" in page.text
    assert early.checks == []
    assert page.idempotency_key == f"incident-{run.incident_id}/1/page/memory"
    assert early.idempotency_key == f"incident-{run.incident_id}/1/early/second"
    assert page.dedup_key == early.dedup_key
    result = (await story_of(services, run)).result()
    assert result.check
    assert result.check.checks_run == 2
    assert result.notify
    assert result.notify.channels_succeeded == 2


async def test_a_transform_serves_conditions_and_later_transforms(services: Services, channel: MemoryChannel) -> None:
    hosts = [{"name": "web-1", "load": 3}, {"name": "web-2", "load": 97}]
    definition = nodes(
        node("hosts", "transform", config={"source_node": "payload", "extract": "hosts"}),
        node("second", "transform", config={"source_node": "hosts", "extract": "web-2", "mapping": {"load": "load"}}),
        gate("hosts.count == 2 and second.output.load > 90"),
        node("page", "notify"),
    )
    run = await run_of(services, definition, {"hosts": hosts})

    assert run.status is RunStatus.NOTIFIED
    assert channel.messages[0].title == "[INFO] inline"
    assert "second: load: 97" in channel.messages[0].text


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"extract": "a.b.c"}, "extract 'a.b.c' of payload: there is no 'a.b': there are x"),
        ({"extract": "many.9"}, "there is no 'many.9': there is a list of 2 items"),
        ({"extract": "text", "mapping": {"a": "b"}}, "no object to pick fields from"),
        ({"filter_priority": "high"}, "no list to filter"),
        ({"extract": "large"}, "more than 65,536"),
        ({"extract": "long"}, "a transform works on at most 1000"),
    ],
)
async def test_a_transform_that_cannot_says_why(services: Services, config: dict[str, Any], says: str) -> None:
    payload = {
        "a": {"x": 1},
        "many": [1, 2],
        "text": "t",
        "large": ["x" * 1000 for _ in range(70)],
        "long": list(range(1001)),
    }
    run = await run_of(services, nodes(node("t", "transform", config={"source_node": "payload", **config})), payload)

    assert (run.status, run.last_error_type, run.last_error_retryable) == (RunStatus.FAILED, "BadInput", False)
    assert says in str(run.last_error_message)
    assert await rows_of(services, run) == ["t/1 failed"]


# Failures, retries, time limits


async def test_a_node_that_fails_before_the_message_costs_no_page(services: Services, channel: MemoryChannel) -> None:
    definition = nodes(
        node("ingest", "ingest"), node("pick", "transform", config={"source_node": "ingest", "extract": "no.such"}),
        node("page", "notify"),
    )  # fmt: skip
    run = await run_of(services, definition, {"alertname": "DiskFull", "severity": "critical"})
    assert (run.status, len(channel.messages)) == (RunStatus.FAILED, 0)

    assert (await execute_redelivery(services)).status is RunStatus.NOTIFIED
    (message,) = channel.messages
    assert "DiskFull" in message.title
    assert "pick failed, and is left out: extract 'no.such' of ingest" in message.text


async def test_a_required_node_that_fails_ends_the_run_when_those_beside_it_are_through(
    services: Services, channel: MemoryChannel
) -> None:
    definition = nodes(
        node("start", config=MEMORY, next=["bad", "beside"]),
        node("bad", "transform", config=FAILS, next="never"),
        node("beside", "notify", next="later"),
        node("never", config=MEMORY),
        node("later", config=MEMORY),
    )

    class BesideEndsLast(DirectTask):
        failed = asyncio.Event()

        async def __call__(self, run: ActiveRun, node_id: str, /) -> Contract:
            if node_id == "beside":
                await self.failed.wait()
            try:
                return await super().__call__(run, node_id)
            finally:
                if node_id == "bad":
                    self.failed.set()

    run = await execute(services, await accepted(services, definition, {}), BesideEndsLast)

    assert (run.status, run.last_error_type) == (RunStatus.FAILED, "BadInput")
    assert "not" in str(run.last_error_message)
    assert await rows_of(services, run) == ["bad/1 failed", "beside/1 succeeded", "start/1 succeeded"]
    assert len(channel.messages) == 1


async def test_retries_and_time_limits_are_the_nodes_then_the_definitions_then_the_settings(
    services: Services, channel: MemoryChannel, signals: RecordedSignals
) -> None:
    channel.failures = [DeliveryFailed("busy", retryable=True) for _ in range(5)]
    definition = nodes(
        node("own", "notify", max_retries=0, required=False),
        node("default", "notify", required=False),
        node("last", "notify", max_retries=2),
        defaults={"max_retries": 1, "timeout_seconds": 30},
    )
    run = await run_of(services, definition)

    assert run.status is RunStatus.NOTIFIED
    assert await rows_of(services, run) == [
        "default/1 retrying",
        "default/2 failed",
        "last/1 retrying",
        "last/2 retrying",
        "last/3 succeeded",
        "own/1 failed",
    ]


async def test_a_time_limit_ends_an_attempt(services: Services) -> None:
    class Hangs(ScriptedAnalysis):
        async def analyze(self, case: AnalysisInput) -> AnalyzeResult:
            await asyncio.Event().wait()
            raise AssertionError("it waits for ever")

    definition = nodes(
        node("think", "intelligence", max_retries=0, timeout_seconds=0.01),
        defaults={"timeout_seconds": 600},
    )
    settings = services.settings.model_copy(update={"intelligence_fallback_enabled": False})
    run = await run_of(replace(services, analysis=Hangs(), settings=settings), definition)

    assert run.status is RunStatus.FAILED
    assert (run.last_error_type, run.last_error_message) == ("TimeoutError", "Took longer than 0.01 s")


async def test_an_analysis_that_fails_falls_back_and_says_so_as_in_the_linear_pipeline(
    services: Services, channel: MemoryChannel
) -> None:
    analysis = ScriptedAnalysis(failures=[Unavailable("the model does not answer") for _ in range(2)])
    definition = nodes(
        node("think", "intelligence", max_retries=1, next="gate"),
        gate("think.has_errors", if_true="page", if_false="log"),
        node("page", "notify"),
        node("log", "notify"),
    )
    run = await run_of(replace(services, analysis=analysis), definition)

    assert (run.status, run.intelligence_fallback_used) == (RunStatus.NOTIFIED, True)
    assert await rows_of(services, run) == [
        "gate/1 succeeded",
        "log/1 skipped: branch_not_taken: gate",
        "page/1 succeeded",
        "think/1 retrying",
        "think/2 failed",
        "think/3 succeeded",
    ]
    assert "AI analysis unavailable" in channel.messages[0].text


async def test_a_run_is_retrying_while_one_of_its_branches_waits_and_only_moves_forward(services: Services) -> None:
    definition = nodes(
        node("start", "transform", config={"source_node": "payload"}, next=["slow", "think", "quick"]),
        node("slow", "notify"),
        node("think", "intelligence"),
        node("quick", config=MEMORY),
    )
    seen: dict[str, RunStatus] = {}
    waits, thought, checked = asyncio.Event(), asyncio.Event(), asyncio.Event()
    after = {"think": thought, "quick": checked}

    class InTurns(DirectTask):
        """slow fails and waits, think ends, quick ends, and only then slow is tried again."""

        async def __call__(self, run: ActiveRun, node_id: str, /) -> Contract:
            match node_id:
                case "slow":
                    with pytest.raises(StageFailed):
                        await attempt(run, node_id, retries_left=1)
                    seen["slow waits"] = run.record.status
                    waits.set()
                    await checked.wait()
                case "think":
                    await waits.wait()
                case "quick":
                    await thought.wait()
            result = await attempt(run, node_id)
            seen[node_id] = run.record.status
            if node_id in after:
                after[node_id].set()
            return result

    failing = MemoryChannel(failures=[DeliveryFailed("busy", retryable=True)])
    services = replace(services, channels=MemoryChannels({"memory": failing}))
    run = await execute(services, await accepted(services, definition, {}), InTurns)

    assert seen == {
        "start": RunStatus.PENDING,
        "slow waits": RunStatus.RETRYING,
        "think": RunStatus.RETRYING,
        "quick": RunStatus.RETRYING,
        "slow": RunStatus.ANALYZED,
    }
    assert run.status is RunStatus.NOTIFIED
    assert run.total_attempts == 5


async def test_a_cancelled_run_closes_the_rows_of_all_its_branches_and_goes_on_when_it_is_resumed(
    services: Services, channel: MemoryChannel
) -> None:
    definition = nodes(
        node("start", "transform", config={"source_node": "payload"}, next=["a", "b"]),
        node("a", "intelligence", next="page"),
        node("b", "intelligence", next="page"),
        node("page", "notify"),
    )
    both = asyncio.Barrier(3)

    class Hangs(ScriptedAnalysis):
        async def analyze(self, case: AnalysisInput) -> AnalyzeResult:
            await both.wait()
            await asyncio.Event().wait()
            raise AssertionError("it waits for ever")

    run_id = await accepted(services, definition, {})
    async with lease_run(replace(services, analysis=Hangs()), run_id, engine=DIRECT) as run:
        execution = Execution(run)
        executing = asyncio.create_task(execute_leased(execution))
        await both.wait()
        execution.cancel()
        cancelled = await executing

    assert (cancelled.status, cancelled.last_error_type) == (RunStatus.FAILED, "Cancelled")
    assert await rows_of(services, cancelled) == ["a/1 failed", "b/1 failed", "start/1 succeeded"]

    run = await execute(services, run_id)
    assert run.status is RunStatus.NOTIFIED
    assert (await rows_of(services, run))[-2:] == ["page/1 succeeded", "start/1 succeeded"]
    assert len(channel.messages) == 1


async def test_a_cancellation_does_not_cut_off_a_write_that_is_under_way(
    services: Services, channel: MemoryChannel
) -> None:
    """It may be done all the same: then the run would be another one in the store than in memory."""
    run_id = await accepted(services, nodes(node("think", "intelligence"), node("page", "notify")), {})
    lock = await asyncio.to_thread(psycopg.connect, services.database.url)

    class LocksTheRun(ScriptedAnalysis):
        async def analyze(self, case: AnalysisInput) -> AnalyzeResult:
            wanted = "select 1 from pipeline_run where run_id = %s for update"
            await asyncio.to_thread(lock.execute, wanted, (run_id,))
            return await super().analyze(case)

    def waiters() -> int:
        with psycopg.connect(services.database.url) as connection:
            found = connection.execute("select count(*) from pg_stat_activity where wait_event_type = 'Lock'")
            return int((found.fetchone() or (0,))[0])

    async def somebody_waits() -> int:
        return await asyncio.to_thread(waiters)

    async with lease_run(replace(services, analysis=LocksTheRun()), run_id, engine=DIRECT) as run:
        execution = Execution(run)
        executing = asyncio.create_task(execute_leased(execution))
        await eventually(somebody_waits, "the write to be under way")
        execution.cancel()
        await asyncio.to_thread(lock.close)
        cancelled = await executing

    assert (cancelled.status, cancelled.last_error_type) == (RunStatus.FAILED, "Cancelled")
    assert "think" in run.results
    assert await rows_of(services, cancelled) == ["page/1 failed", "think/1 succeeded"]
    assert (await execute(services, run_id)).status is RunStatus.NOTIFIED
    assert (await story_of(services, cancelled)).stages_completed == ["think", "page"]


# Going on


async def test_a_resumed_run_keeps_what_was_decided_and_does_not_try_again_what_it_does_without(
    services: Services, channel: MemoryChannel
) -> None:
    channel.failures = [DeliveryFailed("gone", retryable=False)]
    definition = nodes(
        node("extra", "transform", config=FAILS, required=False, next="gate"),
        gate("extra.has_errors", if_true="page", if_false="log"),
        node("page", "notify"),
        node("log", "notify"),
    )
    failed = await run_of(services, definition, {})
    assert failed.status is RunStatus.FAILED

    run = await execute(services, failed.run_id)
    assert run.status is RunStatus.NOTIFIED
    assert await rows_of(services, run) == [
        "extra/1 failed",
        "gate/1 succeeded",
        "log/1 skipped: branch_not_taken: gate",
        "page/1 failed",
        "page/2 succeeded",
    ]


@dataclass
class Shelf:
    """Stored definitions, by version."""

    versions: list[dict[str, Any]]
    asked: list[int | None] = field(default_factory=list[int | None])

    async def load(self, name: str, version: int | None = None) -> StoredDefinition:
        self.asked.append(version)
        if name != "ours":
            raise BadInput(f"There is no definition {name!r}")
        number = version or len(self.versions)
        return StoredDefinition(name=name, version=number, config=self.versions[number - 1])


async def test_a_run_stays_with_the_version_that_it_began_with(services: Services, channel: MemoryChannel) -> None:
    shelf = Shelf([nodes(node("old", "notify"))])
    services = replace(services, definitions=shelf)
    channel.failures = [DeliveryFailed("gone", retryable=False)]
    (run_id,) = await accept_push(
        services, None, source="cli", environment="test", options=RunOptions(definition="ours")
    )
    failed = await execute(services, run_id)
    assert (failed.status, failed.definition_name, failed.definition_version) == (RunStatus.FAILED, "ours", 1)

    shelf.versions.append(nodes(node("new", "notify")))
    run = await execute(services, run_id)

    assert (run.status, run.definition_version) == (RunStatus.NOTIFIED, 1)
    assert await rows_of(services, run) == ["old/1 failed", "old/2 succeeded"]
    assert shelf.asked == [None, None, 1]


# What is refused


async def test_a_definition_that_was_broken_meanwhile_is_refused_and_nothing_is_done(
    services: Services, channel: MemoryChannel
) -> None:
    """Such as by an edit of its block, between the acceptance of a run and its start."""
    whole = nodes(node("page", "notify"))
    shelf = Shelf([whole])
    services = replace(services, definitions=shelf)
    stored = [broken for broken in BROKEN if isinstance(broken.raw, dict)]  # what is kept is an object
    assert len(stored) > 60
    for broken in stored:
        shelf.versions[-1] = whole
        (run_id,) = await accept_push(
            services, None, source="cli", environment="test", options=RunOptions(definition="ours")
        )
        shelf.versions[-1] = cast("dict[str, Any]", broken.raw)
        run = await execute(services, run_id)

        assert (run.status, run.last_error_type) == (RunStatus.FAILED, "BadDefinition"), broken.name
        assert run.last_error_retryable is False
        assert broken.field in str(run.last_error_message), broken.name
        assert broken.says in str(run.last_error_message), broken.name
        assert await rows_of(services, run) == []
    assert channel.messages == []

    shelf.versions[-1] = whole
    assert (await execute(services, run.run_id)).status is RunStatus.NOTIFIED


async def test_a_definition_that_takes_in_alerts_only_since_the_run_was_accepted_says_that_there_are_none(
    services: Services,
) -> None:
    shelf = Shelf([nodes(node("page", "notify"))])
    services = replace(services, definitions=shelf)
    (run_id,) = await accept_push(
        services, {"x": 1}, source="cli", environment="test", options=RunOptions(definition="ours")
    )
    shelf.versions.append(nodes(node("intake", "ingest"), node("page", "notify")))
    run = await execute(services, run_id)

    assert run.status is RunStatus.FAILED
    assert "started without an alert" in str(run.last_error_message)


@pytest.mark.parametrize(
    ("definition", "payload", "options", "says"),
    [
        (nodes(node("a", "shell")), None, {}, "no type of node 'shell'"),
        (nodes(node("in1", "ingest"), node("n", "notify")), None, {}, "give it a payload"),
        (nodes(node("in1", "ingest"), node("n", "notify")), {"x": 1}, {}, "alert"),
        (nodes(node("in1", "ingest"), node("n", "notify")), ALERT, {"incident_id": "1"}, "no incident"),
        (nodes(node("n", "notify")), None, {"incident_id": "77"}, "no incident '77'"),
        (nodes(node("n", "notify")), None, {"incident_id": "x; drop"}, "no incident 'x; drop'"),
        (nodes(node("n", "notify")), {"x": "y" * 5_000_000}, {}, "more than ORCHESTRATION_MAX_PAYLOAD_BYTES"),
    ],
)
async def test_what_cannot_be_run_is_refused_at_the_door(
    services: Services, definition: dict[str, Any], payload: object, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        await accepted(services, definition, payload, **options)


async def test_a_run_can_be_about_an_incident_that_is_there(services: Services, channel: MemoryChannel) -> None:
    first = await run_of(services, nodes(node("in1", "ingest"), node("n", "notify")), ALERT)
    run = await run_of(services, nodes(node("n", "notify")), None, incident_id=first.incident_id)

    assert run.incident_id == first.incident_id
    page, again = channel.messages
    assert page.dedup_key == again.dedup_key


async def test_all_references_of_a_run_resolve(services: Services) -> None:
    definition = nodes(
        node("checks", config=MEMORY, next=["gate", "pick"]),
        gate("checks.checks_run > 0", if_true="page"),
        node("pick", "transform", config={"source_node": "checks"}, next="page"),
        node("page", "notify"),
    )
    run = await run_of(services, definition, {"x": 1})
    story = await story_of(services, run)
    async with services.database.transaction() as tx:
        for row in story.attempts:
            assert await attempts.resolve(tx, str(row.input_ref)) is not None
            found = await attempts.resolve(tx, str(row.output_ref))
            assert row.output_ref in found.values()
        assert await attempts.resolve(tx, str(run.checker_output_ref))
        assert await attempts.resolve(tx, str(run.notify_output_ref))


async def test_a_process_that_dies_at_several_nodes_at_once_died_once(services: Services) -> None:
    """A run is executed alone after two deaths; branches side by side must not count as several."""
    run_id = await accepted(services, nodes(node("page", "notify")))
    for deaths in (1, 2):
        await open_attempts(services.database, run_id, *(Node(id=name, stage=Stage.CHECK) for name in "abcdef"))
        async with services.database.transaction() as tx:
            assert await attempts.count_lost(tx, run_id) == (deaths, 0)
