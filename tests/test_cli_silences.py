"""`alert-pipeline silences`: an engineer looks at what a silence keeps back, adds it, and ends it."""

from __future__ import annotations

import re

from orchestration.engine.run import Services
from tests.cli_helpers import json_of, says_in_one_line, side_by_side
from tests.conftest import Command
from tests.life_helpers import opened, push

pytest_plugins = ["tests.cli_helpers"]


def calls(*commands: str) -> list[tuple[list[str], dict[str, str]]]:
    """Commands as words, where a semicolon separates them."""
    return [(["alert-pipeline", "silences", *one.split(";")], {}) for one in commands]


async def test_a_silence_is_looked_at_added_listed_and_ended(services: Services, command: Command) -> None:
    await opened(services)
    await opened(services, "DiskFull", severity="warning", instance="db-1")

    preview, made = side_by_side(
        command,
        *calls(
            "add;alertname=HighCPU;severity=critical;--preview",
            "add;alertname=DiskFull;--for;2h;--by;ada;--comment;new disks",
        ),
    )
    assert preview.stdout.startswith("Keeps back now: 1\n  #1 critical ")
    assert "Would have kept back in the last 7 days: 0" in preview.stdout
    assert re.match(r'Silence 1 keeps back alertname="DiskFull" until \d{4}-.* UTC\n', made.stdout)
    assert "Open incidents that it keeps back now: 1" in made.stdout
    assert (await push(services, "DiskFull", severity="warning", instance="db-2")).skip_reason == "silenced"

    listed, ended = side_by_side(command, *calls("list", "end;1;--json"))
    assert re.search(r'1 +in [12] h.* ada +alertname="DiskFull" +new disks', listed.stdout) or "No" in listed.stdout
    assert json_of(ended)["by"] == "ada"


async def test_everything_is_silenced_only_if_somebody_says_that_it_is_meant(
    services: Services, command: Command
) -> None:
    (made,) = side_by_side(command, *calls("add;alertname=~.+;--for;1h;--everything"))
    assert made.stdout.startswith('Silence 1 keeps back alertname=~".+" until')
    assert (await push(services, "Anything")).skip_reason == "silenced"


async def test_what_is_no_silence_is_refused_in_one_line(command: Command) -> None:
    wrong = {
        "add;severity;--for;1h": (1, "expected a label"),
        "add;a=~(;--for;1h": (1, "the pattern"),
        "add;a=b": (2, "Say how long"),
        "add;a=b;--for;soon": (1, "--for='soon'"),
        "end;17": (1, "no silence 17"),
        "add;x=;--preview": (1, 'x="" holds for every alert'),
        "add;alertname=~.*;--preview": (1, "holds for every alert"),
        "add;alertname=~.+;--for;1h": (1, "if it is meant: --everything"),
        "add;severity=~critical|warning|info;environment!=;--for;1h": (1, "holds for every alert"),
        "add;a=b;--for;1h;--until;08:00;--preview": (2, "Say how long"),
        "add;a=b;--for;400d;--preview": (1, "after 366 days at most"),
    }
    for refused, (code, said) in zip(side_by_side(command, *calls(*wrong)), wrong.values(), strict=True):
        assert said in says_in_one_line(refused, code)
