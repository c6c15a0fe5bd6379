"""The admin in a real browser: a person finds a failed run, reads why it failed, resumes it, and sees it succeed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.store.database import Database
from service.admin import PATH
from tests.admin_helpers import fail, make_key
from tests.api_helpers import alert, eventually, local_key, run_to_end, serve_api, trigger, until
from tests.conftest import MemoryChannel

TIMEOUT_SECONDS = 40.0
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

needs_chromium = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")


class Chromium:
    """A browser window, driven over the WebDriver protocol."""

    def __init__(self, client: httpx.AsyncClient, session: str) -> None:
        self._client = client
        self._session = session

    async def call(self, command: str, **values: Any) -> Any:
        """Send a command and return its answer."""
        answer = await self._client.post(f"{self._session}/{command}", json=values)
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]

    async def go(self, url: str) -> None:
        """Open a page."""
        await self.call("url", url=url)

    async def find(self, css: str) -> str:
        """Wait for the first element that matches."""
        found = await self.call("element", using="css selector", value=css)
        return next(iter(found.values()))

    async def click(self, css: str) -> None:
        """Click on it."""
        await self.call(f"element/{await self.find(css)}/click")

    async def write(self, css: str, text: str) -> None:
        """Type into it."""
        await self.call(f"element/{await self.find(css)}/value", text=text)

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return await self.call("execute/sync", script=f"return {script}", args=[])

    async def text(self) -> str:
        """The visible text of the page."""
        return str(await self.run("document.body.innerText"))


@asynccontextmanager
async def chromium(place: Path) -> AsyncGenerator[Chromium]:
    """A browser for one test. If it does not start on this machine, the test is skipped."""
    said = place / "driver.log"
    driver = _started(said)
    try:
        address = await _address(driver, said)
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            made = await client.post(f"{address}/session", json={"capabilities": {"alwaysMatch": _wanted(place)}})
            if made.status_code != 200:
                pytest.skip(f"Chromium does not start here: {made.json()['value']['message'][:200]}")
            yield Chromium(client, f"{address}/session/{made.json()['value']['sessionId']}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait(10)


def _started(said: Path) -> subprocess.Popen[bytes]:
    """Start the driver in its own process group, so that killing the group ends the browser too."""
    assert DRIVER
    with said.open("wb") as output:
        return subprocess.Popen([DRIVER, "--port=0"], stdout=output, stderr=output, start_new_session=True)


async def _address(driver: subprocess.Popen[bytes], said: Path) -> str:
    def find() -> re.Match[str] | None:
        return re.search(r"successfully on port (\d+)", said.read_text())

    await until(lambda: find() or driver.poll() is not None, "chromedriver")
    if not (found := find()):
        pytest.skip(f"chromedriver does not start here: it ended with {driver.poll()}")
    return f"http://127.0.0.1:{int(found[1])}"


def _wanted(place: Path) -> dict[str, Any]:
    flags = [
        "--headless=new",
        "--disable-gpu",
        "--no-first-run",
        "--disable-dev-shm-usage",
        f"--user-data-dir={place / 'profile'}",
    ]
    flags += [
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-quic",
        "--disable-breakpad",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")
    return {
        "goog:chromeOptions": {"binary": CHROMIUM, "args": [*flags, "--window-size=1280,900"]},
        "goog:loggingPrefs": {"browser": "ALL"},
        "timeouts": {"implicit": int(TIMEOUT_SECONDS * 500), "pageLoad": int(TIMEOUT_SECONDS * 1000)},
    }


@pytest.fixture
async def address(settings: Settings, database: Database) -> AsyncIterator[str]:
    """The API behind a real server."""
    async with serve_api(settings, database.url) as (host, port):
        yield f"http://{host}:{port}"


@needs_chromium
async def test_in_a_browser_a_failed_run_is_found_understood_and_resumed(
    address: str, settings: Settings, database: Database, services: Services, channel: MemoryChannel, tmp_path: Path
) -> None:
    async with httpx.AsyncClient(base_url=address, trust_env=False, headers=local_key(settings)) as api:
        pushed = await api.post("/orchestration/pipeline/", json=trigger(alert("DiskFull")))
    run_id = pushed.json()["run_id"]
    await fail(services, channel, run_id)
    key = await make_key(settings, database)

    async with chromium(tmp_path) as window:
        await window.go(f"{address}{PATH}/")
        await window.write("#key", key.token)
        await window.click("form button")
        await window.click(".rows .lead a")
        assert "hooks.example.com answered 503" in await window.text()
        await window.click("a.button")
        await window.click("main form button")
        await window.find(".note.busy")
        await run_to_end(services, run_id)

        async def over() -> bool:
            return "Resumed, and it succeeded" in await window.text()

        await eventually(over)
        for width in (1280, 400):
            await window.call("window/rect", width=width, height=900)
            for page in ("/", f"/runs/{run_id}/", "/runs/", "/incidents/1/", "/attempts/", "/keys/"):
                await window.go(f"{address}{PATH}{page}")
                assert await window.run("document.documentElement.scrollWidth <= window.innerWidth"), (page, width)
                assert await window.run("getComputedStyle(document.body).marginTop") == "0px", "admin.css is not used"
                for part in (".bar nav", ".timeline"):
                    cut = f"[...document.querySelectorAll('{part}')].some(one => one.scrollWidth > one.clientWidth)"
                    assert not await window.run(cut), (part, page, width)
        complaints = [line["message"] for line in await window.call("se/log", type="browser")]
        assert not complaints
        await window.click(".out button")
        await window.find("#key")
        await window.go(f"{address}{PATH}/runs/{run_id}/")
        assert run_id not in await window.text()
