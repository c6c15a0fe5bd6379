"""A service without a channel says loudly that nobody is notified: in its log, in `/ready/` and in `doctor`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import temporary_settings
from pydantic import SecretStr

from flows.services import flow_services
from orchestration.contracts import PipelineOutcome
from orchestration.settings import Settings
from orchestration.store.database import Database
from orchestration.store.encrypted_cache import EncryptedCache
from service.doctor import Level
from service.doctor.channels import channel_findings
from service.orchestrator import PipelineOrchestrator
from service.stack import StackAddresses
from service.worker.reach import Reach
from tests.api_helpers import open_api
from tests.conftest import MemoryChannel, MemoryChannels
from tests.receivers import http_receiver
from tests.stack_fixtures import settings_for
from tests.worker_helpers import NOWHERE, client_settings, eventually, worker_settings, working


async def with_worker(settings: Settings, database: Database) -> dict[str, Any] | None:
    """What `/ready/` says, once it knows of a worker."""
    async with open_api(settings, database.url) as api:
        said = (await api.get("/ready/")).json()
    return said if said["worker"]["ok"] else None


async def test_a_worker_without_a_channel_warns_and_the_api_is_degraded(
    home: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    silent = settings_for(home, notify_channels=("console",))
    async with working(silent, database.url, NOWHERE):
        said = await eventually(lambda: with_worker(silent, database), "the worker's heartbeat")

    assert "NO CHANNEL IS SET UP: NOBODY IS NOTIFIED OF ANY ALERT" in caplog.text
    assert "SLACK_WEBHOOK_URL=" in caplog.text
    assert said["channels"] == {"ok": False, "detail": "none is set up, so nobody is notified: see docs/channels.md"}
    assert said["status"] == "degraded"


async def test_a_worker_with_a_channel_is_quiet(
    home: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with http_receiver() as receiver:
        settings = worker_settings(home, receiver)
        async with working(settings, database.url, NOWHERE):
            said = await eventually(lambda: with_worker(settings, database), "the worker's heartbeat")

    assert "NO CHANNEL" not in caplog.text
    assert said["channels"] == {"ok": True, "detail": "1 by default"}


async def test_a_channel_that_is_half_set_up_is_no_channel(
    home: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    half = settings_for(home, slack_bot_token=SecretStr("xoxb-1"))
    async with working(half, database.url, NOWHERE):
        said = await eventually(lambda: with_worker(half, database), "the worker's heartbeat")

    assert "reach nobody" in caplog.text
    assert said["channels"]["ok"] is False


async def test_a_channel_that_is_set_up_later_ends_the_warning(
    settings: Settings, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    channels = MemoryChannels({})
    reach = Reach(channels, EncryptedCache(database))
    await reach.look()
    await reach.look()
    assert caplog.text.count("NO CHANNEL IS SET UP") == 1
    channels.named["oncall"] = MemoryChannel()
    caplog.set_level("INFO")
    await reach.look()

    assert "go to oncall now" in caplog.text


async def test_without_a_channel_the_console_is_that_of_commands_only(
    home: Path, stack: StackAddresses, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for(home, checkers_enabled=("memory",))
    alert = {"alertname": "Unheard", "severity": "critical"}
    with PipelineOrchestrator(settings) as program:
        unheard = await asyncio.to_thread(program.run_pipeline, alert, environment="test")
    quiet = capfd.readouterr().err
    with PipelineOrchestrator(settings, console=True) as command:
        heard = await asyncio.to_thread(command.run_pipeline, {**alert, "alertname": "Heard"}, environment="test")

    assert (unheard.status, unheard.skip_reason) == (PipelineOutcome.SKIPPED, "no_channel")
    assert "[CRITICAL] Unheard" not in quiet
    assert heard.status is PipelineOutcome.COMPLETED
    assert "[CRITICAL] Heard" in capfd.readouterr().err


async def test_a_flow_that_prefect_starts_has_no_console(
    stack: StackAddresses, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", stack.database_url)
    with temporary_settings(client_settings(stack)):
        async with flow_services() as services:
            assert await services.channels.select(None) == []


async def test_doctor_says_that_nobody_is_notified(home: Path) -> None:
    finding, *_ = await channel_findings(settings_for(home), None)

    assert (finding.level, finding.check) == (Level.WARNING, "channels")  # a block may be saved
    assert finding.detail.startswith("none is set up: a worker notifies nobody")
    assert "SLACK_WEBHOOK_URL" in str(finding.fix)
