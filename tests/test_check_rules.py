"""Which checkers look: by the policy's rules, by the run, by the target; and the command that looks by hand."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from typing import Any

import pytest

from orchestration.contracts import CheckResult, Stage
from orchestration.engine.run import Services
from orchestration.policy.active import ActivePolicy
from orchestration.policy.parse import parse_policy, read_policy
from orchestration.policy.problems import BadPolicy
from orchestration.requests import RunOptions
from orchestration.settings import load_settings
from orchestration.store.story import read_story
from orchestration.store.why import read_why
from service.cli import main
from tasks.check.checkers.registry import CHECKERS
from tests.conftest import MemoryChannel
from tests.engine_helpers import execute
from tests.inbox_helpers import accept_push
from tests.prometheus_helpers import free_port
from tests.receivers import Answer, HttpReceiver

HERE = socket.gethostname()


class Fixed:
    """A policy that is always the same."""

    def __init__(self, written: dict[str, Any]) -> None:
        self._active = ActivePolicy(policy=parse_policy(written).policy)

    async def active(self) -> ActivePolicy:
        return self._active


def with_rules(services: Services, *rules: dict[str, Any], **settings: Any) -> Services:
    return replace(
        services,
        policies=Fixed({"checks": list(rules)}),
        settings=load_settings({"backoff_factor": 0.02, "checkers_allow": "127.0.0.0/8", **settings}),
    )


async def checked(services: Services, options: RunOptions | None = None, **alert: Any) -> CheckResult:
    """What the checks of an alert have found."""
    given = {"name": "A", "severity": "critical", "host": HERE, **alert}
    more = {"options": options} if options else {}
    (run_id,) = await accept_push(services, given, source="generic", environment="test", **more)
    await execute(services, run_id)
    async with services.database.transaction() as tx:
        found = (await read_story(tx, run_id)).output(Stage.CHECK, CheckResult)
    assert found
    return found


def names(result: CheckResult) -> list[str]:
    return [one.name for one in result.checks]


async def test_the_first_rule_that_matches_chooses(services: Services) -> None:
    services = with_rules(
        services,
        {"matchers": ['team="batch"'], "checkers": []},
        {
            "matchers": ['team=~"b.*"'],
            "checkers": ["memory", "process"],
            "configs": {"process": {"names": ["x-77"]}},
        },
    )
    assert names(await checked(services, team="batch")) == []
    found = await checked(services, team="backend")
    assert names(found) == ["memory", "process"]
    assert found.checks[1].metrics["missing"] == ["x-77"]
    assert len(names(await checked(services, team="shop"))) == 5


async def test_a_run_that_names_its_checkers_is_asked_no_policy(services: Services) -> None:
    services = with_rules(services, {"checkers": ["memory"]})
    assert names(await checked(services, RunOptions(checker_names=["process"]))) == ["process"]


async def test_a_rule_can_do_no_more_than_the_operator_allows(services: Services) -> None:
    services = with_rules(
        services,
        {"checkers": ["memory", "disk", "process", "tide"]},
        checkers_enabled="memory,disk",
        checkers_skip="disk",
    )
    found = await checked(services)
    assert names(found) == ["memory"]
    assert set(found.left_out) == {"disk", "process", "tide"}
    assert found.left_out["tide"] == "there is no such checker"


async def test_a_wrong_option_of_a_stored_policy_stops_no_page(services: Services, channel: MemoryChannel) -> None:
    services = with_rules(services, {"checkers": ["memory"], "configs": {"memory": {"wran": 5}, "tide": {}}})
    assert names(await checked(services)) == ["memory"]
    assert len(channel.messages) == 1


def test_mistakes_are_named_with_line_and_field() -> None:
    text = """
checks:
  - matchers: [team="a"]
    checkers: [http, htpt]
    configs:
      tls: {warn: 1, crit: 9}
      htpt: {}
  - matchers: [team=]
    checker: [http]
"""
    with pytest.raises(BadPolicy) as refused:
        read_policy(text, checkers=CHECKERS)
    assert {problem.line for problem in refused.value.problems} >= {9}
    with pytest.raises(BadPolicy) as refused:
        read_policy(text.partition("  - matchers: [team=]")[0], checkers=CHECKERS)
    said = [str(problem) for problem in refused.value.problems]
    assert said == [
        "line 4, field 'checks[0].checkers[1]': there is no checker 'htpt' (there are: cpu, disk, dns, http, memory, "
        "network, process, prometheus, tcp, tls)",
        "line 6, field 'checks[0].configs.tls': checker tls: crit (9) is above warn (1)",
        "line 7, field 'checks[0].configs.htpt': there is no checker 'htpt' (there are: cpu, disk, dns, http, memory, "
        "network, process, prometheus, tcp, tls)",
    ]


async def test_an_alert_about_another_host_shows_nothing_of_this_one(
    services: Services, channel: MemoryChannel, receiver: HttpReceiver
) -> None:
    services = with_rules(services)
    found = await checked(services, host="db-77", name="DiskFull")
    assert names(found) == []
    assert found.target
    assert (found.target.host, found.target.is_own) == ("db-77", False)
    (page,) = channel.messages
    assert page.checks == []
    assert HERE not in page.text.replace(".", " ").split()
    async with services.database.transaction() as tx:
        why = await read_why(tx, "DiskFull", None)
    said = [event.text for event in why.timeline]
    assert any("not checked: cpu, disk, memory, network, process (it looks only" in text for text in said), said


async def test_the_page_says_what_each_check_looked_at(
    services: Services, channel: MemoryChannel, receiver: HttpReceiver
) -> None:
    port = int(receiver.url.rpartition(":")[2])
    services = with_rules(services, {"checkers": ["tcp", "memory"]})
    await checked(services, host=f"127.0.0.1:{port}")
    (page,) = channel.messages
    assert page.checks[0].startswith("✓ tcp of 127.0.0.1:") or page.checks[1].startswith("✓ tcp of 127.0.0.1:")
    assert any(f"memory of {HERE}: " in row for row in page.checks)


# By hand


def run(*words: str) -> int:
    """The exit code of `alert-pipeline check`."""
    result = main.app(["check", *words], standalone_mode=False)
    assert isinstance(result, int)
    return result


@pytest.fixture
def _allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHECKERS_ALLOW", "127.0.0.0/8,localhost")


@pytest.mark.usefixtures("_allowed")
@pytest.mark.parametrize(
    ("status", "words", "code"),
    [(200, [], 0), (500, [], 2), (200, ["--config", '{"http": {"warn": 1e-6}}'], 1), (200, ["--fail-on-unknown"], 0)],
)
def test_the_exit_code_says_how_it_is(
    receiver: HttpReceiver, capsys: pytest.CaptureFixture[str], status: int, words: list[str], code: int
) -> None:
    receiver.answer_with(Answer(status))
    assert run("http", "--target", f"{receiver.url}/x", *words) == code
    assert f"http of {receiver.url}/x: " in capsys.readouterr().out


def test_what_may_not_be_looked_at_is_said(receiver: HttpReceiver, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("http", "-t", receiver.url) == 3
    assert "- not http: 127.0.0.1 is a loopback address" in capsys.readouterr().out
    assert run("http", "-t", receiver.url, "--fail-on-unknown") == 3
    assert receiver.requests == []


@pytest.mark.usefixtures("_allowed")
def test_json_is_the_result_of_the_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tcp", "memory", "-t", f"localhost:{free_port()}", "--json") == 2
    found = CheckResult.model_validate(json.loads(capsys.readouterr().out))
    assert [(one.name, one.target) for one in found.checks][1] == ("memory", HERE)
    assert found.target
    assert found.target.is_own


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["htpt"], "unknown checker 'htpt'"),
        (["-t", "a b"], "--target: expected a host"),
        (["--config", "{"], "--config: expected options by checker"),
        (["--config", '{"tls": {"wran": 1}}'], "unknown option 'wran'"),
    ],
)
def test_wrong_use_ends_with_three(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*words)
    assert ended.value.code == 3
    assert says in capsys.readouterr().err
