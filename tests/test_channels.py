"""What all channels have in common: how they are made, what they show, and which answers are worth a retry."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import SecretStr, ValidationError

from blocks.channels import (
    CHANNELS,
    AppriseChannel,
    ConsoleChannel,
    EmailChannel,
    GenericChannel,
    NtfyChannel,
    PagerDutyChannel,
    SlackChannel,
)
from blocks.channels.base import ChannelBlock, retry_after_seconds
from blocks.pipeline_definition import AlertPolicy
from orchestration.alert import AlertStatus, Severity
from orchestration.errors import BadSetting, DeliveryFailed
from orchestration.message import Channel, Fact, Message
from orchestration.settings import load_settings
from tests.conftest import CHANNEL_VARIABLES
from tests.receivers import Answer, HttpReceiver, http_receiver, smtp_receiver
from tests.vendors import ROUTING_KEY

SECRET = "T000-s3cr3t"
ACCEPTED = {"ok": True, "status": "success", "id": "m1"}
"""An answer with which every vendor accepts a message."""


def a_message(**fields: Any) -> Message:
    own: dict[str, Any] = {
        "idempotency_key": "run-1/notify/oncall",
        "dedup_key": "incident-7",
        "title": "[CRITICAL] HighCPU on web-1 (production)",
        "text": "[CRITICAL] HighCPU on web-1 (production)\n\nWhat: CPU above 95 %\n",
        "markdown": "## HighCPU",
        "html": "<h2>HighCPU on web-1</h2>",
        "severity": Severity.CRITICAL,
        "status": AlertStatus.FIRING,
        "summary": "A process eats the CPU.",
        "facts": [Fact(label="Where", value="web-1"), Fact(label="Since", value="2026-01-02 03:04:05 UTC")],
        "checks": ["✗ cpu: critical, 97 % busy", "✓ disk: ok, 12 % used"],
        "actions": ["Follow the runbook.", "Restart java"],
        "links": {"runbook": "https://wiki.example.com/cpu?a=1&b=2"},
        "trace_id": "trace-1",
        "run_id": "run-1",
        "source": "alertmanager",
        "environment": "production",
    }
    return Message(**(own | fields))


def generic_for(receiver: HttpReceiver) -> ChannelBlock:
    return GenericChannel(endpoint=SecretStr(f"{receiver.url}/in/{SECRET}?token={SECRET}"))


def slack_webhook_for(receiver: HttpReceiver) -> ChannelBlock:
    return SlackChannel(webhook_url=SecretStr(f"{receiver.url}/services/{SECRET}"))


def slack_bot_for(receiver: HttpReceiver) -> ChannelBlock:
    return SlackChannel(bot_token=SecretStr(f"xoxb-{SECRET}"), channel="#oncall", base_url=receiver.url)


def pagerduty_for(receiver: HttpReceiver) -> ChannelBlock:
    return PagerDutyChannel(routing_key=SecretStr(ROUTING_KEY), url=f"{receiver.url}/v2/enqueue")


def ntfy_for(receiver: HttpReceiver) -> ChannelBlock:
    return NtfyChannel(topic=SecretStr(SECRET), url=receiver.url)


def apprise_for(receiver: HttpReceiver) -> ChannelBlock:
    return AppriseChannel(url=SecretStr(f"{receiver.url.replace('http', 'json')}/{SECRET}"))


HTTP_CHANNELS = [generic_for, slack_webhook_for, slack_bot_for, pagerduty_for, ntfy_for]


@pytest.mark.parametrize("make", [*HTTP_CHANNELS, apprise_for])
@pytest.mark.parametrize(
    ("status", "retryable"),
    [(status, True) for status in (408, 425, 429, 500, 502, 503, 504, 507)]
    + [(status, False) for status in (400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 451)],
)
async def test_the_status_says_whether_a_retry_can_help(make: Any, status: int, retryable: bool):
    with http_receiver(Answer(status, b"no")) as receiver:
        with pytest.raises(DeliveryFailed) as failure:
            await make(receiver).send(a_message())
        assert failure.value.retryable is retryable
        assert not failure.value.perhaps_accepted
        assert str(status) in str(failure.value)
        assert SECRET not in str(failure.value)
        assert len(receiver.requests) == 1  # The stage retries; a channel never does.


@pytest.mark.parametrize(
    ("make", "status"),
    # Slack's Web API says 200 whatever it thinks of the message.
    [(make, status) for make in (generic_for, slack_webhook_for) for status in (200, 201, 202)]
    + [(slack_bot_for, 200), (pagerduty_for, 202), (ntfy_for, 200)],
)
async def test_two_hundred_and_something_is_sent(make: Any, status: int):
    with http_receiver(Answer.json(ACCEPTED, status)) as receiver:
        delivery = await make(receiver).send(a_message())
        assert delivery.status == "sent"
        assert delivery.response["status"] == status
        assert SECRET not in delivery.model_dump_json()


NOON = "Thu, 26 Nov 2026 12:00:00 GMT"
WAITS: list[tuple[dict[str, str], float | None]] = [
    ({"Retry-After": "30"}, 30.0),
    ({"retry-after": " 1.5 "}, 1.5),
    ({"Retry-After": "0"}, 0.0),
    ({"Retry-After": "Thu, 26 Nov 2026 12:00:45 GMT", "Date": NOON}, 45.0),
    ({"Retry-After": "Thursday, 26-Nov-26 12:00:45 GMT", "Date": NOON}, 45.0),
    ({"Retry-After": "Thu Nov 26 12:00:45 2026", "Date": NOON}, 45.0),
    ({"Retry-After": "999999999"}, 86400.0),
    ({"Retry-After": "Thu, 26 Nov 2099 12:00:00 GMT", "Date": NOON}, 86400.0),
    ({"Retry-After": "Thu, 26 Nov 2026 11:59:59 GMT", "Date": NOON}, None),
    ({"Retry-After": "-5"}, None),
    ({"Retry-After": "nan"}, None),
    ({"Retry-After": "1e3"}, None),
    ({"Retry-After": "\u0663"}, None),
    ({"Retry-After": "soon"}, None),
    ({"Retry-After": "Thu, 99 Nov 2026 12:00:45 GMT"}, None),
    ({"Retry-After": ""}, None),
    ({}, None),
]
"""What an answer says, and the wait that this means in seconds."""


@pytest.mark.parametrize(("headers", "seconds"), WAITS)
def test_a_wait_is_read_as_the_vendor_means_it(headers: dict[str, str], seconds: float | None):
    assert retry_after_seconds(headers) == seconds


def test_a_moment_without_the_vendors_own_time_is_compared_with_ours():
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert retry_after_seconds({"Retry-After": moment}) == pytest.approx(99.5, abs=1)


@pytest.mark.parametrize("make", HTTP_CHANNELS)
@pytest.mark.parametrize(
    ("status", "says", "seconds"),
    [
        (429, "30", 30.0),
        (429, "0.25", 0.25),
        (429, "99999999", 86400.0),
        (429, "later", None),
        (429, None, None),
        (503, "7", 7.0),
        (503, "Thu, 26 Nov 2099 12:00:00 GMT", 86400.0),
        (500, "7", 7.0),
        (413, "7", 7.0),
        (403, "7", 7.0),
    ],
)
async def test_every_channel_hands_on_the_wait_that_it_is_asked_for(
    make: Any, status: int, says: str | None, seconds: float | None
):
    answer = Answer(status, b"slow down", {"Retry-After": says} if says else {})
    with http_receiver(answer) as receiver, pytest.raises(DeliveryFailed) as failure:
        await make(receiver).send(a_message())
    assert (failure.value.retryable, failure.value.retry_after_seconds) == (True, seconds)
    assert ("asks to wait" in str(failure.value)) is (seconds is not None)


async def test_slacks_own_word_for_too_many_requests_has_its_wait_too():
    limited = Answer.json({"ok": False, "error": "ratelimited"}, **{"Retry-After": "3"})
    with http_receiver(limited) as receiver, pytest.raises(DeliveryFailed, match="ratelimited") as failure:
        await slack_bot_for(receiver).send(a_message())
    assert (failure.value.retryable, failure.value.retry_after_seconds) == (True, 3.0)


@pytest.mark.parametrize("driver", CHANNELS)
def test_only_slack_wants_a_pause_between_two_messages(driver: str):
    assert CONFIGURED[driver]().seconds_between_messages == (1.0 if driver == "slack" else 0.0)


@pytest.mark.parametrize("make", HTTP_CHANNELS)
async def test_a_server_that_is_not_there_is_worth_a_retry(make: Any):
    with http_receiver() as receiver:
        channel = make(receiver)
    with pytest.raises(DeliveryFailed, match="could not be reached") as failure:
        await channel.send(a_message())
    assert failure.value.retryable
    assert not failure.value.perhaps_accepted
    assert SECRET not in str(failure.value)


@pytest.mark.parametrize("make", HTTP_CHANNELS)
async def test_a_server_that_does_not_answer_is_worth_a_retry(make: Any):
    with http_receiver(Answer(hang=True)) as receiver:
        channel = make(receiver)
        channel.timeout_seconds = 1
        with pytest.raises(DeliveryFailed, match="did not answer in time") as failure:
            await channel.send(a_message())
        assert failure.value.retryable
        assert failure.value.perhaps_accepted


async def test_messages_that_hang_keep_no_other_channel_and_no_file_work_waiting():
    with http_receiver(default=Answer(hang=True)) as deaf, smtp_receiver() as server:
        mails = EmailChannel(
            smtp_host=server.host, smtp_port=server.port, security="none", to_addresses=["a@b.example"]
        )
        makes = (slack_bot_for, slack_webhook_for)
        hanging = [asyncio.create_task(make(deaf).send(a_message())) for make in makes for _ in range(20)]
        try:
            await asyncio.to_thread(deaf.wait_for, 40)
            async with asyncio.timeout(5):
                assert (await mails.send(a_message())).status == "sent"
                assert await asyncio.to_thread(socket.gethostname)
            assert not any(one.done() for one in hanging)
        finally:
            for one in hanging:
                one.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)


@pytest.mark.parametrize("make", [*HTTP_CHANNELS, apprise_for])
async def test_no_log_line_has_the_secret(make: Any, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG), http_receiver(Answer.json(ACCEPTED), 500) as receiver:
        await make(receiver).send(a_message())
        with pytest.raises(DeliveryFailed):
            await make(receiver).send(a_message())
    assert SECRET not in caplog.text


@pytest.mark.parametrize("driver", CHANNELS)
def test_every_channel_is_a_block_with_a_stable_slug_and_described_fields(driver: str):
    block = CHANNELS[driver]
    assert block.get_block_type_slug() == f"{driver}-channel"
    assert block.get_block_type_name().endswith("Channel")
    for name, field in block.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


@pytest.mark.parametrize("driver", CHANNELS)
def test_the_fields_of_every_block_are_documented(driver: str):
    page = (Path(__file__).parents[1] / "docs" / "channels.md").read_text()
    rows, block = set[tuple[str, str]](), "all of them"
    for first, name in re.findall(r"^\| (all of them|`\w+`|) ?\| `(\w+)`", page, re.MULTILINE):
        block = first.strip("`") or block
        rows.add((block, name))
    own = {(CHANNELS[driver].__name__, name) for name in CHANNELS[driver].model_fields.keys() - {"enabled", "default"}}
    assert {one for one in rows if one[0] == CHANNELS[driver].__name__} == own
    assert {("all of them", "enabled"), ("all of them", "default")} <= rows


@pytest.mark.parametrize("driver", CHANNELS)
def test_a_block_refuses_a_field_that_it_does_not_have_and_names_those_that_it_has(driver: str):
    mistaken: dict[str, Any] = {**CONFIGURED[driver]().model_dump(), "serverr": SECRET}
    with pytest.raises(ValidationError) as error:
        CHANNELS[driver](**mistaken)
    assert f"{CHANNELS[driver].__name__} has no field 'serverr'. It has: enabled, default" in str(error.value)
    assert SECRET not in str(error.value)


def test_a_block_that_was_saved_with_a_field_that_it_does_not_have_works_and_warns(caplog: pytest.LogCaptureFixture):
    saved = {"topic": "a-topic", "servr": "https://ntfy.example.com", "block_type_slug": "ntfy-channel"}
    channel = NtfyChannel.model_validate(saved)
    assert channel.topic.get_secret_value() == "a-topic"
    assert "A saved NtfyChannel has field 'servr', which it does not know, and ignores" in caplog.text


def test_the_blocks_of_definitions_refuse_such_a_field_too():
    mistaken: dict[str, Any] = {"confg": {}}
    with pytest.raises(ValidationError, match=r"AlertPolicy has no field 'confg'\. It has: config, stored_version"):
        AlertPolicy(**mistaken)


CONFIGURED = {
    "console": lambda: ConsoleChannel(),
    "slack": lambda: SlackChannel(webhook_url=SecretStr(f"https://hooks.slack.com/services/{SECRET}")),
    "email": lambda: EmailChannel(smtp_host="smtp.example.com", to_addresses=["ops@example.com"]),
    "generic": lambda: GenericChannel(endpoint=SecretStr(f"https://hooks.example.com/{SECRET}")),
    "pagerduty": lambda: PagerDutyChannel(routing_key=SecretStr(ROUTING_KEY)),
    "ntfy": lambda: NtfyChannel(topic=SecretStr(SECRET)),
    "apprise": lambda: AppriseChannel(url=SecretStr(f"discord://4174216298/{SECRET}")),
}


@pytest.mark.parametrize("driver", CHANNELS)
def test_every_channel_names_its_driver_and_a_target_without_a_secret(driver: str):
    channel = CONFIGURED[driver]()
    as_channel: Channel = channel  # the protocol holds, for the type checker too
    assert as_channel.driver == driver
    assert as_channel.target
    assert SECRET not in as_channel.target
    assert SECRET not in repr(channel)
    assert (channel.enabled, channel.default) == (True, False)


@pytest.mark.parametrize(
    ("block", "fields", "says"),
    [
        (SlackChannel, {}, "expected a webhook_url, or a bot_token and a channel"),
        (SlackChannel, {"bot_token": SECRET}, "bot_token needs a channel"),
        (SlackChannel, {"webhook_url": f"ftp://{SECRET}"}, "webhook_url must be a http:// or https:// URL"),
        (SlackChannel, {"bot_token": f"{SECRET}\n", "channel": "c"}, "bot_token must be one word"),
        (GenericChannel, {"endpoint": f"file:///{SECRET}"}, "endpoint must be a http:// or https:// URL"),
        (GenericChannel, {"endpoint": f"https:///{SECRET}"}, "endpoint must be a http:// or https:// URL"),
        (GenericChannel, {"endpoint": f"https://[{SECRET}"}, "endpoint must be a http:// or https:// URL"),
        (GenericChannel, {"endpoint": "https://x.example", "headers": {"A": f"{SECRET}\r\nB: c"}}, "header 'A'"),
        (GenericChannel, {"endpoint": "https://x.example", "headers": {"A b": SECRET}}, "header 'A b'"),
        (GenericChannel, {"endpoint": "https://x.example", "template": "{% if"}, "template: "),
        (EmailChannel, {"smtp_host": "h", "to_addresses": []}, "at least 1 item"),
        (AppriseChannel, {"url": f"nothing://{SECRET}"}, "url is no Apprise URL"),
        (NtfyChannel, {"topic": f"{SECRET}/x"}, "topic must be 1 to 64 letters"),
        (NtfyChannel, {"topic": "x", "token": f"{SECRET} x"}, "token must be one word"),
        (NtfyChannel, {"topic": "x", "url": f"ftp://{SECRET}"}, "url must be a http"),
        (PagerDutyChannel, {"routing_key": SECRET}, "routing_key must be the 32 letters and digits"),
        (PagerDutyChannel, {"routing_key": ROUTING_KEY, "url": f"ftp://{SECRET}"}, "url must be a http"),
        (EmailChannel, {"smtp_host": "h", "to_addresses": ["a@b.example\nBcc: c@d.example"]}, "is not an e-mail"),
        (EmailChannel, {"smtp_host": "h", "to_addresses": ["a@b.example"], "from_address": "nobody"}, "from_address"),
    ],
)
def test_a_wrong_configuration_is_refused_without_showing_the_secret(block: Any, fields: dict[str, Any], says: str):
    with pytest.raises(ValidationError) as refusal:
        block(**fields)
    assert says in str(refusal.value)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("driver", CHANNELS)
def test_a_block_document_gives_the_same_channel_again(driver: str):
    channel = CONFIGURED[driver]()
    document = channel.model_dump(mode="json", context={"include_secrets": True})
    again = type(channel).model_validate(document)
    assert again.target == channel.target
    assert again.model_dump(mode="json", context={"include_secrets": True}) == document
    assert SECRET not in channel.model_dump_json()


def test_the_environment_describes_each_driver_or_none(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in os.environ if name.startswith(CHANNEL_VARIABLES)]:
        monkeypatch.delenv(name)
    nothing = load_settings()
    assert {driver for driver, block in CHANNELS.items() if block.from_settings(nothing)} == {"console"}
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-1")
    monkeypatch.setenv("SLACK_CHANNEL", "#oncall")
    monkeypatch.setenv("SMTP_HOST", "smtp.example.com")
    monkeypatch.setenv("EMAIL_TO", "a@example.com, b@example.com")
    monkeypatch.setenv("NOTIFY_WEBHOOK_URL", f"https://hooks.example.com/{SECRET}")
    monkeypatch.setenv("NOTIFY_WEBHOOK_AUTHORIZATION", "Bearer x")
    monkeypatch.setenv("PAGERDUTY_ROUTING_KEY", ROUTING_KEY)
    monkeypatch.setenv("NTFY_TOPIC", SECRET)
    monkeypatch.setenv("APPRISE_URL", f"discord://4174216298/{SECRET}")
    everything = load_settings()
    targets = {
        driver: cast("ChannelBlock", block.from_settings(everything)).target for driver, block in CHANNELS.items()
    }
    assert targets == {
        "console": "console",
        "slack": "#oncall",
        "email": "a@example.com, b@example.com",
        "generic": "hooks.example.com",
        "pagerduty": "events.pagerduty.com",
        "ntfy": "ntfy.sh",
        "apprise": "discord",
    }


@pytest.mark.parametrize(
    ("driver", "fields", "says"),
    [
        ("slack", {"slack_bot_token": SECRET}, "SLACK_BOT_TOKEN and SLACK_CHANNEL: bot_token needs a channel"),
        ("email", {"smtp_host": "smtp.example.com"}, "EMAIL_TO: the email driver needs SMTP_HOST and EMAIL_TO"),
        ("email", {"email_to": ["a@example.com"]}, "SMTP_HOST: the email driver needs"),
        ("pagerduty", {"pagerduty_routing_key": SECRET}, "PAGERDUTY_ROUTING_KEY: routing_key must be"),
        ("apprise", {"apprise_url": f"nothing://{SECRET}"}, "APPRISE_URL: url is no Apprise URL"),
        ("ntfy", {"ntfy_topic": f"{SECRET}/"}, "NTFY_TOPIC: topic must be"),
        ("generic", {"webhook_url": SECRET}, "NOTIFY_WEBHOOK_URL: endpoint must be a http:// or https:// URL"),
    ],
)
def test_half_a_configuration_names_the_variables(driver: str, fields: dict[str, Any], says: str):
    with pytest.raises(BadSetting, match=says) as refusal:
        CHANNELS[driver].from_settings(load_settings(fields))
    assert SECRET not in str(refusal.value)


async def test_the_console_shows_the_whole_message_on_standard_error(capsys: pytest.CaptureFixture[str]):
    delivery = await ConsoleChannel().send(a_message())
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "[CRITICAL] HighCPU on web-1 (production)" in shown.err
    assert "CPU above 95 %" in shown.err
    assert (delivery.driver, delivery.status) == ("console", "sent")


async def test_the_console_writes_in_the_encoding_of_standard_error(monkeypatch: pytest.MonkeyPatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(raw, encoding="ascii"))
    await ConsoleChannel().send(a_message(text="✓ ok"))
    assert b"? ok" in raw.getvalue()


async def test_a_console_that_nobody_reads_fails_without_a_retry(monkeypatch: pytest.MonkeyPatch):
    reader, writer = socket.socketpair()
    stream = writer.makefile("w")
    reader.close()
    writer.close()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", stream)
        with pytest.raises(DeliveryFailed, match="console") as failure:
            await ConsoleChannel().send(a_message())
    assert not failure.value.retryable
    with pytest.raises(OSError, match="Broken pipe"):
        stream.close()
