"""Pushes to try an installation with: at a steady rate, as a storm, or flapping; in the words of any source."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Any, cast

import httpx
import orjson

from orchestration.errors import Unavailable
from orchestration.redaction import one_line, redact_text
from tasks.ingest.sources import SOURCES

ENVIRONMENT = "load"
"""The environment of all of these alerts, so that a policy can tell them from real ones."""

REQUEST_SECONDS = 30.0
"""How long a push may take to be answered."""

FLAPPING = 10
"""How many incidents of a flapping load fire and end in turn."""

Body = dict[str, Any]


class Shape(StrEnum):
    """How the pushes follow each other."""

    STEADY = "steady"
    STORM = "storm"
    FLAPPING = "flapping"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is sent."""

    shape: Shape = Shape.STEADY
    source: str = "generic"
    count: int = 100
    """The number of pushes, their ends not counted."""
    rate: float = 10.0
    """Pushes a second. A storm is as fast as the connections are."""
    mark: str
    """A part of each alert's name, so that two loads are about different incidents."""
    channel: str | None = None
    """The channel of their messages. None means what the policy says."""

    def names(self) -> Iterator[str]:
        """What tells the alert of each push from the others."""
        width = FLAPPING if self.shape is Shape.FLAPPING else self.count
        return (f"{self.mark}-{number % width}" for number in range(self.count))

    def pushes(self) -> Iterator[Body]:
        """The bodies in the order in which they are sent. Those of a flapping load fire and end in turn."""
        for number, name in enumerate(self.names()):
            ends = self.shape is Shape.FLAPPING and number // FLAPPING % 2 == 1
            yield self._push(name, ends=ends)

    def ends(self) -> Iterator[Body]:
        """The bodies that end what still fires after `pushes()`, or may do so."""
        return (self._push(name, ends=True) for name in dict.fromkeys(self.names()))

    def _push(self, name: str, *, ends: bool) -> Body:
        payload = SOURCES[self.source].sample(name)
        body: Body = {
            "payload": _ENDS[self.source](cast("Body", payload)) if ends else payload,
            "source": self.source,
            "environment": ENVIRONMENT,
            "test": True,
        }
        return body if self.channel is None else {**body, "notify_channel": self.channel}


def _group_ends(body: Body) -> Body:
    now = datetime.now(UTC).isoformat()
    alerts = [{**alert, "status": "resolved", "endsAt": now} for alert in body["alerts"]]
    return {**body, "status": "resolved", "alerts": alerts}


def _pagerduty_ends(body: Body) -> Body:
    event = body["event"]
    data = {**event["data"], "status": "resolved"}
    return {"event": {**event, "id": f"{event['id']}E", "event_type": "incident.resolved", "data": data}}


def _mail_ends(body: Body) -> Body:
    subject = body["mail"]["subject"].replace("PROBLEM", "RECOVERY").replace("CRITICAL", "OK")
    return {"mail": {**body["mail"], "subject": subject}}


_ENDS: dict[str, Callable[[Body], Body]] = {
    "alertmanager": _group_ends,
    "grafana": _group_ends,
    "pagerduty": _pagerduty_ends,
    "datadog": lambda body: {**body, "alert_transition": "Recovered", "alert_type": "success"},
    "newrelic": lambda body: {**body, "state": "CLOSED"},
    "opsgenie": lambda body: {**body, "action": "Close"},
    "zabbix": lambda body: {**body, "event_value": "0", "event_status": "RESOLVED", "trigger_status": "OK"},
    "cloudevents": lambda body: {**body, "id": f"{body['id']}E", "type": body["type"].replace("detected", "resolved")},
    "mail": _mail_ends,
    "generic": lambda body: {**body, "status": "resolved"},
}
"""How each source says that the alert of its sample has ended."""


@dataclass
class Answers:
    """What came back."""

    seconds: list[float] = field(default_factory=list[float])
    """How long each accepted push took."""
    refused: Counter[str] = field(default_factory=Counter[str])
    """Why the others were not accepted, and how many each time."""

    @property
    def count(self) -> int:
        """How many pushes were answered, or failed."""
        return len(self.seconds) + self.refused.total()

    def percentile(self, part: float) -> float:
        """The milliseconds within which this part of the accepted pushes was answered; 0 if none was."""
        ordered = sorted(self.seconds)
        return ordered[min(int(len(ordered) * part), len(ordered) - 1)] * 1000 if ordered else 0.0


async def send(
    bodies: Iterator[Body],
    *,
    url: str,
    key: str | None,
    connections: int,
    rate: float | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Answers:
    """Push the bodies over several connections, each at its time, or as fast as they are answered.

    Raises:
        Unavailable: nobody answers at the address at all.
    """
    answers, waiting = Answers(), _paced(bodies, rate)
    headers = {"Content-Type": "application/json", **({} if key is None else {"Authorization": f"Bearer {key}"})}
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(timeout=REQUEST_SECONDS, trust_env=False, limits=limits, headers=headers) as client:
        lock = asyncio.Lock()

        async def one_connection() -> None:
            while True:
                async with lock:  # an asynchronous generator gives one item at a time
                    body = await anext(waiting, None)
                if body is None:
                    return
                await _send_one(client, f"{url.rstrip('/')}/orchestration/pipeline/", body, answers)
                progress()

        async with asyncio.TaskGroup() as sending:
            for _ in range(connections):
                sending.create_task(one_connection())
    if answers.count and not answers.seconds and set(answers.refused) == {_NOBODY}:
        raise Unavailable(f"Nobody answers at {redact_text(url)}: is `alert-pipeline up` running? (--url)")
    return answers


_NOBODY = "no connection"


async def _paced(bodies: Iterator[Body], rate: float | None) -> AsyncIterator[Body]:
    began = time.monotonic()
    for number, body in zip(itertools.count(), bodies, strict=False):
        if rate is not None and (wait := began + number / rate - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        yield body


async def _send_one(client: httpx.AsyncClient, url: str, body: Body, answers: Answers) -> None:
    began = time.perf_counter()
    try:
        answer = await client.post(url, content=orjson.dumps(body))
    except httpx.ConnectError:
        answers.refused[_NOBODY] += 1
        return
    except httpx.HTTPError as error:
        answers.refused[type(error).__name__] += 1
        return
    if answer.status_code == HTTPStatus.ACCEPTED:
        answers.seconds.append(time.perf_counter() - began)
        return
    try:
        said = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        said = "what answers is no alert-pipeline"
    answers.refused[f"{answer.status_code}: {one_line(redact_text(said), 120)}"] += 1
