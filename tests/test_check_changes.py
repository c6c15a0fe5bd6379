"""What changed at a target, by the series of a Prometheus: in the check, in the page, and never in its way."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from blocks.channels.resolver import ChannelCache
from blocks.dependencies import SavedDependencies, ServiceDependencies
from blocks.prefect_api import BlockSource, SavedBlock
from blocks.prometheus.client import PrometheusClient
from orchestration.contracts import Change, CheckResult, StageContext, Target
from orchestration.engine.run import Services
from orchestration.errors import Unavailable
from orchestration.prometheus import Sample, Series
from orchestration.store.database import Database
from orchestration.store.encrypted_cache import EncryptedCache
from tasks.check.changes import MAX_CHANGES, find_changes
from tasks.check.checkers.base import Subject
from tasks.check.stage import CheckConfig, check, read_calls
from tests.life_helpers import push
from tests.prometheus_helpers import needs_prometheus, node_exporter, prometheus
from tests.test_message import an_alert

CONTEXT = StageContext(trace_id="trace", run_id="run")
Values = Callable[[float], float]


def steady(value: float) -> Values:
    return lambda moment: value * random.Random(moment).gauss(1, 0.02)


def lately(usual: float, now: float, *, minutes: float = 6) -> Values:
    begin = datetime.now(UTC).timestamp() - 60 * minutes
    return lambda moment: steady(now if moment >= begin else usual)(moment)


def until_lately(value: float) -> Values:
    """A series that has ended a few minutes ago."""
    return lately(value, math.nan)


@dataclass
class Known:
    """A Prometheus with made-up series: the instance, the job and the metric of each, and its values by time."""

    series: Mapping[tuple[str, str, str], Values]
    asked: list[str] = field(default_factory=list[str])
    host: str = "prometheus.example.com"

    async def find(self) -> Known:
        return self

    async def query(self, expression: str, *, at: datetime | None = None) -> list[Sample]:
        self.asked.append(expression)
        return [Sample({"__name__": metric}, 1) for metric in sorted({metric for _, _, metric in self.series})]

    async def query_range(
        self, expression: str, *, start: datetime, end: datetime, step_seconds: float
    ) -> list[Series]:
        self.asked.append(expression)
        count = int((end - start).total_seconds() / step_seconds) + 1
        times = [start.timestamp() + step_seconds * number for number in range(count)]
        return [
            Series(
                {"instance": instance, "job": job, "metric": metric},
                [(one, value) for one in times if not math.isnan(value := values(one))],
            )
            for (instance, job, metric), values in self.series.items()
            if f'"metric", "{metric}"' in expression
        ]


@dataclass
class Broken:
    """A Prometheus that does not answer as it should."""

    error: Exception | None = None

    async def find(self) -> Any:
        if self.error is None:
            await asyncio.Event().wait()
        raise self.error or AssertionError


def about(host: str = "web-1", **labels: str) -> Subject:
    began = datetime.now(UTC) - timedelta(minutes=5)
    alert = an_alert(started_at=began, labels={"instance": host, **labels})
    return Subject(target=Target(host=host, labels=dict(labels)), own_name="pipeline", alerts=[alert])


async def test_the_series_that_left_their_past_are_found_with_numbers_and_times() -> None:
    known = Known({
        ("web-1:9100", "node", "http_errors_total"): lately(0.2, 41),
        ("web-1:9100", "node", "node_load1"): steady(2),
        ("web-2:9100", "node", "http_errors_total"): steady(0.2),
        ("web-1:9100", "node", "go_goroutines"): lately(10, 10_000),
    })  # fmt: skip
    (change,) = await find_changes(known, about(job="node"))
    assert (change.entity, change.metric) == ("web-1:9100", "http_errors_total")
    assert 38 < change.now < 44
    assert 0.15 < change.low < change.high < 0.25
    assert change.since is not None
    assert abs(change.since - (datetime.now(UTC) - timedelta(minutes=6))) < timedelta(minutes=2)


@pytest.mark.parametrize("minutes", [3, 9, 25, 40, 300])
async def test_a_change_is_found_however_long_ago_the_trouble_began(minutes: float) -> None:
    known = Known({("db-77:9100", "node", "node_load1"): lately(1, 40, minutes=minutes)})
    began = datetime.now(UTC) - timedelta(minutes=minutes - 1)
    subject = replace(about("db-77", job="node"), alerts=[an_alert(started_at=began)])
    (found,) = await find_changes(known, subject)
    assert found.metric == "node_load1"
    assert found.low < 1.1 < 30 < found.now


async def test_traffic_that_falls_away_or_ends_is_a_change() -> None:
    known = Known({
        ("lb-1:80", "lb", "http_requests_total"): lately(100, 0),
        ("lb-2:80", "lb", "http_requests_total"): until_lately(100),
        ("lb-3:80", "lb", "http_requests_total"): steady(100),
    })  # fmt: skip
    changes = await find_changes(known, about("lb-1", job="lb"))
    assert {change.entity: change.now for change in changes} == {"lb-1:80": 0, "lb-2:80": 0}
    assert all(95 < change.low < change.high < 105 for change in changes)


async def test_an_instance_that_a_rollout_replaces_is_no_change() -> None:
    begin = datetime.now(UTC).timestamp() - 60 * 8
    known = Known({
        ("web-old:80", "web", "http_requests_total"): until_lately(100),
        ("web-new:80", "web", "http_requests_total"): lambda moment: 100 if moment > begin else math.nan,
        ("lb-1:80", "lb", "http_requests_total"): until_lately(100),
    })  # fmt: skip
    (change,) = await find_changes(known, about("web-old", job="web"))
    assert change.entity == "lb-1:80"


async def test_what_a_job_depends_on_is_looked_at_and_comes_first_if_it_explains_it() -> None:
    known = Known({
        ("web-1:80", "web", "latency_seconds_sum"): steady(0),
        ("web-1:80", "web", "latency_seconds_count"): steady(0),
        ("web-1:80", "web", "latency_seconds_mean"): lately(0.1, 0.9),
        ("db-1:80", "db", "latency_seconds_mean"): lately(0.05, 0.85),
        ("mail-1:80", "mail", "latency_seconds_mean"): lately(0.1, 0.2),
    })  # fmt: skip
    subject = replace(about(job="web"), calls=[("web", "db"), ("web", "mail"), ("db", "db"), ("other", "far")])
    changes = await find_changes(known, subject)
    assert changes[0].entity == "db-1:80"
    assert {change.entity for change in changes} == {"db-1:80", "web-1:80", "mail-1:80"}
    assert any('job=~"web|db|mail"' in asked for asked in known.asked)
    assert not any("far" in asked for asked in known.asked)
    assert any('rate(latency_seconds_sum{job=~"web|db|mail"}[5m])) / sum' in asked for asked in known.asked)


async def test_many_series_are_bounded() -> None:
    many = {(f"web-{n}:1", "web", f"errors_{metric}"): lately(1, 50) for n in range(30) for metric in range(60)}
    known = Known(many)
    changes = await find_changes(known, about(job="web"))
    assert len(changes) == MAX_CHANGES
    assert max(asked.count("label_replace") for asked in known.asked) == 40
    assert max([change.entity for change in changes].count(change.entity) for change in changes) == 2


@pytest.mark.parametrize("host", ['"}) or vector(1) #', "a\\b", "x'y", "fe80::1", "ä.example.com"])
async def test_names_from_outside_stay_names(host: str) -> None:
    known = Known({("web-1:80", "web", 'up"} or vector(1)'): steady(1), ("web-1:80", "web", "up"): steady(1)})
    assert await find_changes(known, about(host, job=host)) == []
    assert all("vector(1)" not in asked.replace('\\"', "").split('"')[0::2] for asked in known.asked)


async def test_a_target_without_host_and_job_asks_nothing() -> None:
    known = Known({})
    subject = replace(about(), target=Target(labels={"service": "shop"}))
    assert await find_changes(known, subject) == []
    assert await find_changes(known, replace(about(), target=None)) == []
    assert known.asked == []


@pytest.mark.parametrize("broken", [Broken(), Broken(Unavailable("it does not answer"))])
async def test_a_prometheus_that_does_not_answer_changes_nothing(
    broken: Broken, caplog: pytest.LogCaptureFixture
) -> None:
    config = CheckConfig(names=("prometheus",), timeout_seconds=0.05, subject=replace(about(), prometheus=broken))
    result = await check(CONTEXT, config)
    assert result.changes == []
    assert "What changed at the target of run run is not known: " in caplog.text


async def test_the_page_names_the_strongest(services: Services, channel: Any) -> None:
    known = Known({("web-1:9100", "node", "http_errors_total"): lately(0.2, 41)})
    started = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    settings = services.settings.model_copy(update={"checkers_enabled": ("prometheus",)})
    await push(replace(services, prometheus=known, settings=settings), startsAt=started)
    facts = {fact.label: fact.value for fact in channel.messages[0].facts}
    assert facts["Changed"].startswith("http_errors_total of web-1:9100 4")
    assert ", normally 0.19" in facts["Changed"]


def test_a_file_of_dependencies_that_is_wrong_is_no_dependency(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "calls.csv").write_text("caller,callee\nweb,db\n")
    (tmp_path / "wrong.csv").write_text("a,b\n")
    assert read_calls(str(tmp_path / "calls.csv")) == [("web", "db")]
    for name in ("wrong.csv", "missing.csv"):
        assert read_calls(str(tmp_path / name)) == ()
    assert caplog.text.count("CHANGES_DEPENDENCIES_FILE cannot be used") == 2


@dataclass
class Blocks:
    """The saved blocks, from a Prefect that may be down."""

    found: list[SavedBlock] | Exception
    asked: int = 0

    async def __call__(self) -> list[SavedBlock]:
        self.asked += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def dependencies_block(calls: Any, name: str = "default") -> SavedBlock:
    return SavedBlock(name=name, slug=ServiceDependencies.get_block_type_slug(), data={"calls": calls})


def db_is_slow() -> dict[tuple[str, str, str], Values]:
    return {
        ("web-1:80", "web", "latency_seconds_mean"): lately(0.1, 0.9),
        ("db-1:80", "db", "latency_seconds_mean"): lately(0.05, 0.85),
    }


async def page_about_web(services: Services, channel: Any, source: BlockSource, **settings: Any) -> str:
    """What the page says has changed, where these blocks are saved."""
    started = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    changed = services.settings.model_copy(update={"checkers_enabled": ("prometheus",), **settings})
    known = Known(db_is_slow())
    with_blocks = replace(services, prometheus=known, settings=changed, dependencies=SavedDependencies(source))
    await push(with_blocks, startsAt=started, labels={"alertname": "Slow", "instance": "web-1", "job": "web"})
    facts = {fact.label: fact.value for fact in channel.messages[-1].facts}
    return facts["Changed"]


async def test_a_block_says_what_a_job_depends_on(services: Services, channel: Any, database: Database) -> None:
    prefect = Blocks([dependencies_block({"web": ["db"]}), dependencies_block({"web": ["far"]}, "other")])
    cache = ChannelCache(EncryptedCache(database), Fernet.generate_key(), source=prefect)
    assert (await page_about_web(services, channel, cache)).startswith("latency_seconds_mean of db-1:80 0.8")
    prefect.found = Unavailable("Prefect does not answer")
    await cache.refresh()
    asked = prefect.asked
    assert "of db-1:80" in await page_about_web(services, channel, cache)
    assert prefect.asked == asked


async def test_the_file_comes_before_the_block(services: Services, channel: Any, tmp_path: Path) -> None:
    (tmp_path / "calls.csv").write_text("caller,callee\nweb,db\n")
    prefect = Blocks([])
    file = str(tmp_path / "calls.csv")
    said = await page_about_web(services, channel, prefect, changes_dependencies_file=file)
    assert said.startswith("latency_seconds_mean of db-1:80")
    assert prefect.asked == 0


@pytest.mark.parametrize(
    ("found", "logged"),
    [
        ([dependencies_block(["web"])], "The service-dependencies block 'default' is broken: calls: "),
        ([dependencies_block({"web": "db"})], "is broken: calls.web: "),
        ([dependencies_block({"web": ["db"] * 10_001})], "is broken: calls: it may have 10,000 pairs"),
        (Unavailable("Prefect does not answer"), "who depends on whom is not known: Prefect does not answer"),
    ],
)
async def test_a_block_that_is_broken_or_unknown_is_no_dependency(
    found: list[SavedBlock] | Exception, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await SavedDependencies(Blocks(found))() == ()
    assert logged in caplog.text


@needs_prometheus
async def test_a_real_prometheus_understands_what_it_is_asked(tmp_path: Path) -> None:
    with node_exporter() as target, prometheus(tmp_path, target) as (url, _):
        client = PrometheusClient(url=url)
        async with asyncio.timeout(40):
            while not await client.query("node_load1"):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        found = await find_changes(client, about("127.0.0.1", job="node", namespace=""))
        assert all(math.isfinite(change.score) for change in found)


def test_a_result_keeps_its_changes() -> None:
    change = Change(entity="web", metric="errors", now=41, low=0, high=0.3, score=9)
    result = CheckResult(changes=[change])
    assert CheckResult.model_validate_json(result.model_dump_json()) == result
