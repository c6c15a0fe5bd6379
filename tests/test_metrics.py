"""What Prometheus is shown: counted once, bounded, documented, and what the rules and the dashboard ask for."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from orchestration.engine.run import Services
from orchestration.errors import DeliveryFailed
from orchestration.metrics import MOST_NAMES, Gauges, ProcessMetrics, exposition
from orchestration.settings import Settings
from orchestration.signals import DeliveryTried, PushAccepted, Signal, Signals, Tags
from orchestration.store import workers
from orchestration.store.database import Database
from orchestration.store.keys import Scope
from service.api import app as api_app
from service.api.metrics import StateMetrics, api_metrics
from service.worker.breaker import Breaker
from service.worker.metrics import serve_metrics, worker_gauges
from service.worker.process import open_worker
from tests.api_helpers import alert, open_api, run_to_end, trigger
from tests.auth_helpers import FAR, PUBLIC, bearer, make_key
from tests.conftest import MemoryChannel
from tests.inbox_helpers import accept_push
from tests.prometheus_helpers import free_port
from tests.receivers import HttpReceiver
from tests.worker_helpers import NOWHERE, worker_settings

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "metrics.md").read_text()
RULES = ROOT / "deploy" / "prometheus" / "alert-pipeline.rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "alert-pipeline.json"
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"
PATH = "/metrics"


def samples(shown: str) -> dict[str, float]:
    """The samples by their name and labels, such as `runs{priority="critical"}`, without our prefix."""
    found = {}
    for family in text_string_to_metric_families(shown):
        for one in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(one.labels.items()))
            found[one.name.removeprefix("alert_pipeline_") + (f"{{{labels}}}" if labels else "")] = one.value
    return found


def shown(*parts: ProcessMetrics) -> dict[str, float]:
    return samples(exposition("", *parts)[0].decode())


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(settings, database.url) as client:
        yield client


@pytest.fixture
def counted() -> ProcessMetrics:
    return api_metrics()


@pytest.fixture
def services(services: Services, counted: ProcessMetrics) -> Services:
    return replace(services, signals=Signals([counted]))


async def scrape(api: httpx.AsyncClient) -> dict[str, float]:
    answer = await api.get(PATH)
    assert answer.status_code == 200, answer.text
    return samples(answer.text)


async def test_what_waits_and_what_is_open_is_the_state_of_the_database(
    api: httpx.AsyncClient, services: Services
) -> None:
    handled = await accept_push(services, alert("Disk", severity="warning"), source="generic", environment="production")
    await run_to_end(services, handled[0])
    await accept_push(services, alert("Down"), source="generic", environment="production")
    await accept_push(services, alert("Slow", severity="info"), source="generic", environment="production")
    async with services.database.transaction() as tx:
        await workers.beat(tx, name="w", host="h", pid=1, prefect_ok=False, running=0)

    found = await scrape(api)

    assert [found[f'runs_waiting{{priority="{one}"}}'] for one in ("critical", "warning", "info")] == [1, 0, 1]
    assert found['oldest_waiting_seconds{priority="critical"}'] > 0
    assert found['oldest_waiting_seconds{priority="warning"}'] == 0
    assert found['incidents_open{severity="warning",status="open"}'] == 1
    assert found['incidents_open{severity="critical",status="open"}'] == 0
    assert (found["workers_alive"], found["workers_with_prefect"], found["database_up"]) == (1, 0, 1)


async def test_a_storm_is_shown_with_its_members(api: httpx.AsyncClient, services: Services) -> None:
    names = ("Down", "Slow", "Full")
    for name in names:
        (run_id,) = await accept_push(services, alert(name), source="generic", environment="production")
        await run_to_end(services, run_id)
    async with services.database.transaction() as tx:
        opened = "insert into incident (incident_key, title, severity) values ('policy:storm:x', 'Storm', 'critical')"
        (storm,) = (await tx.execute(text(f"{opened} returning id"))).scalars()
        joined = "insert into membership (incident_id, alert_id, status) select :storm, id, 'firing' from alert"
        await tx.execute(text(joined), {"storm": storm})

    found = await scrape(api)

    assert (found["storms_open"], found["storm_members"]) == (1, len(names))
    assert found['incidents_open{severity="critical",status="open"}'] == 1 + len(names)


async def test_openmetrics_is_spoken_too(api: httpx.AsyncClient) -> None:
    """The format that Prometheus asks for first."""
    answer = await api.get(PATH, headers={"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in openmetrics_families(answer.text)}
    assert {"alert_pipeline_build", "alert_pipeline_runs_waiting", "alert_pipeline_run_duration_seconds"} <= names


async def test_the_api_counts_the_pushes_that_it_accepts_and_refuses(api: httpx.AsyncClient) -> None:
    assert (await api.post("/alerts/webhook/alertmanager/", json=am())).status_code == 202
    assert (await api.post("/alerts/webhook/alertmanager/", json=am())).status_code == 202
    assert (await api.post("/orchestration/pipeline/", json=trigger(alert()))).status_code == 202
    assert (await api.post("/alerts/webhook/grafana/", content=b"{")).status_code == 202
    assert (await api.post("/alerts/webhook/x-hostile/", json=am())).status_code == 422
    assert (await api.post("/alerts/webhook/", json=am(), headers={"Authorization": "no"})).status_code == 401

    found = await scrape(api)

    assert found['pushes_accepted_total{outcome="queued",source="alertmanager"}'] == 1
    assert found['pushes_accepted_total{outcome="duplicate",source="alertmanager"}'] == 1
    assert found['runs_completed_total{engine="none",source="alertmanager",status="skipped"}'] == 1
    assert found['pushes_refused_total{reason="unreadable",source="grafana"}'] == 1
    assert found['pushes_refused_total{reason="invalid",source="other"}'] == 1
    assert found['pushes_refused_total{reason="no_key",source="other"}'] == 1
    assert "x-hostile" not in str(found)


def am() -> dict[str, object]:
    labels = {"alertname": "Down", "severity": "critical", "instance": "web-1"}
    return {"version": "4", "status": "firing", "alerts": [{"status": "firing", "labels": labels, "annotations": {}}]}


async def test_a_run_is_counted_where_it_is_executed(
    services: Services, counted: ProcessMetrics, channel: MemoryChannel
) -> None:
    channel.failures = [DeliveryFailed("busy", retryable=True)]
    (run_id,) = await accept_push(services, alert("Down"), source="generic", environment="production")
    await run_to_end(services, run_id)

    found = shown(counted)

    assert found['runs_completed_total{engine="direct",source="generic",status="notified"}'] == 1
    assert found['stage_duration_seconds_count{outcome="succeeded",stage="ingest"}'] == 1
    assert found['stage_duration_seconds_count{outcome="failed",stage="notify"}'] == 1
    assert found['stage_duration_seconds_count{outcome="succeeded",stage="notify"}'] == 1
    assert found['stage_retries_total{stage="notify"}'] == 1
    assert found['deliveries_total{channel="memory",outcome="failed"}'] == 1
    assert found['deliveries_total{channel="memory",outcome="sent"}'] == 1
    assert found['run_duration_seconds_count{status="notified"}'] == 1
    assert found['run_duration_seconds_count{status="failed"}'] == 0


async def test_metrics_need_a_key_that_may_read(settings: Settings, database: Database) -> None:
    keys = {scope: await make_key(settings, database, scope, name=scope.value) for scope in (Scope.READ, Scope.TRIGGER)}
    async with open_api(settings, database.url, host=PUBLIC, client=FAR) as api:
        answers = [await api.get(PATH), *[await api.get(PATH, headers=bearer(key)) for key in keys.values()]]

    assert [answer.status_code for answer in answers] == [401, 200, 403]
    assert answers[1].headers["content-type"].startswith("text/plain; version=")


async def test_without_its_database_the_api_says_so(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_app, "migrate", lambda url: None)
    async with open_api(settings, NO_DATABASE) as api:
        found = await scrape(api)

    assert found["database_up"] == 0
    assert not any(name.startswith("runs_waiting") for name in found)


def test_names_from_outside_make_a_bounded_number_of_time_series(counted: ProcessMetrics) -> None:
    tags = Tags(trace_id="t", run_id="r")
    for number in range(3 * MOST_NAMES):
        counted.note(PushAccepted(source=f"s{number}", outcome="queued"))
        counted.emit(Signal.STARTED, replace(tags, source=f"s{number}"), {})
        tried = {"node": "notify", "channel": f"c{number}", "driver": "slack", "outcome": "sent", "duration_ms": 1.0}
        counted.note(DeliveryTried(tags=tags, **tried))

    found = shown(counted)

    assert (
        found['runs_started_total{source="other"}'] == found['pushes_accepted_total{outcome="queued",source="other"}']
    )
    channels = [name for name in found if name.startswith("deliveries_total")]
    assert len(channels) == MOST_NAMES
    assert found['deliveries_total{channel="other",outcome="sent"}'] == 2 * MOST_NAMES + 1


async def test_a_worker_shows_its_metrics_on_loopback(
    tmp_path: Path, database: Database, receiver: HttpReceiver
) -> None:
    port = free_port()
    settings = worker_settings(tmp_path, receiver, worker_metrics_port=port)
    async with (
        open_worker(settings, database_url=database.url, prefect_api_url=NOWHERE) as worker,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        services = worker.services
        (run_id,) = await accept_push(services, alert("Down"), source="generic", environment="production")
        await run_to_end(services, run_id)
        found = samples((await client.get(f"http://127.0.0.1:{port}/metrics")).text)
        async with serve_metrics(settings, api_metrics(), Gauges({})):
            pass  # the port is in use, which ends nothing

    assert found["worker_slots"] == settings.worker_concurrency
    assert found["worker_breaker_open"] == 1
    assert found['runs_completed_total{engine="direct",source="generic",status="notified"}'] == 1
    assert found['deliveries_total{channel="generic",outcome="sent"}'] == 1
    with pytest.raises(httpx.ConnectError):
        await asyncio.to_thread(httpx.get, f"http://127.0.0.1:{port}/metrics", trust_env=False)


async def test_a_worker_without_a_port_counts_nothing(
    tmp_path: Path, database: Database, receiver: HttpReceiver
) -> None:
    settings = worker_settings(tmp_path, receiver)
    async with open_worker(settings, database_url=database.url, prefect_api_url=NOWHERE) as worker:
        assert not [one for one in worker.services.signals._backends if isinstance(one, ProcessMetrics)]


# What is documented, what the rules and the dashboard ask for, and what promtool says


class _NoWorker:
    concurrency = running = working = 0


async def families(database: Database) -> list[Metric]:
    """Everything that the API and a worker show."""
    from orchestration.store.gauges import read_state

    async with database.transaction() as tx:
        state = await read_state(tx)
    gauges = worker_gauges(_NoWorker(), Breaker())  # type: ignore[arg-type]
    parts: Iterable[Metric] = [*api_metrics().collect(), *StateMetrics(state).collect(), *gauges.collect()]
    return list(parts)


def exported(family: Metric) -> str:
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


async def test_every_metric_is_documented(database: Database) -> None:
    missing = [name for one in await families(database) if f"`{(name := exported(one))}`" not in PAGE]

    assert missing == []


async def test_the_page_the_rules_and_the_dashboard_name_only_metrics_that_exist(database: Database) -> None:
    names = set()
    for one in await families(database):
        names.add(exported(one))
        if one.type == "histogram":
            names |= {f"{one.name}_{part}" for part in ("bucket", "count", "sum")}
    for page in (PAGE, RULES.read_text(), DASHBOARD.read_text()):
        assert set(re.findall(r"\balert_pipeline_\w+", page)) <= names


def test_the_dashboard_has_panels_that_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    places = [
        (x, y)
        for one in panels
        for x in range(one["gridPos"]["x"], one["gridPos"]["x"] + one["gridPos"]["w"])
        for y in range(one["gridPos"]["y"], one["gridPos"]["y"] + one["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24
    assert len({one["id"] for one in panels}) == len(panels)


needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")


@needs_promtool
def test_promtool_accepts_the_rules() -> None:
    checked = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, timeout=30)

    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_promtool
def test_the_rules_fire_when_they_should() -> None:
    test = ROOT / "tests" / "prometheus_rules.yml"
    tested = subprocess.run(
        ["promtool", "test", "rules", test.name], cwd=test.parent, capture_output=True, text=True, timeout=30
    )

    assert tested.returncode == 0, tested.stdout + tested.stderr


@needs_promtool
async def test_promtool_accepts_the_metrics(
    api: httpx.AsyncClient, services: Services, counted: ProcessMetrics
) -> None:
    await api.post("/alerts/webhook/alertmanager/", json=am())
    await api.post("/alerts/webhook/grafana/", content=b"{")
    (run_id,) = await accept_push(services, alert("Disk"), source="generic", environment="production")
    await run_to_end(services, run_id)
    worker = exposition("", counted, worker_gauges(_NoWorker(), Breaker()))[0].decode()  # type: ignore[arg-type]
    for content in ((await api.get(PATH)).text, worker):
        command = ["promtool", "check", "metrics"]
        checked = await asyncio.to_thread(
            subprocess.run, command, input=content, capture_output=True, text=True, timeout=30, check=False
        )
        assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout + checked.stderr
