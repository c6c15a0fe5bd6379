"""`alert-pipeline channels`: the list says what works, and a test really arrives, marked as one."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from orchestration.errors import BadInput
from orchestration.store.channels import Health
from orchestration.store.database import migrate
from service.channel_report import ChannelView, list_channels, send_tests
from service.cli import channels
from tests import vendors
from tests.receivers import http_receiver, smtp_receiver
from tests.stack_fixtures import settings_for
from tests.test_channel_resolver import NOWHERE
from tests.vendors import ROUTING_KEY, SLACK_TOKEN

SINCE = datetime(2026, 11, 27, 12, tzinfo=UTC)


async def sent(name: str, **settings: Any) -> Any:
    """The result of a test message."""
    [one] = await send_tests(settings_for(NOWHERE, **settings), None, name)
    return one


async def test_slack_says_where_the_test_is_and_shows_no_open_incident_afterwards() -> None:
    with vendors.slack() as slack:
        bot = {"slack_bot_token": SLACK_TOKEN, "slack_channel": "#oncall", "slack_api_url": slack.url}
        one = await sent("slack", **bot)
        [post] = slack.posts
        [reply] = slack.replies_to(post)
    assert one.ok
    link = f"https://acme.slack.com/archives/C0ONCALL/p{post.ts.replace('.', '')}"
    assert one.said == f"Slack shows it at {link}; then the test was ended there"
    assert one.provider_id == post.ts
    assert post.text.startswith("🟢 [TEST] alert-pipeline reaches the channel slack")
    assert reply.text.endswith("the test is over")
    assert not reply.broadcast


async def test_pagerduty_gets_an_incident_that_is_over_at_once() -> None:
    with vendors.pagerduty() as pagerduty:
        one = await sent("pagerduty", pagerduty_routing_key=ROUTING_KEY, pagerduty_api_url=pagerduty.url)
        [incident] = pagerduty.incidents
    assert (one.ok, one.said) == (True, "pagerduty accepted it; then the test was ended there")
    assert (incident.status, incident.severity) == ("resolved", "info")
    assert incident.summary.startswith("[TEST]")


async def test_a_mail_server_names_who_gets_it() -> None:
    with smtp_receiver(refuse={"gone@example.com": "550 no such user"}) as server:
        where = {"smtp_host": server.host, "smtp_port": server.port, "smtp_security": "none"}
        one = await sent("email", **where, email_to=("ops@example.com", "gone@example.com"))
        [mail] = server.mails
    said = "the mail server accepted it for ops@example.com; it refused gone@example.com: 550 no such user"
    assert (one.ok, one.said) == (True, said)
    assert "nothing has happened" in mail.message.get_body(["plain"]).get_content()  # pyright: ignore[reportOptionalMemberAccess]


async def test_a_channel_that_refuses_the_test_says_why() -> None:
    with http_receiver(404) as receiver:
        one = await sent("generic", webhook_url=f"{receiver.url}/s3cr3t")
    assert (one.ok, one.said, one.provider_id) == (False, "127.0.0.1 answered 404", None)
    with pytest.raises(BadInput, match="There is no channel or driver 'nobody'"):
        await sent("nobody")


def test_the_command_ends_with_one_if_the_test_was_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("ALERT_PIPELINE_HOME", str(tmp_path))
    with http_receiver(200, 200, 503) as receiver:
        monkeypatch.setenv("NOTIFY_WEBHOOK_URL", receiver.url)
        assert channels.send_test("generic", json=True) == 0
        [shown] = json.loads(capsys.readouterr().out)
        assert (shown["name"], shown["ok"], shown["said"]) == ("generic", True, "127.0.0.1 accepted it")
        assert channels.send_test("generic") == 0
        assert "✓ generic (generic to 127.0.0.1): 127.0.0.1 accepted it" in capsys.readouterr().out
        assert channels.send_test("generic") == 1
        assert "✗ generic (generic to 127.0.0.1): 127.0.0.1 answered 503" in capsys.readouterr().out


def health(name: str, **fields: Any) -> Health:
    own: dict[str, Any] = {"failures": 0, "failing_since": None, "not_before": None, "last_error": None}
    return Health(name=name, **{**own, "sent_at": SINCE, **fields})


async def test_the_list_says_what_works_and_what_is_a_default() -> None:
    settings = settings_for(
        NOWHERE,
        notify_channels=("slack",),
        slack_webhook_url="https://hooks.slack.com/services/s3cr3t",
        webhook_url="https://hooks.example.com/s3cr3t",
        ntfy_topic="s3cr3t",
        smtp_host="mx.example.com",
    )
    known = {
        "slack": health("slack"),
        "generic": health("generic", failures=3, failing_since=SINCE, last_error="hooks.example.com answered 503"),
        "ntfy": health("ntfy", not_before=SINCE + timedelta(hours=1)),
    }
    found = await list_channels(settings, None, known)
    shown = {view.name: (view.default, view.kind, view.target, view.state, view.problem) for view in found.channels}
    assert list(shown) == ["slack", "email", "generic", "ntfy"]
    assert shown == {
        "slack": (True, "slack", "hooks.slack.com", "works", None),
        "generic": (False, "generic", "hooks.example.com", "failing", "hooks.example.com answered 503"),
        "ntfy": (False, "ntfy", "ntfy.sh", "paused", None),
        "email": (False, "", "", "unusable", "EMAIL_TO: the email driver needs SMTP_HOST and EMAIL_TO"),
    }
    assert found.unknown == "Prefect does not run: blocks that are saved there are not known"
    assert found.problem is None
    assert "s3cr3t" not in found.model_dump_json()


async def test_the_list_says_when_messages_reach_nobody() -> None:
    found = await list_channels(settings_for(NOWHERE), None, {})
    assert found.channels == list[ChannelView]()
    assert found.problem == "no channel is a default: a message that names no channel reaches nobody"
    wrong = await list_channels(settings_for(NOWHERE, notify_channels=("nobody",)), None, {})
    assert str(wrong.problem).startswith("There is no channel or driver 'nobody'")


def test_the_command_lists_what_the_database_knows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path, postgres_url: str
) -> None:
    migrate(postgres_url)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("delete from channel_health")
        connection.execute("insert into channel_health (name, sent_at) values ('generic', '2026-11-27 12:00+00')")
    monkeypatch.setenv("ALERT_PIPELINE_HOME", str(home))
    monkeypatch.setenv("NOTIFY_WEBHOOK_URL", "https://hooks.example.com/s3cr3t")
    assert channels.show_list(json=True) == 0
    [shown] = json.loads(capsys.readouterr().out)["channels"]
    assert (shown["name"], shown["state"], shown["default"]) == ("generic", "works", True)
    assert shown["sent_at"].startswith("2026-11-27T12:00:00")
    assert channels.show_list() == 0
    assert "2026-11-27 12:00" in capsys.readouterr().out
