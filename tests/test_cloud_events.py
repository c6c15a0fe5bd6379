"""CloudEvents: an envelope around the body of a source, or an alert by itself."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.alert import OWN_SOURCE, AlertStatus, Severity
from orchestration.errors import BadInput
from orchestration.settings import Settings
from orchestration.store.database import Database
from service.api.cloud_events import MAX_EVENTS
from service.cli import main
from tasks.ingest.sources import SOURCES, parse_push, recognise
from tests.api_helpers import open_api
from tests.notify_helpers import rows
from tests.payloads import NAMES, SAMPLES, body
from tests.test_sources_properties import assert_sentence, assert_storable, objects

STRUCTURED = {"content-type": "application/cloudevents+json; charset=utf-8"}
BATCH = {"content-type": "application/cloudevents-batch+json"}
AT = "2026-03-14T01:00:00Z"


def event(**fields: Any) -> dict[str, Any]:
    """An event of the plant north, as its gateway sends it."""
    return {
        "specversion": "1.0",
        "id": "A234-1234",
        "source": "https://plant.example.com/north",
        "type": "com.example.pump.stopped.detected",
        "subject": "pump-3",
        "time": AT,
        **fields,
    }


def headers_of(told: dict[str, Any], kind: str = "application/json") -> dict[str, str]:
    return {"content-type": kind, **{f"ce-{name}": str(value) for name, value in told.items() if name != "data"}}


def only(told: object, source: str | None = None) -> Any:
    (alert,) = parse_push(told, source=source).alerts
    return alert


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(settings, database.url) as client:
        yield client


async def alerts(database: Database) -> list[Any]:
    sql = "select source, environment, payload->'alerts'->0 as alert from pipeline_run order by created_at, id"
    return [{**run["alert"], "source": run["source"]} for run in await rows(database, sql) if run["alert"]]


def test_the_type_and_the_subject_are_the_alert_of_data_that_nobody_knows() -> None:
    alert = only(event(data={"severity": "critical", "message": "Its tank is 91 % full"}))

    assert (alert.source, alert.name, alert.title) == (
        "cloudevents",
        "com.example.pump.stopped",
        "com.example.pump.stopped: pump-3",
    )
    assert (alert.severity, alert.description) == (Severity.CRITICAL, "Its tank is 91 % full")
    assert alert.labels == {"source": "https://plant.example.com/north", "subject": "pump-3"}
    assert alert.links == {"source": "https://plant.example.com/north"}
    assert str(alert.started_at) == str(alert.occurred_at) == "2026-03-14 01:00:00+00:00"


@pytest.mark.parametrize(
    ("began", "ended"),
    [
        ("com.example.pump.stopped.detected", "com.example.pump.stopped.resolved"),
        ("com.example.pump.stopped", "com.example.pump.stopped.resolved"),
        ("dev.tekton.event.pipelinerun.failed.v1", "dev.tekton.event.pipelinerun.successful.v1"),
        ("dev.cdevents.incident.detected.0.2.0", "dev.cdevents.incident.resolved.0.2.0"),
        ("pump/stopped:DOWN", "pump/stopped:UP"),
    ],
)
def test_a_type_that_says_the_end_ends_what_began(began: str, ended: str) -> None:
    first, last = only(event(type=began, data={"x": 1.5})), only(event(type=ended, time="2026-03-14T02:00:00Z"))

    assert (first.status, last.status) == (AlertStatus.FIRING, AlertStatus.RESOLVED)
    assert (first.fingerprint, first.incident_key) == (last.fingerprint, last.incident_key)
    assert str(last.ended_at) == "2026-03-14 02:00:00+00:00"


def test_what_the_data_says_counts_before_the_envelope() -> None:
    told = {"name": "PumpStopped", "status": "firing", "host": "plc-1", "severity": "info", "timestamp": "2026-03-01"}
    alert = only(event(type="pump.resolved", severity="critical", data=told))

    assert (alert.name, alert.title, alert.status) == ("PumpStopped", "PumpStopped on plc-1", AlertStatus.FIRING)
    assert (alert.severity, str(alert.occurred_at)[:10]) == (Severity.INFO, "2026-03-01")
    assert only(event(severity="critical")).severity is Severity.CRITICAL


@pytest.mark.parametrize("name", [*NAMES, *(name for name in SAMPLES if "/firing" in name)])
def test_the_body_of_a_source_is_read_through_the_envelope(name: str) -> None:
    bare = body(name)
    for wrapped in (
        event(data=bare),
        event(data=json.dumps(bare)),
        event(data_base64=base64.b64encode(json.dumps(bare).encode()).decode()),
        event(data=event(id="2", data=bare)),
    ):
        assert recognise(wrapped).name == (recognise(bare).name if recognise(bare).name != "generic" else "cloudevents")
        if recognise(bare).name == "generic":
            continue
        plain, read = parse_push(bare), parse_push(wrapped)
        assert [(a.fingerprint, a.status, a.title) for a in read.alerts] == [
            (a.fingerprint, a.status, a.title) for a in plain.alerts
        ]
        assert all(alert.occurred_at for alert in read.alerts)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (event(specversion="7.0"), "specversion '7.0' is not known"),
        (event(type=" "), "has no type"),
        (event(data_base64="%%%"), "data_base64 is not base64"),
        (event(data_base64=5), "data_base64 is not base64"),
        (event(data="a*b", datacontentencoding="base64"), "data is not base64"),
        (event(data=event(data=event(data=event(data=event())))), "more than 4 CloudEvents"),
        (event(data="[" + "1," * 200_000 + "1]"), "more than 100,000 values"),
    ],
)
async def test_a_broken_envelope_is_kept_with_the_reason(
    api: httpx.AsyncClient, database: Database, told: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadInput, match=reason):
        parse_push(told)
    answer = await api.post("/alerts/webhook/", json=told, headers=STRUCTURED)

    assert answer.status_code == 202
    assert reason in answer.json()["message"]
    (kept,) = await rows(database, "select body from refused_push")
    assert json.loads(kept["body"])["specversion"] == told["specversion"]


def test_a_broken_envelope_costs_no_alert_whose_data_a_source_knows() -> None:
    fired = SOURCES["alertmanager"].sample("x")
    for told in (event(specversion="7", data=fired), {"specversion": 1, "data": fired}, event(type=None, data=fired)):
        assert recognise(told).name == "alertmanager"


async def test_headers_are_the_envelope_of_any_body(api: httpx.AsyncClient, database: Database) -> None:
    for kind, content in (
        ("application/json", json.dumps(SOURCES["grafana"].sample("x"))),
        ("application/json", '{"severity": "critical", "message": "91 %"}'),
        ("text/plain", "Its tank is 91 % full"),
        ("application/xml", "<pump>stands still</pump>"),
        ("application/octet-stream", b"\x89PNG\x00\xff\x00"),
        ("application/json", "[1, 2]"),
        ("application/json", ""),
    ):
        headers = headers_of(event(id=kind + str(content)[:20], subject="Pumpe %C3%96%20%22a%22"), kind)
        answer = await api.post("/alerts/webhook/", content=content, headers=headers)
        assert answer.status_code == 202, answer.text
    first, *rest = await alerts(database)
    assert first["source"] == "grafana"
    assert {(told["source"], told["title"]) for told in rest} == {
        ("cloudevents", 'com.example.pump.stopped: Pumpe Ö "a"')
    }
    assert {told["description"] for told in rest} >= {
        "91 %",
        "Its tank is 91 % full",
        "<pump>stands still</pump>",
        "7 bytes of application/octet-stream",
        "[1,2]",
    }


async def test_a_batch_is_as_many_pushes(api: httpx.AsyncClient, database: Database) -> None:
    told = [
        event(id="1", data=SOURCES["zabbix"].sample("x")),
        event(id="2", subject="pump-4"),
        event(id="3", subject="pump-4", type="com.example.pump.stopped.resolved"),
        "no event",
        event(id="5", specversion="9"),
    ]
    answer = await api.post("/alerts/webhook/?environment=lab", json=told, headers=BATCH)

    assert answer.status_code == 202, answer.text
    assert len(answer.json()["run_ids"]) == len(told)
    assert "kept as refused-" in answer.json()["message"]
    runs = await rows(database, "select source, environment from pipeline_run")
    assert sorted(run["source"] for run in runs) == [*[OWN_SOURCE] * 2, *["cloudevents"] * 2, "zabbix"]
    assert {run["environment"] for run in runs} == {"lab"}

    again = await api.post("/alerts/webhook/?environment=lab", json=told[:3])  # its Content-Type says application/json
    assert again.json()["run_ids"] == answer.json()["run_ids"][:3]
    assert (await api.post("/alerts/webhook/", json=[], headers=BATCH)).status_code == 200


async def test_a_batch_without_end_is_told_as_too_large(api: httpx.AsyncClient, database: Database) -> None:
    answer = await api.post("/alerts/webhook/", json=[event()] * (MAX_EVENTS + 1), headers=BATCH)

    assert (answer.status_code, "more than 1,000 events" in answer.json()["message"]) == (202, True)
    ((run),) = await rows(database, "select title from pipeline_run")
    assert "too large" in run["title"]


async def test_an_event_that_comes_twice_is_one_push(api: httpx.AsyncClient) -> None:
    first = await api.post("/alerts/webhook/", json=event(), headers=STRUCTURED)
    again = await api.post("/alerts/webhook/", json=event(), headers=STRUCTURED)
    binary = await api.post("/alerts/webhook/", headers=headers_of(event()))
    binary_again = await api.post("/alerts/webhook/", headers=headers_of(event()))
    lab = await api.post("/alerts/webhook/?environment=lab", json=event(), headers=STRUCTURED)
    careless = await api.post("/alerts/webhook/", json=event(subject="pump-9"), headers=STRUCTURED)
    numbered = await api.post("/alerts/webhook/", json=event(), headers=STRUCTURED | {"Idempotency-Key": "k"})

    answers = (first, again, binary, binary_again, lab, careless, numbered)
    assert {answer.status_code for answer in answers} == {202}
    ids = [answer.json()["run_id"] for answer in answers]
    assert (ids[1], ids[3]) == (ids[0], ids[2])
    assert len(set(ids)) == 5


@pytest.mark.parametrize(
    "path", ["/alerts/webhook/", "/alerts/webhook/cloudevents", "/alerts/webhook/?environment=lab"]
)
async def test_a_sender_that_asks_before_may_send(api: httpx.AsyncClient, path: str) -> None:
    asked = {"WebHook-Request-Origin": "eventgrid.azure.net", "WebHook-Request-Rate": "120", "Authorization": "none"}
    answer = await api.options(path, headers=asked)

    assert (answer.status_code, answer.headers["WebHook-Allowed-Origin"]) == (200, "eventgrid.azure.net")
    assert int(answer.headers["WebHook-Allowed-Rate"]) >= 120
    assert "WebHook-Allowed-Origin" not in (await api.options(path, headers={"WebHook-Request-Origin": "<x>"})).headers


async def test_a_signed_request_is_read_by_its_body_alone(api: httpx.AsyncClient) -> None:
    signed = {"X-Key-Id": "a", "X-Timestamp": "1", "X-Signature": "v2=00"}
    answer = await api.post("/alerts/webhook/", json=event(), headers=headers_of(event()) | signed)
    assert answer.status_code == 401


async def test_a_program_that_triggers_pipelines_sends_no_batch(api: httpx.AsyncClient) -> None:
    assert (await api.post("/orchestration/pipeline/", json=[event()], headers=BATCH)).status_code == 422
    told = await api.post("/orchestration/pipeline/", json={"payload": event()})
    assert told.status_code == 202


def test_a_person_can_try_an_event(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "event.json"
    file.write_text(json.dumps(event(data=SOURCES["sentry"].sample("x"))))

    assert main.app(["sources", "try", str(file)], standalone_mode=False) == 0
    assert "sentry recognizes it" in capsys.readouterr().out


@given(
    fields=st.dictionaries(
        st.sampled_from(("specversion", "id", "source", "type", "subject", "time", "severity", "data", "data_base64")),
        st.one_of(objects, st.text(max_size=40), st.integers(), st.none(), st.sampled_from(("1.0", AT, "e30=", "{}"))),
    )
)
def test_whatever_an_envelope_says_is_an_alert_or_a_reason(fields: dict[str, Any]) -> None:
    try:
        push = parse_push({"specversion": "1.0", **fields})
    except BadInput as error:
        assert_sentence(str(error))
        return
    for alert in push.alerts:
        assert_storable(alert)
