"""Mappings of one's own: from a file to what every process reads with, its block, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.definitions import EDITOR, BrokenEdit, sync_block
from orchestration.definitions import Kind
from orchestration.engine.run import Services
from orchestration.errors import BadInput, DefinitionNotFound
from orchestration.settings import Settings
from orchestration.store import definitions
from orchestration.store.database import Database
from orchestration.store.mappings import MappingReader
from service.cli import main, run_pipeline
from tasks.ingest.sources import SOURCES, parse_push
from tasks.ingest.sources.draft import draft_of
from tasks.ingest.sources.mapped import source_of
from tasks.ingest.sources.mapping_text import BadMapping, new_mapping, parse_mapping
from tasks.ingest.sources.stored import sources_with
from tests.api_helpers import eventually, open_api, run_of
from tests.conftest import MemoryChannel
from tests.definition_helpers import MemoryBlocks
from tests.engine_helpers import execute
from tests.inbox_helpers import accept_push

LAMP = """\
name: lamp-watch
title: Lamp Watch
when:
  has: [lamp.id, lamp.state]
alert:
  name: lamp.title
  severity: lamp.level
  status: lamp.state
  fingerprint: lamp.id
  labels: {host: station}
words: {firing: [dark], resolved: [lit], critical: [red]}
"""
BODY: dict[str, Any] = {"station": "north", "lamp": {"id": "L1", "title": "Main lamp", "state": "dark", "level": "red"}}

Run = Callable[..., str]


@pytest.fixture
def run(database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `alert-pipeline sources …` in this process, without Prefect; what it printed."""
    monkeypatch.setenv("DATABASE_URL", database.url)

    def run_sources(*words: object, code: int = 0) -> str:
        assert main.app(["sources", *map(str, words)], standalone_mode=False) == code
        return capsys.readouterr().out

    return run_sources


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    path = tmp_path / "lamp-watch.yaml"
    path.write_text(LAMP)
    return path


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    path = tmp_path / "lamp.json"
    path.write_text(json.dumps(BODY))
    return path


def document(**changes: Any) -> dict[str, Any]:
    return {
        "name": "lamp-watch",
        "when": {"has": ["lamp.id"]},
        "alert": {"name": "lamp.title", "fingerprint": "lamp.id"},
        **changes,
    }


async def store(database: Database, raw: dict[str, Any]) -> int:
    """Store a mapping, as `sources apply` does without Prefect; its version."""
    async with database.transaction() as tx:
        return (await definitions.store_definition(tx, new_mapping(raw), created_by="test")).definition.version


def test_from_a_body_that_nobody_reads_to_a_mapping_of_it(run: Run, mapping: Path, sent: Path) -> None:
    assert run("try", sent, code=1) == ""
    assert "name: lamp.title" in run("draft", sent)
    assert "✓" in run("validate", mapping)
    tried = run("try", sent, "--mapping", mapping)
    assert "lamp-watch reads 1 alert" in tried
    assert "firing critical: Main lamp on north" in tried

    assert run("apply", mapping).startswith("✓ lamp-watch: created, version 1")
    assert run("apply", mapping).startswith("= lamp-watch: unchanged, version 1")
    assert "lamp-watch reads 1 alert" in run("try", sent)
    listed = {row["name"]: row["from"] for row in json.loads(run("list", "--json"))}
    assert listed["lamp-watch"] == "your mapping, version 1"
    assert (listed["sentry"], listed["grafana"]) == ("a mapping that ships", "in code")
    assert json.loads(run("try", sent, "--json"))["push"]["alerts"][0]["fingerprint"] == "L1"

    mapping.write_text(LAMP.replace("red", "crimson"))
    assert "changed, version 2" in run("apply", mapping)
    assert "crimson" in run("show", "lamp-watch")
    assert "red" in run("export", "lamp-watch", "--version", 1)
    assert "rolled back to version 1" in run("rollback", "lamp-watch", 1)
    assert "deleted" in run("delete", "lamp-watch")
    run("try", sent, code=1)
    with pytest.raises(DefinitionNotFound, match="sources rollback lamp-watch 2"):
        run("show", "lamp-watch")


def test_what_is_exported_is_what_was_applied(run: Run, mapping: Path, tmp_path: Path) -> None:
    run("apply", mapping)
    again = tmp_path / "again.yaml"
    again.write_text(run("export", "lamp-watch"))
    assert run("apply", again).startswith("= lamp-watch: unchanged")


def test_a_mapping_that_ships_is_shown_and_can_be_replaced(run: Run, tmp_path: Path) -> None:
    shipped = run("export", "sentry")
    assert shipped.startswith("# Metric alerts")
    assert shipped == run("show", "sentry")
    own = tmp_path / "sentry.yaml"
    own.write_text(shipped.replace("service: [data.issue.project.slug", "team: [data.issue.project.slug"))
    run("apply", own)
    assert "instead of the one that ships" in run("list")
    found = json.loads(run("try", "tests/sources/sentry/firing_issue.json", "--json"))
    assert found["push"]["alerts"][0]["labels"]["team"] == "shop"
    run("delete", "sentry")
    found = json.loads(run("try", "tests/sources/sentry/firing_issue.json", "--json"))
    assert found["push"]["alerts"][0]["labels"]["service"] == "shop"


def test_a_mapping_of_ones_own_has_a_sample_to_try(
    run: Run, mapping: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping.write_text(LAMP + "sample: {station: north, lamp: {id: '{mark}', title: Sample lamp, state: dark}}\n")
    run("apply", mapping)
    monkeypatch.setenv("CHECKERS_ENABLED", "memory")
    words = ["--sample", "--source", "lamp-watch", "--dry-run", "--json"]
    assert run_pipeline.app(words, standalone_mode=False) == 0
    assert "Sample lamp on north" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["alertmanager", "generic", "webhook", "cli"])
def test_no_mapping_takes_the_name_of_a_source_in_code_or_of_a_way_in(run: Run, mapping: Path, name: str) -> None:
    mapping.write_text(LAMP.replace("name: lamp-watch", f"name: {name}"))
    with pytest.raises(BadMapping, match="give the mapping another name"):
        run("apply", mapping)


def test_all_mistakes_are_listed_by_line(run: Run, mapping: Path) -> None:
    mapping.write_text(LAMP.replace("lamp.state]", "'lamp['] ").replace("severity:", "severty:"))
    said = run("validate", mapping, code=1)
    assert "2 problems" in said
    assert "line 4, field 'when[0].has'" in said
    assert "line 7, field 'alert.severty': there is no such field (known: name" in said


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_draft_of_any_senders_body_reads_that_body(name: str) -> None:
    sample = SOURCES[name].sample("01")
    source = source_of(parse_mapping(draft_of(sample, name="drafted")))
    assert source.bid(sample)
    assert source.parse(sample).alerts


def test_nothing_is_drafted_from_what_says_nothing() -> None:
    for payload in ([], {}, 5, {"a": None}, {"a": {"b": [1]}}):
        with pytest.raises(BadInput):
            draft_of(payload, name="drafted")


async def test_a_process_reads_with_a_mapping_as_soon_as_it_is_stored(
    services: Services, channel: MemoryChannel
) -> None:
    mappings = MappingReader(services.database)
    services = replace(services, mappings=mappings)
    with pytest.raises(BadInput, match="no source recognizes"):
        await accept_push(services, BODY, source="webhook", environment="test")
    await store(services.database, document(words={"firing": ["dark"]}))
    await mappings.read()  # as after FRESH_SECONDS

    (run_id,) = await accept_push(services, BODY, source="webhook", environment="test")
    assert (await execute(services, run_id)).source == "lamp-watch"
    assert [message.title for message in channel.messages] == ["[WARNING] Main lamp (test)"]
    await accept_push(services, BODY, source="lamp-watch", environment="test")


async def test_the_api_knows_it_without_a_restart(settings: Settings, database: Database) -> None:
    async with open_api(settings, database.url) as client:
        refused = await client.post("/orchestration/pipeline/", json={"payload": BODY})
        assert refused.status_code == 422
        await store(database, document())

        async def is_known() -> bool:
            return "lamp-watch" in (await client.get("/alerts/webhook/")).json()["sources"]

        await eventually(is_known)
        said = await client.post("/alerts/webhook/lamp-watch/", json=BODY)
        assert said.status_code == 202
        assert (await run_of(database, said.json()["run_id"])).source == "lamp-watch"
        assert (await client.get("/alerts/webhook/lamp-watch/")).json()["sources"] == ["lamp-watch"]


async def test_a_push_for_it_that_is_too_large_is_under_its_name(settings: Settings, database: Database) -> None:
    await store(database, document())
    small = settings.model_copy(update={"max_payload_bytes": 64 * 1024})
    async with open_api(small, database.url) as client:
        said = await client.post("/alerts/webhook/lamp-watch/", json=BODY | {"more": "x" * 70_000})
    run = await run_of(database, said.json()["run_id"])
    assert (run.source, "is too large to be read" in run.title) == ("lamp-watch", True)


async def test_an_edit_of_the_block_is_the_next_version_and_a_broken_one_stops_nothing(database: Database) -> None:
    blocks = MemoryBlocks(Kind.SOURCE)
    await store(database, document())
    config = {key: value for key, value in document().items() if key != "name"}
    await blocks.write("lamp-watch", config, 1)

    blocks.edit({**config, "title": "Lamps"}, "lamp-watch")
    record = await sync_block(database, blocks, blocks.kept["lamp-watch"])
    assert record is not None
    assert (record.version, record.created_by, record.config["title"]) == (2, EDITOR, "Lamps")

    for broken in (None, 5, {}, {**config, "when": {}}, {**config, "alert": {"name": "a["}}):
        blocks.edit(broken, "lamp-watch")
        with pytest.raises(BrokenEdit, match="alert-source/lamp-watch was edited in Prefect and cannot be used"):
            await sync_block(database, blocks, blocks.kept["lamp-watch"])
    sources = sources_with(await MappingReader(database).active())
    assert parse_push(BODY, sources=sources).source == "lamp-watch"
    assert sources["lamp-watch"].title == "Lamps"


async def test_a_stored_mapping_that_cannot_be_used_is_left_out(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    await store(database, document())
    async with database.transaction() as tx:
        await tx.exec_driver_sql("update definition set config = config || '{\"alert\": 5}', content_hash = 'other'")
    stored = await MappingReader(database).active()
    assert sources_with(stored) is SOURCES
    assert "The mapping lamp-watch, version 1, cannot be used" in caplog.text
