"""Somebody answers a page through the link in a mail: a scanner that opens the link changes nothing."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography.fernet import Fernet

from blocks.channels import EmailChannel
from orchestration.engine.run import Services
from orchestration.respond_links import RespondLink, RespondLinks
from orchestration.responses import Response
from orchestration.settings import Settings
from orchestration.states import RunReason
from orchestration.store.database import Database
from tests.api_helpers import open_api
from tests.auth_helpers import FAR, PUBLIC
from tests.conftest import MemoryChannel, MemoryChannels
from tests.life_helpers import incident_of, push, story_of
from tests.notify_helpers import end, execute_follow_up, ledger, rows, tell, with_channels
from tests.receivers import smtp_receiver
from tests.test_escalation import OnePolicy

PUBLIC_URL = "https://alerts.example.com/pipeline"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"api_public_url": PUBLIC_URL})


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """The API as somebody with the mail sees it: without a key, from somewhere else."""
    async with open_api(settings, database.url, host=PUBLIC, client=FAR) as client:
        yield client


def path_of(channel: MemoryChannel) -> str:
    """The path of the link in the latest message, as the proxy in front of the API asks for it."""
    return urlsplit(channel.messages[-1].links["respond"]).path


def path_of_link(settings: Settings, **fields: object) -> str:
    """The path of a link that somebody else has made."""
    return urlsplit(RespondLinks(settings).url(RespondLink.model_validate(fields))).path


async def test_the_link_shows_the_incident_and_only_a_press_changes_it(
    services: Services, channel: MemoryChannel, api: httpx.AsyncClient
) -> None:
    incident_id = (await tell(services, summary="<b>hot</b>")).incident_id or ""
    before = await incident_of(services.database, incident_id)
    path = path_of(channel)
    for method in ("GET", "HEAD", "GET"):
        answer = await api.request(method, path)
        assert answer.status_code == 200
    assert await incident_of(services.database, incident_id) == before
    assert "HighCPU on web-1" in answer.text
    assert "&lt;b&gt;hot&lt;/b&gt;" in answer.text
    assert re.findall(r'name="response" value="(\w+)"', answer.text) == ["acknowledge", "snooze", "resolve"]
    assert "script" not in answer.text
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"

    answer = await api.post(path, data={"response": "acknowledge", "by": "ada"})
    assert (answer.status_code, answer.headers["location"]) == (303, path)
    page = (await api.get(path)).text
    assert "acknowledged by ada at " in page
    assert 'value="acknowledge"' not in page
    assert (await api.post(path, data={"response": "snooze"})).status_code == 303
    assert "snoozed until " in (await api.get(path)).text
    assert (await api.post(path, data={"response": "resolve", "by": "ada"})).status_code == 303
    await execute_follow_up(services, RunReason.ACTION)
    page = (await api.get(path)).text
    assert "resolved since " in page
    assert "<form" not in page
    assert "respond" not in channel.messages[-1].links
    said = [
        line.in_words for line in (await story_of(services.database, incident_id)).history if "link" in line.in_words
    ]
    assert [line.partition(" until")[0] for line in said] == [
        "resolved by ada (link, memory)",
        "snoozed by somebody with the link (link, memory)",
        "acknowledged by ada (link, memory)",
    ]
    answer = await api.post(path, data={"response": "acknowledge"})
    assert answer.status_code == 409
    assert "it cannot be acknowledged" in answer.text


async def test_a_mail_has_the_link_in_both_of_its_forms(services: Services) -> None:
    with smtp_receiver() as mails:
        mailer = EmailChannel(
            smtp_host=mails.host, smtp_port=mails.port, security="none", to_addresses=["ops@example.com"]
        )
        run = await tell(with_channels(services, ops=mailer))
        [mail] = mails.mails
    for kind in ("plain", "html"):
        body = mail.message.get_body((kind,))
        assert body is not None
        text = body.get_content()
        assert f"{PUBLIC_URL}/respond/" in text.partition("More")[0]
    assert all("/respond/" not in str(row) for row in await rows(services.database, "select * from stage_execution"))
    assert "/respond/" not in str(await ledger(services.database, run.run_id))


async def test_the_link_knows_whose_channel_it_was_sent_to(
    services: Services, database: Database, api: httpx.AsyncClient
) -> None:
    channels = {name: MemoryChannel() for name in ("chat", "ann-phone", "bob-phone", "bob-mail", "fallback")}
    services = replace(services, channels=MemoryChannels({}, channels), policies=OnePolicy())
    run = await push(services)
    assert 'value="ann"' in (await api.get(path_of(channels["ann-phone"]))).text
    assert (await api.post(path_of(channels["ann-phone"]), data={"response": "acknowledge"})).status_code == 303
    assert (await incident_of(database, run.incident_id or "")).acknowledged_by == "ann"
    assert 'value=""' in (await api.get(path_of(channels["chat"]))).text


async def test_a_link_that_is_none_or_too_old_does_nothing(
    services: Services,
    channel: MemoryChannel,
    settings: Settings,
    api: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    incident = await incident_of(services.database, (await tell(services)).incident_id or "")
    path, form = path_of(channel), {"response": "resolve"}
    root, token = path.removesuffix("/").rsplit("/", 1)
    other = settings.model_copy(update={"home": settings.home / "another"})
    (settings.home / "another").mkdir(exist_ok=True)
    stranger = Fernet(Fernet.generate_key()).encrypt(b"{}").decode().rstrip("=")
    gone = path_of_link(settings, incident=f"{incident.id}-{'0' * 32}", channel="x")
    wrong = [f"{root}/{one}/" for one in (token[:-3], token.swapcase(), "x" * 3000, stranger, "%00", "é", "..%2f")]
    for one in [*wrong, path_of_link(other, incident=incident.public_key, channel="x"), gone]:
        for answer in (await api.get(one), await api.post(one, data=form)):
            assert answer.status_code == 404, one
    with monkeypatch.context() as later:
        later.setattr("cryptography.fernet.time.time", lambda: time.monotonic() + 4e9)
        for answer in (await api.get(path), await api.post(path, data=form)):
            assert answer.status_code == 410
            assert "This link has expired: it was good for 24 h." in answer.text
    assert (await incident_of(services.database, incident.id)).status == "open"


async def test_a_post_that_is_no_press_is_refused(
    services: Services, channel: MemoryChannel, settings: Settings, api: httpx.AsyncClient
) -> None:
    incident = await incident_of(services.database, (await tell(services)).incident_id or "")
    path = path_of(channel)
    narrow = path_of_link(settings, incident=incident.public_key, channel="x", responses=[Response.ACKNOWLEDGE])
    assert 'value="resolve"' not in (await api.get(narrow)).text
    wrong = [
        (await api.post(path), 422),
        (await api.post(path, data={"response": "delete"}), 422),
        (await api.post(narrow, data={"response": "resolve"}), 422),
        (await api.post(path, content=b"\xff=\xff"), 400),
        (await api.post(path, content=b"&".join([b"a=1"] * 50)), 400),
        (await api.post(path, content=b"x" * 5000), 413),
        (await api.post(path, data={"response": "resolve"}, headers={"Sec-Fetch-Site": "cross-site"}), 403),
    ]
    for answer, status in wrong:
        assert answer.status_code == status, answer.text
        assert "<form" in answer.text
    assert (await incident_of(services.database, incident.id)).status == "open"


async def test_without_a_public_url_there_is_no_link(services: Services, channel: MemoryChannel) -> None:
    plain = replace(services, settings=services.settings.model_copy(update={"api_public_url": None}))
    await tell(plain)
    assert "respond" not in channel.messages[-1].links
    await end(plain)
