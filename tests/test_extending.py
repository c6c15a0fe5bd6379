"""The worked examples of docs/extending.md: each is registered as the page says, and then does its work."""

from __future__ import annotations

import re
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from blocks.channels import CHANNELS
from blocks.channels.resolver import ChannelResolver
from orchestration.engine.run import NodeKinds, Services
from orchestration.graph import BadDefinition
from orchestration.requests import RunOptions
from orchestration.states import RunStatus
from orchestration.store.story import read_story
from tasks.check.checkers.base import local_checker
from tasks.check.checkers.registry import CHECKERS
from tasks.ingest.sources.registry import SOURCES
from tasks.kinds import KINDS
from tests.conftest import MemoryChannel
from tests.engine_helpers import execute
from tests.inbox_helpers import accept_push

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"


def example(file: str) -> ModuleType:
    """The module that the page prints for this file."""
    printed = re.search(rf"`{re.escape(file)}`:\n\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert printed, f"docs/extending.md prints no {file}"
    module = ModuleType(file.removesuffix(".py").replace("/", "."))
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    exec(compile(printed[1], file, "exec"), module.__dict__)
    return module


async def test_a_source(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    source = example("tasks/ingest/sources/lighthouse.py").SOURCE
    monkeypatch.setitem(SOURCES, source.name, source)

    (run_id,) = await accept_push(services, source.sample("north"), source="webhook", environment="test")
    run = await execute(services, run_id)

    assert (run.source, run.title, run.status) == ("lighthouse", "lamp-north", RunStatus.NOTIFIED)


async def test_a_checker(services: Services, channel: MemoryChannel, monkeypatch: pytest.MonkeyPatch) -> None:
    module = example("tasks/check/checkers/tide.py")
    tide = local_checker("tide", module.TideConfig, module.check_tide)
    monkeypatch.setattr("tasks.check.stage.CHECKERS", {**CHECKERS, "tide": tide})

    options = RunOptions(checker_names=["tide"], checker_configs={"tide": {"level_percent": 95}})
    alert = {"name": "Flood", "host": socket.gethostname()}
    (run_id,) = await accept_push(services, alert, source="generic", environment="test", options=options)
    await execute(services, run_id)

    (check,) = channel.messages[0].checks
    assert check.endswith(f"tide of {socket.gethostname()}: critical, 95 % high")


async def test_a_channel(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CHANNELS, "foghorn", example("blocks/channels/foghorn.py").FoghornChannel)
    services = replace(services, channels=ChannelResolver(services.settings, blocks_known=False))

    options = RunOptions(notify_driver="foghorn")
    (run_id,) = await accept_push(services, {"name": "Fog"}, source="generic", environment="test", options=options)
    assert (await execute(services, run_id)).status is RunStatus.NOTIFIED

    assert "HOOONK" in capsys.readouterr().out


def counting() -> NodeKinds:
    """The node kinds with the page's one."""
    kind = example("tasks/count/stage.py").COUNT
    return NodeKinds(by_type={**KINDS.by_type, kind.name: kind}, linear=KINDS.linear)


COUNTED: dict[str, Any] = {
    "nodes": [
        {"id": "intake", "type": "ingest", "next": "how_many"},
        {"id": "how_many", "type": "count", "next": "gate"},
        {
            "id": "gate",
            "type": "condition",
            "config": {"expression": "how_many.count > 1", "if_true": "many", "if_false": "few"},
        },
        {"id": "many", "type": "notify"},
        {"id": "few", "type": "notify"},
    ]
}


async def test_a_node_kind(services: Services, channel: MemoryChannel) -> None:
    services = replace(services, kinds=counting())
    alerts = {"alerts": [{"name": "A", "incident_key": "one", "host": str(number)} for number in range(3)]}

    options = RunOptions(definition_config=COUNTED)
    (run_id,) = await accept_push(services, alerts, source="generic", environment="test", options=options)
    run = await execute(services, run_id)

    assert run.status is RunStatus.NOTIFIED
    async with services.database.transaction() as tx:
        story = await read_story(tx, run_id)
    assert {row.node_id: row.status.value for row in story.attempts} == {
        "intake": "succeeded",
        "how_many": "succeeded",
        "gate": "succeeded",
        "many": "succeeded",
        "few": "skipped",
    }
    assert len(channel.messages) == 1
    # A resume reads the result back by the kind's own type.
    assert next(row for row in story.attempts if row.node_id == "how_many").output_snapshot == {
        "count": 3,
        "count_output_ref": f"output/{run_id}/how_many/1",
        "errors": [],
        "duration_ms": pytest.approx(0, abs=5000),
    }


async def test_a_mistake_in_the_config_of_a_new_kind_is_named_like_any_other(services: Services) -> None:
    broken = {"nodes": [{"id": "how_many", "type": "count", "config": {"what": 7, "more": 1}}]}
    options = RunOptions(definition_config=broken)
    with pytest.raises(BadDefinition) as refused:
        await accept_push(
            replace(services, kinds=counting()), None, source="generic", environment="test", options=options
        )
    assert {(problem.node, problem.field) for problem in refused.value.problems} == {
        ("how_many", "config.what"),
        ("how_many", "config.more"),
    }
