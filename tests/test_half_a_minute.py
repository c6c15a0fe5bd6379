"""What a person reads in half a minute: the first 600 characters of a page, in each form and of each source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.message import EmailMessage
from html import unescape
from typing import Any

import pytest

from blocks.channels.email import EmailChannel
from blocks.channels.pagerduty import events_of
from blocks.channels.slack import blocks_of
from orchestration.engine.run import Services
from orchestration.message import Message
from tests import payloads
from tests.api_helpers import run_to_end
from tests.conftest import MemoryChannel
from tests.inbox_helpers import accept_push

READ = 600


@dataclass(frozen=True)
class Answers:
    """What a reader answers: what fails, where, how bad it is, and since when."""

    what: str
    where: str
    how_bad: str
    since: str


PAGES = {
    "alertmanager_group": Answers("HighLatency", "shop-1:8080, shop-2:8080", "CRITICAL", "2026-03-14 02:11:09"),
    "alertmanager_truncated": Answers("PodRestarts", "basket-1, basket-2", "CRITICAL", "2026-03-14 01:00:00"),
    "grafana_unified": Answers("Checkout errors", "checkout", "CRITICAL", "2026-06-02 16:30:10"),
    "grafana_no_data": Answers("Parcel backlog", "production", "CRITICAL", "2026-03-14 01:00:00"),
    "datadog_triggered": Answers("Disk is nearly full", "web-9", "WARNING", "2026-01-01 00:00:00"),
    "datadog_p2_triggered": Answers("Evictions are high", "cache-4", "CRITICAL", "2026-01-01 00:00:00"),
    "newrelic_issue": Answers("Memory used % > 90", "orders-3, orders-4", "CRITICAL", "2026-01-01 00:00:00"),
    "newrelic_legacy": Answers("Apdex is low", "Shop", "WARNING", "2026-01-01 00:00:00"),
    "opsgenie_create": Answers("Queue of mx-3 grows", "mx-3", "CRITICAL", "2026-01-01 00:00:00"),
    "pagerduty_triggered": Answers("Payments answer slowly", "Payments API", "CRITICAL", "2026-03-14 02:11:09"),
    "pagerduty_v2": Answers("Certificate of shop.example.net expires", "Shop", "CRITICAL", "2026-02-01 08:00:00"),
    "zabbix_live_problem": Answers("Volume E: is 91.2 % full", "nas-2", "CRITICAL", "2026-03-14 02:10:11"),
    "generic_flat": Answers("Backup failed", "backup-1", "CRITICAL", "2026-01-01 00:00:00"),
    "uptime-kuma/firing": Answers("Ticket shop", "production", "WARNING", "2026-03-14 01:00:00"),
}
"""Pages of each source. Where no host is named, the environment is all that a reader can say."""


def text_of(message: Message) -> str:
    return message.text


def slack_of(message: Message) -> str:
    """What Slack shows of the blocks, in their order."""

    def shown(part: Any) -> list[str]:
        if isinstance(part, dict):
            own = [part["text"]] if isinstance(part.get("text"), str) else []
            return own + [text for key, inner in part.items() if key != "text" or not own for text in shown(inner)]
        return [text for inner in part for text in shown(inner)] if isinstance(part, list) else []

    return "\n".join(shown(blocks_of(message)))


def mail_of(message: Message) -> str:
    """The subject, and the text that a mail program shows of the HTML."""
    mail: EmailMessage = EmailChannel(
        smtp_host="localhost", from_address="a@example.com", to_addresses=["b@example.com"]
    ).mail(message)
    html = mail.get_body(("html",))
    assert html is not None
    text = re.sub(r"<(br|/p|/h\d|/tr|/li|/div)[^>]*>", "\n", html.get_content())
    return re.sub(r"[ \t]+", " ", re.sub(r"<[^>]+>", " ", text)).strip()


def pagerduty_of(message: Message) -> str:
    """What PagerDuty shows of an incident: its title, its source, and the details in their order."""
    (event,) = events_of(message)
    payload = event["payload"]
    details = "\n".join(f"{name}: {value}" for name, value in payload["custom_details"].items())
    return f"{payload['summary']}\n{payload['source']}\n{payload['severity']}\n{details}"


FORMS = {"text": text_of, "slack": slack_of, "mail": mail_of, "pagerduty": pagerduty_of}


def row(page: str, label: str) -> str:
    """What stands under a label, or beside it."""
    found = re.search(rf"^\W*{label}\W*?[:*\s]\s*(?:1\. )?(\S.*)$", page, re.MULTILINE)
    return found[1].strip() if found else ""


def answered(page: str) -> Answers:
    """The answers of somebody who has read this, and nothing else."""
    title = re.search(r"\[([A-Z]+)\] (.+) \((\w+)\)$", page, re.MULTILINE)
    assert title is not None, page
    what, _, _ = title[2].partition(" on ")
    return Answers(what, row(page, "Where") or title[3], title[1], row(page, "Since")[:19])


@pytest.mark.parametrize("page", PAGES)
async def test_the_first_600_characters_answer_five_questions_in_every_form(
    page: str, services: Services, channel: MemoryChannel
) -> None:
    for run_id in await accept_push(services, payloads.body(page), source="webhook", environment="production"):
        await run_to_end(services, run_id)
    message = channel.messages[0]
    for form, shown in FORMS.items():
        read = unescape(shown(message))[:READ].replace("›", ">")
        answers, right = answered(read), PAGES[page]
        assert answers.what.startswith(right.what), form
        assert (answers.where, answers.how_bad, answers.since) == (right.where, right.how_bad, right.since), form
        first_action = row(read, "Do first") or row(read, "What to do")
        assert first_action, form
        assert first_action.startswith(message.actions[0][: len(first_action)]), form
