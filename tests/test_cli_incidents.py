"""`alert-pipeline incidents`: an engineer at a terminal finds incidents, acts on them, and reads who did what."""

from __future__ import annotations

import getpass
import re
from datetime import UTC, datetime, timedelta

import pytest

from orchestration.engine.run import Services
from orchestration.policy.holding import HeldBy, Hold
from orchestration.policy.matchers import parse_matchers
from orchestration.store.incidents import update_incident
from orchestration.store.silences import add_silence
from tests.cli_helpers import json_of, says_in_one_line, side_by_side
from tests.conftest import Command
from tests.life_helpers import ADA, next_of, opened

pytest_plugins = ["tests.cli_helpers"]

PROGRAM = "alert-pipeline"


def calls(*commands: str) -> list[tuple[list[str], dict[str, str]]]:
    """Commands as words, where a comma separates what has spaces."""
    return [([PROGRAM, "incidents", *one.split(",")], {}) for one in commands]


async def test_an_incident_is_found_acknowledged_resolved_and_its_story_is_read(
    services: Services, command: Command
) -> None:
    await opened(services)
    await opened(services, "DiskFull", severity="warning", instance="db-1")

    listed, acknowledged = side_by_side(command, *calls("list", "ack,highcpu,--by,ada"))
    assert re.match(r"NUMBER +STATUS +SEVERITY +FIRING +ENVIRONMENT +OPENED +NEXT +TITLE *\n2 ", listed.stdout)
    assert re.search(
        r"2 +open +warning +1 of 1 +production .* reminder \d\d-\d\d \d\d:\d\d +DiskFull on", listed.stdout
    )
    assert acknowledged.stdout.startswith("Incident 1 (HighCPU on web-1) is acknowledged by ada: no reminders until ")

    again, both = side_by_side(command, *calls("ack,1", "resolve,1,disk,--json"))
    assert re.search("is acknowledged already, by ada since|cannot be acknowledged", again.stdout + again.stderr)
    assert [one["incident"]["status"] for one in json_of(both)] == ["resolved", "resolved"]
    side_by_side(command, *calls("note,2,the log had grown,--by,bob", "close,1,2"))

    shown, as_json = side_by_side(command, *calls("show,#1", "show,diskfull,--json"))
    lines = shown.stdout.splitlines()
    assert lines[0] == "#1 HighCPU on web-1: closed"
    assert "    dismissed critical HighCPU" in lines
    assert any(line.startswith("    memory (memory): firing at ") and "not up to date" in line for line in lines)
    me = getpass.getuser()
    told = [re.sub(r"^.* UTC  ", "", line) for line in lines[lines.index("  History") + 1 :]]
    assert told == [
        "opened",
        "acknowledged by ada (cli), open → acknowledged",
        f"resolved by {me} (cli), acknowledged → resolved",
        f"closed by {me} (cli), resolved → closed",
    ]
    story = json_of(as_json)
    assert (story["title"], story["status"], story["firing"]) == ("DiskFull on db-1", "closed", 0)
    notes = [line["details"]["text"] for line in story["history"] if line["event"] == "incident_note"]
    assert notes == ["the log had grown"]

    none, everything = side_by_side(command, *calls("list", "list,--status,all,--json"))
    assert none.stdout == "No incidents (open)\n"
    assert [one["id"] for one in json_of(everything)] == ["2", "1"]


async def test_the_list_says_what_keeps_an_incident_back_and_a_long_title_is_cut(
    services: Services, command: Command
) -> None:
    await opened(services, "HighCPU")
    await opened(services, "D" * 500, instance="db-1")
    await opened(services, "Muted")
    hold = Hold(by=HeldBy.MUTED, why="night", until=datetime.now(UTC) + timedelta(hours=1))
    async with services.database.transaction() as tx:
        await add_silence(tx, parse_matchers("alertname=HighCPU"), ADA, until=timedelta(hours=1))
        await update_incident(tx, 3, held=hold.model_dump(mode="json"))
    (listed,) = side_by_side(command, *calls("list"))
    lines = [line.rstrip() for line in listed.stdout.splitlines()]
    assert re.search(r"^1 +open, silenced +critical", lines[3])
    assert re.search(r"^2 +open +critical", lines[2])
    assert re.search(r"^3 +open, muted +critical", lines[1])
    assert max(map(len, lines)) < 200
    assert lines[2].endswith("D…")


async def test_what_waits_for_its_time_is_listed(services: Services, command: Command) -> None:
    incident_id = await opened(services)
    (snoozed,) = side_by_side(command, *calls("snooze,HighCPU on web-1,--for,30m"))
    assert "is snoozed by" in snoozed.stdout
    assert await next_of(services.database, incident_id) == "reminder 30"
    upcoming, as_json = side_by_side(
        command, (["monitor_pipeline", "--upcoming"], {}), (["monitor_pipeline", "--upcoming", "--json"], {})
    )
    assert re.search(r"DUE +REASON +INCIDENT +RUN ID +WHAT *\n20\S+ \S+ +reminder +1 +\w{12} +HighCPU", upcoming.stdout)
    assert [run["reason"] for run in json_of(as_json)] == ["reminder"]
    latest, shown = side_by_side(command, (["monitor_pipeline"], {}), *calls("show,1"))
    assert "reminder" not in latest.stdout
    assert re.search(r"  Next\n    20\S+ \S+ UTC  reminder\n", shown.stdout)


async def test_one_that_is_not_there_and_one_that_is_not_clear(services: Services, command: Command) -> None:
    for name in ("DiskFull", "DiskSlow", "HighCPU"):
        await opened(services, name)
    unclear, typo, unknown, number = side_by_side(
        command, *calls("show,disk", "show,HihgCPU on web", "show,zzz", "show,99")
    )
    assert says_in_one_line(unclear, 1) == (
        "Several incidents start with 'disk': #2 DiskSlow on web-1 (production), #1 DiskFull on web-1 (production). "
        "Name one by its number"
    )
    nearest = says_in_one_line(typo, 1)
    assert nearest.startswith("There is no incident 'HihgCPU on web'; the nearest: #3 HighCPU on web-1 (production)")
    assert says_in_one_line(unknown, 1) == (
        "There is no incident 'zzz'; `alert-pipeline incidents list` shows what there is"
    )
    assert says_in_one_line(number, 1).startswith("There is no incident '99'; `alert-pipeline incidents list`")


async def test_of_several_each_is_tried_and_what_was_refused_is_said(services: Services, command: Command) -> None:
    await opened(services)
    resolved, partly = side_by_side(command, *calls("resolve,1"))[0], command(PROGRAM, "incidents", "ack", "1", "77")
    assert resolved.returncode == 0
    assert partly.returncode == 1
    assert "Incident 1 (HighCPU on web-1) is resolved since" in partly.stderr
    assert "There is no incident '77'" in partly.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("list,--status,asleep", 1, "There is no status 'asleep' of an incident. Known: open, all, acknowledged, "),
        ("snooze,1", 2, "Say how long: --for TIME or --until MOMENT, one of them"),
        ("snooze,1,--for,a while", 1, "--for='a while': expected a time such as 90s, 30m, 1h30m, 2h or 1d"),
        ("snooze,1,--until,noon", 1, "--until: 'noon' is no moment; expected 03:12, or 2026-11-26 03:12, in UTC"),
        ("ack,1,--by,", 1, "by: expected a name of 1 to 64 printable characters"),
    ],
)
def test_wrong_input_is_one_line(command: Command, words: str, code: int, says: str) -> None:
    assert says_in_one_line(command(PROGRAM, "incidents", *words.split(",")), code).startswith(says)
