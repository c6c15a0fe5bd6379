"""What a model may look at by itself: with the operator's limits, at what the evidence names, and nothing changes."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from flows.model_tools import PipelineTools
from orchestration.contracts import CheckStatus
from orchestration.engine.run import Services
from orchestration.errors import BadInput
from orchestration.settings import Settings
from orchestration.store.database import Database
from tests.notify_helpers import tell


@pytest.fixture
def tools(settings: Settings, database: Database) -> PipelineTools:
    allowed = {"checkers_skip": ("dns",), "checkers_allow": ("127.0.0.1/32",)}
    return PipelineTools(settings=settings.model_copy(update=allowed), database=database)


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def test_a_checker_looks_at_a_target(tools: PipelineTools, listening: int) -> None:
    assert "tcp" in tools.checkers
    assert "dns" not in tools.checkers
    found = await tools.check("tcp", f"127.0.0.1:{listening}")
    assert (found.name, found.status, str(listening) in found.target) == ("tcp", CheckStatus.OK, True)


@pytest.mark.parametrize(
    ("name", "target", "words"),
    [
        ("nmap", "db-77", "unknown checker 'nmap'"),
        ("dns", "db-77", "switched it off|cannot look"),
        ("http", "http://169.254.169.254/latest/meta-data/", ""),
        ("memory", "db-77.example.com", "looks only at the host"),
        ("tcp", "", "host:port or URL"),
        ("tcp", "x" * 301, "at most 300"),
        ("tcp", "db-77\n:22", "host:port or URL"),
    ],
)
async def test_what_checks_may_not_look_at_a_model_may_not_either(
    tools: PipelineTools, name: str, target: str, words: str
) -> None:
    with pytest.raises(BadInput) as refused:
        await tools.check(name, target)
    assert any(word in str(refused.value) for word in words.split("|"))


async def test_without_a_prometheus_there_is_no_query(tools: PipelineTools) -> None:
    with pytest.raises(BadInput, match="no Prometheus is set up"):
        await tools.query("up")
    with pytest.raises(BadInput, match="more than 2000 characters"):
        await tools.query("x" * 2001)


async def test_a_stored_run_of_the_same_environment_can_be_read(services: Services, tools: PipelineTools) -> None:
    run = await tell(services)
    said = await tools.read_run(run.run_id, "test")
    assert said.startswith("HighCPU on web-1 at ")
    assert "analysis: " in said
    for run_id, environment in ((run.run_id, "production"), ("none", "test")):
        with pytest.raises(BadInput, match="there is no run"):
            await tools.read_run(run_id, environment)
