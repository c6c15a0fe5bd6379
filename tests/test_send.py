"""`alert-pipeline send`: alerts of scripts, which arrive once, also if the API was away."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.load import free_port
from orchestration.engine.run import Services
from orchestration.local_key import load_local_key
from service.cli.send import KEPT
from service.sending import Door, Message, NotNow, Outcome, Spool, patiently, retry_after
from tests.api_helpers import serve_api, until
from tests.notify_helpers import rows

STORED = "select title, severity, status, payload->'alerts'->0 as alert from pipeline_run order by id"


def command(*arguments: str, home: Path, url: str, said: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run `alert-pipeline send` as a shell does."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "alert-pipeline"), "send", *arguments],
        env={**os.environ, "ALERT_PIPELINE_HOME": str(home), "SEND_URL": url, **env},
        input=said,
        capture_output=True,
        text=True,
        timeout=60,
    )


async def run(*arguments: str, home: Path, url: str, said: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """The same, while this process serves the API."""
    return await asyncio.to_thread(command, *arguments, home=home, url=url, said=said, **env)


async def test_a_script_sends_an_alert_and_its_end(services: Services) -> None:
    home = services.settings.home
    load_local_key(services.settings)
    async with serve_api(services.settings, services.database.url) as (host, port):
        url = f"http://{host}:{port}"
        began = await run("Backup of shop failed", "-s", "critical", "-l", "team=payments", home=home, url=url)
        ended = await run("Backup of shop failed", "--status", "resolved", "--json", home=home, url=url)
        piped = await run("-", "--name", "disk", "--host", "", home=home, url=url, said="Disk full\non all of them")

    assert (began.returncode, ended.returncode, piped.returncode) == (0, 0, 0), began.stderr
    assert began.stdout.startswith("Sent: run ")
    assert list(json.loads(ended.stdout)) == ["status", "run_id", "reason"]
    first, second, third = (row["alert"] for row in await rows(services.database, STORED))
    assert (first["severity"], first["labels"]["team"]) == ("critical", "payments")
    assert (first["fingerprint"] == second["fingerprint"], second["status"]) == (False, "resolved")
    assert (third["name"], third["description"]) == ("disk", "Disk full\non all of them")
    assert "host" not in third["labels"]


async def test_what_is_sent_while_the_api_is_away_arrives_once_and_in_order(services: Services) -> None:
    home, port = services.settings.home, free_port()
    key, url = load_local_key(services.settings), f"http://127.0.0.1:{port}"
    for number in range(3):
        kept = await run(f"Alert {number}", "--wait", "0", "--no-background", home=home, url=url)
        assert (kept.returncode, kept.stdout) == (KEPT, "")
        assert f"{number + 1} wait in" in kept.stderr.replace("\n", " ")
    twice = Spool(home / "spool").waiting()[0]

    async with serve_api(services.settings, services.database.url, port=port):
        # The answer to the first one was lost: it is in the queue already, and is sent again.
        found = json.loads(twice.read_bytes())
        once = Message(body=found["body"], environment=found["environment"], key=found["key"])
        await asyncio.to_thread(Door(url=url, api_key=key).post, once)
        last = await run("Alert 3", home=home, url=url)
        assert last.returncode == 0, last.stderr

    assert [row["title"].partition(" on ")[0] for row in await rows(services.database, STORED)] == [
        f"Alert {number}" for number in range(4)
    ]
    assert Spool(home / "spool").waiting() == []


async def test_a_process_in_the_background_sends_what_is_kept(services: Services) -> None:
    home, port = services.settings.home, free_port()
    load_local_key(services.settings)
    kept = await run("The API is away", "--wait", "0", home=home, url=f"http://127.0.0.1:{port}")
    assert kept.returncode == KEPT
    async with serve_api(services.settings, services.database.url, port=port):
        await until(lambda: not Spool(home / "spool").waiting(), "what is kept to be sent")

    assert len(await rows(services.database, STORED)) == 1


def test_one_process_at_a_time_goes_on_trying(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.background() as first, spool.background() as second:
        # Else each alert of a long outage would leave another process behind.
        assert (first is not None, second) == (True, None)


async def test_a_wrong_key_costs_no_alert(services: Services) -> None:
    home = services.settings.home
    async with serve_api(services.settings, services.database.url) as (host, port):
        url = f"http://{host}:{port}"
        kept = await run("x", "--no-background", home=home, url=url, SEND_API_KEY="nobody")
        assert (kept.returncode, "answered 401" in kept.stderr) == (KEPT, True)
        assert (
            await run("--flush", home=home, url=url, SEND_API_KEY=load_local_key(services.settings))
        ).returncode == 0

    assert len(await rows(services.database, STORED)) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Say what is wrong"),
        (["-5 degrees"], "An argument that begins with a dash goes behind two of them"),
        (["x", "--label", "team"], "write it as team=payments"),
        (["x", "--flush"], "leave out the text"),
        (["x", "--refused"], "is for --flush"),
        (["x", "--severity", "bad"], "is not one of"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(arguments: list[str], says: str, tmp_path: Path) -> None:
    ended = command(*arguments, "--no-background", home=tmp_path, url="http://127.0.0.1:1")
    assert (ended.returncode, says in " ".join(ended.stderr.split())) == (2, True), ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("url", ["ftp://there", "http://[nonsense", "nothing"])
def test_a_wrong_address_costs_no_alert(url: str, tmp_path: Path) -> None:
    ended = command("x", "--no-background", "--wait", "0", home=tmp_path, url=url)
    assert (ended.returncode, len(Spool(tmp_path / "spool").waiting())) == (KEPT, 1), ended.stderr


def test_what_is_refused_is_put_aside_and_keeps_nobody_back(tmp_path: Path) -> None:
    spool, outcome = Spool(tmp_path / "spool"), Outcome()
    broken = spool.keep(Message(body={}))
    broken.write_bytes(b"{")
    spool.send_waiting(Door(url="http://127.0.0.1:1"), outcome, 1)

    assert (spool.waiting(), [path.name for path in spool.refused()]) == ([], [broken.name])
    assert "is put aside as" in outcome.refused[broken.name]


def test_the_api_is_asked_again_with_growing_delays_until_the_time_is_over() -> None:
    now, slept = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    def busy(_: float) -> None:
        raise NotNow("busy", after_seconds=2.0 if len(slept) == 1 else 0.0)

    with pytest.raises(NotNow):
        patiently(busy, 10.0, clock=lambda: now[0], sleep=sleep)
    assert slept == [0.5, 2.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("written", "seconds"), [("7", 7.0), ("", 0.0), ("soon", 0.0), ("-1", 0.0), ("9" * 30, 3600.0)]
)
def test_retry_after_is_read_as_the_standard_has_it(written: str, seconds: float) -> None:
    assert retry_after(written) == seconds
