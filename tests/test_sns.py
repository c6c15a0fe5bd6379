"""The handshake of Amazon SNS: confirmed only for allowed topics, and only at a real address of SNS."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from orchestration.settings import Settings
from orchestration.store.database import Database
from service.api import sns
from service.api.sns import confirm_subscription, confirmation_url
from tests.api_helpers import all_runs, open_api
from tests.payloads import body

TOPIC = "arn:aws:sns:eu-west-1:123456789012:pager"
ASKS = "cloudwatch-sns/odd_confirmation"
ALLOWED = (TOPIC,)


def asks(**changes: Any) -> dict[str, Any]:
    return body(ASKS) | changes


def test_the_address_is_made_of_checked_parts() -> None:
    url = confirmation_url(asks(), ALLOWED)
    assert url == (
        "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription"
        "&TopicArn=arn%3Aaws%3Asns%3Aeu-west-1%3A123456789012%3Apager&Token=2336412f37"
    )
    china = "arn:aws-cn:sns:cn-north-1:123456789012:pager"
    link = f"https://sns.cn-north-1.amazonaws.com.cn/?Action=ConfirmSubscription&TopicArn={china}&Token=2"
    assert confirmation_url(asks(TopicArn=china, SubscribeURL=link), ["arn:aws-cn:sns:*"]) is not None


@pytest.mark.parametrize("topics", [(), ("arn:aws:sns:eu-west-1:123456789012:page",), ("arn:aws:sns:us-*",), ("",)])
def test_a_topic_that_nobody_allows_is_not_confirmed(topics: tuple[str, ...]) -> None:
    assert confirmation_url(asks(), topics) is None


LINK = body(ASKS)["SubscribeURL"]


@pytest.mark.parametrize(
    "changes",
    [
        {"SubscribeURL": LINK.replace("https:", "http:")},
        {"SubscribeURL": LINK.replace("sns.eu-west-1.amazonaws.com", "sns.eu-west-1.amazonaws.com.evil.example")},
        {"SubscribeURL": LINK.replace("sns.eu-west-1.amazonaws.com", "evil.example/sns.eu-west-1.amazonaws.com")},
        {"SubscribeURL": LINK.replace("sns.eu-west-1.amazonaws.com", "sns.eu-west-1.amazonaws.com@evil.example")},
        {"SubscribeURL": LINK.replace("sns.eu-west-1.amazonaws.com", "sns.eu-west-1.amazonaws.com:8443")},
        {"SubscribeURL": LINK.replace("sns.eu-west-1.amazonaws.com", "sns.us-east-1.amazonaws.com")},
        {"SubscribeURL": LINK.replace("sns.eu-west-1", "x.sns.eu-west-1")},
        {"SubscribeURL": LINK.replace("amazonaws.com/", "amazonaws.com/latest/meta-data")},
        {"SubscribeURL": LINK.replace("ConfirmSubscription", "DeleteTopic")},
        {"SubscribeURL": LINK.replace(":pager", ":other")},
        {"SubscribeURL": LINK.replace("Token=2336412f37", "Token=%0d%0aHost:evil")},
        {"SubscribeURL": LINK + "&Action=DeleteTopic"},
        {"SubscribeURL": LINK + "&a=b" * 50},
        {"SubscribeURL": "https://[sns"},
        {"SubscribeURL": ["https://sns.eu-west-1.amazonaws.com/"]},
        {"SubscribeURL": LINK + "x" * 5000},
        {"TopicArn": "arn:aws:sns:eu-west-1:1:pager"},
        {"TopicArn": None},
        {"Type": "Notification"},
        {"Type": "UnsubscribeConfirmation"},
    ],
)
def test_no_other_address_is_ever_opened(changes: dict[str, Any]) -> None:
    assert confirmation_url(asks(**changes), ["*"]) is None


@pytest.mark.parametrize("status", [200, 403, 301])
async def test_sns_decides(status: int) -> None:
    opened: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        opened.append(str(request.url))
        return httpx.Response(status, headers={"Location": "http://127.0.0.1/"})

    said = await confirm_subscription(asks(), ALLOWED, transport=httpx.MockTransport(answer))
    assert len(opened) == 1
    assert said == (f"The subscription of {TOPIC} is confirmed" if status == 200 else None)


async def test_an_outage_of_sns_stops_nothing() -> None:
    def refuse(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route")

    assert await confirm_subscription(asks(), ALLOWED, transport=httpx.MockTransport(refuse)) is None


@pytest.mark.parametrize("allowed", [True, False])
async def test_at_the_webhook_it_is_confirmed_or_told(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    async def confirm(url: dict[str, Any], topics: tuple[str, ...]) -> str | None:
        return await confirm_subscription(
            url, topics, transport=httpx.MockTransport(lambda _: httpx.Response(200, text="<ConfirmSubscription/>"))
        )

    monkeypatch.setattr("service.api.pushes.confirm_subscription", confirm)
    chosen = settings.model_copy(update={"sns_confirm_topics": ("arn:aws:sns:*:123456789012:*",) if allowed else ()})
    async with open_api(chosen, database.url) as api:
        said = await api.post("/alerts/webhook/", json=asks())
    if allowed:
        assert (said.status_code, said.json()["status"]) == (200, "done")
        assert await all_runs(database) == []
    else:
        assert said.status_code == 202
        (run,) = await all_runs(database)
        assert (run.source, run.title) == (
            "cloudwatch-sns",
            "Amazon SNS waits for somebody to confirm its subscription",
        )
    assert sns.CONFIRM_TIMEOUT_SECONDS < 15
