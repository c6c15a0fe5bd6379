"""`alert-pipeline analyze INCIDENT`: a stored incident is looked at again, and nobody is notified."""

from __future__ import annotations

import pytest

from orchestration.engine.run import Services
from tests.cli_helpers import QUICK, json_of, says_in_one_line, side_by_side
from tests.conftest import Command, MemoryChannel
from tests.life_helpers import opened
from tests.model_helpers import GOOD
from tests.model_server import model_server, said
from tests.notify_helpers import rows

pytest_plugins = ["tests.cli_helpers"]

ANALYZE = ["alert-pipeline", "analyze"]


@pytest.mark.usefixtures("stack")
async def test_a_stored_incident_is_analyzed_anew(services: Services, command: Command, channel: MemoryChannel) -> None:
    await opened(services, "DiskFull", severity="warning", instance="db-77")
    told = len(channel.messages)
    with model_server(default=said(GOOD)) as model:
        variables = QUICK | {
            "ANALYSIS_MODEL": "small-model",
            "ANALYSIS_MODEL_URL": f"{model.url}/v1",
            "ANALYSIS_MODEL_KEY": "sk-Kq83hHqPzR4vXw9TmNcY7LbD2",
        }
        by_model, by_rules = side_by_side(
            command,
            ([*ANALYZE, "diskfull", "--json"], variables),
            ([*ANALYZE, "1", "--provider", "local"], QUICK),
        )
        assert len(model.requests) == 1
    found = json_of(by_model)
    assert (found["incident_id"], found["model_info"]["block"], found["fallback_used"]) == ("1", "settings", False)
    assert {"check-1", "alert-1"} >= {cited for one in found["claims"] for cited in one["cites"]}
    assert by_rules.returncode == 0
    assert by_rules.stdout.startswith("#1 DiskFull on db-77: open")
    assert "by provider local" in by_rules.stdout
    assert len(channel.messages) == told
    runs = await rows(
        services.database, "select incident_id, definition_name from pipeline_run order by id desc limit 2"
    )
    assert runs == [{"incident_id": 1, "definition_name": "analysis"}] * 2


@pytest.mark.usefixtures("stack")
async def test_what_cannot_be_analyzed_is_said_in_one_line(services: Services, command: Command) -> None:
    await opened(services)
    told = await rows(services.database, "select count(*) as runs from pipeline_run")
    unknown, wrong, missing = side_by_side(
        command,
        ([*ANALYZE, "4711"], {}),
        ([*ANALYZE, "1", "--provider", "oracle"], {}),
        ([*ANALYZE, "1", "--provider", "model/nope"], {}),
    )
    assert "4711" in says_in_one_line(unknown, 1)
    assert "there are: local, model, model/NAME" in says_in_one_line(wrong, 1)
    assert "no analysis-model block 'nope'" in says_in_one_line(missing, 1)
    assert await rows(services.database, "select count(*) as runs from pipeline_run") == told
