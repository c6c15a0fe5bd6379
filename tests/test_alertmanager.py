"""A real Alertmanager that knows nothing of us but a URL and a key: it fires, repeats and resolves an alert."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from orchestration.local_key import KEY_FILE
from orchestration.states import RunStatus
from orchestration.store.database import Database
from orchestration.store.records import RunRecord
from service.stack import StackAddresses
from tests.api_helpers import all_runs
from tests.receivers import HttpReceiver
from tests.service_helpers import ApiProcess
from tests.stack_fixtures import until
from tests.worker_helpers import WorkerProcess, beside, eventually, over, worker_settings

BINARY = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")

pytestmark = pytest.mark.skipif(BINARY is None, reason="needs Alertmanager: apt-get install prometheus-alertmanager")

# A second is as often as Alertmanager can be asked to look again; by default it waits minutes and hours.
CONFIG = """
route:
  receiver: alert-pipeline
  group_by: [alertname]
  group_wait: 0s
  group_interval: 1s
  repeat_interval: 1s
receivers:
  - name: alert-pipeline
    webhook_configs:
      - url: {url}
        http_config:
          authorization:
            credentials_file: {key}
"""


class Alertmanager:
    """Alertmanager on loopback, alone, on a port that is free."""

    def __init__(self, place: Path, webhook: str, key: Path) -> None:
        config, self._log = place / "alertmanager.yml", place / "alertmanager.log"
        config.write_text(CONFIG.format(url=webhook, key=key))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    str(BINARY),
                    f"--config.file={config}",
                    f"--storage.path={place / 'alertmanager'}",
                    "--web.listen-address=127.0.0.1:0",
                    "--cluster.listen-address=",
                ],
                stdout=log,
                stderr=log,
            )
        until(lambda: self._process.poll() is not None or self._listening(), "Alertmanager to start")
        found = self._listening()
        assert found, self._log.read_text()
        self.url = f"http://{found[1]}"

    def _listening(self) -> re.Match[str] | None:
        return re.search(r"Listening on.* address=(\S+)", self._log.read_text())

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)

    async def post(self, **more: str) -> None:
        """What Prometheus says of the alert, over Alertmanager's own API."""
        labels = {"alertname": "DiskFull", "severity": "critical", "instance": "db-1", "job": "node"}
        alert = {"labels": labels, "annotations": {"summary": "The disk of db-1 is full"}, **more}
        async with httpx.AsyncClient() as client:
            answer = await client.post(f"{self.url}/api/v2/alerts", json=[alert])
        assert answer.status_code == 200, answer.text


async def test_it_pages_once_is_silent_at_the_repeat_and_gives_the_all_clear(
    database: Database, home: Path, stack: StackAddresses, receiver: HttpReceiver, tmp_path: Path
) -> None:
    settings = worker_settings(home, receiver)

    async def nth_run(number: int) -> RunRecord | None:
        found = (await all_runs(database))[::-1]
        return found[number - 1] if len(found) >= number else None

    with (
        beside(WorkerProcess(settings, stack, tmp_path / "worker.log")),
        closing(ApiProcess(settings, database.url, tmp_path / "api.log")) as api,
        closing(Alertmanager(tmp_path, f"{api.url}/alerts/webhook/", settings.home / KEY_FILE)) as alertmanager,
    ):
        await alertmanager.post()
        page = await eventually(lambda: nth_run(1), "the push", 30)
        assert (await over(database, page.run_id, 30)).status is RunStatus.NOTIFIED

        repeat = await eventually(lambda: nth_run(2), "the repeat", 30)
        assert (repeat.status, repeat.duplicate_of) == (RunStatus.SKIPPED, page.run_id)
        assert len(receiver.requests) == 1

        await alertmanager.post(endsAt=datetime.now(UTC).isoformat())
        await asyncio.to_thread(receiver.wait_for, 2, 30)
        ends = [await over(database, run.run_id, 30) for run in await all_runs(database)]

    first, last = (request.json for request in receiver.requests)
    assert [(message["status"], message["severity"]) for message in (first, last)] == [
        ("firing", "critical"),
        ("resolved", "critical"),
    ]
    assert "DiskFull" in first["title"]
    assert {run.source for run in ends} == {"alertmanager"}
    assert [run.status for run in ends].count(RunStatus.NOTIFIED) == 2
