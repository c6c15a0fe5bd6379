"""What Grafana OnCall and GoAlert list becomes a policy that escalates in the same way, and says what it leaves out."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.alert import Severity
from orchestration.policy.document import write_document
from orchestration.policy.goalert import import_goalert
from orchestration.policy.grafana_oncall import import_grafana_oncall
from orchestration.policy.importing import Imported, hours_of
from orchestration.policy.model import Policy
from orchestration.policy.oncall import roster_of
from orchestration.policy.parse import read_policy
from orchestration.policy.problems import BadPolicy
from orchestration.policy.routing import Decision, Subject, decide
from orchestration.policy.schedules import people_at
from service.cli import main
from tests.oncall_helpers import assert_lists

EXPORTS = Path(__file__).parent / "exports"
ONCALL = (EXPORTS / "grafana-oncall.json").read_text()
GOALERT = (EXPORTS / "goalert.json").read_text()
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def way(policy: Policy, source: str, **labels: str) -> Decision:
    subject = Subject.from_parts(labels, name="x", severity=Severity.INFO, source=source, environment="production")
    return decide(policy, subject, NOW)


def on_call(policy: Policy, schedule: str, moment: str) -> tuple[str, ...]:
    """Who is on call at a moment in UTC."""
    return people_at(roster_of(policy, schedule), datetime.fromisoformat(moment).replace(tzinfo=UTC))


def written(imported: Imported) -> dict[str, Any]:
    """The imported policy, which reads back as it was written."""
    assert read_policy(write_document(imported.policy.written)).policy == imported.policy.policy
    return imported.policy.policy.model_dump(mode="json", exclude_defaults=True, by_alias=True)


def test_chains_of_grafana_oncall_become_escalations() -> None:
    policy = written(import_grafana_oncall(ONCALL))
    assert policy["escalations"] == {
        "Databases": {
            "steps": [{"schedule": "DBA", "wait": "15m"}, {"people": ["alex"], "wait": "0s"}],
            "repeat": 5,
        },
        "Room": {"steps": [{"channels": ["webhook-whk1"]}]},
    }
    assert policy["people"] == {name: {"contacts": [name]} for name in ("alex", "bob", "cy")}


def test_shifts_of_grafana_oncall_become_layers() -> None:
    policy = import_grafana_oncall(ONCALL).policy.policy
    assert on_call(policy, "DBA", "2026-11-02T12:00") == ("alex",)
    assert on_call(policy, "DBA", "2026-11-09T12:00") == ("bob",)
    assert on_call(policy, "DBA", "2026-11-09T19:00") == ("cy",)
    assert on_call(policy, "DBA", "2026-11-10T01:59") == ("cy",)
    assert on_call(policy, "DBA", "2026-11-10T19:00") == ("bob",)
    assert policy.schedules["Managers"].ical == "https://example.com/managers.ics"


def test_routes_of_grafana_oncall_become_routes() -> None:
    policy = import_grafana_oncall(ONCALL).policy.policy
    databases = way(policy, "alertmanager", team="db", severity="critical")
    assert (databases.channels, databases.escalations) == (("slack-cdb",), ("Databases",))
    assert way(policy, "alertmanager", service="mysql").escalations == ("Databases",)
    other = way(policy, "alertmanager", team="db")
    assert (other.channels, other.escalations) == (("slack-croom",), ("Room",))
    assert way(policy, "generic", integration="Shop").channels == ()
    assert not way(policy, "generic", integration="Shop").is_default


def test_what_of_grafana_oncall_is_not_taken_over_is_listed_with_its_line() -> None:
    assert_lists(
        import_grafana_oncall(ONCALL).notes,
        "teams is not taken over",
        "the grouping of Prometheus is not taken over",
        "alerts of Shop are told by a label: give them integration=Shop",
        "the condition 'us-(east|west)' is not taken over: its alerts take the default route",
        "there is no user 'UGONE': left out",
        "the chain Nothing notifies nobody here, and is left out",
        "the step 'notify_if_time_from_to' is not taken over",
        "a wait of 60 s before anybody is notified is not taken over",
        "the shift Swap happens once, and is not taken over: alert-pipeline oncall override",
        "the overrides of Managers are not taken over",
        "the person alex (alex@example.com) is the channel alex: save a block of this name",
        "the channel CDB of Slack is the channel slack-cdb",
    )


SHIFT = {"id": "O", "name": "W", "type": "rolling_users", "start": "2026-11-02T09:00:00", "duration": 604800}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"frequency": "monthly"}, "a layer has no turns of 'monthly'"),
        ({"frequency": "weekly", "by_month": [1]}, "not restricted to months"),
        ({"frequency": "weekly", "until": "2027-01-01T00:00:00"}, "a layer has no end"),
        ({"frequency": "daily", "by_day": ["MO", "TU"]}, "its turns are counted on some days of the week only"),
        ({"type": "recurrent_event", "frequency": "weekly", "interval": 2, "users": ["U"]}, "every 2 times only"),
        ({"frequency": "weekly", "rolling_users": []}, "has nobody"),
    ],
)
def test_a_shift_that_layers_cannot_say_is_left_out(more: dict[str, Any], says: str) -> None:
    shift = {**SHIFT, "rolling_users": [["U"], ["V"]], **more}
    users = [{"id": "U", "username": "u"}, {"id": "V", "username": "v"}]
    schedule = {"id": "S", "name": "S", "type": "calendar", "time_zone": "UTC", "shifts": ["O"]}
    config = {"users": users, "schedules": [schedule], "on_call_shifts": [shift]}
    imported = import_grafana_oncall(json.dumps(config))
    assert imported.policy.policy.schedules == {}
    assert any(says in note for note in imported.notes), imported.notes


def test_policies_and_services_of_goalert_become_escalations_and_routes() -> None:
    imported = import_goalert(GOALERT, NOW)
    policy = written(imported)
    assert policy["escalations"] == {
        "Web": {
            "steps": [
                {"schedule": "Day and night", "wait": "0s"},
                {"schedule": "Nights (rotation)"},
                {"people": ["Cy"], "channels": ["slack-ops"], "wait": "10m"},
            ],
            "repeat": 3,
        },
        "New": {"steps": [{"people": ["Ana Silva"], "channels": ["webhook-example-com"], "wait": "15m"}]},
    }
    assert "hunter2" not in str(policy) + str(imported.notes)
    assert policy["people"]["Ana Silva"] == {"contacts": ["ana-silva-sms"]}
    assert way(imported.policy.policy, "generic", service="Shop").escalations == ("Web",)
    assert not way(imported.policy.policy, "generic", service="Old").is_default


def test_schedules_and_rotations_of_goalert_become_layers() -> None:
    policy = import_goalert(GOALERT, NOW).policy.policy
    assert on_call(policy, "Day and night", "2026-11-27T12:00") == ("Ana Silva",)
    assert on_call(policy, "Day and night", "2026-11-27T20:00") == ("Cy",)
    assert on_call(policy, "Day and night", "2026-11-28T12:00") == ("Cy",)
    assert on_call(policy, "Day and night", "2026-11-30T08:59") == ("Cy",)
    assert on_call(policy, "Day and night", "2026-11-30T20:00") == ("Bob",)
    assert on_call(policy, "Nights (rotation)", "2026-12-07T10:00") == ("Cy",)


def test_what_of_goalert_is_not_taken_over_is_listed_with_its_line() -> None:
    assert_lists(
        import_goalert(GOALERT, NOW).notes,
        "userOverrides is not taken over: alert-pipeline oncall override",
        "a disabled contact method of Ana Silva is not taken over",
        "the delays of Ana Silva's contacts are not taken over: all at once",
        "the person Bob, who has no contact method that works, is the channel bob",
        "the escalation policy Nobody notifies nobody here, and is left out",
        "alerts of the service Shop are told by a label: give them service=Shop",
        "a heartbeat is not taken over: POST /heartbeats/backup/?every=30m",
        "the service Old has no escalation policy here",
    )


def test_a_step_of_goalert_that_notifies_nobody_is_listed() -> None:
    user = {"type": "user", "id": "u1", "name": "Ana"}
    steps = [{"stepNumber": 0, "delayMinutes": 7, "targets": []}, {"stepNumber": 1, "targets": [user]}]
    export = {"escalationPolicies": [{"id": "p", "name": "p", "steps": steps}], "users": [{"id": "u1", "name": "Ana"}]}
    notes = import_goalert(json.dumps(export), NOW).notes
    assert any("a step that notifies nobody is left out; the next one comes 7m sooner" in note for note in notes)


def test_an_answer_of_goalert_with_an_error_is_said() -> None:
    with pytest.raises(BadPolicy, match="is an answer with errors, and no export: 'unauthorized'"):
        import_goalert('{"errors": [{"message": "unauthorized"}], "data": null}', NOW)


def test_two_who_are_on_call_together_in_goalert_are_named() -> None:
    config = json.loads(GOALERT)
    rules = config["data"]["schedules"]["nodes"][0]["targets"][0]["rules"]
    rules[0]["end"] = "19:00"
    assert any("two are on call together here" in note for note in import_goalert(json.dumps(config), NOW).notes)


READERS = [import_grafana_oncall, import_goalert]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "has none of the lists"),
        ("[]", "has none of the lists"),
        ('{"users": 5, "a": 1}', "line 1, field 'users': expected a list"),
        ('{\n"users": [7]}', "line 2, field 'users[0]': expected an object"),
        ("{", "is no YAML"),
        ("\0", "has a NUL character"),
        ("[" * 100, "levels"),
        ("x" * 600_000, "has more than 524,288 bytes"),
    ],
)
def test_a_broken_export_says_what_is_wrong(read: Callable[[str], Imported], text: str, says: str) -> None:
    with pytest.raises(BadPolicy) as refused:
        read(text)
    found = "; ".join(refused.value.lines)
    assert says in found, found


@pytest.mark.parametrize(
    ("read", "text", "says"),
    [
        (
            import_grafana_oncall,
            '{"schedules": [{"id": "S", "type": "calendar", "shifts": ["O"]}],\n"on_call_shifts": [{"id": "O", '
            '"name": "n", "type": "rolling_users", "start": "soon", "frequency": "daily"}]}',
            "line 2, field 'on_call_shifts[0].start': expected a moment such as",
        ),
        (import_grafana_oncall, '{"escalation_chains": [{"id": "F"}]}', "name: expected a text"),
        (
            import_goalert,
            '{"schedules": [{"id": "c", "name": "n", "timeZone": "Mars/One"}]}',
            "field 'schedules[0].timeZone'",
        ),
        (
            import_goalert,
            '{"schedules": [{"id": "c", "name": "n", "timeZone": "UTC", "targets": [{"target": {"type": "user"}, '
            '"rules": [{"start": "25:00", "end": "x"}]}]}]}',
            "expected a time of the day such as 09:00, got '25:00'",
        ),
    ],
)
def test_a_wrong_value_is_named_by_its_line(read: Callable[[str], Imported], text: str, says: str) -> None:
    with pytest.raises(BadPolicy) as refused:
        read(text)
    assert any(says in line for line in refused.value.lines), refused.value.lines


def leaves(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of all values in a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, each in inner for place in leaves(each, (*path, name)))][1 if not path else 0 :]


nonsense = st.sampled_from([None, 0, -1, 10**30, 1.5, True, "", "x" * 5_000, [], {}, [[]], ["\ud800"], "2026-13-99"])


@pytest.mark.parametrize(("read", "text"), [(import_grafana_oncall, ONCALL), (import_goalert, GOALERT)])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_a_field_holds_the_answer_is_a_policy_or_a_list_of_problems(
    read: Callable[[str], Imported], text: str, data: st.DataObject
) -> None:
    config = json.loads(text)
    place = data.draw(st.sampled_from(leaves(config)))
    at = config
    for name in place[:-1]:
        at = at[name]
    at[place[-1]] = data.draw(nonsense)
    with suppress(BadPolicy):
        read(json.dumps(config))


@pytest.mark.parametrize("name", ["grafana-oncall", "goalert"])
def test_the_commands_print_the_policy_and_list_the_rest(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.app(["policy", "import", name, str(EXPORTS / f"{name}.json")], standalone_mode=False) == 0
    said = capsys.readouterr()
    assert read_policy(said.out).policy.escalations
    assert f"{name}.json, line " in said.err


def test_times_of_the_week_are_written_as_people_read_them() -> None:
    day = 24 * 60
    assert hours_of([(0, 7 * day)]) == []
    assert hours_of([(540, 1080), (day + 540, day + 1080)]) == [
        {"weekdays": ["monday", "tuesday"], "times": ["09:00-18:00"]}
    ]
    assert hours_of([(6 * day + 1200, 7 * day + 60)]) == [
        {"weekdays": ["monday"], "times": ["00:00-01:00"]},
        {"weekdays": ["sunday"], "times": ["20:00-24:00"]},
    ]
