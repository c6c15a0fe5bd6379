"""`alert-pipeline trace`: the story of a push, as a user reads it at three in the morning."""

from __future__ import annotations

import re

from orchestration.engine.run import Services
from orchestration.errors import DeliveryFailed
from orchestration.states import RunStatus
from orchestration.store import runs
from orchestration.store.database import Database
from tasks.ingest.inbox import PushMetadata
from tests.api_helpers import alert, run_to_end
from tests.cli_helpers import json_of, says_in_one_line, side_by_side
from tests.conftest import Command, MemoryChannel
from tests.inbox_helpers import accept_push, written_push

pytest_plugins = ["tests.cli_helpers"]

AWAY = DeliveryFailed("hooks.example.net answered 503", retryable=True)


async def pushed(services: Services, payload: dict[str, object], trace_id: str) -> list[str]:
    """A push that was carried to its end; the ids of its runs."""
    run_ids = await accept_push(services, payload, source="webhook", environment="production", trace_id=trace_id)
    for run_id in run_ids:
        await run_to_end(services, run_id)
    return run_ids


def events(stdout: str) -> list[str]:
    """The lines of the timeline, without times and durations."""
    lines = [line for line in stdout.splitlines() if re.match(r"  \d\d:\d\d:\d\d\.\d{3} ", line)]
    return [re.sub(r"\d+ ms|\d+\.\d+ s", "…", line[27:]).strip() for line in lines]


def events_of(run_id: str, stdout: str) -> list[str]:
    """Those of one run. A message that was refused is queued again, as another run of the trace with its own lines."""
    lines = events(stdout)
    of_several = any(line.startswith(f"{run_id[:12]} ") for line in lines)
    return [line.removeprefix(run_id[:12]).strip() for line in lines if run_id[:12] in line or not of_several]


async def test_a_push_that_was_tried_twice_is_told_from_its_acceptance_to_its_end(
    services: Services, channel: MemoryChannel, command: Command
) -> None:
    channel.failures = [AWAY]
    (run_id,) = await pushed(services, alert(), "trace-of-the-night")

    told, as_json = side_by_side(
        command,
        (["alert-pipeline", "trace", "trace-of-the"], {}),
        (["alert-pipeline", "trace", "trace-of-the-night", "--json"], {}),
    )

    assert told.returncode == 0, told.stderr
    head = told.stdout.splitlines()
    assert head[0] == "Trace trace-of-the-night: 1 run"
    assert head[1].endswith("UTC from generic, environment production")
    assert re.fullmatch(r"  HighCPU on web-1: notified after \d+ ms", head[3])
    assert f"    Run:       {run_id}" in head
    assert "    Incident:  1 (open, critical): HighCPU on web-1" in head
    assert "    Notify:    yes: opened, a new incident" in head
    said = events(told.stdout)
    assert said[0] == "· accepted: HighCPU on web-1, critical"
    assert re.fullmatch(r"· claimed by \S+/\d+, engine direct after … in the queue", said[1])
    assert said[2:] == [
        "✓ ingest, attempt 1: succeeded in …",
        "· incident 1 opened",
        "· decided to notify: opened, a new incident",
        "✓ check, attempt 1: succeeded in …",
        "✓ analyze, attempt 1: succeeded in …",
        "✗ notify, attempt 1: failed in …, to be retried: memory: hooks.example.net answered 503",
        "✓ notify, attempt 2 after a wait of …: succeeded in …",
        "✓ message to memory (memory, memory): sent, 2 tries, message id m1",
        "✓ notified after …",
    ]
    story = json_of(as_json)
    assert [event["event"] for event in story["timeline"]][-2:] == ["delivery_sent", "notified"]
    assert [run["run"]["run_id"] for run in story["runs"]] == [run_id]
    assert story["incidents"][0]["title"] == "HighCPU on web-1"


async def test_it_says_why_nobody_was_told(services: Services, command: Command) -> None:
    first = {"alerts": [alert(), alert("DiskFull", instance="db-1")]}
    runs = await pushed(services, first, "first")
    await pushed(services, alert() | {"value": 7}, "second")
    repeated = await written_push(
        services,
        alert() | {"value": 7},
        source="webhook",
        environment="production",
        trace_id="third",
        metadata=PushMetadata(skip_duplicates=True),
    )

    one, two, three = side_by_side(
        command, *((["alert-pipeline", "trace", name], {}) for name in ("first", "sec", "t"))
    )

    assert one.stdout.startswith("Trace first: 2 runs")
    assert sum(runs[0][:12] in line for line in one.stdout.splitlines()) > 5  # of several runs each line names its own
    assert "Notify:    no: repeat, a repeat: nothing has changed" in two.stdout
    assert "· decided not to notify: repeat, a repeat: nothing has changed" in events(two.stdout)
    assert "- check: skipped, repeat" in events(two.stdout)
    assert list(repeated.duplicates) == repeated.run_ids
    assert "Notify:    no: duplicate, the same was said shortly before" in three.stdout
    assert re.search(
        r"- skipped after …: duplicate, the same was said shortly before \(run \w+\)", str(events(three.stdout))
    )


async def test_a_run_that_failed_says_of_what_and_how_to_go_on(
    services: Services, channel: MemoryChannel, command: Command
) -> None:
    channel.failures = [DeliveryFailed("hooks.example.net answered 404", retryable=False)]
    (run_id,) = await pushed(services, alert(), "lost")

    told = command("alert-pipeline", "trace", "lost")

    assert told.returncode == 0  # the story was told, whatever it says
    *_, delivery, last = lines = events_of(run_id, told.stdout)
    assert "✗ message to memory (memory, memory): failed, 1 try: hooks.example.net answered 404" in lines
    assert delivery.startswith("✗ ")
    assert last.startswith("✗ failed after …: ")
    assert last.endswith(f"Resume it with: alert-pipeline resume {run_id}")


async def test_a_resume_is_on_the_timeline_and_the_first_claim_keeps_its_process(
    services: Services, channel: MemoryChannel, database: Database, command: Command
) -> None:
    channel.failures = [DeliveryFailed("hooks.example.net answered 404", retryable=False)]
    (run_id,) = await pushed(services, alert(), "resumed")
    async with database.transaction() as tx:
        await tx.exec_driver_sql("update pipeline_run set carried_by = 'first-host/11/1'")
        await runs.request_resume(tx, run_id, by="oncall")
    await run_to_end(services, run_id)

    lines = events_of(run_id, command("alert-pipeline", "trace", "resumed").stdout)

    assert re.match(r"· claimed by first-host/11, engine direct after … in the queue", lines[1])
    (resumed,) = [line for line in lines if "resumed" in line]
    assert re.fullmatch(r"· resumed by oncall, executed by \S+/\d+", resumed)
    assert "first-host" not in resumed
    assert lines[-1].startswith("✓ notified after …")


async def test_a_push_that_waits_has_no_end_yet(services: Services, database: Database, command: Command) -> None:
    await accept_push(services, alert(), source="webhook", environment="production", trace_id="waiting")

    told = command("alert-pipeline", "trace", "waiting")

    assert "HighCPU on web-1: pending\n" in told.stdout
    assert "Notify:    not decided yet" in told.stdout
    assert events(told.stdout) == ["· accepted: HighCPU on web-1, critical"]


async def test_a_trace_that_is_not_there_and_one_that_is_not_clear(services: Services, command: Command) -> None:
    for name in ("abc-1", "abc-2", "abc"):
        await accept_push(services, alert(name), source="webhook", environment="production", trace_id=name)

    unknown, wildcard, unclear, exact = side_by_side(
        command,
        (["alert-pipeline", "trace", "dead"], {}),
        (["alert-pipeline", "trace", "%"], {}),
        (["alert-pipeline", "trace", "ab"], {}),
        (["alert-pipeline", "trace", "abc"], {}),
    )

    assert says_in_one_line(unknown, 1).startswith("There is no push with the trace id 'dead'")
    assert says_in_one_line(wildcard, 1).startswith("There is no push with the trace id '%'")
    assert says_in_one_line(unclear, 1) == "Several trace ids start with 'ab': abc, abc-1, abc-2"
    assert exact.stdout.startswith("Trace abc: 1 run\n")


async def test_who_carried_a_run_is_on_record_when_the_lease_is_given_back(services: Services) -> None:
    (run_id,) = await accept_push(services, alert(), source="webhook", environment="test")
    record = await run_to_end(services, run_id)

    assert record.status is RunStatus.NOTIFIED
    assert record.carried_by is not None
    assert record.lease_owner is None
