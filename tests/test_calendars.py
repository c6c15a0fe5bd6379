"""Calendars of schedules: read from files and URLs, kept while they are away, and never at any price."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from orchestration.engine.run import Services
from orchestration.policy.ical import BadCalendar
from orchestration.policy.schedules import people_at
from orchestration.store.database import Database, read_clock
from orchestration.store.oncall import read_schedules, warnings_of
from service.worker import calendars
from service.worker.calendars import expand, fetch, refresh_calendars
from tests.oncall_helpers import POLICY, store_policy
from tests.test_ical import calendar, event

ALWAYS_ADA = calendar(event("Ada", "DTSTART:20200101T000000Z", "DURATION:PT24H", "RRULE:FREQ=DAILY"))
ALWAYS_GRACE = calendar(event("grace", "DTSTART:20200101T000000Z", "DURATION:PT24H", "RRULE:FREQ=DAILY"))


@dataclass
class Site:
    """A web site that answers each request with `answer`: a status, headers and a body."""

    answer: bytes = b""
    url: str = ""
    asked: int = 0

    def says(self, body: bytes, status: str = "200 OK", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
        self.answer = "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    here = Site()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        here.asked += 1
        writer.write(here.answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    here.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/secret-token/oncall.ics"
    async with server:
        yield here


def policy_with(source: str) -> dict[str, Any]:
    return {**POLICY, "schedules": {"calendar": {"time_zone": "Europe/Berlin", "ical": source}}}


async def on_call_now(database: Database) -> tuple[tuple[str, ...], list[str]]:
    """Who is on call, and the warnings."""
    async with database.transaction() as tx:
        now = await read_clock(tx)
        found = await read_schedules(tx, now)
    return people_at(found.rosters["calendar"], now), [each.message for each in warnings_of(found, now)]


async def age(database: Database, by: timedelta) -> None:
    """As if the calendars had been read and tried so long ago."""
    moment = (datetime.now(UTC) - by).isoformat()
    change = "jsonb_build_object('read_at', cast(:at as text), 'tried_at', cast(:at as text))"
    older = f"convert_to((convert_from(content, 'utf8')::jsonb || {change})::text, 'utf8')"
    async with database.transaction() as tx:
        await tx.execute(text(f"update sealed_copy set content = {older} where name like 'calendar/%'"), {"at": moment})


async def test_a_calendar_is_read_again_and_its_last_good_copy_is_kept_while_it_is_away(services: Services) -> None:
    database = services.database
    async with site() as here:
        await store_policy(database, policy_with(here.url))
        assert await on_call_now(database) == (
            (),
            ["nobody is on call, but for overrides, until a worker has read its calendar"],
        )
        here.says(ALWAYS_ADA)
        await refresh_calendars(services)
        assert await on_call_now(database) == (("ada",), [])

        here.says(ALWAYS_GRACE)
        await refresh_calendars(services)
        assert (here.asked, await on_call_now(database)) == (1, (("ada",), []))
        await age(database, timedelta(minutes=16))
        await refresh_calendars(services)
        assert (here.asked, await on_call_now(database)) == (2, (("grace",), []))

        here.says(b"<html>Sign in</html>")
        await age(database, timedelta(hours=7))
        await refresh_calendars(services)
        people, (warning,) = await on_call_now(database)
        assert people == ("grace",)
        assert warning.startswith("the calendar at 127.0.0.1 was read last at 20")
        assert warning.endswith(": it is no calendar: it has no line BEGIN:VCALENDAR")
        assert "secret-token" not in warning


async def test_a_calendar_that_was_never_read_says_why(services: Services, tmp_path: Path) -> None:
    await store_policy(services.database, policy_with(str(tmp_path / "missing.ics")))
    await refresh_calendars(services)
    people, warnings = await on_call_now(services.database)
    assert (people, warnings[1].split(": ", 1)[1]) == ((), "it cannot be read: there is no such file")


async def test_a_file_is_read_and_what_is_no_file_is_not(tmp_path: Path) -> None:
    file = tmp_path / "oncall.ics"
    file.write_bytes(ALWAYS_ADA)
    assert await fetch(str(file)) == ALWAYS_ADA
    for path in ("/dev/zero", str(tmp_path)):
        with pytest.raises(BadCalendar, match="is no file"):
            await fetch(path)


HUGE = b"x" * (4 * 1024 * 1024 + 2)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda here: here.says(b"", "404 Not Found"), "answers with HTTP 404"),
        (lambda here: here.says(HUGE), "more than 4,194,304 bytes"),
        (lambda here: here.says(b"", Content_Encoding="gzip"), "compressed content"),
        (lambda here: here.says(b"", "302 Found", Location="file:///etc/passwd"), "redirects from http to file"),
        (lambda here: here.says(b"", "302 Found", Location="ftp://example.com/x"), "redirects from http to ftp"),
        (lambda here: here.says(b"", "302 Found", Location=here.url), "redirects more than 5 times"),
        (lambda here: here.says(b"", "302 Found", Location="http://[bad"), "does not answer: "),
        (lambda here: setattr(here, "answer", b"nonsense\r\n\r\n"), "does not answer: RemoteProtocolError"),
    ],
)
async def test_an_answer_that_is_no_calendar_is_refused_without_the_url(
    answer: Callable[[Site], None], words: str
) -> None:
    async with site() as here:
        answer(here)
        with pytest.raises(BadCalendar, match=words) as refused:
            await fetch(here.url)
        assert "secret-token" not in str(refused.value)


async def test_a_rule_that_never_matches_costs_only_so_much_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendars, "PROCESS_SECONDS", 1.0)
    never = calendar(
        event("ada", "DTSTART:20200101T000000Z", "DURATION:PT1H", "RRULE:FREQ=HOURLY;BYMONTH=2;BYMONTHDAY=30")
    )
    with pytest.raises(BadCalendar, match="takes more than 1 s to read"):
        await expand(never, "UTC", datetime.now(UTC))
