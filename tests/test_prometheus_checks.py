"""What Prometheus says of an alert: on the page of a rule that fires, and while there is no Prometheus."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from blocks.prometheus.client import PrometheusClient
from blocks.prometheus.source import PrometheusSources
from orchestration.alert import Alert, Severity
from orchestration.contracts import CheckResult, CheckStatus, Stage, StageContext, Target
from orchestration.engine.run import Services
from orchestration.prometheus import Prometheus
from orchestration.series import normal_range, sparkline, written
from orchestration.settings import load_settings
from orchestration.store.story import read_story
from tasks.check.checkers.base import Subject
from tasks.check.checkers.promql import condition_of, expression_of, host_pattern, only_with
from tasks.check.stage import CheckConfig, check
from tests.conftest import MemoryChannel
from tests.engine_helpers import execute
from tests.inbox_helpers import accept_push
from tests.prometheus_helpers import USED, free_port, needs_prometheus, node_exporter, prometheus
from tests.receivers import Answer, HttpReceiver

CONTEXT = StageContext(trace_id="trace", run_id="run")


def alert(expression: str = "", *, severity: Severity = Severity.CRITICAL, **labels: str) -> Alert:
    source = f"http://prometheus.example.com/graph?g0.expr={quote(expression)}&g0.tab=1" if expression else ""
    return Alert(
        source="alertmanager",
        fingerprint="f",
        name="A",
        incident_key="k",
        severity=severity,
        labels=labels,
        links={"source": source} if source else {},
    )


class Found:
    """A process's Prometheus."""

    def __init__(self, client: Prometheus | None) -> None:
        self.client = client

    async def find(self) -> Prometheus | None:
        return self.client


async def checked(prometheus: Prometheus | None, *alerts: Alert, host: str = "", seconds: float = 5.0) -> CheckResult:
    target = Target(host=host) if host else None
    subject = Subject(target=target, own_name="vm", alerts=alerts, prometheus=Found(prometheus))
    return await check(CONTEXT, CheckConfig(names=("prometheus",), timeout_seconds=seconds, subject=subject))


# Expressions


@pytest.mark.parametrize(
    ("expression", "value", "operator", "limit"),
    [
        ("cpu > 90", "cpu{}", ">", 90),
        ("90 < cpu", "cpu{}", ">", 90),
        ("(cpu) >= bool -5", "cpu{}", ">=", -5),
        ("disk_free < 2 * 1024 ^ 3", "disk_free{}", "<", 2 * 1024**3),
        ("up == 0", "up{}", "==", 0),
        ("(a / b > 0.5) and on (job) up == 1", "a{} / b{}", ">", 0.5),
        ("a > 5 unless b", "a{}", ">", 5),
        ("sum by (job) (rate(x[5m])) > 1", "sum by (job)(rate(x{}[5m]))", ">", 1),
        ("x != +Inf", "x{}", "!=", math.inf),
        ("absent(up)", "absent(up)", "", None),
        ("not a query (", "not a query (", "", None),
        ("", "", "", None),
    ],
)
def test_an_expression_is_taken_apart(expression: str, value: str, operator: str, limit: float | None) -> None:
    found = condition_of(expression)
    assert (found.value, found.operator, found.limit) == (value, operator, limit)


def test_a_limit_may_be_an_expression_too() -> None:
    assert condition_of("a > on (job) group_left () b").limit_expression == "b{}"


@pytest.mark.parametrize(
    "hostile", ["(" * 4000, "-" * 4000 + "x", "(" * 999 + "x" + ")" * 999, "-" * 1998 + "x", "x>" + "1+" * 998 + "1"]
)
def test_a_hostile_expression_ends_nothing(hostile: str) -> None:
    assert condition_of(hostile)


@pytest.mark.parametrize(
    "url",
    [
        "http://p/graph?g0.expr=up+%3D%3D+0&g0.tab=1",
        "http://p/query?g0.expr=up%20%3D%3D%200",
        "http://vm/vmui/#/?g0.expr=up+%3D%3D+0",
        'http://g/explore?left={"queries":[{"refId":"A","expr":"up == 0"}]}',
        'http://g/explore?panes={"x":{"queries":[{"expr":"up == 0"}]}}',
    ],
)
def test_the_expression_is_found_in_the_links(url: str) -> None:
    assert expression_of(alert().model_copy(update={"links": {"source": url}})) == "up == 0"


@pytest.mark.parametrize(
    "url", ["", "http://[", "http://g/alerting/grafana/x/view", "http://g/explore?left={", "x" * 9000]
)
def test_other_links_have_none(url: str) -> None:
    assert expression_of(alert().model_copy(update={"links": {"source": url}})) == ""


def test_labels_are_written_so_that_they_stay_texts() -> None:
    assert only_with("x", {"a": 'b"$1', "no-label": "c", "__name__": "x"}) == (
        '(x) and on (a) label_replace(vector(1), "a", "b\\"$$1", "", "")'
    )
    assert host_pattern("db-1") == '"(?i)db\\\\-1(\\\\.[^:]*)?(:[0-9]+)?"'


# Numbers


def test_what_is_normal_is_not_widened_by_a_peak() -> None:
    assert normal_range([10.0] * 30 + [1e9]) == (10.0, 10.0)
    low, high = normal_range([float(n) for n in range(101)]) or (0, 0)
    assert (low, high) == (5, 95)
    assert normal_range([1.0] * 9) is None
    assert normal_range([math.inf] * 50) is None


def test_a_line_shows_a_short_peak_and_where_there_is_nothing() -> None:
    points = [(float(n), 1.0) for n in range(0, 120)] + [(125.0, 9.0)] + [(float(n), 1.0) for n in range(126, 200)]
    line = sparkline(points, start=0, end=240)
    assert len(line) == 24
    assert line == "▁" * 12 + "█" + "▁" * 7 + "····"
    assert sparkline([], start=0, end=1) == ""
    assert sparkline([(1.0, 5.0)], start=0, end=1) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(97.25, "97.25"), (0, "0"), (0.00123, "0.00123"), (1234.6, "1,235"), (3.2e9, "3.2 G"), (-5, "-5"),
     (1e-12, "1e-12"), (math.inf, "+Inf"), (1e30, "1e+30"), (999999, "999,999")],
)  # fmt: skip
def test_numbers_are_written_for_people(value: float, text: str) -> None:
    assert written(value) == text


# Without an answer


async def test_where_none_is_set_up_there_is_no_row() -> None:
    result = await checked(None, alert("up == 0"))
    assert (result.checks, result.left_out) == ([], {"prometheus": "no Prometheus source is set up"})
    result = await checked(None, alert())
    assert result.left_out == {"prometheus": "neither an expression nor a host is named"}


async def test_one_that_does_not_answer_leaves_it_unknown_in_time(receiver: HttpReceiver) -> None:
    receiver.answer_with(Answer(hang=True))
    started = time.monotonic()
    result = await checked(PrometheusClient(url=receiver.url), alert("up == 0"), seconds=0.3)
    assert time.monotonic() - started < 3
    (found,) = result.checks
    assert (found.status, found.error) == (CheckStatus.UNKNOWN, "timed out after 0.3 s")
    closed = PrometheusClient(url=f"http://127.0.0.1:{free_port()}")
    (found,) = (await checked(closed, alert("up == 0"))).checks
    assert found.status is CheckStatus.UNKNOWN
    assert "does not answer" in (found.error or "")


async def test_an_expression_that_it_cannot_evaluate_is_said(receiver: HttpReceiver) -> None:
    receiver.answer_with(Answer.json({"status": "error", "errorType": "bad_data", "error": "parse error at 3"}, 400))
    (found,) = (await checked(PrometheusClient(url=receiver.url), alert("up ==="))).checks
    assert (found.status, found.message) == (
        CheckStatus.UNKNOWN,
        "Prometheus cannot evaluate the expression: parse error at 3",
    )


async def test_an_expression_that_is_too_long_to_be_asked_is_said(receiver: HttpReceiver) -> None:
    up = {"metric": {"instance": "db-77:9100"}, "value": [0, "1"]}
    receiver.answer_with(Answer.json({"status": "success", "data": {"resultType": "vector", "result": [up]}}))
    link = f"http://p:9090/graph?g0.expr={'a' * 60_000}"
    told = alert("", instance="db-77:9100").model_copy(update={"links": {}, "raw_payload": {"generatorURL": link}})
    (found,) = (await checked(PrometheusClient(url=receiver.url), told, host="db-77")).checks
    assert (
        f"is not asked: its link has {len(link):,} characters, and at most 4,096 are read; db-77 is up" in found.message
    )


# A real one


def past(target: str) -> Iterator[str]:
    """Six hours in which from 0.2 to 0.4 per cent of the memory were in use, until a quarter of an hour ago."""
    end = int(time.time()) - 900
    for name, value in (("MemAvailable", lambda n: 1000 - 2 - n % 3), ("MemTotal", lambda _: 1000)):
        yield f"# TYPE node_memory_{name}_bytes gauge"
        for n in range(72):
            labels = f'{{instance="{target}",job="node"}}'
            yield f"node_memory_{name}_bytes{labels} {value(n)} {end - (71 - n) * 300}"


def webhook(sent: list[dict[str, Any]]) -> dict[str, Any]:
    """What Alertmanager makes of the alerts that Prometheus has sent to it."""
    alerts = [{"status": "firing", "fingerprint": "f1", **one, "endsAt": "0001-01-01T00:00:00Z"} for one in sent]
    return {"version": "4", "groupKey": "{}:{}", "status": "firing", "receiver": "x", "alerts": alerts}


GIB = 1024**3


@needs_prometheus
async def test_a_disk_is_as_full_as_df_says(tmp_path: Path) -> None:
    said = {
        # As df says: 100 GiB, of which 30 are used and 20 only root may use.
        "reserved": ({"size": 100 * GIB, "free": 70 * GIB, "avail": 50 * GIB}, 37.5),
        "unreserved": ({"size": 100 * GIB, "free": 70 * GIB, "avail": 70 * GIB}, 30),
        # Nothing is left for programs, though root could still write.
        "full": ({"size": 100 * GIB, "free": 5 * GIB, "avail": 0}, 100),
        "empty": ({"size": 100 * GIB, "free": 100 * GIB, "avail": 95 * GIB}, 0),
        # An exporter, or a rule that keeps only some series, without what is free.
        "unsaid": ({"size": 100 * GIB, "avail": 40 * GIB}, 60),
        "nothing": ({"size": 0, "free": 0, "avail": 0}, None),
    }
    now, lines = time.time(), ["# TYPE up gauge"]
    lines += [f'up{{instance="{host}:9100",job="node"}} 1 {now}' for host in said]
    for name in ("size", "free", "avail"):
        lines.append(f"# TYPE node_filesystem_{name}_bytes gauge")
        labels = 'device="/dev/sda1",fstype="ext4",mountpoint="/",job="node"'
        lines += [
            f'node_filesystem_{name}_bytes{{instance="{host}:9100",{labels}}} {figures[name]} {now}'
            for host, (figures, _) in said.items()
            if name in figures
        ]
    with prometheus(tmp_path, "127.0.0.1:1", past=lines) as (url, _):
        for host, (_, percent) in said.items():
            (found,) = (await checked(PrometheusClient(url=url), alert(), host=host)).checks
            assert found.metrics.get("disk_percent") == percent, host
            assert found.metrics["up"] is True


async def test_the_row_of_a_go_between_names_the_host_that_it_speaks_of(receiver: HttpReceiver) -> None:
    up = {"metric": {"instance": "worker-3:9100"}, "value": [0, "1"]}
    receiver.answer_with(Answer.json({"status": "success", "data": {"resultType": "vector", "result": [up]}}))
    told = alert("kube_node_status == 0", job="kube-state-metrics", instance="10.42.0.7:8080", node="worker-3")
    (found,) = (await checked(PrometheusClient(url=receiver.url), told, host="worker-3")).checks
    assert found.target == "worker-3"


@needs_prometheus
async def test_a_rule_that_fires_shows_its_value_on_the_page_and_the_figures_of_its_host(
    services: Services, channel: MemoryChannel, receiver: HttpReceiver, tmp_path: Path
) -> None:
    address = receiver.url.removeprefix("http://")
    with (
        node_exporter() as target,
        prometheus(tmp_path, target, receiver=address, past=[*past(target)]) as (url, process),
    ):
        settings = load_settings({"prometheus_url": url, "checkers_enabled": "prometheus"})
        services = replace(services, settings=settings, prometheus=PrometheusSources(settings))
        (sent,) = receiver.wait_for(1)[:1]

        (first,) = await accept_push(services, webhook(sent.json), source="alertmanager", environment="test")
        await execute(services, first)
        (page,) = channel.messages
        value = next(fact.value for fact in page.facts if fact.label == "Value")
        number, limit, usual = value.rpartition(" ")[0].split(", ")
        assert float(number) > 1
        assert (limit, usual) == ("limit > 1", "normally 0.2 to 0.4")
        assert re.fullmatch("·{16,18}▁{5,6}·?█", value.rpartition(" ")[2])
        (row,) = page.checks
        assert row.startswith(f"✗ prometheus of {target}: critical, HostMemoryUsed is {number}, limit > 1")
        async with services.database.transaction() as tx:
            checks = (await read_story(tx, first)).output(Stage.CHECK, CheckResult)
        assert checks
        metrics = checks.checks[0].metrics
        assert metrics["up"] is True
        assert metrics["expression"] == condition_of(f"{USED} > 1").value
        for figure in ("memory_percent", "disk_percent"):
            assert 0 < float(str(metrics[figure])) <= 100

        process.kill()
        process.wait()
        (second,) = await accept_push(
            services, webhook([sent.json[0] | {"labels": {**sent.json[0]["labels"], "again": "yes"}}]),
            source="alertmanager", environment="other",
        )  # fmt: skip
        await execute(services, second)
        (row,) = channel.messages[-1].checks
        assert row.startswith("? prometheus of 127.0.0.1")
        assert "unknown" in row
        assert "does not answer" in row
