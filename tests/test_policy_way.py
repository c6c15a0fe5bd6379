"""`policy test` says whom an alert really reaches: the steps, the people on call, and the escalation that runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestration.policy.schedules import Override
from orchestration.store.database import Database
from orchestration.store.overrides import add_override
from service.cli import main

Way = Callable[..., str]

POLICY = """\
catch_all: mail
routes:
  - {matchers: t=two, escalation: first, continue: true}
  - {matchers: t=two, escalation: other}
  - {matchers: t=crit, escalation: critonly}
  - {matchers: t=zone, escalation: zonal, channels: chat}
escalations:
  first: {steps: [{people: ada}]}
  other: {steps: [{channels: generic}]}
  critonly: {steps: [{people: ada, severity: critical}]}
  zonal:
    repeat: 2
    steps:
      - {schedule: zone, wait: 8h}
      - {schedule: zone}
people:
  ada: {contacts: [ada-mail, ada-phone]}
  bob: {contacts: [bob-mail]}
schedules:
  zone: {time_zone: UTC, layers: [{people: [ada, bob], rotate: daily, start: 2026-11-01, handoff: "09:00"}]}
"""


@pytest.fixture
def way(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Way:
    """Runs `policy test` at three in the morning; what it printed."""
    monkeypatch.setenv("DATABASE_URL", database.url)
    (path := tmp_path / "policy.yml").write_text(POLICY)

    def show(*more: str, **labels: str) -> str:
        words = ["--policy", str(path), "--alert", json.dumps({"alertname": "A", **labels}), *more]
        assert main.app(["policy", "test", "--at", "2026-11-28 03:00", *words], standalone_mode=False) == 0
        return capsys.readouterr().out

    return show


def facts(said: str) -> list[str]:
    wanted = ("  Sev", "  Not", "    S", "    T", "    A")
    return [line.strip() for line in said.splitlines() if line.startswith(wanted)]


def test_only_the_escalation_that_runs_is_said_to_be_notified(way: Way) -> None:
    said = facts(way(t="two", severity="warning"))
    assert said[1:] == [
        "Notified:  escalation first",
        "Not begun: escalation other: an incident follows one escalation, here first",
        "Step 1:  2026-11-28 03:00 UTC: ada (ada-mail, ada-phone)",
        "The end: 2026-11-28 03:05 UTC: channel mail; nobody has acknowledged it",
    ]
    data = json.loads(way("--json", t="two", severity="warning"))["alerts"][0]
    assert (data["escalations"], data["not_followed"]) == (["first"], ["other"])


def test_a_severity_without_a_step_goes_to_the_catch_all(way: Way) -> None:
    assert facts(way(t="crit", severity="warning")) == [
        "Severity:  warning",
        "Notified:  channel mail",
        "Not begun: escalation critonly: no step for severity warning",
    ]
    assert "Notified:  escalation critonly" in facts(way(t="crit", severity="high"))


def test_each_step_names_who_is_on_call_when_it_is_due(way: Way) -> None:
    assert facts(way(t="zone", severity="bogus")) == [
        "Severity:  warning (read from 'bogus')",
        "Notified:  channel chat, escalation zonal",
        "Step 1:  2026-11-28 03:00 UTC: ada (ada-mail, ada-phone)",
        "Step 2:  2026-11-28 11:00 UTC: bob (bob-mail)",
        "Again:   all steps, 2 times",
        "The end: 2026-11-29 03:15 UTC: channel mail; nobody has acknowledged it",
    ]
    at_nine = json.loads(way("--json", t="zone"))["alerts"][0]["steps"]
    assert [(step["people"], step["channels"]) for step in at_nine[:1]] == [(["ada"], ["ada-mail", "ada-phone"])]


async def _put_on_call(database: Database, person: str) -> None:
    begin, end = (datetime(2026, 11, day, tzinfo=UTC) for day in (28, 29))
    span = Override(person=person, starts_at=begin, ends_at=end)
    async with database.transaction() as tx:
        await add_override(tx, "zone", span, created_by="test")


def test_overrides_count(way: Way, database: Database) -> None:
    asyncio.run(_put_on_call(Database(database.url), "bob"))
    assert "Step 1:  2026-11-28 03:00 UTC: bob (bob-mail)" in facts(way(t="zone", severity="info"))


def test_without_the_database_the_layers_are_shown(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert "Step 1:  2026-11-28 03:00 UTC: ada (ada-mail, ada-phone)" in facts(way(t="zone", severity="info"))
