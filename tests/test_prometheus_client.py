"""The client of Prometheus: what it sends, what it makes of answers, and how it says that there is none."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from pydantic import ValidationError

from blocks.prefect_api import SavedBlock
from blocks.prometheus.client import PrometheusClient
from blocks.prometheus.source import PrometheusSource, PrometheusSources
from orchestration.errors import BadInput, BadSetting, Unavailable
from orchestration.prometheus import MAX_SERIES, Sample
from orchestration.settings import load_settings
from tests.loop_lag import longest_wait, time_of_reading
from tests.prometheus_helpers import free_port, needs_prometheus, node_exporter, prometheus
from tests.receivers import Answer, HttpReceiver
from tests.worker_helpers import eventually

NOW = datetime(2026, 3, 14, 2, 0, tzinfo=UTC)


def success(kind: str, result: object) -> Answer:
    return Answer.json({"status": "success", "data": {"resultType": kind, "result": result}})


def vector(*values: str) -> Answer:
    return success("vector", [{"metric": {"n": str(n)}, "value": [1.5, value]} for n, value in enumerate(values)])


def failure(kind: str, error: str, status: int) -> Answer:
    return Answer.json({"status": "error", "errorType": kind, "error": error}, status)


async def test_a_query_asks_with_its_credentials_and_reads_the_values(receiver: HttpReceiver) -> None:
    receiver.answer_with(vector("97.2", "+Inf", "NaN"))
    client = PrometheusClient(url=f"{receiver.url}/prefix/", username="ada", password="secret")
    assert await client.query('up{job="node"}', at=NOW) == [Sample({"n": "0"}, 97.2), Sample({"n": "1"}, math.inf)]
    (asked,) = receiver.requests
    assert (asked.method, asked.path) == ("POST", "/prefix/api/v1/query")
    assert parse_qs(asked.body.decode())["query"] == ['up{job="node"}']
    assert parse_qs(asked.body.decode())["time"] == [f"{NOW.timestamp():.3f}"]
    assert asked.headers["authorization"] == f"Basic {base64.b64encode(b'ada:secret').decode()}"


async def test_a_token_is_sent_and_never_shown(receiver: HttpReceiver) -> None:
    receiver.answer_with(success("scalar", [1.5, "3"]))
    client = PrometheusClient(url=receiver.url, token="s3cret")
    assert await client.query("3") == [Sample({}, 3.0)]
    assert receiver.requests[0].headers["authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(client)


async def test_a_range_is_read_as_points(receiver: HttpReceiver) -> None:
    points = [[10, "1"], [20, "NaN"], [30, "-Inf"]]
    receiver.answer_with(success("matrix", [{"metric": {}, "values": points}, {"metric": {}, "histograms": []}]))
    client = PrometheusClient(url=receiver.url)
    (series,) = await client.query_range("x", start=NOW, end=NOW + timedelta(minutes=1), step_seconds=10)
    assert series.points == [(10.0, 1.0), (30.0, -math.inf)]
    assert series.values == [1.0, -math.inf]


@pytest.mark.parametrize(("step", "minutes"), [(0, 1), (-1, 1), (1, 60 * 24), (10, -1)])
async def test_a_range_of_too_many_points_is_not_asked_for(step: float, minutes: float) -> None:
    with pytest.raises(BadInput, match="at most 2,000 points"):
        await PrometheusClient(url="http://127.0.0.1:1").query_range(
            "x", start=NOW, end=NOW + timedelta(minutes=minutes), step_seconds=step
        )


async def test_an_endless_answer_is_cut(receiver: HttpReceiver) -> None:
    receiver.answer_with(vector(*["1"] * (MAX_SERIES + 5)))
    assert len(await PrometheusClient(url=receiver.url).query("x")) == MAX_SERIES
    receiver.answer_with(Answer(body=b" " * (9 << 20)))
    with pytest.raises(Unavailable, match="larger than 8,388,608 bytes"):
        await PrometheusClient(url=receiver.url).query("x")


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (
            failure("bad_data", "parse error", 400),
            BadInput,
            "parse error",
        ),
        (failure("execution", "many-to-many", 422), BadInput, "many-to"),
        (
            failure("timeout", "too slow", 503),
            Unavailable,
            "503: too slow",
        ),
        (Answer(401, b""), Unavailable, "refuses the credentials"),
        (Answer(403, b"<html>"), Unavailable, "refuses the credentials"),
        (Answer(200, b"<html>"), Unavailable, "not as Prometheus does"),
        (Answer(200, b"[]"), Unavailable, "not as Prometheus does"),
        (Answer(200, b"[" * 1_000_000), Unavailable, "not as Prometheus does"),
        (Answer(200, b'{"status": "success", "data": ' + b"[" * 1_000_000), Unavailable, "not as Prometheus does"),
        (success("matrix", [{"metric": {}, "values": [[1, "many"]]}]), Unavailable, "not as Prometheus does"),
        (success("vector", [{"metric": {"a": "\ud800"}, "value": [1, "1"]}]), Unavailable, "not as Prometheus does"),
        (Answer.json({"status": "success", "data": {"resultType": "vector"}}), Unavailable, "not as Prometheus does"),
        (success("vector", [{"value": [1]}]), Unavailable, "not as Prometheus does"),
        (Answer(302, b"", {"Location": "http://169.254.169.254/"}), Unavailable, "answers 302"),
        (Answer(500, b""), Unavailable, "answers 500"),
    ],
)
async def test_what_is_no_answer_is_said(
    receiver: HttpReceiver, answer: Answer, error: type[Exception], says: str
) -> None:
    receiver.answer_with(answer)
    with pytest.raises(error, match=says):
        await PrometheusClient(url=receiver.url).query("x")
    assert len(receiver.requests) == 1


def _huge_vector() -> Answer:
    labels = {"job": "node", "text": "x" * 120}
    rows = [{"metric": {**labels, "instance": f"db-{n}:9100"}, "value": [1.5, "97.25"]} for n in range(36_000)]
    return success("vector", rows)


def _huge_matrix() -> Answer:
    values = [[1_700_000_000 + n, f"97.{n}"] for n in range(240)]
    return success("matrix", [{"metric": {"instance": f"db-{n}:9100"}, "values": values} for n in range(1_300)])


@pytest.mark.parametrize("huge", [_huge_vector, _huge_matrix])
async def test_the_loop_does_not_wait_while_huge_answers_are_read(
    receiver: HttpReceiver, huge: Callable[[], Answer]
) -> None:
    answer = huge()
    assert 7_000_000 < len(answer.body) < 8 * 1024 * 1024
    receiver.answer_with(answer)
    client = PrometheusClient(url=receiver.url)

    async def read() -> list[object]:
        hours = client.query_range("x", start=NOW, end=NOW + timedelta(hours=4), step_seconds=60)
        found = await asyncio.gather(hours, client.query("x"))
        assert [len(one) for one in found] == [MAX_SERIES, MAX_SERIES]
        return list(found)

    assert await longest_wait(read) < time_of_reading(answer.body) / 2


async def test_no_more_points_are_kept_than_were_asked_for(receiver: HttpReceiver) -> None:
    receiver.answer_with(success("matrix", [{"metric": {}, "values": [[n, "1"] for n in range(5_000)]}]))
    client = PrometheusClient(url=receiver.url)
    (series,) = await client.query_range("x", start=NOW, end=NOW + timedelta(minutes=1), step_seconds=10)
    assert len(series.points) == 7


async def test_silence_ends_after_its_time(receiver: HttpReceiver) -> None:
    receiver.answer_with(Answer(hang=True))
    with pytest.raises(Unavailable, match=r"did not answer within 0\.1 s"):
        await PrometheusClient(url=receiver.url, timeout_seconds=0.1).query("x")
    with pytest.raises(Unavailable, match="does not answer: "):
        await PrometheusClient(url=f"http://127.0.0.1:{free_port()}").query("x")


@pytest.mark.parametrize(
    "url", ["prometheus:9090", "ftp://p/", "http://", "http://ada:pw@p/", "http://p/?x=1", "http://p/#a", "http://p:x/"]
)
def test_a_wrong_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(BadSetting) as refused:
        PrometheusClient(url=url)
    assert "pw" not in str(refused.value)


# Where it is found


def saved(**data: object) -> list[SavedBlock]:
    return [SavedBlock(name="default", slug="prometheus-source", data=dict(data))]


class Block:
    """A block in Prefect, which may be down."""

    def __init__(self, found: list[SavedBlock] | Exception) -> None:
        self.found = found
        self.asked = 0

    async def __call__(self) -> list[SavedBlock]:
        self.asked += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


async def test_the_settings_come_first(tmp_path: Path) -> None:
    block = Block(saved(url="http://block:9090"))
    settings = load_settings({"prometheus_url": "http://settings:9090", "prometheus_token": "t"})
    found = await PrometheusSources(settings, read=block).find()
    assert found is not None
    assert (found.host, found.token, block.asked) == ("settings:9090", "t", 0)
    gone = settings.model_copy(update={"prometheus_ca_file": str(tmp_path / "gone since the start")})
    with pytest.raises(BadSetting, match="PROMETHEUS_CA_FILE"):
        await PrometheusSources(gone).find()
    with pytest.raises(BadSetting, match="PROMETHEUS_URL"):
        load_settings({"prometheus_url": "http://ada:pw@p"})


async def test_else_the_block_is_used_and_asked_for_once() -> None:
    block = Block(saved(url="http://block:9090", username="ada", password="pw", verify_tls=False))
    sources = PrometheusSources(load_settings({}), read=block)
    for _ in range(3):
        found = await sources.find()
        assert found is not None
        assert (found.host, found.username, found.password, found.verify_tls) == ("block:9090", "ada", "pw", False)
    assert block.asked == 1


async def test_without_any_there_is_none_and_while_prefect_is_down_it_is_not_known() -> None:
    assert await PrometheusSources(load_settings({}), read=Block([])).find() is None
    assert await PrometheusSources(load_settings({}), read=None).find() is None
    down = Block(Unavailable("Prefect is down"))
    sources = PrometheusSources(load_settings({}), read=down)
    for _ in range(2):
        with pytest.raises(Unavailable, match="not known: Prefect does not answer"):
            await sources.find()
    assert down.asked == 1  # the second check does not wait for it


async def test_a_broken_block_is_named() -> None:
    sources = PrometheusSources(load_settings({}), read=Block(saved(url="prometheus:9090")))
    with pytest.raises(BadSetting, match=r"The Prometheus source 'default' is broken: url: .* Edit it in Prefect's UI"):
        await sources.find()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"username": "ada"}, "password: expected one"),
        ({"password": "pw-7"}, "username: expected one"),
        ({"username": "ada", "password": "pw-7", "token": "t"}, "token: expected a token, or a user name"),
        ({"token": "a\nb"}, "token: expected letters, digits"),
        ({"ca": "no certificate"}, "ca: expected certificates in PEM"),
        ({"url": "https://p:99999"}, "url: expected a port"),
        ({"url": "https://p/?a=b"}, "url: expected a URL without a query"),
    ],
)
def test_a_block_whose_fields_do_not_fit_is_refused_when_it_is_made(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        PrometheusSource(**{"url": "https://p", **fields})


def test_a_block_keeps_its_secrets_to_itself() -> None:
    block = PrometheusSource(url="http://p", username="ada", password="pw-7", token=None)  # type: ignore[arg-type]
    assert "pw-7" not in repr(block)


# A real one


@needs_prometheus
async def test_a_real_prometheus_answers(tmp_path: Path) -> None:
    with node_exporter() as target, prometheus(tmp_path, target) as (url, process):
        client = PrometheusClient(url=url)
        found = await eventually(lambda: client.query("up"), "a first scrape")
        assert found == [Sample({"__name__": "up", "instance": target, "job": "node"}, 1.0)]
        now = datetime.now(UTC)
        (series,) = await client.query_range("vector(7)", start=now - timedelta(minutes=1), end=now, step_seconds=30)
        assert series.values == [7.0, 7.0, 7.0]
        with pytest.raises(BadInput, match="parse error"):
            await client.query("up >")
        process.kill()
        process.wait()
        with pytest.raises(Unavailable):
            await client.query("up")
