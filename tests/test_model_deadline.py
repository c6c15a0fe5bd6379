"""A model that is slow: the page goes out with the local analysis, and its answer follows."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from orchestration.engine.run import Services
from orchestration.reasons import in_words
from orchestration.states import RunReason, RunStatus
from orchestration.store import actions
from orchestration.store.actions import Actor, Via
from orchestration.store.database import Database
from tests.conftest import MemoryChannel
from tests.model_helpers import GOOD, Slow, analysis_of, page, with_model
from tests.model_server import (
    model_server,
    said,
)
from tests.notify_helpers import execute_follow_up, rows, with_channels, with_settings
from tests.receivers import Answer, HttpReceiver


@dataclass
class EditableChannel(MemoryChannel):
    shows_state: bool = True


async def test_after_the_deadline_the_local_analysis_goes_out_and_the_answer_follows(services: Services) -> None:
    slow, channel = Slow(said(GOOD)), EditableChannel()
    with model_server(judge=slow) as model:
        services = with_model(with_settings(_with(services, channel), analyze_timeout_seconds=0.2), model)
        run = await page(services)
        found = await analysis_of(services, run)
        assert (run.status, run.intelligence_fallback_used) == (RunStatus.NOTIFIED, False)
        assert found.model_info["provider"] == "local"
        said_first = "Note: the model 'small-model' has not answered yet; its answer follows here"
        assert said_first in channel.messages[0].text
        [waiting] = await _upcoming(services.database)
        assert 30 < waiting["due_in"] < 70

        slow.let_go.set()
        await _until_answered(services)
    [due] = await _upcoming(services.database)
    assert due["due_in"] is None

    late = await execute_follow_up(services, RunReason.ANALYSIS)
    assert late.status is RunStatus.NOTIFIED
    assert len(model.requests) == 1
    assert (await analysis_of(services, late)).model_info["model"] == "small-model"
    edit = channel.messages[1]
    assert edit.silent
    assert "Cause: /var/lib is 98 % full" in edit.text
    assert "has not answered yet" not in edit.text
    assert "disk of db-77: critical" in edit.text


async def test_a_late_outage_is_on_record_and_in_the_message(services: Services) -> None:
    slow, channel = Slow(Answer(500)), EditableChannel()
    with model_server(judge=slow) as model:
        services = with_model(with_settings(_with(services, channel), analyze_timeout_seconds=0.2), model)
        run = await page(services)
        assert not run.intelligence_fallback_used
        slow.let_go.set()
        await _until_answered(services)
        late = await execute_follow_up(services, RunReason.ANALYSIS)
    assert late.intelligence_fallback_used
    assert "AI analysis unavailable: The model 'small-model' (default) answered 500" in (channel.messages[1].text)


async def test_the_answer_stays_in_the_message_when_somebody_acknowledges_it(services: Services) -> None:
    slow, channel = Slow(said(GOOD)), EditableChannel()
    with model_server(judge=slow) as model:
        services = with_model(with_settings(_with(services, channel), analyze_timeout_seconds=0.2), model)
        run = await page(services)
        slow.let_go.set()
        await _until_answered(services)
        await execute_follow_up(services, RunReason.ANALYSIS)
        async with services.database.transaction() as tx:
            await actions.acknowledge(tx, run.incident_id or "", Actor(by="ann", via=Via.CLI), services.settings)
        await execute_follow_up(services, RunReason.STATE)
    last = channel.messages[-1]
    assert last.fact("Acknowledged by") == "ann"
    assert "Cause: /var/lib is 98 % full" in last.text
    assert "disk of db-77: critical" in last.text


async def test_if_no_channel_can_edit_nothing_more_is_sent(services: Services, channel: MemoryChannel) -> None:
    slow = Slow(said(GOOD))
    with model_server(judge=slow) as model:
        services = with_model(with_settings(services, analyze_timeout_seconds=0.2), model)
        await page(services)
        slow.let_go.set()
        await _until_answered(services)
        late = await execute_follow_up(services, RunReason.ANALYSIS)
    assert (late.status, late.skip_reason) == (RunStatus.SKIPPED, "not_editable")
    assert "another run" not in in_words(late.skip_reason)
    [page_sent] = channel.messages
    assert "has not answered yet; its answer will only be on record" in page_sent.text
    assert "follows here" not in page_sent.text


async def test_a_process_that_dies_while_it_asks_leaves_a_run_that_asks_again(services: Services) -> None:
    slow, channel = Slow(said(GOOD)), EditableChannel()
    with model_server(judge=slow) as model:
        services = with_model(with_settings(_with(services, channel), analyze_timeout_seconds=0.2), model)
        await page(services)
        await services.pending_answers.close()
        slow.let_go.set()
        late = await execute_follow_up(services, RunReason.ANALYSIS)
    assert late.status is RunStatus.NOTIFIED
    assert "Cause: /var/lib is 98 % full" in channel.messages[1].text


async def test_attempts_that_fail_end_at_the_deadline(services: Services, model: HttpReceiver) -> None:
    model.answer_with(Answer(503, b"", {"Retry-After": "30"}))
    services = with_model(with_settings(services, analyze_timeout_seconds=5.0), model)
    async with asyncio.timeout(5):
        run = await page(services)
    assert run.intelligence_fallback_used
    assert len(model.requests) == 1


def _with(services: Services, channel: MemoryChannel) -> Services:
    return with_channels(services, memory=channel)


async def _upcoming(database: Database) -> list[dict[str, Any]]:
    return await rows(
        database,
        "select extract(epoch from due_at - clock_timestamp()) as due_in from pipeline_run where reason = 'analysis'",
    )


async def _until_answered(services: Services) -> None:
    """Until the question has ended, and the run that brings its answer is due."""
    async with asyncio.timeout(20):
        while True:
            [waiting] = await _upcoming(services.database)
            if waiting["due_in"] is None:
                return
            await asyncio.sleep(0.02)
