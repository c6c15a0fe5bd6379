"""What people change: from a deployment script, GitHub and Grafana to the page of the incident that follows it."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from orchestration.changes.events import concerns, likelihood
from orchestration.contracts import AnalyzeResult, Change, ChangeEvent, CheckResult
from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.store import actions, retention
from orchestration.store.change_events import earlier_episodes
from orchestration.store.database import Database
from orchestration.store.incidents import get_incident
from service.cli import main
from tasks.notify.changed import changed
from tests.api_helpers import open_api
from tests.auth_helpers import FAR, PUBLIC
from tests.life_helpers import ADA, opened, push
from tests.notify_helpers import rows
from tests.test_message import a_subject, an_alert, an_incident

SECRET = "github-shares-this-with-us"
NOW = datetime.now(UTC).replace(microsecond=0)
DEPLOY: dict[str, Any] = {"kind": "deploy", "title": "web 2.4.1", "by": "ada", "labels": {"service": "web"}}
REPOSITORY = {
    "name": "web",
    "full_name": "acme/web",
    "default_branch": "main",
    "html_url": "https://github.com/acme/web",
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"github_webhook_secret": SecretStr(SECRET)})


@pytest.fixture
async def api(services: Services, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(settings, services.database.url) as client:
        yield client


@pytest.fixture
async def github(services: Services, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The API as GitHub sees it: without a key, from somewhere else."""
    async with open_api(settings, services.database.url, host=PUBLIC, client=FAR) as client:
        yield client


def signed(event: str, body: object, *, secret: str = SECRET, **headers: str) -> dict[str, Any]:
    content = json.dumps(body).encode()
    digest = hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()
    known = {"X-GitHub-Event": event, "X-Hub-Signature-256": f"sha256={digest}", "Content-Type": "application/json"}
    return {"content": content, "headers": known | headers}


def deployment(**more: object) -> dict[str, Any]:
    deployed = {"id": 42, "ref": "v2.4.1", "environment": "production", "creator": {"login": "ada"}}
    return {"action": "created", "deployment": deployed, "repository": REPOSITORY, **more}


async def post(api: httpx.AsyncClient, **body: object) -> dict[str, Any]:
    answer = await api.post("/changes/", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def listed(api: httpx.AsyncClient) -> list[dict[str, Any]]:
    return (await api.get("/changes/")).json()["changes"]


async def test_a_deployment_is_in_the_page_of_the_incident_that_follows_it(
    services: Services, api: httpx.AsyncClient, channel: Any
) -> None:
    await post(api, **DEPLOY, at=(NOW - timedelta(minutes=6)).isoformat())
    await post(api, **DEPLOY | {"title": "db 9", "labels": {"service": "db"}})
    await post(api, **DEPLOY | {"title": "web 1"}, at=(NOW - timedelta(hours=3)).isoformat())
    run = await push(services, labels={"job": "web"}, startsAt=NOW.isoformat())
    (message,) = channel.messages
    facts = {fact.label: fact.value for fact in message.facts}
    assert facts["Changed"] == "deploy web 2.4.1 by ada 6 min before"
    assert list(facts).index("Changed") < list(facts).index("Where")
    assert run.incident_id is not None


async def test_without_changes_there_is_no_such_row(services: Services, channel: Any) -> None:
    await push(services)
    assert "Changed" not in {fact.label for fact in channel.messages[0].facts}


async def test_the_analysis_gets_changes_and_earlier_episodes(services: Services, api: httpx.AsyncClient) -> None:
    class Asked:
        name = "asked"
        case: Any = None

        async def analyze(self, evidence: Any, /) -> AnalyzeResult:
            self.case = evidence
            return AnalyzeResult(summary="seen")

    first = await opened(services, labels={"service": "web"})
    async with services.database.transaction() as tx:
        await actions.note(tx, first, ADA, "the pool of connections was full")
        await actions.resolve(tx, first, ADA)
        await actions.close(tx, first, ADA)
    await post(api, **DEPLOY)
    asked = Asked()
    await push(replace(services, analysis=asked), status="resolved", labels={"service": "web"})
    await push(replace(services, analysis=asked), labels={"service": "web"})
    (event,), (episode,) = asked.case.events, asked.case.episodes
    assert (event.kind, event.title, event.by, event.labels) == ("deploy", "web 2.4.1", "ada", {"service": "web"})
    assert (episode.id, episode.ended_by, episode.notes) == (first, "ada", ["the pool of connections was full"])
    assert episode.began_at < episode.ended_at


async def test_an_incident_that_opens_again_has_its_own_earlier_episode(services: Services) -> None:
    first = await opened(services)
    async with services.database.transaction() as tx:
        await actions.note(tx, first, ADA, "a restart helped")
    await push(services, status="resolved")
    assert await opened(services) == first
    async with services.database.transaction() as tx:
        incident = await get_incident(tx, first)
        assert incident is not None
        (episode,) = await earlier_episodes(tx, incident)
    assert (episode.id, episode.notes) == (first, ["a restart helped"])
    assert episode.ended_at is not None
    assert episode.began_at < episode.ended_at


def test_what_was_done_at_the_very_moment_or_failed_is_less_likely_the_cause() -> None:
    def made(seconds_before: float, title: str = "web 2.4.1") -> float:
        event = ChangeEvent(id="1", at=NOW - timedelta(seconds=seconds_before), kind="deploy", title=title)
        return likelihood(event, NOW, timedelta(hours=1))

    assert made(360) > made(1200) > made(3000) > made(3600) == 0
    assert made(360) > made(0) > 0
    assert made(360) > made(360, "deploy of web to production: failure") > 0
    assert made(-30) > 0 == made(-120)


async def test_episodes_of_another_environment_are_none(services: Services, database: Database) -> None:
    incident_id = await opened(services)
    async with database.transaction() as tx:
        incident = await get_incident(tx, incident_id)
        assert incident is not None
        assert await earlier_episodes(tx, incident) == []


async def test_a_repetition_is_one_event(api: httpx.AsyncClient) -> None:
    assert (await post(api, **DEPLOY, id="build-7"))["status"] == "created"
    again = await post(api, **DEPLOY | {"title": "another title"}, id="build-7")
    assert (again["status"], again["change"]["title"]) == ("repeated", "web 2.4.1")
    at = NOW.isoformat()
    assert [(await post(api, **DEPLOY, at=at))["status"] for _ in range(2)] == ["created", "repeated"]
    assert [(await post(api, **DEPLOY))["status"] for _ in range(2)] == ["created", "created"]
    assert len(await listed(api)) == 4


async def test_secrets_do_not_reach_the_database(api: httpx.AsyncClient, database: Database) -> None:
    secret = "ghp_" + "A1b2C3d4" * 5
    await post(
        api,
        title=f"rotated token={secret}",
        id=secret,
        url=f"https://ada:{secret}@ci.example.com/7?token={secret}",
        labels={"service": "web", "password": "hunter2hunter2"},
    )
    (stored,) = await rows(database, "select to_jsonb(c)::text as text from change_event c")
    assert secret not in str(stored)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "title: expected what was done"),
        ({"title": "  \u200b "}, "title: expected what was done"),
        ({"title": 7}, "title: expected a text"),
        ({"title": "x", "name": "y"}, "There is no field 'name'; there are: id, at, kind"),
        ({"title": "x", "at": "yesterday"}, "at: expected a time"),
        ({"title": "x", "at": True}, "at: expected a time"),
        ({"title": "x", "at": 1e300}, "at: expected a time"),
        ({"title": "x", "at": "2001-01-01T00:00:00Z"}, "at: 2001-01-01 00:00 UTC is more than a year ago"),
        ({"title": "x", "at": "9999-12-31T23:59:59-14:00"}, "at: "),
        ({"title": "x", "kind": "two words"}, "kind: expected one word"),
        ({"title": "x", "url": "javascript:alert(1)"}, "url: expected an address"),
        ({"title": "x", "url": "https://x/" + "y" * 2000}, "url: expected an address"),
        ({"title": "x", "labels": ["web"]}, "labels: expected an object"),
        ({"title": "x", "labels": {"a": 1}}, "labels: expected an object"),
        ({"title": "x", "labels": {str(n): "y" for n in range(31)}}, "labels: expected at most 30"),
        ({"title": "x", "id": {}}, "id: expected a text"),
        ({"text": " ", "tags": []}, "text: expected what was done"),
    ],
)
async def test_wrong_events_are_refused_with_what_is_wrong(api: httpx.AsyncClient, body: Any, says: str) -> None:
    answer = await api.post("/changes/", json=body)
    assert answer.status_code == 422
    assert says in answer.json()["error"]


async def test_hostile_events_are_stored_clean_or_refused(api: httpx.AsyncClient) -> None:
    said = await post(
        api, title="a\x00b\x1b[31mred\n" + "x" * 5000, by="\u202eada" * 50, labels={"ser\x00vice": "w\x07eb"}
    )
    change = said["change"]
    assert change["title"].startswith("abred xxx")
    assert len(change["title"]) <= 300
    assert len(change["by"]) <= 64
    assert change["labels"] == {"service": "web"}
    for content in (
        b"",
        b"[]",
        b"null",
        b'"x"',
        b"{",
        b'{"title": "x", "at": 1' + b"0" * 400 + b"}",
    ):
        assert 400 <= (await api.post("/changes/", content=content)).status_code < 500, content
    assert (await api.post("/changes/", content=b'{"title": "\\ud800 x"}')).status_code in (200, 422)
    bomb = gzip.compress(b'{"title": "' + b"x" * 20_000_000 + b'"}')
    answer = await api.post("/changes/", content=bomb, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 413
    assert len(await listed(api)) <= 2


async def test_an_annotation_of_grafana_as_it_comes(api: httpx.AsyncClient) -> None:
    annotation = {
        "id": 17,
        "dashboardUID": "jcIIG-07z",
        "panelId": 2,
        "time": int(NOW.timestamp() * 1000),
        "timeEnd": 0,
        "login": "ada",
        "tags": ["release", "service:web", "env=production"],
        "text": "web <b>2.4.1</b>\n",
    }
    assert [(await post(api, **annotation))["status"] for _ in range(2)] == ["created", "repeated"]
    (change,) = await listed(api)
    assert (change["kind"], change["title"], change["by"]) == ("deploy", "web 2.4.1", "ada")
    assert change["labels"] == {"service": "web", "env": "production"}
    assert datetime.fromisoformat(change["at"]) == NOW


async def test_a_deployment_of_github_is_one_event_that_its_status_brings_up_to_date(
    api: httpx.AsyncClient, github: httpx.AsyncClient
) -> None:
    async def send(event: str, body: object) -> str:
        answer = await github.post("/changes/", **signed(event, body))
        assert answer.status_code == 200, answer.text
        return answer.json()["status"]

    def status(state: str, minutes: int) -> dict[str, Any]:
        at = (NOW + timedelta(minutes=minutes)).isoformat()
        said = {"state": state, "created_at": at, "target_url": "https://ci.example.com/7", "creator": {"login": "bot"}}
        return deployment(deployment_status=said)

    began = deployment()
    began["deployment"] |= {"created_at": NOW.isoformat()}
    assert await send("ping", {"zen": "x"}) == "ignored"
    assert await send("deployment", began) == "created"
    assert (await listed(api))[0]["title"] == "web v2.4.1 to production started"
    assert await send("deployment_status", status("in_progress", 1)) == "ignored"
    assert await send("deployment_status", status("failure", 2)) == "updated"
    assert await send("deployment", began) == "repeated"
    (change,) = await listed(api)
    assert (change["kind"], change["title"]) == ("deploy", "web v2.4.1 to production failure")
    assert change["url"] == "https://ci.example.com/7"
    assert change["labels"] == {"service": "web", "repository": "acme/web", "environment": "production"}


async def test_pushes_and_workflows_of_the_default_branch(api: httpx.AsyncClient, github: httpx.AsyncClient) -> None:
    async def send(event: str, body: object) -> str:
        return (await github.post("/changes/", **signed(event, body))).json()["status"]

    pushed = {
        "ref": "refs/heads/main",
        "after": "f" * 40,
        "commits": [{}, {}],
        "head_commit": {"message": "Larger pool\n\nBecause"},
        "pusher": {"name": "ada"},
        "compare": "https://github.com/acme/web/compare/a...f",
        "repository": REPOSITORY,
    }
    assert [await send("push", pushed), await send("push", pushed)] == ["created", "repeated"]
    assert await send("push", pushed | {"ref": "refs/heads/topic"}) == "ignored"
    assert await send("push", pushed | {"ref": "refs/tags/main"}) == "ignored"
    assert (await listed(api))[0]["title"] == "2 commits to main of web: Larger pool"
    run = {
        "id": 9,
        "name": "release",
        "run_number": 12,
        "run_attempt": 1,
        "head_branch": "main",
        "conclusion": "success",
        "updated_at": NOW.isoformat(),
        "actor": {"login": "ada"},
    }
    assert (
        await send("workflow_run", {"action": "completed", "workflow_run": run, "repository": REPOSITORY}) == "created"
    )
    assert (
        await send("workflow_run", {"action": "requested", "workflow_run": run, "repository": REPOSITORY}) == "ignored"
    )
    assert "release of web #12: success" in [change["title"] for change in await listed(api)]


@pytest.mark.parametrize("event", ["deployment", "deployment_status", "push", "workflow_run", "issues", "\u00fc", ""])
@pytest.mark.parametrize("body", [{}, {"deployment": 1, "repository": [], "workflow_run": {"id": {}}}, {"ref": 7}])
async def test_a_signed_body_that_is_no_github_is_no_500(github: httpx.AsyncClient, event: str, body: Any) -> None:
    request = signed("x", body)
    request["headers"] = [*((k, v) for k, v in request["headers"].items() if k != "X-GitHub-Event")]
    request["headers"].append((b"x-github-event", event.encode("latin-1")))
    answer = await github.post("/changes/", **request)
    assert answer.status_code in (200, 422), answer.text


async def test_only_what_github_has_signed_is_taken_without_a_key(
    settings: Settings, database: Database, github: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    for request in (
        signed("push", deployment(), secret="another"),
        signed("push", deployment(), **{"X-Hub-Signature-256": "sha256="}),
        signed("push", deployment(), **{"X-Hub-Signature-256": "sha1=abc"}),
        signed("push", deployment(), **{"X-API-Key": "apk_" + "x" * 43}),
        {"json": DEPLOY},
    ):
        assert (await github.post("/changes/", **request)).status_code == 401
    plain = settings.model_copy(update={"github_webhook_secret": None})
    async with open_api(plain, database.url, host=PUBLIC, client=FAR) as other:
        answer = await other.post("/changes/", **signed("push", deployment()))
        assert answer.status_code == 404
        assert "GITHUB_WEBHOOK_SECRET is not set" in answer.json()["error"]
    assert await listed(api) == []
    with_key = {"content": json.dumps(deployment()), "headers": {"X-GitHub-Event": "deployment"}}
    assert (await api.post("/changes/", **with_key)).json()["status"] == "created"


def test_the_commands_add_and_list(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", services.database.url)

    def run(*words: str) -> str:
        assert main.app(["changes", *words], standalone_mode=False) == 0
        return capsys.readouterr().out

    words = ["web 2.4.1", "--kind", "deploy", "--label", "service=web", "--by", "ada", "--id", "7"]
    assert run("add", *words).strip().endswith("UTC: created")
    assert json.loads(run("add", *words, "--json"))["status"] == "repeated"
    (change,) = json.loads(run("list", "--json"))
    assert (change["title"], change["labels"]) == ("web 2.4.1", {"service": "web"})
    assert "service=web" in run("list").splitlines()[1]


async def test_old_events_are_deleted(api: httpx.AsyncClient, database: Database) -> None:
    await post(api, **DEPLOY)
    async with database.transaction() as tx:
        assert (await retention.delete_batch(tx, "change_event", 1.0))[0] == 0
        assert (await retention.delete_batch(tx, "change_event", 0.0))[0] == 1


@pytest.mark.parametrize(
    ("labels", "there", "expected"),
    [
        ({}, {"service": "web"}, True),
        ({"service": "web"}, {"service": "web"}, True),
        ({"service": "Web"}, {"job": "web"}, True),
        ({"host": "db-77"}, {"instance": "db-77:9100"}, True),
        ({"service": "web"}, {"service": "db"}, False),
        ({"service": "web"}, {"severity": "web"}, False),
        ({"service": "web"}, {}, False),
        ({"severity": "low"}, {"service": "db"}, True),
        ({"environment": "production"}, {"service": "db"}, True),
        ({"env": "staging", "service": "web"}, {"service": "web"}, False),
    ],
)
def test_which_events_concern_a_target(labels: dict[str, str], there: dict[str, str], expected: bool) -> None:
    event = ChangeEvent(id="1", at=NOW, title="x", labels=labels)
    assert concerns(event, there.items(), "production") is expected


def test_series_and_events_take_turns_in_the_row() -> None:
    began = datetime(2026, 11, 28, 1, 30, tzinfo=UTC)
    errors = Change(entity="web-1", metric="http_errors", now=41, low=0, high=0.3, score=9)
    latency = Change(entity="db-1", metric="latency", now=0.5, low=0.01, high=0.02, score=5, since=began)
    events = [ChangeEvent(id=str(n), at=began - timedelta(minutes=n), kind="deploy", title=f"web {n}") for n in (6, 90)]
    alert = an_alert(started_at=began)
    subject = a_subject(alerts=[alert], check=CheckResult(changes=[errors, latency]), changes=events)
    assert changed(subject) == (
        "deploy web 6 6 min before; http_errors 41, normally 0 to 0.3; deploy web 90 90 min before"
    )
    assert changed(replace(subject, changes=[])) == (
        "http_errors 41, normally 0 to 0.3; latency of db-1 0.5, normally 0.01 to 0.02 since 01:30 UTC"
    )
    assert changed(replace(subject, incident=an_incident(status="resolved"), version=2)) == ""
