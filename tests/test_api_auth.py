"""Authentication of the HTTP API: keys and their scopes, signatures, and callers on this machine."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from orchestration.redaction import redact_text
from orchestration.settings import Settings
from orchestration.store import keys
from orchestration.store.database import Database
from orchestration.store.keys import NewKey, Scope
from service.api import keyring
from service.api.auth import HOW, HOW_HERE
from service.api.body import BodiesInMemory
from service.api.problems import HttpProblem
from tests.api_helpers import alert, all_runs, eventually, open_api, trigger
from tests.auth_helpers import FAR, PUBLIC, basic, bearer, endpoints, is_open, make_key, signed, signed_v1


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """The API as the network sees it."""
    async with open_api(settings, database.url, host=PUBLIC, client=FAR) as client:
        yield client


@pytest.fixture
async def key(settings: Settings, database: Database) -> NewKey:
    return await make_key(settings, database, Scope.TRIGGER)


# Keys


async def test_without_a_key_every_endpoint_refuses(
    api: httpx.AsyncClient, settings: Settings, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    there = endpoints(settings)
    assert len(there) > 10
    for method, path in there:
        address = re.sub(r"\{.*?\}", "generic", path)
        answer = await api.request(method, address, json=trigger() if method == "POST" else None)
        if is_open(method, path):
            assert answer.status_code in (200, 503), (method, path)
            continue
        assert answer.status_code == 401, (method, path)
        assert "No API key" in answer.json()["error"]
        assert "Bearer" in answer.headers["www-authenticate"]
        assert f"Refused {method} {address} from 192.0.2.7 with 401" in caplog.text
    assert await all_runs(database) == []


def test_what_needs_no_key_is_known(settings: Settings) -> None:
    assert sorted({path for method, path in endpoints(settings) if is_open(method, path)}) == [
        "/alerts/webhook/",
        "/alerts/webhook/{source}/",
        "/health/",
        "/ready/",
    ]


async def test_a_key_is_taken_in_each_usual_way(api: httpx.AsyncClient, key: NewKey) -> None:
    ways: list[dict[str, str]] = [
        bearer(key),
        {"authorization": f"bearer  {key.token}"},
        {"X-API-Key": key.token},
        basic(key.name, key.token),
        basic("", key.token),
        basic("alertmanager", key.token),
    ]
    for number, headers in enumerate(ways):
        answer = await api.post("/alerts/webhook/", json=alert(instance=str(number)), headers=headers)
        assert answer.status_code == 202, (headers, answer.text)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer apk_" + "x" * 43},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer"},
        {"Authorization": "Digest username=x"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic //79"},
        {"X-API-Key": "x"},
        {"X-API-Key": "apk_"},
        {"X-API-Key": "é"},
        basic("ci", "wrong"),
        basic("ci", ""),
    ],
)
async def test_a_wrong_key_is_refused(api: httpx.AsyncClient, key: NewKey, headers: dict[str, str]) -> None:
    given = {name: value.encode() for name, value in headers.items()}
    answer = await api.post("/alerts/webhook/", json=alert(), headers=given)

    assert answer.status_code == 401
    assert "unknown or revoked" in answer.json()["error"]


async def test_the_start_of_a_key_is_not_the_key(api: httpx.AsyncClient, key: NewKey) -> None:
    for token in (key.token[:-1], key.token + "x", key.token[:12], key.token.swapcase()):
        assert (await api.get("/orchestration/pipelines/", headers={"X-API-Key": token})).status_code == 401


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        ([Scope.TRIGGER], {"trigger"}),
        ([Scope.READ], {"read"}),
        ([Scope.RESUME], {"resume"}),
        ([Scope.READ, Scope.TRIGGER], {"read", "trigger"}),
        ([Scope.ADMIN], {"trigger", "read", "resume"}),
    ],
)
async def test_a_key_is_for_its_scopes_only(
    api: httpx.AsyncClient, settings: Settings, database: Database, scopes: list[Scope], allowed: set[str]
) -> None:
    key = await make_key(settings, database, *scopes)
    calls = {
        "trigger": api.post("/orchestration/pipeline/", json=trigger(), headers=bearer(key)),
        "read": api.get("/orchestration/pipelines/", headers=bearer(key)),
        "resume": api.post("/orchestration/pipeline/none/resume/", headers=bearer(key)),
    }
    for scope, call in calls.items():
        answer = await call
        if scope in allowed:
            assert answer.status_code in (200, 202, 404)
        else:
            assert answer.status_code == 403
            assert f"this needs {scope}" in answer.json()["error"]


async def test_a_revoked_key_is_refused_within_seconds(
    api: httpx.AsyncClient, database: Database, key: NewKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await api.post("/alerts/webhook/", json=alert(), headers=bearer(key))).status_code == 202
    async with database.transaction() as tx:
        await keys.revoke_key(tx, key.name)
    assert keyring.FRESH_SECONDS <= 5
    monkeypatch.setattr(keyring, "FRESH_SECONDS", 0.0)

    answer = await api.post("/alerts/webhook/", json=alert(), headers=bearer(key))
    assert answer.status_code == 401


async def test_a_new_key_is_good_at_once(
    api: httpx.AsyncClient, settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "FRESH_SECONDS", 3600.0)
    await make_key(settings, database, Scope.TRIGGER, name="first")
    assert (await api.get("/orchestration/pipelines/", headers={"X-API-Key": "apk_x"})).status_code == 401
    new = await make_key(settings, database, Scope.READ, name="second")

    async def good() -> bool:
        return (await api.get("/orchestration/pipelines/", headers=bearer(new))).status_code == 200

    await eventually(good)


async def test_the_last_use_of_a_key_is_noted(
    settings: Settings, database: Database, key: NewKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.app.WRITE_USES_SECONDS", 0.02)
    async with open_api(settings, database.url, host=PUBLIC, client=FAR) as api:
        await api.post("/alerts/webhook/", json=alert(), headers=bearer(key))

        async def noted() -> bool:
            async with database.transaction() as tx:
                return (await keys.list_keys(tx))[0].last_used_at is not None

        await eventually(noted)


async def test_secrets_are_in_no_log(api: httpx.AsyncClient, key: NewKey, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await api.post("/alerts/webhook/", json=alert(), headers=bearer(key))
    await api.get("/orchestration/pipelines/", headers=bearer(key))
    await api.get("/orchestration/pipelines/", headers={"X-API-Key": key.token + "x"})
    await api.get("/orchestration/pipeline/%1b[2J%0aRefused/", headers=basic("x", key.signing_secret))

    assert key.token not in caplog.text
    assert key.signing_secret not in caplog.text
    assert "\x1b" not in caplog.text
    assert all("\n" not in record.getMessage() for record in caplog.records if "Refused" in record.message)


# Signatures


async def test_a_signed_request_is_taken_once(api: httpx.AsyncClient, key: NewKey, database: Database) -> None:
    body = json.dumps(alert()).encode()
    headers = signed(key, body)
    first = await api.post("/alerts/webhook/", content=body, headers=headers)
    replay = await api.post("/alerts/webhook/", content=body, headers=headers)

    assert first.status_code == 202
    assert replay.status_code == 401
    assert "accepted before" in replay.json()["error"]
    assert len(await all_runs(database)) == 1


async def test_a_replay_is_refused_by_every_process(
    api: httpx.AsyncClient, settings: Settings, key: NewKey, database: Database
) -> None:
    body = json.dumps(alert()).encode()
    headers = signed(key, body)
    assert (await api.post("/alerts/webhook/", content=body, headers=headers)).status_code == 202
    async with open_api(settings, database.url, host=PUBLIC, client=FAR) as other:
        assert (await other.post("/alerts/webhook/", content=body, headers=headers)).status_code == 401


async def test_a_replay_with_the_signature_written_otherwise_is_a_replay(api: httpx.AsyncClient, key: NewKey) -> None:
    body = json.dumps(alert()).encode()
    headers = signed(key, body)
    assert (await api.post("/alerts/webhook/", content=body, headers=headers)).status_code == 202
    loud = headers | {"X-Signature": headers["X-Signature"].upper().replace("V2", "v2")}
    assert (await api.post("/alerts/webhook/", content=body, headers=loud)).status_code == 401


async def test_a_signed_request_is_good_again_only_after_an_error_of_ours(
    api: httpx.AsyncClient, key: NewKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps({"payload": {"nothing": "known"}}).encode()
    path = "/orchestration/pipeline/"
    headers = signed(key, body, f"POST.{path}")
    answers = [await api.post(path, content=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [422, 401]

    for sent in (alert(), {"nothing": "known"}):
        body = json.dumps(sent).encode()
        headers = signed(key, body)
        with monkeypatch.context() as patched:
            patched.setattr("service.api.pushes.WRITE_TIMEOUT_SECONDS", 0.0)
            assert (await api.post("/alerts/webhook/", content=body, headers=headers)).status_code == 503
        assert (await api.post("/alerts/webhook/", content=body, headers=headers)).status_code == 202


@pytest.mark.parametrize(
    ("method", "address"),
    [
        ("POST", "/alerts/webhook/?definition=nosuch"),
        ("POST", "/alerts/webhook/?environment=test"),
        ("POST", "/alerts/webhook/grafana/"),
        ("POST", "/alerts/webhook"),
        ("POST", "/orchestration/pipeline/"),
    ],
)
async def test_a_signature_is_for_its_method_and_address_only(
    api: httpx.AsyncClient, database: Database, key: NewKey, method: str, address: str
) -> None:
    body = json.dumps(alert()).encode()
    other_method = signed(key, body, "GET./alerts/webhook/")
    assert (await api.post("/alerts/webhook/", content=body, headers=other_method)).status_code == 401
    for called, sign in ((address, "POST./alerts/webhook/"), ("/alerts/webhook/", f"{method}.{address}")):
        answer = await api.post(called, content=body, headers=signed(key, body, sign))
        assert answer.status_code == 401, answer.text
    assert await all_runs(database) == []

    right = signed(key, body, f"POST.{address}")
    assert (await api.post(address, content=body, headers=right)).status_code in (202, 404, 422, 403)


async def test_a_signature_of_version_1_needs_the_operators_word(
    api: httpx.AsyncClient, settings: Settings, database: Database, key: NewKey
) -> None:
    body = json.dumps(alert()).encode()
    refused = await api.post("/alerts/webhook/", content=body, headers=signed_v1(key, body))
    assert (refused.status_code, "API_SIGNATURE_V1=1" in refused.text) == (401, True)

    allowed = settings.model_copy(update={"api_signature_v1": True})
    async with open_api(allowed, database.url, host=PUBLIC, client=FAR) as other:
        assert (await other.post("/alerts/webhook/", content=body, headers=signed_v1(key, body))).status_code == 202


async def test_the_body_of_a_stranger_is_not_read(api: httpx.AsyncClient, key: NewKey) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(4):
            read += 1
            yield b" " * 1_000_000

    for headers in (
        signed(key, b"", X_Key_Id="nobody"),
        signed(key, b"", X_Timestamp="1"),
        signed(key, b"", X_Key_Id=""),
    ):
        answer = await api.get("/orchestration/pipelines/", headers=headers)
        assert answer.status_code == 401
    answer = await api.post("/orchestration/definitions/x/validate/", content=body(), headers=headers)
    assert (answer.status_code, read) == (401, 0)


async def test_the_bodies_of_all_requests_have_a_limit_together() -> None:
    room = BodiesInMemory(100)
    with room.reserve() as first, room.reserve() as second:
        first(60)
        with pytest.raises(HttpProblem, match="at the same time") as refused:
            second(60)
    assert refused.value.status == 503
    with room.reserve() as third:
        third(100)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"X_Signature": "v2=" + "0" * 64}, "does not fit"),
        ({"X_Signature": "v2="}, "does not fit"),
        ({"X_Signature": "sha256=" + "0" * 64}, "version 1"),
        ({"X_Signature": ""}, "does not fit"),
        ({"X_Signature": "é"}, "does not fit"),
        ({"X_Key_Id": "nobody"}, "does not fit"),
        ({"X_Key_Id": ""}, "needs X-Key-Id"),
        ({"X_Timestamp": ""}, "needs X-Timestamp"),
        ({"X_Timestamp": "now"}, "needs X-Timestamp"),
        ({"X_Timestamp": "-1"}, "needs X-Timestamp"),
        ({"X_Timestamp": "9" * 5000}, "needs X-Timestamp"),
        ({"X_Timestamp": "1"}, "s old"),
    ],
)
async def test_a_wrong_signature_is_refused(
    api: httpx.AsyncClient, key: NewKey, database: Database, change: dict[str, str], says: str
) -> None:
    body = json.dumps(alert()).encode()
    headers = {name: value.encode() for name, value in signed(key, body, **change).items()}
    answer = await api.post("/alerts/webhook/", content=body, headers=headers)

    assert answer.status_code == 401
    assert says in answer.json()["error"]
    assert await all_runs(database) == []


@pytest.mark.parametrize("age", [301, -301, 10**6])
async def test_an_old_signature_is_refused(api: httpx.AsyncClient, key: NewKey, age: int) -> None:
    body = json.dumps(alert()).encode()
    answer = await api.post("/alerts/webhook/", content=body, headers=signed(key, body, at=time.time() - age))

    assert answer.status_code == 401
    assert "Are the clocks set?" in answer.json()["error"]


async def test_a_signature_is_for_its_body_only(api: httpx.AsyncClient, key: NewKey) -> None:
    headers = signed(key, json.dumps(alert()).encode())
    answer = await api.post("/alerts/webhook/", json=alert("Other"), headers=headers)

    assert answer.status_code == 401


async def test_a_signature_of_a_revoked_key_is_refused(api: httpx.AsyncClient, database: Database, key: NewKey) -> None:
    async with database.transaction() as tx:
        await keys.revoke_key(tx, key.name)
    body = json.dumps(alert()).encode()

    assert (await api.post("/alerts/webhook/", content=body, headers=signed(key, body))).status_code == 401


async def test_a_signature_is_for_its_scopes_only(api: httpx.AsyncClient, key: NewKey) -> None:
    answer = await api.get("/orchestration/pipelines/", headers=signed(key, b"", "GET./orchestration/pipelines/"))

    assert answer.status_code == 403


async def test_the_signing_secret_is_no_key(api: httpx.AsyncClient, key: NewKey) -> None:
    answer = await api.post("/alerts/webhook/", json=alert(), headers={"X-API-Key": key.signing_secret})

    assert answer.status_code == 401


# Who needs a key at all


@pytest.mark.parametrize(("auth", "host", "status"), [("on", "127.0.0.1", 401), ("off", PUBLIC, 200)])
async def test_the_operator_has_the_last_word(
    settings: Settings, database: Database, auth: str, host: str, status: int
) -> None:
    chosen: Any = settings.model_copy(update={"api_auth": auth})
    async with open_api(chosen, database.url, host=host) as api:
        api.headers.pop("authorization")
        assert (await api.get("/orchestration/pipelines/")).status_code == status


async def test_two_keys_do_not_share_idempotency_keys(
    api: httpx.AsyncClient, settings: Settings, database: Database, key: NewKey
) -> None:
    other = await make_key(settings, database, Scope.TRIGGER, name="other")
    answers = [
        await api.post("/alerts/webhook/", json=alert(who), headers=bearer(one) | {"Idempotency-Key": "1"})
        for who, one in (("a", key), ("b", other))
    ]

    assert [answer.status_code for answer in answers] == [202, 202]


@pytest.mark.parametrize("refusal", ["No API key", "The API key is unknown or revoked"])
def test_the_advice_about_keys_holds_nothing_that_is_redacted(refusal: str) -> None:
    said = f"{refusal}. {HOW}. {HOW_HERE}"
    assert redact_text(said) == said
