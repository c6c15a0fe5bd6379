"""The pages of the admin find runs, show untrusted values safely, and resume failed runs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from bench.seed import seed
from orchestration.contracts import Stage
from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.states import StageStatus
from orchestration.store import runs
from orchestration.store.database import Database
from orchestration.store.records import AttemptRecord
from orchestration.store.workers import beat
from service.admin import PATH, charts
from service.admin.tables import AttemptView
from tests.admin_helpers import Browser, browser, fail, make_key, push, words_of
from tests.api_helpers import alert, run_of, run_to_end
from tests.conftest import MemoryChannel
from tests.definition_helpers import look, put


@pytest.fixture
async def here(settings: Settings, database: Database) -> AsyncIterator[Browser]:
    """A browser in which an admin is signed in."""
    ui = settings.model_copy(update={"prefect_api_url": "http://prefect.example.com:4200/api"})
    async with browser(ui, database) as one:
        key = await make_key(settings, database)
        assert (await one.sign_in(key.token)).status_code == 303
        yield one


async def test_from_the_first_page_to_a_run_that_is_resumed_and_succeeds(
    here: Browser, services: Services, channel: MemoryChannel, database: Database
) -> None:
    (run_id,) = await push(here.client)
    await fail(services, channel, run_id)
    home = (await here.get("/")).text
    assert "1 of 1 runs of the last 24 hours failed" in words_of(home)
    assert f'href="{PATH}/runs/{run_id}/"' in home
    page = (await here.get(f"/runs/{run_id}/")).text
    assert "Failed at notify: DeliveryFailed memory: hooks.example.com answered 503 Such errors pass" in words_of(page)
    assert f'href="{PATH}/runs/{run_id}/resume/"' in page
    asked = words_of((await here.get(f"/runs/{run_id}/resume/")).text)
    assert "Done already: ingest, check, analyze. What was delivered is not sent again." in asked

    answer = await here.post(f"/runs/{run_id}/resume/", csrf=await here.csrf())
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PATH}/runs/{run_id}/?resumed=1")
    waiting = (await here.client.get(answer.headers["location"])).text
    assert "Resumed: it waits for a worker." in words_of(waiting)
    assert '<meta http-equiv="refresh" content="2">' in waiting
    await run_to_end(services, run_id)
    done = (await here.client.get(answer.headers["location"])).text
    assert "Resumed, and it succeeded" in words_of(done)
    assert "http-equiv" not in done
    assert len(channel.messages) == 1

    again = await here.post(f"/runs/{run_id}/resume/", csrf=await here.csrf())
    assert (again.status_code, "only failed and retrying runs are resumed" in again.text) == (409, True)
    assert (await run_of(database, run_id)).status == "notified"
    assert (await here.post("/runs/no-such-run/resume/", csrf=await here.csrf())).status_code == 404


async def test_a_runs_page_has_all_that_belongs_to_it(
    here: Browser, services: Services, channel: MemoryChannel, database: Database
) -> None:
    first, second = await push(here.client, alert("HighCPU"), alert("DiskFull", instance="db-1"), environment="staging")
    await fail(services, channel, first)
    async with database.transaction() as tx:
        await runs.change(tx, first, values={"prefect_flow_run_id": "1b4e28ba-2fa1-11d2-883f-0016d3cca427"})
    page = (await here.get(f"/runs/{first}/")).text
    seen = words_of(page)
    for attempt in ("ingest attempt 1", "check attempt 1", "analyze attempt 1", "notify attempt 4"):
        assert attempt in seen
    assert page.count('<details class="attempt" open>') == 1  # the one that failed
    assert re.search(r"<details><summary>Stack</summary><pre>[^<]*DeliveryFailed", page)
    assert page.count("<rect") == 7
    assert "memory via memory memory 4" in seen  # the delivery, its target and its tries
    assert 'href="http://prefect.example.com:4200/runs/flow-run/1b4e28ba-2fa1-11d2-883f-0016d3cca427"' in page
    assert f'href="{PATH}/incidents/1/"' in page
    assert "Other runs of this trace" in seen
    assert f'href="{PATH}/runs/{second}/"' in page
    incident = words_of((await here.get("/incidents/1/")).text)
    assert "HighCPU" in incident
    assert "incident opened" in incident
    assert "instance=web-1" in incident
    assert first[:8] in incident


async def test_the_links_of_an_alert_are_at_hand_and_no_others(here: Browser, database: Database) -> None:
    links = {
        "runbook_url": "https://runbooks.example.com/cpu?a=1&b=2",
        "dashboard_url": "javascript:alert(1)",
        "panel_url": "https://user:hunter2@grafana.example.com/",
    }
    (run_id,) = await push(here.client)
    async with database.transaction() as tx:
        payload = await runs.get_payload(tx, run_id)
        payload["alerts"][0]["links"] = links
        await runs.change(tx, run_id, values={"payload": payload | {"more": None}})
    page = (await here.get(f"/runs/{run_id}/")).text
    assert 'href="https://runbooks.example.com/cpu?a=1&amp;b=2" rel="noreferrer">runbook_url</a>' in page
    assert 'href="javascript' not in page
    assert "hunter2" not in page


async def test_a_duplicate_names_what_it_repeats(here: Browser) -> None:
    (first,) = await push(here.client)
    (second,) = await push(here.client)
    page = (await here.get(f"/runs/{second}/")).text
    assert "Skipped on purpose: duplicate" in words_of(page)
    assert f'<a href="{PATH}/runs/{first}/">' in page


async def test_an_attempt_that_failed_is_found_however_much_was_done_since(
    here: Browser, services: Services, channel: MemoryChannel, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (failed,) = await push(here.client)
    await fail(services, channel, failed)
    seed(database.url, 500)
    monkeypatch.setattr(AttemptView, "window", 100)

    page = (await here.get("/attempts/?status=failed&stage=notify")).text
    while failed not in page and (older := re.search(r"before=\d+", page)):
        page = (await here.get(f"/attempts/?status=failed&stage=notify&{older[0]}")).text

    assert failed in page


async def test_filters_and_search_find_the_run(
    here: Browser, services: Services, channel: MemoryChannel, database: Database
) -> None:
    (failed,) = await push(here.client, alert("HighCPU"), trace_id="my-trace-1", environment="staging")
    (waiting,) = await push(here.client, alert("DiskFull"), source="grafana", trace_id="my-trace-2")
    record = await fail(services, channel, failed)

    async def found(query: str, address: str = "runs") -> set[str]:
        answer = await here.get(f"/{address}/?{query}")
        assert answer.status_code == 200, query
        return set(re.findall(rf'href="{PATH}/runs/([0-9a-f]{{32}})/"', answer.text))

    assert await found("") == {failed, waiting}
    assert await found("status=failed&stage=notify&environment=staging") == {failed}
    assert await found("status=&stage=&source=&environment=production&search=") == {waiting}
    assert await found("stage=check") == set()
    assert await found(f"source={(await run_of(database, waiting)).source}&status=pending") == {waiting}
    for words in (failed, failed[:8], "my-trace-1", f"+{failed}+", record.alert_fingerprint):
        assert await found(f"search={words}") == {failed}, words
    assert await found("search=no-such-thing") == set()
    assert await found("status=failed", "attempts") == {failed}
    assert await found(f"search={waiting}", "attempts") == set()
    alerts = (await here.get(f"/alerts/?search={record.alert_fingerprint}&status=firing")).text
    assert f'href="{PATH}/alerts/1/"' in alerts
    assert f'href="{PATH}/incidents/1/"' in (await here.get("/incidents/?search=%231")).text


async def test_pages_follow_each_other_without_a_gap(here: Browser, database: Database) -> None:
    seed(database.url, 120)
    for address, pattern, expected in (
        ("runs", r"/runs/([0-9a-f]{32})/", 120),
        ("attempts", r"/attempts/(\d+)/", None),
    ):
        seen: list[str] = []
        query = "?" if expected else "?status=succeeded"
        while query:
            page = (await here.get(f"/{address}/{query}")).text
            seen += dict.fromkeys(re.findall(rf'href="{PATH}{pattern}"', page))
            following = re.search(r'rel="next" href="[^"?]*([^"]*)"', page)
            query = following[1].replace("&amp;", "&") if following else ""
        assert len(seen) == len(set(seen))
        async with database.transaction() as tx:
            count = text("select count(*) from stage_execution where status = 'succeeded'")
            assert len(seen) == (expected or (await tx.execute(count)).scalar_one())


async def test_definitions_show_which_version_is_active(here: Browser, database: Database) -> None:
    await put(database, look(description="Before"))
    await put(database, look(description="Now <b>better</b>"))
    await put(database, look(), "other")
    seen = words_of((await here.get("/definitions/?search=look")).text)
    assert "active look 2 Now <b>better</b>" in seen
    assert "earlier look 1 Before" in seen
    assert "other" not in seen
    page = (await here.get("/definitions/2/")).text
    assert "&#34;nodes&#34;: [" in page
    assert "<b>" not in page


async def test_the_first_page_says_what_is_wrong(here: Browser, database: Database) -> None:
    async def home() -> str:
        return words_of((await here.get("/")).text)

    assert "No worker is alive" in await home()
    async with database.transaction() as tx:
        await beat(tx, name="w1", host="h", pid=1, prefect_ok=False, running=0)
    assert "Prefect does not answer: runs go through the direct engine meanwhile" in await home()
    async with database.transaction() as tx:
        await beat(tx, name="w1", host="h", pid=1, prefect_ok=True, running=0)
    assert (await home()).startswith("All is well")
    await push(here.client)
    async with database.transaction() as tx:
        await tx.execute(text("update pipeline_run set updated_at = now() - interval '5 minutes'"))
    assert "1 runs wait for a worker, the oldest for 5 min" in await home()


async def test_the_numbers_of_the_first_page_are_those_of_the_runs(here: Browser, database: Database) -> None:
    seed(database.url, 300)
    async with database.transaction() as tx:
        # As if all had come in during the last day, each message 2 s after its alert, but for one.
        shift = "created_at = now() - interval '1 hour' * (1 + id % 22)"
        await tx.execute(text(f"update pipeline_run set {shift}"))
        await tx.execute(
            text(
                "update delivery set settled_at = run.created_at + interval '2 s' "
                "from pipeline_run as run where run.id = delivery.pipeline_run_id"
            )
        )
        counts = dict((await tx.execute(text("select status, count(*) from pipeline_run group by 1"))).all())
        stages = (
            await tx.execute(
                text("select current_stage, count(*) from pipeline_run where status = 'failed' group by 1")
            )
        ).all()
    page = (await here.get("/")).text
    seen = words_of(page)
    assert f"{counts['failed']} of 300 runs" in seen
    assert f"{counts['notified']} notified {counts['skipped']} skipped {counts['failed']} failed" in seen
    assert "p50 2 s p99 2 s" in seen
    for stage, count in stages:
        assert f"{stage} {count}" in seen
    assert page.count("<rect") > 40


async def test_what_comes_from_outside_is_shown_and_not_obeyed(
    here: Browser, services: Services, channel: MemoryChannel, database: Database
) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    (run_id,) = await push(
        here.client,
        alert(f"High {evil}", instance=f'"{evil}', description=evil, labels={"team": evil, f"l{evil}": "x"}),
        environment=f"'\"{evil}",
        trace_id=f"t{evil}",
    )
    await fail(services, channel, run_id)
    async with database.transaction() as tx:
        await runs.change(tx, run_id, values={"last_error_message": evil, "last_error_type": evil, "skip_reason": evil})
        await tx.execute(text("update stage_execution set error_message = :evil, error_stack = :evil"), {"evil": evil})
        await tx.execute(text("update delivery set error = :evil, target = :evil, channel = :evil"), {"evil": evil})
    for path in ("/", "/runs/", f"/runs/{run_id}/", f"/runs/{run_id}/resume/", "/incidents/", "/incidents/1/",
                 "/alerts/", "/alerts/1/", "/attempts/", "/attempts/7/", f"/runs/?search={evil}",
                 f"/attempts/?search={evil}", f"/runs/?environment={evil}"):  # fmt: skip
        page = (await here.get(path)).text
        assert "<script" not in page, path
        assert "<img src=x" not in page, path
    assert "&lt;script&gt;alert(1)" in (await here.get(f"/runs/{run_id}/")).text
    assert "team=&lt;script&gt;alert(1)" in (await here.get("/incidents/1/")).text


async def test_secrets_are_on_no_page(
    here: Browser, settings: Settings, services: Services, database: Database
) -> None:
    key = await make_key(settings, database, name="second")
    async with database.transaction() as tx:
        rows = (await tx.execute(text("select hash, sealed_signing_secret from api_key"))).all()
    (run_id,) = await push(here.client, alert(labels={"db_password": "hunter2-hunter2"}, api_token="tok-123456"))
    await run_to_end(services, run_id)
    pages = [
        "/",
        "/keys/",
        "/keys/1/",
        f"/runs/{run_id}/",
        "/alerts/1/",
        "/incidents/1/",
        "/attempts/1/",
        "/attempts/2/",
    ]
    shown = "".join([(await here.get(path)).text for path in pages])
    for secret in ("hunter2", "tok-123456", key.token, key.signing_secret, *(row.hash for row in rows)):
        assert secret not in shown
    assert "second" in shown
    assert "[redacted]" in shown


HOSTILE = (
    "/runs/?status=bogus",
    "/runs/?stage=x",
    "/runs/?before=x",
    "/runs/?search=%00",
    "/runs/?environment=%00",
    "/runs/?search=" + "x" * 300,
    "/attempts/?before=-1",
    "/attempts/?before=99999999999999999999999",
    "/attempts/?before=1e3",
    "/alerts/?status=%27",
    "/alerts/?severity=fatal",
    "/incidents/?before=%C2%B2",
    "/incidents/?search=99999999999999999999999",
    "/workers/?search=x%00",
    "/keys/?search=x",
    "/runs/%00/",
    "/runs/" + "x" * 200 + "/",
    "/incidents/0x1/",
    "/incidents/99999999999999999999/",
    "/alerts/99999999999999999999/",
    "/alerts/%C2%B2/",
    "/attempts/-1/",
    "/keys/1/",
    "/workers/1/",
    "/..%2F/",
    "/statics/..%2Fviews.py",
    "/statics/nothing.css",
)
ODD = (
    "/runs/?nothing=x",
    "/runs/?status=failed&status=notified",
    "/runs/?search=%25",
    "/alerts/?search=%27%3B--",
    "/runs/?source=%F0%9F%94%A5",
    "/attempts/?search=x%2Fy",
    "/incidents/?search=%5C",
)


async def test_hostile_addresses_are_refused_in_plain_words(here: Browser) -> None:
    for path in HOSTILE:
        answer = await here.get(path)
        assert 400 <= answer.status_code < 500, (path, answer.text)
        assert "Traceback" not in answer.text, path


async def test_odd_addresses_do_no_harm(here: Browser) -> None:
    for path in ODD:
        assert (await here.get(path)).status_code == 200, path


def attempt(stage: Stage, number: int, at: float, seconds: float, status: StageStatus) -> AttemptRecord:
    started = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=at)
    return AttemptRecord(
        node_id=stage.value,
        stage=stage,
        status=status,
        attempt=number,
        idempotency_key=f"r/{stage.value}/{number}",
        started_at=started,
        completed_at=started + timedelta(seconds=seconds),
        duration_ms=seconds * 1000,
    )


def test_a_timeline_keeps_short_attempts_visible_beside_a_long_wait() -> None:
    first = attempt(Stage.INGEST, 1, 0, 0.1, StageStatus.SUCCEEDED)
    failed = attempt(Stage.NOTIFY, 1, 0.1, 0.1, StageStatus.FAILED)
    resumed = attempt(Stage.NOTIFY, 2, 7200, 0.2, StageStatus.SUCCEEDED)
    drawn = charts.timeline([first, failed, resumed], datetime(2026, 1, 2, tzinfo=UTC))
    assert drawn is not None
    widths = [lane.box.width for lane in drawn.lanes]
    assert widths == pytest.approx([142.5, 142.5, 285.0])
    assert [pause.text for pause in drawn.pauses] == ["2 h"]
    assert [lane.label for lane in drawn.lanes] == ["ingest", "notify", "notify 2"]
    assert all(lane.box.x + lane.box.width <= charts.TRACK + 0.1 for lane in drawn.lanes)
    assert charts.timeline([], datetime.now(UTC)) is None


def test_a_timeline_of_many_resumes_stays_on_the_page() -> None:
    many = [attempt(Stage.NOTIFY, n, n * 3600, 0.01, StageStatus.FAILED) for n in range(1, 60)]
    drawn = charts.timeline(many, datetime(2026, 2, 1, tzinfo=UTC))
    assert drawn is not None
    assert len(drawn.pauses) < 10
    assert all(0 <= lane.box.x <= charts.TRACK for lane in drawn.lanes)
