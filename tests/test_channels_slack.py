"""Slack: what is posted, within Slack's limits, and what an alert's text cannot do there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from blocks.channels.slack import SlackChannel, blocks_of, fallback_of
from orchestration.alert import AlertStatus
from orchestration.errors import DeliveryFailed
from orchestration.message import Fact
from tests import vendors
from tests.receivers import SLACK_TS, Answer, HttpReceiver, http_receiver, slack_receiver
from tests.test_channels import a_message
from tests.vendors import SLACK_TOKEN, Slack


def a_bot(receiver: HttpReceiver) -> SlackChannel:
    return SlackChannel(bot_token=SecretStr("xoxb-1"), channel="#oncall", base_url=receiver.url)


async def test_a_bot_posts_blocks_with_a_fallback_and_the_keys_of_the_run():
    with slack_receiver() as slack:
        delivery = await a_bot(slack).send(a_message())
        [request] = slack.requests
    assert (request.method, request.path) == ("POST", "/chat.postMessage")
    assert request.headers["authorization"] == "Bearer xoxb-1"
    body = request.json
    assert body["channel"] == "#oncall"
    assert body["text"] == "🔴 [CRITICAL] HighCPU on web-1 (production)"
    assert body["metadata"]["event_payload"] == {
        "run_id": "run-1",
        "idempotency_key": "run-1/notify/oncall",
        "dedup_key": "incident-7",
    }
    assert body["unfurl_links"] is False
    assert body["blocks"][0]["text"]["text"] == "🔴 [CRITICAL] HighCPU on web-1 (production)"
    whole = json.dumps(body["blocks"], ensure_ascii=False)
    for text in ("*Where*\\nweb-1", "2. Restart java", "A process eats the CPU.", "✗ cpu: critical", "trace trace-1"):
        assert text in whole
    assert "<https://wiki.example.com/cpu?a=1&amp;b=2|runbook>" in whole
    assert (delivery.provider_id, delivery.channel) == (SLACK_TS, "#oncall")


async def test_a_webhook_posts_the_same_blocks():
    with http_receiver() as slack:
        delivery = await SlackChannel(webhook_url=SecretStr(f"{slack.url}/services/T/B/x")).send(a_message())
        [request] = slack.requests
    assert request.path == "/services/T/B/x"
    assert request.json["blocks"] == blocks_of(a_message())
    assert (delivery.provider_id, delivery.channel) == (None, "127.0.0.1")


async def test_with_both_the_bot_posts():
    with slack_receiver() as slack:
        channel = SlackChannel(
            bot_token=SecretStr("xoxb-1"),
            channel="C1",
            base_url=slack.url,
            webhook_url=SecretStr(f"{slack.url}/services/x"),
        )
        await channel.send(a_message())
        assert [request.path for request in slack.requests] == ["/chat.postMessage"]


@pytest.mark.parametrize(
    ("code", "retryable"),
    [(code, True) for code in ("ratelimited", "internal_error", "fatal_error", "service_unavailable")]
    + [(code, False) for code in ("invalid_auth", "channel_not_found", "not_in_channel", "invalid_blocks")],
)
async def test_slacks_own_error_says_whether_a_retry_can_help(code: str, retryable: bool):
    with slack_receiver(Answer.json({"ok": False, "error": code})) as slack:
        with pytest.raises(DeliveryFailed, match=code) as failure:
            await a_bot(slack).send(a_message())
        assert failure.value.retryable is retryable
        assert len(slack.requests) == 1


@pytest.mark.parametrize("body", [b"<html>Sign in</html>", b'{"ok": false}'])
async def test_a_webhook_that_leads_elsewhere_has_not_delivered(body: bytes):
    with http_receiver(Answer(200, body)) as elsewhere, pytest.raises(DeliveryFailed) as failure:
        await SlackChannel(webhook_url=SecretStr(elsewhere.url)).send(a_message())
    assert not failure.value.retryable


@pytest.mark.parametrize("body", [b"<html>Sign in</html>", b"[]", b'"x"', b"", b"\xff\xfe"])
async def test_an_api_that_is_not_slacks_is_an_error_in_words(body: bytes):
    with http_receiver(Answer(200, body)) as elsewhere, pytest.raises(DeliveryFailed, match="Slack") as failure:
        await a_bot(elsewhere).send(a_message())
    assert not failure.value.retryable


@pytest.mark.parametrize("bot", [True, False])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_no_delivery_and_nobody_follows_it(status: int, bot: bool):
    with (
        slack_receiver() as elsewhere,
        http_receiver(Answer(status, b"", {"Location": f"{elsewhere.url}/elsewhere"})) as redirecting,
    ):
        hook = SlackChannel(webhook_url=SecretStr(f"{redirecting.url}/services/T/B/x"))
        with pytest.raises(DeliveryFailed, match=f"answered {status}") as failure:
            await (a_bot(redirecting) if bot else hook).send(a_message())
        assert elsewhere.requests == []
    assert not failure.value.retryable


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"no_service", "Slack answered 404: no_service"),
        (b"POST /services/T0/B0/s3cr3t is unknown", "Slack answered 404"),
        (b"<html>/services/T0/B0/s3cr3t</html>", "Slack answered 404"),
    ],
)
async def test_of_an_error_only_slacks_own_words_are_kept(body: bytes, said: str):
    with http_receiver(Answer(404, body)) as slack, pytest.raises(DeliveryFailed) as failure:
        await SlackChannel(webhook_url=SecretStr(f"{slack.url}/services/T0/B0/s3cr3t")).send(a_message())
    assert str(failure.value) == said


async def test_an_error_of_the_api_that_is_no_word_of_slacks_is_not_kept():
    answer = Answer.json({"ok": False, "error": "Bearer xoxb-1 is wrong"})
    with slack_receiver(answer) as slack, pytest.raises(DeliveryFailed) as failure:
        await a_bot(slack).send(a_message())
    assert "xoxb" not in str(failure.value)
    assert "not Slack's" in str(failure.value)


def on_call(vendor: Slack, channel: str = "#oncall") -> SlackChannel:
    return SlackChannel(bot_token=SecretStr(SLACK_TOKEN), channel=channel, base_url=vendor.url)


async def test_a_bot_keeps_one_message_up_to_date_and_says_what_is_new_in_its_thread():
    with vendors.slack() as vendor:
        channel = on_call(vendor)
        first = await channel.send(a_message(title="[WARNING] HighCPU"))
        second = await channel.send(a_message(title="[CRITICAL] HighCPU", thread=first.thread))
        acknowledged = a_message(title="[CRITICAL] HighCPU", thread=second.thread, acknowledged_by="ann")
        await channel.send(acknowledged)
        over = a_message(title="[RESOLVED] HighCPU", thread=second.thread, status=AlertStatus.RESOLVED)
        await channel.send(over)
        [post] = vendor.posts
        rise, quiet, end = vendor.replies_to(post)
    assert first.thread == second.thread == f"C0ONCALL {post.ts} #oncall"
    assert second.provider_id == rise.ts
    assert (post.text, post.edits) == ("🟢 [RESOLVED] HighCPU", 3)
    assert [reply.text for reply in (rise, quiet, end)] == [
        "🔴 [CRITICAL] HighCPU",
        "🔴 [CRITICAL] HighCPU",
        "🟢 [RESOLVED] HighCPU",
    ]
    assert "Restart java" not in rise.words
    # A reply notifies nobody: while nobody has acknowledged the incident, the channel shows it too.
    assert [reply.broadcast for reply in (rise, quiet, end)] == [True, False, False]


async def test_a_first_message_that_somebody_deleted_is_followed_by_a_new_one():
    with vendors.slack() as vendor:
        channel = on_call(vendor)
        first = await channel.send(a_message())
        vendor.delete(vendor.posts[0])
        second = await channel.send(a_message(thread=first.thread))
        assert [post.edits for post in vendor.posts] == [0, 0]
        assert second.thread == f"C0ONCALL {vendor.posts[1].ts} #oncall"


async def test_a_silent_message_is_an_edit_and_nothing_else():
    with vendors.slack() as vendor:
        channel = on_call(vendor)
        first = await channel.send(a_message())
        silent = a_message(thread=first.thread, acknowledged_by="ann", silent=True)
        second = await channel.send(silent)
        assert (second.status, second.thread, vendor.posts[0].edits) == ("sent", first.thread, 1)
        vendor.delete(vendor.posts[0])
        assert (await channel.send(silent)).status == "sent"
        assert (await on_call(vendor, "#other").send(silent)).status == "sent"
        assert len(vendor.messages) == 1


async def test_a_block_that_leads_to_another_channel_now_says_everything_there():
    with vendors.slack() as vendor:
        first = await on_call(vendor).send(a_message())
        await on_call(vendor, "#other").send(a_message(thread=first.thread))
        assert [(post.channel, post.edits) for post in vendor.posts] == [("C0ONCALL", 0), ("C0OTHER", 0)]


@pytest.mark.parametrize("word", ["cant_update_message", "edit_window_closed", "channel_not_found"])
async def test_a_message_that_cannot_be_edited_any_more_is_followed_by_a_new_one(word: str):
    with vendors.slack() as vendor:
        first = await on_call(vendor).send(a_message())
        vendor.receiver.answer_next(Answer.json({"ok": False, "error": word}))
        assert (await on_call(vendor).send(a_message(thread=first.thread))).status == "sent"
        assert len(vendor.posts) == 2


@pytest.mark.parametrize(("word", "retryable"), [("ratelimited", True), ("invalid_auth", False)])
async def test_an_edit_that_fails_otherwise_fails_the_message(word: str, retryable: bool):
    with vendors.slack() as vendor:
        first = await on_call(vendor).send(a_message())
        vendor.receiver.answer_next(Answer.json({"ok": False, "error": word}))
        with pytest.raises(DeliveryFailed, match=word) as failure:
            await on_call(vendor).send(a_message(thread=first.thread))
        assert failure.value.retryable is retryable
        assert len(vendor.messages) == 1


async def test_a_webhook_cannot_edit_and_posts_a_new_message():
    with http_receiver() as hook:
        channel = SlackChannel(webhook_url=SecretStr(f"{hook.url}/services/T/B/x"))
        assert not channel.shows_state
        sent = await channel.send(a_message(thread="C0ONCALL 1735787045.000100 #oncall"))
        assert (sent.thread, [request.path for request in hook.requests]) == (None, ["/services/T/B/x"])


def test_an_alert_cannot_mention_anyone_or_forge_a_link():
    attack = "<!channel> <@U123> <https://evil.example|click> & <!subteam^S1>"
    message = a_message(
        title=attack,
        summary=attack,
        facts=[Fact(label=attack, value=attack)],
        checks=[attack],
        actions=[attack],
        links={f"{attack}|": f"https://ok.example/{attack}"},
        trace_id=attack,
    )
    whole = json.dumps(blocks_of(message)) + fallback_of(message)
    for forged in ("<!channel", "<@U123", "<https://evil", "<!subteam"):
        assert forged not in whole
    assert "&lt;!channel&gt;" in whole
    assert whole.count("<https://ok.example/") == 1


def test_the_all_clear_is_green():
    message = a_message(status=AlertStatus.RESOLVED, title="[RESOLVED] HighCPU", actions=[], checks=[], summary="")
    assert fallback_of(message) == "🟢 [RESOLVED] HighCPU"
    assert [block["type"] for block in blocks_of(message)] == ["header", "section", "section", "context"]


def within_limits(blocks: list[dict[str, Any]]) -> None:
    assert len(blocks) <= 50
    for block in blocks:
        if block["type"] == "header":
            assert 1 <= len(block["text"]["text"]) <= 150
        for text in [block["text"]] if block["type"] == "section" and "text" in block else []:
            assert 1 <= len(text["text"]) <= 3000
        assert len(block.get("fields", [])) <= 10
        for text in block.get("fields", []) + block.get("elements", []):
            assert 1 <= len(text["text"]) <= 2000


@settings(deadline=None)
@given(st.text(), st.integers(min_value=0, max_value=3000), st.integers(min_value=0, max_value=60))
def test_any_message_is_within_slacks_limits(text: str, times: int, count: int):
    long = text * times
    message = a_message(
        title=long,
        summary=long,
        facts=[Fact(label=long, value=long)] * count,
        checks=[long] * count,
        actions=[long] * count,
        links={f"{n}{long}": f"https://x.example/{long}" for n in range(count)},
        trace_id=long,
    )
    within_limits(blocks_of(message))
    assert 1 <= len(fallback_of(message)) <= 4000


def test_a_cut_does_not_leave_half_an_entity():
    [header, section, *_] = blocks_of(a_message(facts=[], actions=["<" * 5000]))
    assert header["type"] == "header"
    assert section["text"]["text"].endswith("&lt;…")
