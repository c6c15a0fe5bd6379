"""A page from its beginning to its end, as the people see it: in Slack, in a mailbox and in PagerDuty."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import httpx
import pytest
from pydantic import SecretStr

from blocks.channels import EmailChannel, PagerDutyChannel, SlackChannel
from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.states import RunReason, RunStatus
from orchestration.store.database import Database
from tests import vendors
from tests.api_helpers import open_api
from tests.auth_helpers import FAR, PUBLIC
from tests.conftest import MemoryChannels
from tests.life_helpers import execute_timer, let_pass, next_of, push, story_of
from tests.notify_helpers import execute_follow_up
from tests.receivers import smtp_receiver
from tests.test_escalation import OnePolicy
from tests.vendors import ROUTING_KEY, SIGNING_SECRET, SLACK_TOKEN, WEBHOOK_SECRET, signed_by_pagerduty

MINUTE = timedelta(minutes=1)

POLICY = """
catch_all: ann-mail
routes:
  - channels: chat
    escalation: cpu
escalations:
  cpu:
    steps:
      - {people: ann, wait: 5m}
      - {people: bob, wait: 10m}
people:
  ann: {contacts: ann-mail}
  bob: {contacts: bob-pager}
"""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    secrets = {"slack_signing_secret": SecretStr(SIGNING_SECRET), "pagerduty_webhook_secret": SecretStr(WEBHOOK_SECRET)}
    return settings.model_copy(update={**secrets, "api_public_url": "https://alerts.example.com"})


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """The API as vendors see it: without a key, from somewhere else."""
    async with open_api(settings, database.url, host=PUBLIC, client=FAR) as client:
        yield client


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message to Slack does not wait for its turn."""
    monkeypatch.setattr(SlackChannel, "seconds_between_messages", 0.0)


@pytest.mark.usefixtures("at_once")
async def test_from_the_page_over_the_second_person_to_a_button_and_the_all_clear(
    services: Services, settings: Settings, api: httpx.AsyncClient
) -> None:
    with vendors.slack() as slack, smtp_receiver() as mails, vendors.pagerduty() as pagerduty:
        mailer = {"smtp_host": mails.host, "smtp_port": mails.port, "security": "none"}
        channels: dict[str, Any] = {
            "chat": SlackChannel(bot_token=SecretStr(SLACK_TOKEN), channel="#oncall", base_url=slack.url),
            "ann-mail": EmailChannel.model_validate({**mailer, "to_addresses": ["ann@example.com"]}),
            "bob-pager": PagerDutyChannel(routing_key=SecretStr(ROUTING_KEY), url=pagerduty.url),
        }
        policies = OnePolicy(POLICY)
        services = replace(services, settings=settings, channels=MemoryChannels({}, channels), policies=policies)

        def seen() -> tuple[int, int, int]:
            """How many messages there are in Slack, with replies; how many mails; how many incidents in PagerDuty."""
            return len(slack.messages), len(mails.mails), len(pagerduty.incidents)

        # It fires: the chat and the first person. Nobody acknowledges: the second person.
        incident_id = (await push(services, severity="info")).incident_id or ""
        assert seen() == (1, 1, 0)
        await let_pass(services.database, 5 * MINUTE)
        assert (await execute_timer(services, incident_id)).status is RunStatus.NOTIFIED
        assert seen() == (1, 1, 1)
        # It gets worse: everybody.
        await push(services, severity="warning")
        assert seen() == (2, 2, 1)
        [post], [page] = slack.posts, pagerduty.incidents
        assert [reply.broadcast for reply in slack.replies_to(post)] == [True]

        # Somebody has it. Slack and PagerDuty show it; nobody gets a message, and no step comes any more.
        assert (await api.post("/slack/interactions/", **slack.press(post, "Acknowledge"))).status_code == 200
        assert (await execute_follow_up(services, RunReason.STATE)).status is RunStatus.NOTIFIED
        assert await next_of(services.database, incident_id) == "reminder 480"
        assert (seen(), page.status) == ((2, 2, 1), "acknowledged")
        assert "*Acknowledged by*\\nada" in post.words
        echo = signed_by_pagerduty(page.webhook("acknowledged", None))
        assert (await api.post("/pagerduty/webhook/", **echo)).json()["status"] == "ignored"
        assert (await push(services, severity="warning")).skip_reason == "repeat"
        await let_pass(services.database, 60 * MINUTE)
        await execute_timer(services, incident_id)
        assert seen() == (2, 2, 1)

        # It gets worse still, which ends the acknowledgement; somebody takes it again, and it ends.
        await push(services, severity="critical")
        assert (seen(), page.severity) == ((3, 3, 1), "critical")
        assert (await api.post("/slack/interactions/", **slack.press(post, "Acknowledge"))).status_code == 200
        await execute_follow_up(services, RunReason.STATE)
        await push(services, status="resolved")
        assert (seen(), page.status) == ((4, 4, 1), "resolved")

    assert [one.text.split("]")[0] for one in slack.posts] == ["🟢 [RESOLVED"]
    assert [(one.text.split("[")[1].split("]")[0], one.broadcast) for one in slack.replies_to(post)] == [
        ("WARNING", True),
        ("CRITICAL", True),
        ("RESOLVED", False),
    ]
    first, *later = (mail.message for mail in mails.mails)
    assert first["Subject"] == "[INFO] HighCPU on web-1 (production)"
    assert {cast("str", mail["In-Reply-To"]) for mail in later} == {first["Message-ID"]}
    assert [mail["Subject"].split("]")[0] for mail in later] == ["[WARNING", "[CRITICAL", "[RESOLVED"]
    assert page.events == ["trigger", "trigger", "acknowledge", "trigger", "acknowledge", "resolve"]
    history = [line.in_words for line in (await story_of(services.database, incident_id)).history]
    assert history.count("acknowledged by ada (slack, U01ADA in acme)") == 2
