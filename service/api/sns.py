"""Confirms that Amazon SNS may send to a webhook address, for the topics that an operator allows.

Source: Amazon SNS, "HTTP/HTTPS subscription confirmation JSON format". Only an address that is made here of checked
parts is ever opened: a sender of alerts cannot make this process call any other one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from http import HTTPStatus
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx

from orchestration.redaction import one_line
from orchestration.signals import logger

CONFIRM_TIMEOUT_SECONDS = 5.0
"""How long SNS may take to answer: the sender of the request waits meanwhile."""

_ARN = re.compile(r"arn:(aws|aws-cn|aws-us-gov):sns:([a-z]{2}(?:-[a-z]+)+-\d{1,2}):\d{12}:[\w.-]{1,256}", re.ASCII)
_TOKEN = re.compile(r"[\w.~-]{1,2048}", re.ASCII)
_MOST_IN_A_URL = 4096
_DOMAINS = {"aws-cn": "amazonaws.com.cn"}


def confirmation_url(body: Mapping[str, object], topics: Sequence[str]) -> str | None:
    """The address that confirms the subscription in a body. None means that it is no such body, or not allowed.

    `topics` are the ARNs of the topics that are allowed, with `*` for anything.
    """
    topic, asked = body.get("TopicArn"), body.get("SubscribeURL")
    if body.get("Type") != "SubscriptionConfirmation" or not isinstance(topic, str) or not isinstance(asked, str):
        return None
    arn = _ARN.fullmatch(topic)
    if arn is None or len(asked) > _MOST_IN_A_URL or not any(fnmatchcase(topic, pattern) for pattern in topics):
        return None
    host = f"sns.{arn[2]}.{_DOMAINS.get(arn[1], 'amazonaws.com')}"
    try:
        parts = urlsplit(asked)
        query = parse_qs(parts.query, max_num_fields=10)
    except ValueError:
        return None
    token = query.get("Token", [""])[0]
    is_real = (parts.scheme, parts.netloc, parts.path or "/") == ("https", host, "/")
    if not is_real or query.get("Action") != ["ConfirmSubscription"] or query.get("TopicArn") != [topic]:
        return None
    if not _TOKEN.fullmatch(token):
        return None
    return f"https://{host}/?{urlencode({'Action': 'ConfirmSubscription', 'TopicArn': topic, 'Token': token})}"


async def confirm_subscription(
    body: Mapping[str, object], topics: Sequence[str], *, transport: httpx.AsyncBaseTransport | None = None
) -> str | None:
    """Confirm the subscription in a body, if it is allowed. Returns what was done, in a sentence.

    None means that nothing was: the body is an alert like any other. Never raises. `transport` is how SNS is reached.
    """
    url = confirmation_url(body, topics)
    if url is None:
        return None
    topic = one_line(str(body["TopicArn"]), 300)
    try:
        async with asyncio.timeout(CONFIRM_TIMEOUT_SECONDS), httpx.AsyncClient(transport=transport) as client:
            answer = await client.get(url)
    except (httpx.HTTPError, TimeoutError) as error:
        logger.warning("The subscription of %s could not be confirmed: %s", topic, str(error) or "no answer in time")
        return None
    if answer.status_code != HTTPStatus.OK:
        logger.warning("The subscription of %s could not be confirmed: SNS answered %d", topic, answer.status_code)
        return None
    logger.info("The subscription of %s is confirmed", topic)
    return f"The subscription of {topic} is confirmed"
