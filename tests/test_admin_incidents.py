"""The page of an incident in the admin: its buttons, who did what, each channel's last word, and what comes next."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.store.database import Database
from service import admin
from service.admin import PATH
from tests.admin_helpers import Browser, browser, make_key, words_of
from tests.api_helpers import run_to_end, serve_api
from tests.life_helpers import incident_of, opened
from tests.test_admin_chromium import chromium, needs_chromium


@pytest.fixture
async def here(settings: Settings, database: Database) -> AsyncIterator[Browser]:
    """A browser in which an admin is signed in."""
    async with browser(settings, database) as one:
        key = await make_key(settings, database)
        assert (await one.sign_in(key.token)).status_code == 303
        yield one


async def press(here: Browser, incident_id: str, action: str, **fields: str) -> httpx.Response:
    """Press a button of the page, and open the page to which it leads."""
    answer = await here.post(f"/incidents/{incident_id}/{action}/", csrf=await here.csrf(), **fields)
    return await here.client.get(answer.headers["location"]) if answer.status_code == 303 else answer


async def test_each_button_does_what_it_says_and_the_page_says_who_pressed_it(
    here: Browser, services: Services, database: Database
) -> None:
    incident_id = await opened(services)
    page = (await here.get(f"/incidents/{incident_id}/")).text
    assert re.search("reminder in (59 min|60 min|1 h)", words_of(page))
    assert "firing memory via memory" in words_of(page)
    assert ">Acknowledge</button>" in page
    assert ">Close</button>" not in page

    page = (await press(here, incident_id, "acknowledge")).text
    assert "Acknowledged by oncall" in words_of(page)
    assert re.search("reminder in (8 h|7 h 59 min)", words_of(page))
    assert ">Unacknowledge</button>" in page
    page = (await press(here, incident_id, "snooze", minutes="720")).text
    assert "Snoozed: nothing is sent until" in words_of(page)
    page = (await press(here, incident_id, "snooze", minutes="0")).text
    assert "Snoozed: nothing" not in words_of(page)
    page = (await press(here, incident_id, "notes", text="<b>the fan</b>\nis broken")).text
    assert "incident note by oncall via admin" in words_of(page)
    assert "&lt;b&gt;the fan&lt;/b&gt;\nis broken" in page
    await press(here, incident_id, "unacknowledge")
    page = (await press(here, incident_id, "resolve")).text
    assert "incident resolved by oncall via admin open → resolved" in words_of(page)
    assert "not up to date" in words_of(page)
    page = (await press(here, incident_id, "close")).text
    assert "incident closed by oncall via admin" in words_of(page)
    assert (await incident_of(database, incident_id)).status == "closed"
    assert "closed" in words_of((await here.get("/incidents/")).text)


async def test_what_cannot_be_done_is_said_on_the_page(here: Browser, services: Services, database: Database) -> None:
    incident_id = await opened(services)
    early = await press(here, incident_id, "close")
    assert early.status_code == 409
    assert "Nothing was changed. Incident 1 (HighCPU on web-1) is open: resolve it before" in words_of(early.text)
    assert (await press(here, incident_id, "snooze", minutes="5")).status_code == 422
    assert (await press(here, incident_id, "notes", text=" ")).status_code == 422
    assert (await press(here, "4711", "resolve")).status_code == 404
    assert (await press(here, incident_id, "explode")).status_code in (404, 405)
    forged = await here.post(f"/incidents/{incident_id}/resolve/", csrf="forged")
    assert forged.status_code == 403
    assert (await incident_of(database, incident_id)).status == "open"


@needs_chromium
async def test_in_a_browser_an_incident_is_acknowledged_and_its_page_fits(
    settings: Settings, database: Database, services: Services, tmp_path: Path
) -> None:
    incident_id = await opened(services)
    key = await make_key(settings, database)
    async with serve_api(settings, database.url) as (host, port), chromium(tmp_path) as window:
        page = f"http://{host}:{port}{PATH}/incidents/{incident_id}/"
        await window.go(page)
        await window.write("#key", key.token)
        await window.click("form button")
        await window.click(".actions form[action$='/acknowledge/'] button")
        await window.find(".actions form[action$='/unacknowledge/']")
        await window.write(".actions input[name=text]", "somebody looks at it")
        await window.click(".actions form[action$='/notes/'] button")
        await window.find(".history .said")
        hostile = await opened(services, "<b>x</b> \u202eقرص ممتلئ " + "NoSpaceAnywhere" * 20)
        start = page.partition("/incidents/")[0]
        for width in (1280, 400):
            await window.call("window/rect", width=width, height=1400)
            for address in (
                page,
                f"{start}/incidents/{hostile}/",
                f"{start}/why/?what={hostile}",
                f"{start}/incidents/",
            ):
                await window.go(address)
                fits = await window.run("document.documentElement.scrollWidth <= window.innerWidth")
                assert fits, (address, width)
                assert not await window.run("document.querySelectorAll('main b').length"), "titles are text"
        assert not [line["message"] for line in await window.call("se/log", type="browser")]


async def test_many_alerts_are_folded_so_that_what_people_did_is_near(here: Browser, services: Services) -> None:
    incident_id = await opened(services)
    assert "<summary>" not in (await here.get(f"/incidents/{incident_id}/")).text.partition("Notified")[0]
    labels = [{"alertname": "Members", "instance": f"host-{number:03}"} for number in range(60)]
    alerts = [{"status": "firing", "labels": one} for one in labels]
    group = {"version": "4", "groupKey": "members", "status": "firing", "receiver": "r", "alerts": alerts}
    answer = await here.client.post("/alerts/webhook/alertmanager/", json=group)
    run = await run_to_end(services, answer.json()["run_id"])
    page = (await here.get(f"/incidents/{run.incident_id}/")).text

    assert "60 of 60 fire" in words_of(page)
    assert "<summary>40 more</summary>" in page
    assert re.search(r"<summary>\d+ earlier lines</summary>", page)
    assert page.count("host-0") == 60


def test_the_words_of_badges_and_marks_can_be_read_in_both_colour_schemes() -> None:
    style = (Path(admin.__file__).parent / "statics" / "admin.css").read_text()
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w+);", part)) for part in style.split("@media", 2)[:2])
    for scheme in (light, dark):
        for tone in ("good", "bad", "warn", "busy", "none"):
            assert contrast(scheme[tone], scheme[f"{tone}-back"]) >= 4.5, (tone, scheme)
            assert contrast(scheme[tone], scheme["card"]) >= 4.5, (tone, scheme)
        for text in ("text", "quiet", "link"):
            assert contrast(scheme[text], scheme["back"]) >= 4.5, (text, scheme)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours. Source: WCAG 2.2, relative luminance."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)
