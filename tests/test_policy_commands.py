"""The commands of the policy: from a file to what is used, what an alert's way looks like, and back."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestration.engine.run import Services
from orchestration.errors import DefinitionNotFound, PipelineError
from orchestration.policy.parse import read_policy
from orchestration.policy.problems import BadPolicy
from orchestration.store.database import Database
from orchestration.store.encrypted_cache import CHANNEL_NAMES, EncryptedCache
from service.cli import main, policy
from tests.life_helpers import opened, push

Run = Callable[..., str]

POLICY = """\
description: Databases page, the rest does not
windows:
  night: [{times: ["22:00-24:00", "00:00-07:00"], location: Europe/Lisbon}]
routes:
  - name: databases
    matchers: [team="db"]
    channels: [slack-db]
    continue: true
    routes:
      - severity: critical
        channels: [slack-db, phone]
      - name: quiet
        severity: info
        mute: night
  - matchers: [team="web"]
    channels: []
"""


@pytest.fixture
def run(database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `alert-pipeline policy …` in this process, without Prefect; what it printed."""
    monkeypatch.setenv("DATABASE_URL", database.url)

    def run_policy(*words: object, code: int = 0) -> str:
        assert main.app(["policy", *map(str, words)], standalone_mode=False) == code
        return capsys.readouterr().out

    return run_policy


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a text into a file."""

    def write(text: str, name: str = "policy.yml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


LATER = "    Prefect does not run here: a worker writes its block when Prefect answers"
ALERT = json.dumps({"alertname": "DiskFull", "severity": "critical", "team": "db"})


def test_from_a_file_to_what_is_used_and_back(run: Run, file: Callable[..., Path]) -> None:
    with pytest.raises(DefinitionNotFound, match="There is no policy: everybody is notified on the default channels"):
        run("show")
    assert run("test", "--alert", ALERT).splitlines()[1:] == [
        *(
            "DiskFull",
            "  no route matches: there is none",
            "  Severity:  critical",
            "  Notified:  the default channels",
        ),
    ]
    path = file(POLICY)
    assert run("apply", path).splitlines() == ["✓ policy: created, version 1", LATER]
    assert run("apply", path).splitlines() == ["= policy: unchanged, version 1", LATER]
    changed = json.loads(run("apply", file(POLICY + "catch_all: [ops]\n"), "--json"))
    assert (changed["change"], changed["version"], changed["in_prefect"]) == ("changed", 2, False)

    shown = run("show")
    assert "policy, version 2: active" in shown
    for line in (
        '    databases: team="db" → slack-db, and goes on',
        "      critical → slack-db, phone",
        "      quiet: info → not during night",
        '    team="web" → nobody',
        "    otherwise → the default channels",
        "  Catch-all:    ops",
        "      1  kept",
    ):
        assert line in shown, shown
    old = json.loads(run("show", "--version", 1, "--json"))
    assert (old["version"], old["is_active"], [one["version"] for one in old["versions"]]) == (1, False, [2, 1])
    assert list(old["config"]) == ["description", "routes", "windows"]

    assert run("rollback", 1).splitlines()[0] == "✓ policy: rolled back to version 1"
    exported = run("export")
    assert read_policy(exported).policy == read_policy(POLICY).policy
    assert run("apply", file(exported, "exported.yml")).splitlines()[0] == "= policy: unchanged, version 1"
    with pytest.raises(DefinitionNotFound, match="The policy has no version 9; it has: 1, 2"):
        run("show", "--version", 9)
    assert run("delete").splitlines()[0] == "- policy: deleted, everything goes to the default channels"
    with pytest.raises(DefinitionNotFound, match="was deleted: `alert-pipeline policy rollback 2` brings it back"):
        run("export")
    assert run("rollback", 2).splitlines()[0] == "✓ policy: rolled back to version 2"


def test_the_way_of_an_alert_says_why(run: Run, file: Callable[..., Path]) -> None:
    path = file(POLICY)
    assert run("test", "--policy", path, "--alert", ALERT, "--at", "2026-11-27 23:00").splitlines() == [
        f"By {path}, at 2026-11-27 23:00 UTC",
        "DiskFull",
        '  ↓ databases: passed on, team="db" holds; a route below it matches too',
        "    ✓ routes[0].routes[0]: chosen, severity is critical",
        "  · routes[1]: not matched, team=\"web\" does not hold: it is 'db'",
        "  Severity:  critical",
        "  Notified:  channel slack-db, channel phone",
    ]
    push = {"alerts": [{"name": "Slow", "severity": "info", "labels": {"team": "db"}}, {"name": "Up", "labels": {}}]}
    said = run("test", "--policy", path, "--file", file(json.dumps(push), "push.json"), "--at", "2026-11-27 23:00")
    assert "    - quiet: muted, severity is info; muted: it is night now" in said
    assert "  Notified:  nobody now (muted: it is night now)" in said
    assert said.endswith("Together, as one incident\n  Severity:  warning\n  Notified:  the default channels\n")

    data = json.loads(run("test", "--policy", path, "--alert", ALERT, "--json"))
    assert data["policy_version"] is None
    assert data["together"]["channels"] == ["slack-db", "phone"]
    (alert,) = data["alerts"]
    assert [step["verdict"] for step in alert["path"]] == ["passed_on", "chosen", "not_matched"]
    assert (alert["channels"], alert["default_channels"]) == (["slack-db", "phone"], False)


def test_a_broken_policy_is_told_with_its_lines_and_not_stored(run: Run, file: Callable[..., Path]) -> None:
    path = file("routes:\n  - mute: night\n    colour: red\n")
    said = run("validate", path, code=1).splitlines()
    assert said[0] == f"✗ {path}: 2 problems"
    assert said[1] == "    line 2, field 'routes[0].mute': there is no window 'night' (the policy has no windows)"
    broken = json.loads(run("validate", path, "--json", code=1))
    assert (broken["valid"], [error["line"] for error in broken["errors"]]) == (False, [2, 3])
    with pytest.raises(BadPolicy, match=r"policy\.yml: The policy has 2 problems: line 2"):
        run("apply", path)
    with pytest.raises(BadPolicy, match="has a NUL character"):
        run("apply", file("a\0"))

    warned = file("routes:\n  - channels: [a]\n  - channels: [b]\n")
    assert run("validate", warned).splitlines() == [
        f"✓ {warned}: valid, 2 routes",
        "    warning: line 3, field 'routes[1]': no alert reaches this route: "
        "all that match it match routes[0] before it",
    ]


NAMES = """\
catch_all: [mail]
routes:
  - channels: [mail, slack-db]
    routes:
      - {severity: critical, escalation: all}
      - channels: team/#db
escalations:
  all: {steps: [{channels: sms, wait: 0}, {people: [ana, bob]}]}
people:
  ana: {contacts: [mail, pager]}
  bob: {contacts: pager}
"""


def test_a_channel_that_does_not_exist_is_a_warning(
    run: Run, file: Callable[..., Path], database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(NAMES)
    assert main.app(["policy", "validate", str(path)], standalone_mode=False) == 0
    assert "no worker has written down which there are" in capsys.readouterr().err
    asyncio.run(EncryptedCache(Database(database.url)).write(CHANNEL_NAMES, b'["mail", "slack", "team"]'))
    there_are = "(there are: mail, slack, team)"
    expected = [
        f"line 3, field 'routes[0].channels': there is no channel 'slack-db' {there_are}",
        f"line 8, field 'escalations.all.steps[0].channels': there is no channel 'sms' {there_are}",
        f"line 10, field 'people.ana.contacts': there is no channel 'pager' {there_are}",
        "line 11, field 'people.bob': nothing reaches 'bob': there is no channel that is a contact ('pager')",
    ]
    assert run("validate", path).splitlines()[1:] == [f"    warning: {line}" for line in expected]
    assert [warning["line"] for warning in json.loads(run("validate", path, "--json"))["warnings"]] == [3, 8, 10, 11]
    assert "warning: line 11" in run("apply", path)


def test_more_problems_than_are_listed_are_counted(run: Run, file: Callable[..., Path]) -> None:
    said = run("validate", file("routes:\n" + "  - {mute: night}\n" * 1_500), code=1).splitlines()
    assert said[0].endswith(": 1500 problems")
    assert said[-1] == "    and 1450 more"


def test_an_escalation_that_repeats_without_any_wait_is_refused(run: Run, file: Callable[..., Path]) -> None:
    steps = "{steps: [{channels: a, wait: 0}, {channels: b, wait: 0}]"
    said = run("validate", file(f"escalations:\n  e: {steps}, repeat: 3}}\n"), code=1)
    assert "field 'escalations.e.repeat': repeats steps that wait for nothing" in said
    run("validate", file(f"escalations:\n  e: {steps}}}\n"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["apply", "/no/such/file"], "cannot be read: No such file or directory"),
        (["test", "--alert", "{"], "The alert is no JSON; expected its labels"),
        (["test", "--alert", "5"], "alert"),
        (["test", "--alert", ALERT, "--at", "soon"], "--at: 'soon' is no moment"),
        (["test", "--incident", "nowhere"], "There is no incident"),
        (["import", "alertmanager", "/no/such/file"], "cannot be read"),
    ],
)
def test_what_a_command_cannot_do_is_one_sentence(run: Run, words: list[str], says: str) -> None:
    with pytest.raises(PipelineError, match=says) as refused:
        run(*words)
    assert len(str(refused.value).splitlines()) == 1


def test_an_imported_configuration_is_printed_as_a_policy(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).parent / "payloads" / "alertmanager.yml"
    assert read_policy(run("import", "alertmanager", path)).policy.routes[0].channels == ("default",)
    data = json.loads(run("import", "alertmanager", path, "--json"))
    assert data["receivers"]["db"] == ["db-slack", "db-webhook"]
    assert any("global is not taken over" in note for note in data["notes"])


@pytest.fixture
async def two_pages(services: Services) -> None:
    """Two incidents that somebody was notified of, and a repeat that told nobody."""
    for name in ("HighCPU", "DiskFull"):
        await opened(services, name)
    await push(services, "HighCPU")


def test_a_policy_is_simulated_over_what_happened(two_pages: None, run: Run, file: Callable[..., Path]) -> None:
    del two_pages
    path = file(
        'routes:\n  - {name: quiet, matchers: [alertname="DiskFull"], channels: []}\n'
        '  - {name: cpu, matchers: [alertname="HighCPU"], channels: [phone]}\n'
    )
    lines = run("simulate", path, "--since", "1h").splitlines()
    assert lines[0].startswith(f"{path} against no policy, since ")
    assert lines[1:4] == [
        "  2 pages: 0 unchanged, 0 added, 1 removed, 1 changed, 0 later",
        "  default channels: 2 pages → 0",
        "  phone: 0 pages → 1",
    ]
    assert sorted(" ".join(line.split()[:2]) for line in lines[5:]) == ["changed 1", "removed 1"]
    assert any("quiet  default channels  nobody" in line and "DiskFull" in line for line in lines)

    run("apply", path)
    by_person = file("people: {ada: {contacts: phone}}\nroutes: [{channels: [phone]}]\n", "people.yml")
    assert re.search(r"^  person ada: 0 pages → 2 \(.*h: 0 → \d.*, UTC\)$", run("simulate", by_person), re.MULTILINE)
    data = json.loads(run("simulate", file("routes: [{channels: [phone]}]\n", "other.yml"), "--json"))
    assert (data["pages"], data["unchanged"], data["added"], data["removed"]) == (2, 1, 1, 0)
    ((group,), (hour,)) = data["changes"], data["changes"][0]["hours"].values()
    assert (group["route"], group["before"], group["after"], hour) == ("routes[0]", [], ["phone"], 1)
    with pytest.raises(PipelineError, match="--since: expected a duration such as 30s"):
        run("simulate", path, "--since", "soon")

    said = run("test", "--incident", "1")
    assert "By the policy, version 1, at " in said
    assert "  Notified:  channel phone" in said


def test_the_example_of_the_help_is_a_policy():
    example = str(policy.app.info.epilog).replace("\\[", "[")
    text = example[example.index("windows:") : example.index("Try it:")]
    assert read_policy(text).policy.routes[0].routes[1].mute == ("night",)
