"""Each mapping that ships, from the body of its sender to the message that somebody reads, and to its end."""

from __future__ import annotations

import json

import pytest

from orchestration.engine.run import Services
from orchestration.store.database import Database
from service.cli import main
from tasks.ingest.sources.shipped import SHIPPED
from tests.conftest import MemoryChannel
from tests.engine_helpers import execute
from tests.inbox_helpers import accept_push
from tests.payloads import SAMPLES, body


@pytest.mark.parametrize("name", SHIPPED)
async def test_the_page_and_its_end(services: Services, channel: MemoryChannel, name: str) -> None:
    for kind, status in (("firing", "firing"), ("resolved", "resolved")):
        if f"{name}/{kind}" not in SAMPLES:
            continue
        (run_id,) = await accept_push(services, body(f"{name}/{kind}"), source="webhook", environment="test")
        run = await execute(services, run_id)
        assert (run.source, run.status.value) == (name, "notified")
        message = channel.messages[-1]
        assert message.source == name
        assert (status == "resolved") is ("resolved" in message.text.casefold())
    assert channel.messages[0].dedup_key == channel.messages[-1].dedup_key
    assert "None" not in channel.messages[0].text
    assert "null" not in channel.messages[0].text.replace("/dev/null", "")


def test_what_is_tried_is_what_is_read(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.url)
    for name in SAMPLES:
        words = ["sources", "try", f"tests/sources/{name}.json", "--json"]
        assert main.app(words, standalone_mode=False) == 0, name
        tried = json.loads(capsys.readouterr().out)
        source, kind = name.split("/")
        assert next(iter(tried["recognized_by"])) == source
        assert tried["push"]["source"] == source
        assert bool(tried["push"]["ignored"]) is kind.startswith("ignored")
