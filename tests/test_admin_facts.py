"""What the pages of the admin state is true: times of an alert, duplicates, resumes, reasons, links, graphs."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from orchestration.contracts import Stage
from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.states import StageStatus
from orchestration.store import runs
from orchestration.store.database import Database
from orchestration.store.records import AttemptRecord
from orchestration.store.story import read_trace
from service.admin import PATH, charts
from service.cli.trace import timeline
from tests.admin_helpers import Browser, browser, fail, make_key, push, words_of
from tests.api_helpers import alert, run_of, run_to_end
from tests.conftest import MemoryChannel
from tests.definition_helpers import look, put


@pytest.fixture
async def here(settings: Settings, database: Database) -> AsyncIterator[Browser]:
    """A browser in which an admin is signed in."""
    async with browser(settings, database) as one:
        key = await make_key(settings, database)
        assert (await one.sign_in(key.token)).status_code == 303
        yield one


async def shift(database: Database, minutes: int) -> None:
    """Move everything that is stored into the past."""
    async with database.transaction() as tx:
        for statement in (
            "update history set at = at - make_interval(mins => :minutes)",
            "update alert set received_at = received_at - make_interval(mins => :minutes), "
            "updated_at = updated_at - make_interval(mins => :minutes)",
            "update pipeline_run set created_at = created_at - make_interval(mins => :minutes)",
        ):
            await tx.execute(text(statement), {"minutes": minutes})


def fact(page: str, label: str) -> str:
    """The value of a line of facts, as a person reads it."""
    found = re.search(rf"<dt>{label}</dt><dd>(.*?)</dd></div>", page, re.DOTALL)
    assert found, label
    return " ".join(re.sub(r"<[^>]*>", " ", found[1]).split())


async def test_an_alert_was_received_first_when_it_was_created_and_last_with_its_latest_duplicate(
    here: Browser, services: Services, database: Database
) -> None:
    (first,) = await push(here.client, alert("DiskFull", instance="db-1"))
    await run_to_end(services, first)
    await shift(database, 120)
    (again,) = await push(here.client, alert("DiskFull", instance="db-1"))
    await run_to_end(services, again)  # long after the first push, so no duplicate, but a repeat
    await shift(database, 1)
    (duplicate,) = await push(here.client, alert("DiskFull", instance="db-1"))
    assert (await run_of(database, duplicate)).duplicate_of == again

    page = (await here.get("/alerts/1/")).text
    created = datetime.now(UTC) - timedelta(minutes=121)
    received = datetime.fromisoformat(f"{fact(page, 'First received')}+00:00")
    assert abs(received - created) < timedelta(seconds=90)
    heard = datetime.fromisoformat(f"{fact(page, 'Last heard of')}+00:00")
    assert abs(heard - (await run_of(database, duplicate)).created_at) < timedelta(seconds=1)


async def test_an_incident_lists_its_duplicates(here: Browser, services: Services, database: Database) -> None:
    pair = (alert("DiskFull", instance="db-1"), alert("InodesFull", instance="db-1"))
    one, other = await push(here.client, *pair)
    for run_id in (one, other):
        await run_to_end(services, run_id)
    assert "Duplicates" not in (await here.get("/incidents/1/")).text
    repeated = await push(here.client, *pair)
    repeated += await push(here.client, *reversed(pair))

    page = (await here.get("/incidents/1/")).text
    mine = [run_id for run_id in repeated if (await run_of(database, run_id)).duplicate_of == one]
    assert len(mine) == 2
    assert re.fullmatch(r"2, the last [\d.]+ m?s ago", fact(page, "Duplicates"))
    for run_id in repeated:
        assert (f'href="{PATH}/runs/{run_id}/"' in page) == (run_id in mine)
    assert "duplicate, the same was said shortly before" in words_of(page)


async def test_a_resume_is_on_the_runs_page_in_the_history_and_in_the_trace(
    here: Browser, services: Services, channel: MemoryChannel, database: Database
) -> None:
    (run_id,) = await push(here.client, trace_id="a-night")
    failed = await fail(services, channel, run_id)
    async with database.transaction() as tx:
        await runs.change(tx, run_id, values={"carried_by": "host-a/12/ab", "engine": "prefect"})
    await here.post(f"/runs/{run_id}/resume/", csrf=await here.csrf())
    await run_to_end(services, run_id)
    async with database.transaction() as tx:
        await runs.change(tx, run_id, values={"carried_by": "host-b/99/cd"})

    page = (await here.get(f"/runs/{run_id}/")).text
    assert re.search(r"notify attempt 4 .* resumed \S+ \S+ UTC by oncall .* notify attempt 5", words_of(page))
    assert (fact(page, "Taken up by"), fact(page, "Then executed by")) == ("host-a/12", "host-b/99")
    assert 'class="resume"' in page
    incident = words_of((await here.get(f"/incidents/{failed.incident_id}/")).text)
    assert f"run resumed by oncall failed → retrying · run {run_id[:8]}" in incident

    async with database.transaction() as tx:
        events = timeline(await read_trace(tx, "a-night"))
    said = [event.text for event in events]
    assert said[1].startswith("claimed by host-a/12, engine prefect after ")
    assert said.index("resumed by oncall, executed by host-b/99") > next(
        place for place, one in enumerate(said) if "attempt 4" in one
    )
    assert [event.event for event in events].count("resumed") == 1


async def test_a_run_that_failed_before_it_had_an_incident_shows_its_resume_too(
    here: Browser, services: Services, database: Database
) -> None:
    (run_id,) = await push(here.client)
    async with database.transaction() as tx:
        await tx.execute(text("update pipeline_run set status = 'failed'"))
    assert (await run_of(database, run_id)).incident_id is None
    await here.post(f"/runs/{run_id}/resume/", csrf=await here.csrf())
    assert re.search(r"resumed \S+ \S+ UTC by oncall", words_of((await here.get(f"/runs/{run_id}/")).text))


async def test_reasons_are_words(here: Browser, services: Services, channel: MemoryChannel, database: Database) -> None:
    (first,) = await push(here.client)
    await fail(services, channel, first)
    async with database.transaction() as tx:
        await tx.execute(text("delete from pipeline_run where reason = 'redelivery'"))  # nobody tries it any more
    (second,) = await push(here.client, alert(value=7))
    await run_to_end(services, second)
    await shift(database, 60)
    (third,) = await push(here.client, alert(value=8))
    await run_to_end(services, third)

    untold = "somebody is notified: untold, nothing new, but not every channel knew what is true"
    assert untold in words_of((await here.get(f"/runs/{second}/")).text)
    repeat = words_of((await here.get(f"/runs/{third}/")).text)
    assert "Skipped on purpose: repeat, a repeat: nothing has changed." in repeat
    assert "nobody is notified: repeat, a repeat: nothing has changed" in repeat
    assert "repeat, a repeat: nothing has changed" in words_of((await here.get("/runs/")).text)


async def test_web_links_in_annotations_can_be_clicked_and_nothing_else(here: Browser, services: Services) -> None:
    annotations = {
        "runbook": "https://runbooks.example.com/disk?a=1&b=2",
        "dashboard": "javascript:alert(1)",
        "silence": "https://user:hunter2@alerts.example.com/",
        "summary": "see https://example.com/ first",
    }
    (run_id,) = await push(here.client, alert(annotations=annotations))
    await run_to_end(services, run_id)
    page = (await here.get("/alerts/1/")).text
    shown = page.partition("<dt>Annotations</dt>")[2].partition("<dt>What was sent</dt>")[0]
    assert re.findall(r'<a href="([^"]*)" rel="noreferrer">', shown) == [
        "https://runbooks.example.com/disk?a=1&amp;b=2"
    ]
    assert "javascript:alert(1)" in shown
    assert "hunter2" not in page


async def test_a_definition_is_shown_with_its_graph(here: Browser, database: Database) -> None:
    await put(database, look())
    page = (await here.get("/definitions/1/")).text
    graph = page.partition("<dt>Graph</dt>")[2].partition("</pre>")[0]
    assert [line.split() for line in graph.partition("<pre>")[2].splitlines()] == [
        ["●", node["id"], node["type"]] for node in look()["nodes"]
    ]
    async with database.transaction() as tx:
        await tx.execute(text("update definition set config = '{\"nodes\": []}'"))
    page = (await here.get("/definitions/1/")).text
    assert "This version of alert-pipeline cannot draw it" in page


async def test_the_tab_of_the_first_page_says_what_it_is(here: Browser) -> None:
    assert "<title>Health: 1 problem · alert-pipeline</title>" in (await here.get("/")).text


def test_labels_of_short_attempts_with_waits_between_them_do_not_overlap() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    attempts = [
        AttemptRecord(
            node_id="notify",
            stage=Stage.NOTIFY,
            status=StageStatus.RETRYING,
            attempt=number,
            idempotency_key=f"r/notify/{number}",
            started_at=start + timedelta(seconds=at),
            duration_ms=48,
        )
        for number, at in enumerate((0, 2.1, 6.1, 14.2), 1)
    ]
    drawn = charts.timeline([*attempts], start + timedelta(days=1), [start + timedelta(seconds=10)])
    assert drawn is not None
    assert [pause.text for pause in drawn.pauses] == ["2.1 s", "4.0 s", "8.1 s"]
    pixels = 190 / 100  # of a percent, where the timeline of a phone is 190 px wide
    for row in range(drawn.rows):
        middles = [pause.percent * pixels for pause in drawn.pauses if pause.row == row]
        assert all(right - left >= 40 for left, right in itertools.pairwise(middles))
    assert drawn.pauses[1].x < drawn.resumes[0] <= drawn.lanes[3].box.x
