"""Bodies of unknown senders: a text alone is a page, a state that nobody knows is not understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestration.errors import Unreadable
from service.cli import main
from tasks.ingest.sources import SOURCES, bids_for, parse_push, unknown_words
from tasks.ingest.sources.draft import draft_of
from tasks.ingest.sources.mapped import source_of
from tasks.ingest.sources.mapping_text import BadMapping, parse_mapping

LAMP = {"message": "Lamp L1 is dark", "lamp": "L1"}


@pytest.mark.parametrize(
    "state",
    [
        {"status": "DARK"},
        {"state": "LIT"},
        {"eventState": "leuchtet"},
        {"lamp_status": "glows"},
        {"alarm-state": "dimmed"},
        {"STATUS": "wieder hell"},
        {"transition": "DARK -> LIT"},
    ],
)
@pytest.mark.parametrize("field", ["message", "msg", "summary", "text", "subject"])
def test_a_text_with_a_state_in_unknown_words_is_not_understood(state: dict[str, str], field: str) -> None:
    sent = {field: "Lamp L1 is dark", "lamp": "L1", **state}
    for source in (None, "generic", "grafana"):
        with pytest.raises(Unreadable, match="a word that is not known"):
            parse_push(sent, source=source)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"status": "down"},
        {"status": "FAILED (3)"},
        {"status": 500},
        {"status": ""},
        {"status": "unknown"},
        {"state": "major"},
        {"eventState": "New"},
        {"eventState": "odd", "status": "firing"},
        {"previous_state": "odd"},
        {"condition": "lux < 5"},
        {"ok": False},
        {"name": "Lamp", "status": "DARK"},
        {"alert": "Lamp", "status": "DARK"},
        {"check_name": "Lamp", "eventState": "DARK"},
    ],
)
def test_a_text_alone_or_a_name_is_a_page(more: dict[str, Any]) -> None:
    (alert,) = parse_push(LAMP | more).alerts
    assert alert.firing


@pytest.mark.parametrize("end", ["Up", "Down ended (now: Up)", "OK", "Closed", "behoben"])
def test_a_known_end_is_an_end(end: str) -> None:
    (alert,) = parse_push(LAMP | {"status": end}).alerts
    assert not alert.firing


@pytest.mark.parametrize("state", [{"NodeStatus": "Up"}, {"event_state": "Closed", "severity": "info"}])
def test_the_end_of_an_alert_that_nothing_names_is_not_understood(state: dict[str, str]) -> None:
    with pytest.raises(Unreadable, match="may be the end of an alert"):
        parse_push(LAMP | state)


def test_a_state_is_no_label_and_the_id_of_a_sensor_is_the_alert() -> None:
    sent = {"message": "timeout", "status": "Down", "sensorid": "2101", "NodeState": "a"}
    began, ended = (parse_push(sent | more).alerts[0] for more in ({}, {"message": "OK", "status": "Up"}))
    assert (began.fingerprint, ended.firing) == (ended.fingerprint, False)
    assert "NodeState" not in began.labels


def test_two_sensors_with_the_same_text_are_two_incidents() -> None:
    sent = {"message": "timeout", "status": "Down", "device": "switch-1"}
    one, other = (parse_push(sent | {"sensor": sensor}).alerts[0] for sensor in ("Ping", "HTTP"))
    assert one.incident_key != other.incident_key


@pytest.mark.parametrize(
    "sent",
    [
        {
            "name": "Slow",
            "trigger_url": "https://ui.honeycomb.io/x",
            "trigger_description": "p99",
            "status": "TRIGGERED",
        },
        {"title": "x", "trigger_time": "now", "trigger_reason": "y"},
    ],
)
def test_a_field_about_triggers_does_not_make_a_body_zabbix(sent: dict[str, Any]) -> None:
    assert "zabbix" not in bids_for(sent, SOURCES)


def drafted(sent: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = draft_of(sent, name="lighthouse")
    source = source_of(parse_mapping(found))
    assert source.bid(sent)
    assert not source.bid({"other": 1})
    assert source.parse(sent).alerts
    return found


@pytest.mark.parametrize(
    ("sent", "path"),
    [
        ({"lighthouse": {"version": 3}, "lamps": [{"id": "L1", "site": "north"}, {"id": "L2"}]}, "lamps"),
        ({"batch": 7, "data": {"rows": [{"ref": 9, "mode": "RAISED"}], "tags": [{"x": "y"}]}}, "data.rows"),
        ({"v": 1, "tags": [{"x": "y"}], "events-now": [{"no": 1, "rank": "A", "mode": "DARK"}]}, '"events-now"'),
    ],
)
def test_a_draft_finds_a_list_of_alerts_without_names(sent: dict[str, Any], path: str) -> None:
    found = drafted(sent)
    assert found["alerts"] == path
    assert found["when"]["has"][0] == path


@pytest.mark.parametrize(
    "sent", [{"kettle": "k1", "no": 4711, "mode": "RAISED", "rank": "A"}, {"alarm": {"no": 1, "mode": "x", "rank": 3}}]
)
def test_a_draft_takes_a_mode_and_a_rank_for_what_they_are(sent: dict[str, Any]) -> None:
    found = drafted(sent)
    fields = {name: str(found["alert"][name]).rpartition(".")[2] for name in ("status", "severity", "fingerprint")}
    assert fields == {"status": "mode", "severity": "rank", "fingerprint": "no"}
    assert not any(each.startswith("=") for each in found["when"]["has"])
    assert not {"mode", "rank"} & set(found["alert"].get("labels", {}))


def test_a_condition_of_constants_alone_is_refused() -> None:
    with pytest.raises(BadMapping, match="holds for the bodies of all senders"):
        parse_mapping({"name": "x", "when": {"has": ["=Alert of x"]}, "alert": {"name": "a"}})


def test_a_list_beside_an_alert_is_no_list_of_alerts() -> None:
    sent = {"alarm": {"what": "Boiler 3 is too hot", "mode": "RAISED"}, "sensors": [{"id": 1, "state": "odd"}]}
    assert "alerts" not in drafted(sent)


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ({"name": "x", "status": "LIT", "severity": "purple"}, ["status 'LIT'", "severity 'purple'"]),
        ({"name": "x", "status": "firing", "severity": "high"}, []),
        ({"alerts": [{"name": "x", "status": "odd"}, {"name": "y", "status": "odd"}]}, ["status 'odd'"]),
        ({"alerts": [{"name": "x"}], "status": "odd"}, ["status 'odd'"]),
    ],
)
def test_words_that_nobody_knows_are_named(sent: dict[str, Any], says: list[str]) -> None:
    found = unknown_words(sent, "generic", SOURCES)
    assert len(found) == len(says)
    assert all(word in sentence for word, sentence in zip(says, found, strict=True))


def test_sources_try_names_the_words_that_a_mapping_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mapping, sent = tmp_path / "lamp.yaml", tmp_path / "lamp.json"
    mapping.write_text(
        "name: lamp-watch\nwhen: {has: [lamps]}\nalerts: lamps\n"
        "alert: {name: id, status: state, severity: [rank, _body.rank]}\nwords: {firing: [dark], critical: [A]}\n"
    )
    lamps = [{"id": "L1", "state": "dark", "rank": "A"}, {"id": "L2", "state": "lit", "rank": "Z"}]
    sent.write_text(json.dumps({"lamps": lamps}))
    assert main.app(["sources", "try", str(sent), "--mapping", str(mapping)], standalone_mode=False) == 0
    said = capsys.readouterr().out
    assert "the status 'lit' is not a known word: it counts as firing" in said
    assert "the severity 'Z' is not a known word: it counts as warning" in said
    assert "'dark'" not in said
