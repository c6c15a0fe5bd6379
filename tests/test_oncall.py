"""Who is on call, over HTTP and at a terminal; and overrides, which are rows."""

from __future__ import annotations

import getpass
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import httpx
import pytest

from orchestration.errors import BadInput, OverrideNotFound
from orchestration.policy.schedules import Override, people_at
from orchestration.settings import Settings
from orchestration.store import overrides
from orchestration.store.database import Database, read_clock
from orchestration.store.oncall import read_schedules
from tests.api_helpers import open_api
from tests.cli_helpers import json_of, says_in_one_line, side_by_side
from tests.conftest import Command
from tests.oncall_helpers import POLICY, store_policy

pytest_plugins = ["tests.cli_helpers"]


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """The API for a caller on this machine."""
    async with open_api(settings, database.url) as client:
        yield client


async def clock(database: Database) -> datetime:
    async with database.transaction() as tx:
        return await read_clock(tx)


async def add(database: Database, person: str, begin: datetime, end: datetime) -> overrides.OverrideRecord:
    override = Override(person=person, starts_at=begin, ends_at=end)
    async with database.transaction() as tx:
        return await overrides.add_override(tx, "backend", override, created_by="bob")


async def on_call_at(database: Database, moment: datetime) -> tuple[str, ...]:
    async with database.transaction() as tx:
        return people_at((await read_schedules(tx, moment)).rosters["backend"], moment)


# Over HTTP


async def test_programs_ask_who_is_on_call(api: httpx.AsyncClient, database: Database) -> None:
    assert (await api.get("/oncall/")).json()["schedules"] == []
    await store_policy(database, POLICY)
    answer = (await api.get("/oncall/", params={"at": "2026-11-11T12:00:00Z", "days": 7})).json()
    assert (answer["at"], answer["count"]) == ("2026-11-11T12:00:00Z", 2)
    backend, office = answer["schedules"]
    assert (backend["schedule"], backend["time_zone"], backend["people"]) == ("backend", "Europe/Berlin", ["grace"])
    assert (backend["since"], backend["until"]) == ("2026-11-09T08:00:00Z", "2026-11-16T08:00:00Z")
    assert (backend["next_people"], backend["next_since"]) == (["ada"], "2026-11-16T08:00:00Z")
    assert [shift["people"] for shift in backend["shifts"]] == [["grace"], ["ada"]]
    assert (backend["warnings"], office["people"], office["next_people"]) == ([], [], ["linus"])
    assert office["warnings"][0].startswith("nobody is on call from 2026-11-11 07:00 to 2026-11-11 09:00")
    one = (await api.get("/oncall/", params={"schedule": "office", "at": "2026-11-11T14:30:00Z"})).json()
    assert [(each["schedule"], each["people"], each["shifts"]) for each in one["schedules"]] == [
        ("office", ["linus"], [])
    ]


async def test_a_question_that_has_no_answer_is_refused_in_words(api: httpx.AsyncClient, database: Database) -> None:
    await store_policy(database, POLICY)
    unknown = await api.get("/oncall/", params={"schedule": "frontend\x00"})
    assert (unknown.status_code, "it has: backend, office" in unknown.json()["error"]) == (404, True)
    for wrong in ({"at": "soon"}, {"at": "9999-12-31T23:59:59Z"}, {"at": "0001-01-01"}, {"days": "400"}):
        assert (await api.get("/oncall/", params=wrong)).status_code == 422, wrong
    for far in ("1970-01-01T00:00:00Z", "2999-12-31T23:59:59Z"):
        assert (await api.get("/oncall/", params={"at": far, "days": 366})).status_code == 200, far


# Overrides


async def test_an_override_counts_and_one_that_has_begun_ends_when_it_is_removed(database: Database) -> None:
    await store_policy(database, POLICY)
    now = await clock(database)
    hour = timedelta(hours=1)
    begun = await add(database, "linus", now - hour, now + hour)
    later = await add(database, "ada", now + 2 * hour, now + 3 * hour)
    assert await on_call_at(database, now) == ("linus",)
    assert await on_call_at(database, now + 2 * hour) == ("ada",)
    async with database.transaction() as tx:
        ended = await overrides.remove_override(tx, begun.id)
        deleted = await overrides.remove_override(tx, later.id)
    assert (ended.has_begun, deleted.has_begun) == (True, False)
    assert await on_call_at(database, now - hour / 2) == ("linus",)
    assert await on_call_at(database, now + hour / 2) != ("linus",)
    async with database.transaction() as tx:
        assert await overrides.list_overrides(tx, await read_clock(tx)) == []
        for number in (later.id, 0, -1, 2**70):
            with pytest.raises(OverrideNotFound):
                await overrides.remove_override(tx, number)
        with pytest.raises(BadInput, match="nothing to remove"):
            await overrides.remove_override(tx, begun.id)


async def test_an_override_that_makes_no_sense_is_refused(database: Database) -> None:
    now, hour = await clock(database), timedelta(hours=1)
    for begin, end, words in (
        (now, now, "ends before it starts"),
        (now - 2 * hour, now - hour, "ended in the past"),
        (now, now + timedelta(days=367), "at most 366 days"),
    ):
        with pytest.raises(BadInput, match=words):
            await add(database, "ada", begin, end)


# At a terminal


async def test_an_engineer_swaps_a_night_and_sees_it(database: Database, command: Command) -> None:
    await store_policy(database, POLICY)
    oncall = ["alert-pipeline", "oncall"]
    swap = [*oncall, "override", "backend", "linus", "--from", "2030-01-10 18:00", "--until", "08:00"]
    added, refused = side_by_side(
        command, (swap, {}), ([*oncall, "override", "backend", "eve", "--until", "08:00"], {})
    )
    span = "from Thu 2030-01-10 18:00 to Fri 2030-01-11 08:00 (Europe/Berlin)"
    assert added.stdout == f"Override 1: linus is on call in backend {span}\n"
    assert says_in_one_line(refused, 1) == "`people` of the policy does not have 'eve'; it has: ada, grace, linus"

    shown, listed = side_by_side(
        command, ([*oncall, "backend", "--at", "2030-01-10T17:30", "--days", "1"], {}), ([*oncall, "overrides"], {})
    )
    assert shown.stdout.splitlines() == [
        "backend: linus",
        "  Thu 2030-01-10 18:30 in Europe/Berlin, 17:30 UTC",
        "  Since Thu 2030-01-10 18:00, until Fri 2030-01-11 08:00, by an override",
        "  Next: ada, from Fri 2030-01-11 08:00",
        "    Thu 2030-01-10 18:30 – Fri 2030-01-11 08:00  linus (override)",
        "    Fri 2030-01-11 08:00 – Fri 2030-01-11 18:30  ada",
    ]
    row = rf"1 +backend +linus +2030-01-10 17:00 +2030-01-11 07:00 +{re.escape(getpass.getuser())}"
    assert re.search(row, listed.stdout)

    removed, everything = side_by_side(
        command, ([*oncall, "remove-override", "1"], {}), ([*oncall, "--json", "--days", "0"], {})
    )
    assert removed.stdout == "Override 1 is removed: linus in backend\n"
    assert [each["schedule"] for each in json_of(everything)["schedules"]] == ["backend", "office"]

    unknown, without = side_by_side(command, ([*oncall, "frontend"], {}), ([*oncall, "overrides"], {}))
    assert says_in_one_line(unknown, 1) == "The policy has no schedule 'frontend'; it has: backend, office"
    assert without.stdout == "No overrides\n"
