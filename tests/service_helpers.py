"""Helpers for tests of all processes together: the API as a process, and senders that push until they get a 202."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from orchestration.settings import Settings
from tests.api_helpers import alert, local_key
from tests.conftest import clean_environment

WEBHOOK = "/alerts/webhook/"


class ApiProcess:
    """`alert-pipeline api` as a process, on a free port."""

    def __init__(self, settings: Settings, database_url: str, log: Path, *arguments: str, **environment: str) -> None:
        self.log = log
        own = {"ALERT_PIPELINE_HOME": str(settings.home), "DATABASE_URL": database_url, **environment}
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).parent / "alert-pipeline"), "api", "--port", "0", *arguments],
                env={**clean_environment(), **own},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the API did not start: {log.read_text()}"
        self.url = line.split()[-1]
        self.headers = local_key(settings)
        """The key that the commands on this machine send."""

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self.process.kill()
        self.process.wait(30)

    def close(self) -> None:
        """Kill the process if it still runs."""
        if self.process.poll() is None:
            self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Sender:
    """A monitoring system: it pushes each alert until the answer is 202, as Alertmanager and Grafana do.

    Every other push has an `Idempotency-Key`; the others are deduplicated by their content.
    """

    def __init__(self, api: ApiProcess) -> None:
        self.url = api.url
        self._headers = api.headers
        self.taken: dict[int, str] = {}
        """The first run of each push, from its answer."""
        self.refused: list[httpx.Response] = []
        """The answers other than 202."""

    async def push(self, client: httpx.AsyncClient, number: int) -> None:
        """Push once. No answer is no failure of the sender: the API may be dead."""
        headers = self._headers | ({"Idempotency-Key": f"push-{number}"} if number % 2 else {})
        with suppress(httpx.TransportError):
            answer = await client.post(self.url + WEBHOOK, json=numbered(number), headers=headers)
            if answer.status_code == 202:
                self.taken[number] = answer.json()["run_id"]
            else:
                self.refused.append(answer)

    async def push_until_taken(self, client: httpx.AsyncClient, number: int) -> None:
        """Push until a 202, sooner than `Retry-After` allows."""
        while number not in self.taken:
            await self.push(client, number)
            await asyncio.sleep(0 if number in self.taken else 0.02)


def numbered(number: int) -> dict[str, Any]:
    """An alert of its own, with this number in its name and host."""
    return alert(f"Load{number}", instance=f"host-{number}")
