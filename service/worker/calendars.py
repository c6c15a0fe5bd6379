"""A worker's duty for the calendars of schedules: it reads each one regularly, and keeps the last good copy."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path

import httpx
from pydantic import ValidationError

from orchestration.engine.run import Services
from orchestration.policy.ical import MAX_BYTES, BadCalendar, CalendarContent
from orchestration.policy.rotations import Schedule
from orchestration.redaction import one_line
from orchestration.signals import logger
from orchestration.store.calendars import StoredCalendar, calendar_name, start_reading, write_calendar
from orchestration.store.oncall import read_policy
from service.worker.calendar_process import REFUSED
from service.worker.duty import repeat

LOOK_EVERY_SECONDS = 30.0
"""How often a worker looks for calendars that are due. A new policy's are read after this time at the latest."""

READ_EVERY = timedelta(minutes=15)
"""How often each calendar is read, over all workers."""

BEHIND, AHEAD = timedelta(days=35), timedelta(days=400)
"""The span of which a calendar is read, around the present moment."""

FETCH_SECONDS = 30.0
PROCESS_SECONDS = 30.0
MAX_REDIRECTS = 5
MAX_OUTPUT_BYTES = 2 * 1024 * 1024

_KEPT_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


async def look_after_calendars(services: Services) -> None:
    """Read the calendars that are due, now and again and again. Never ends."""
    await repeat(partial(refresh_calendars, services), LOOK_EVERY_SECONDS, "The calendars of schedules cannot be read")


async def refresh_calendars(services: Services) -> None:
    """Read each calendar of the policy that no worker has read lately.

    Raises:
        Unavailable: the database does not answer.
    """
    async with services.database.statement() as tx:
        policy = await read_policy(tx)
    for schedule in policy.schedules.values():
        if schedule.ical is None:
            continue
        async with services.database.transaction() as tx:
            before = await start_reading(tx, schedule, READ_EVERY)
        if before is None:
            continue
        after = await read_now(schedule, before)
        if after.failure and after.failure != before.failure:
            logger.warning("The calendar at %s %s", calendar_name(schedule), after.failure)
        async with services.database.transaction() as tx:
            await write_calendar(tx, schedule, after)


async def read_now(schedule: Schedule, before: StoredCalendar) -> StoredCalendar:
    """The calendar as it is now. If it cannot be read: what was known of it before, and why it cannot."""
    try:
        found = await expand(await fetch(schedule.ical or ""), schedule.time_zone, before.tried_at)
    except BadCalendar as error:
        return before.model_copy(update={"failure": str(error)})
    return StoredCalendar(
        entries=found.entries, problems=found.problems, read_at=before.tried_at, tried_at=before.tried_at
    )


# Its text


async def fetch(source: str) -> bytes:
    """The text of a calendar: the content of a file, or the answer of a URL.

    Raises:
        BadCalendar: it cannot be read, or is too large. The message names no more of a URL than its host.
    """
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            return await (asyncio.to_thread(_of_file, source) if source.startswith("/") else _of_url(source))
    except TimeoutError:
        raise BadCalendar(f"does not answer within {FETCH_SECONDS:g} s") from None


def _of_file(source: str) -> bytes:
    path = Path(source)
    try:
        if not path.is_file():  # a device or a pipe may never end
            raise BadCalendar("cannot be read: there is no such file" if not path.exists() else "is no file")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadCalendar(f"cannot be read: {error.strerror}") from None


async def _of_url(source: str) -> bytes:
    try:
        url = httpx.URL(source)
        if url.scheme == "webcal":  # what calendars call HTTPS
            url = url.copy_with(scheme="https")
        # An answer that is compressed could grow to any size in one step.
        headers = {"Accept": "text/calendar, */*;q=0.5", "Accept-Encoding": "identity"}
        async with httpx.AsyncClient(headers=headers, timeout=FETCH_SECONDS, follow_redirects=False) as client:
            for _ in range(MAX_REDIRECTS + 1):
                found = await _answer(client, url)
                if isinstance(found, bytes):
                    return found
                if found.scheme != "https" and (found.scheme, url.scheme) != ("http", "http"):
                    raise BadCalendar(f"redirects from {url.scheme} to {one_line(found.scheme, 20)}")
                url = found
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # Its text may have the URL in it, which may have a secret in it.
        raise BadCalendar(f"does not answer: {type(error).__name__}") from None
    raise BadCalendar(f"redirects more than {MAX_REDIRECTS} times")


async def _answer(client: httpx.AsyncClient, url: httpx.URL) -> bytes | httpx.URL:
    """The body of an answer, or where it redirects to."""
    async with client.stream("GET", url) as response:
        if response.next_request is not None:
            return response.next_request.url
        if response.status_code != HTTPStatus.OK:
            raise BadCalendar(f"answers with HTTP {response.status_code}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise BadCalendar("answers with compressed content, which was not asked for")
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > MAX_BYTES:
                raise BadCalendar(f"has more than {MAX_BYTES:,} bytes")
        return bytes(body)


# What it says


async def expand(content: bytes, time_zone: str, now: datetime) -> CalendarContent:
    """The entries of a calendar around the present moment, from a process of its own that may take only so much.

    Raises:
        BadCalendar: it is no calendar, or costs too much time or memory.
    """
    start, end = (moment.astimezone(UTC).isoformat() for moment in (now - BEHIND, now + AHEAD))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service.worker.calendar_process", time_zone, start, end),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
        start_new_session=True,  # Ctrl-C ends the worker, which ends this process
    )
    try:
        async with asyncio.timeout(PROCESS_SECONDS):
            said, _ = await process.communicate(content)
    except TimeoutError:
        raise BadCalendar(
            f"takes more than {PROCESS_SECONDS:g} s to read: one of its events repeats too often"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await asyncio.shield(process.wait())
    if process.returncode == REFUSED:
        raise BadCalendar(one_line(said.decode(errors="replace"), 300))
    if process.returncode != 0:
        raise BadCalendar("takes too much time or memory to read")
    if len(said) > MAX_OUTPUT_BYTES:
        raise BadCalendar(f"says too much: more than {MAX_OUTPUT_BYTES:,} bytes")
    try:
        return CalendarContent.model_validate_json(said)
    except ValidationError:
        raise BadCalendar("cannot be read") from None
