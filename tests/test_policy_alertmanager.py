"""An imported configuration of Alertmanager routes as the real one does, by the word of its own `amtool`."""

from __future__ import annotations

import random
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestration.alert import Severity
from orchestration.policy.alertmanager import Imported, import_alertmanager
from orchestration.policy.document import read_document, write_document
from orchestration.policy.grouping import grouped_by
from orchestration.policy.parse import read_policy
from orchestration.policy.problems import BadPolicy
from orchestration.policy.routing import Subject, decide
from tests.oncall_helpers import assert_lists

AMTOOL = shutil.which("amtool")
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
CONFIG = (Path(__file__).parent / "payloads" / "alertmanager.yml").read_text()
PLACES = {
    "team": ["db", "web", "infra", "data", "mobile", "security", "", "dba"],
    "severity": ["critical", "warning", "info", "page"],
    "env": ["prod", "staging", "test", "prod-eu", ""],
    "service": ["mysql", "postgres", "nginx", "redis-1", "redis-22", "kafka", "api.v2", "a,b", 'say "hi"'],
    "cluster": ["eu-1", "eu-2", "us-1", ""],
    "audit": ["yes", ""],
    "owner": ["ana", "bo", ""],
}


def sixty_alerts() -> list[dict[str, str]]:
    """Labels of alerts that take every route of the configuration, in an order that is the same each time."""
    chosen = random.Random(10)
    drawn = [{name: chosen.choice(values) for name, values in PLACES.items()} for _ in range(60)]
    return [{"alertname": f"A{at % 7}", **{k: v for k, v in each.items() if v}} for at, each in enumerate(drawn)]


def receivers_by_policy(imported: Imported, labels: dict[str, str]) -> list[str]:
    """The receivers whose channels the imported policy chooses."""
    by_channels = {channels: name for name, channels in imported.receivers.items()}
    subject = Subject.from_parts(labels, name="x", severity=Severity.INFO, source="alertmanager", environment="x")
    return [by_channels[target.channels or ()] for target in decide(imported.policy.policy, subject, NOW).targets]


@pytest.mark.skipif(AMTOOL is None, reason="needs amtool: apt-get install prometheus-alertmanager")
def test_sixty_alerts_reach_the_receivers_that_amtool_names(tmp_path: Path) -> None:
    imported = import_alertmanager(CONFIG)
    file = tmp_path / "alertmanager.yml"
    file.write_text(CONFIG)
    command = [str(AMTOOL), "config", "routes", "test", f"--config.file={file}"]
    different, used = {}, set[str]()
    for labels in sixty_alerts():
        # The old amtool reads a comma or a quote in a label as syntax: values go in quotes.
        words = [f'{name}="{value}"'.replace('say "hi"', 'say \\"hi\\"') for name, value in labels.items()]
        said = subprocess.run([*command, *words], capture_output=True, text=True, check=True).stdout.strip()
        ours = receivers_by_policy(imported, labels)
        used.update(ours)
        if said != ",".join(ours):
            different[str(labels)] = (said, ours)
    assert different == {}
    assert len(used) >= 15, used


def test_the_configuration_has_what_the_comparison_is_about():
    assert CONFIG.count("- receiver:") + CONFIG.count("- match") >= 25
    for what in ("continue: true", "=~", "!~", "!=", "match_re:", "mute_time_intervals:", "active_time_intervals:"):
        assert what in CONFIG


def test_what_is_imported_is_a_policy_that_reads_back():
    imported = import_alertmanager(CONFIG)
    read = read_policy(write_document(imported.policy.written))
    assert read.policy == imported.policy.policy
    assert read.policy.windows["office"][0].location == "Europe/Lisbon"
    assert len(read.policy.inhibitions) == 2
    assert read.policy.inhibitions[1].equal == ("cluster",)
    subject = Subject.from_parts(
        {"team": "db", "cluster": "eu-1"}, name="Slow", severity=Severity.INFO, source="x", environment="y"
    )
    assert grouped_by(read.policy, subject) == {"alertname": "Slow", "cluster": "eu-1"}


def test_what_is_not_taken_over_is_listed_with_its_line():
    assert_lists(
        import_alertmanager(CONFIG).notes,
        "global is not taken over: credentials and servers of channels are in their blocks",
        "group_wait of a route is not taken over",
        "repeat_interval of a route is not taken over: reminders are the policy's timing",
        "the receiver db (slack) is the channel db-slack: save a block of this name",
        "the receiver nobody has no integration: its routes notify nobody",
        'severity!="info" also matches alerts without the label severity',
    )


def test_a_receiver_that_hears_of_no_end_is_listed():
    text = (
        "route: {receiver: x}\nreceivers:\n  - name: x\n    webhook_configs: [{url: 'http://x', send_resolved: false}]"
    )
    assert_lists(import_alertmanager(text).notes, "send_resolved of x is not taken over")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1", "line 1: has no route: expected Alertmanager's configuration"),
        ("route: {routes: []}", "line 1, field 'route': the first route has no receiver"),
        ("route: {receiver: x}", "there is no receiver 'x'"),
        ("receivers: [{name: x}]\nroute:\n  receiver: x\n  routes:\n    - match_re: {a: '('}", "line 5, field "),
        ("receivers: [{name: x}]\nroute:\n  receiver: x\n  routes:\n    - matchers: [a]", "expected a label"),
        (
            "receivers: [{name: x}]\nroute: {receiver: x, routes: [{mute_time_intervals: [y]}]}",
            "there is no window 'y'",
        ),
        ("receivers: 5\nroute: {receiver: x}", "line 1, field 'receivers': expected a list"),
        ("- a", "line 1: expected an object"),
    ],
)
def test_a_broken_configuration_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(BadPolicy) as refused:
        import_alertmanager(text)
    assert any(says in line for line in refused.value.lines), refused.value.lines


def test_a_text_that_yaml_would_read_as_something_else_is_written_in_quotes():
    value = {"a": ["1e3", "no", "0x1F", "~", "", "12:30", "010", "<<", "é\u2028 x", "a: b", 1, 1.5, None, True]}
    assert read_document(write_document(value)).value == value
