"""Which checkers look: by the policy's rules, by the run, by the target; and the command that looks by hand."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace
from pathlib import Path
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
from tests.test_target_checkers import certificate, tls_server

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


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["http", "-t", "http://127.0.0.1:9/"], "- not http: 127.0.0.1 is a loopback address"),
        (["http", "-t", "ftp://files.example.com/y"], "- not http: no http or https URL is named"),
        (["http", "-t", "db-77"], "- not http: no http or https URL is named"),
        (["tcp", "-t", "db-77"], "- not tcp: db-77 is named without a port"),
        (["tcp", "memory", "-t", "localhost"], "- not tcp: localhost is named without a port"),
        (["dns", "-t", "10.0.0.9"], "- not dns: 10.0.0.9 is an address, and no name"),
        (["tls", "-t", "http://db-77/"], "- not tls: nothing says that http://db-77/ speaks TLS"),
        (["cpu", "disk", "-t", "db-77"], "- not cpu, disk: it looks only at the host that runs this pipeline"),
        (["prometheus"], "- not prometheus: the other checks look at this host itself"),
        # Nobody has named a checker, and none can look: nothing is known, which is no success.
        (["-t", "http://10.0.0.9/"], "10.0.0.9 is a private address"),
        (["-t", "10.0.0.9:5432", "--json"], "10.0.0.9 is a private address"),
        (["http", "-t", "http://①⑥⑨.254.169.254/"], "is no URL that can be asked"),
    ],
)
def test_a_checker_that_could_not_look_is_no_success(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 3
    out = capsys.readouterr().out
    assert says in out
    assert "the alert" not in out


@pytest.mark.usefixtures("_allowed")
def test_what_was_found_counts_more_than_what_could_not_look(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tcp", "dns", "-t", f"localhost:{free_port()}") == 2
    assert "- not dns: " in capsys.readouterr().out


@pytest.mark.usefixtures("_allowed")
def test_a_checker_that_nobody_named_need_not_look(receiver: HttpReceiver) -> None:
    assert run("-t", receiver.url) != 3  # how full this machine is decides


@pytest.mark.usefixtures("_allowed")
@pytest.mark.parametrize("days", [-3, 90])
async def test_who_names_tls_says_that_the_port_speaks_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], days: int
) -> None:
    pem, key = certificate(tmp_path, days=days)
    async with tls_server(pem, key) as port:
        options = json.dumps({"tls": {"ca_file": str(pem)}})
        code = await asyncio.to_thread(run, "tls", "-t", f"localhost:{port}", "--config", options)
    out = capsys.readouterr().out
    assert f"tls of localhost:{port}: " in out
    assert (code, "expired" in out) == ((2, True) if days < 0 else (0, False))


@pytest.mark.usefixtures("_allowed")
def test_a_redirect_that_may_not_be_followed_is_a_row(
    receiver: HttpReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.answer_with(Answer(302, b"", {"Location": "http://169.254.169.254/"}))
    assert run("http", "-t", receiver.url) == 3
    assert f"? http of {receiver.url}: unknown, redirected to http://169.254.169.254/" in capsys.readouterr().out
    assert run("http", "-t", receiver.url, "--fail-on-unknown") == 1


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
