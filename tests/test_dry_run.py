"""`run_pipeline --dry-run`: everything is shown, nothing is written, nothing is sent."""

from __future__ import annotations

import json

from orchestration.store.database import Database
from tests.cli_helpers import json_of, row_counts, side_by_side, three_incidents
from tests.conftest import Command
from tests.payloads import body
from tests.receivers import http_receiver

pytest_plugins = ["tests.cli_helpers"]


async def test_everything_is_shown_and_nothing_happens(command: Command, database: Database) -> None:
    with http_receiver() as receiver:
        env = {"CHECKERS_ENABLED": "memory,disk", "NOTIFY_WEBHOOK_URL": f"{receiver.url}/hook/topsecret"}
        sample, three, health, resolved = side_by_side(
            command,
            (["run_pipeline", "--sample", "--dry-run", "--environment", "staging"], env),
            (["run_pipeline", "--payload", json.dumps(three_incidents()), "--dry-run", "--json"], env),
            (["run_pipeline", "--checks-only", "--dry-run", "--notify-driver", "console", "--json"], env),
            (["run_pipeline", "--payload", json.dumps(body("alertmanager_resolved")), "--dry-run", "--json"], env),
        )
        assert receiver.requests == []
    assert await row_counts(database) == {}
    for finished in (sample, three, health, resolved):
        assert (finished.returncode, finished.stderr) == (0, "")
        assert "topsecret" not in finished.stdout
    shown = sample.stdout
    assert shown.startswith("Dry run: nothing is written, nothing is sent\n  Source:    alertmanager\n")
    assert "  Incident:  alertmanager:" in shown
    assert "  Checks:    memory, disk\n" in shown
    assert "  Channels:  generic: generic to 127.0.0.1\n" in shown
    assert "│ [TEST] [CRITICAL] HighCPU" in shown
    assert "│   Environment: staging" in shown
    pushed = json_of(three)
    assert (pushed["dry_run"], pushed["source"]) == (True, "generic")
    assert [run["incident_key"].split(":")[0] for run in pushed["runs"]] == ["generic"] * 3
    assert len({run["incident_key"] for run in pushed["runs"]}) == 3
    assert all(f"[WARNING] Disk{n}Full" in run["message"] for n, run in enumerate(pushed["runs"], 1))
    (host,) = json_of(health)["runs"]
    assert host["message"].startswith("[TEST] ")
    assert not any("[TEST]" in run["message"] for run in pushed["runs"])
    assert (host["incident_key"], host["alerts"], host["channels"]) == (None, [], ["console: console to console"])
    assert host["checks"] == ["memory", "disk"]
    assert {run["status"] for run in json_of(resolved)["runs"]} == {"resolved"}
    assert [run["checks"] for run in json_of(resolved)["runs"]] == [[]]  # nobody looks at hosts for an all-clear
