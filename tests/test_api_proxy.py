"""A reverse proxy on the machine of the API hands out no rights: not nginx with a bare `proxy_pass`, nor its bytes."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from orchestration.local_key import HEADER_FILE, KEY_FILE, load_local_key
from orchestration.settings import Settings
from orchestration.store.database import Database
from tests.api_helpers import alert, all_runs, local_key, open_api, serve_api
from tests.stack_fixtures import until

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

CONFIG = """
daemon off;
pid {place}/nginx.pid;
error_log {place}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{api}; {more} }} }}
}}
"""


@contextmanager
def nginx(place: Path, api: tuple[str, int], more: str = "") -> Iterator[str]:
    """A real nginx before the API. Yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = place / "nginx.conf"
    config.write_text(CONFIG.format(place=place, port=port, api="{}:{}".format(*api), more=more))
    process = subprocess.Popen([str(NGINX), "-c", config, "-e", place / "error.log"], stderr=subprocess.DEVNULL)
    try:
        until(lambda: process.poll() is not None or _listens(port), "nginx to listen")
        assert process.poll() is None, (place / "error.log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def _listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(NGINX is None, reason="needs nginx: apt-get install nginx-light")
@pytest.mark.parametrize(
    "more", ["", "proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;"]
)
async def test_behind_nginx_a_request_without_a_key_is_refused(
    settings: Settings, database: Database, tmp_path: Path, more: str
) -> None:
    async with serve_api(settings, database.url) as api, httpx.AsyncClient() as client:
        with nginx(tmp_path, api, more) as proxy:
            assert (await client.get(f"{proxy}/health/")).status_code == 200
            assert (await client.get(f"{proxy}/orchestration/pipelines/")).status_code == 401
            refused = await client.post(f"{proxy}/alerts/webhook/", json=alert())
            accepted = await client.post(f"{proxy}/alerts/webhook/", json=alert(), headers=local_key(settings))

    assert (refused.status_code, accepted.status_code) == (401, 202)
    assert 'curl -H "@$(alert-pipeline keys local)"' in refused.json()["error"]
    assert len(await all_runs(database)) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Real-IP": "192.0.2.7", "X-Forwarded-Proto": "http"},
        {"Via": "1.1 proxy"},
        {"CF-Connecting-IP": "192.0.2.7"},
        {"X-Forwarded-For": "192.0.2.7"},
        {"Host": "evil@127.0.0.1"},
        {"Host": "["},
        {"Origin": "http://["},
        {"Origin": "null"},
        {"X-API-Key": "apk_wrong"},
        {"X-API-Key": ""},
        {"X-API-Key": b"\xc3\xa9"},
        {"Authorization": "Basic Og=="},
    ],
)
async def test_the_bytes_of_any_proxy_without_a_key_are_refused(
    settings: Settings, database: Database, headers: dict[str, str | bytes]
) -> None:
    sent = {name: value if isinstance(value, bytes) else value.encode() for name, value in headers.items()}
    async with open_api(settings, database.url) as api:
        api.headers.pop("authorization")
        for path in ("/orchestration/pipelines/", "/why/?what=x", "/incidents/"):
            assert (await api.get(path, headers=sent)).status_code == 401
        answer = await api.post("/alerts/webhook/", json=alert(), headers=sent)

    assert answer.status_code == 401
    assert await all_runs(database) == []


async def test_the_local_key_opens_the_api_on_its_own_machine_only(settings: Settings, database: Database) -> None:
    key = local_key(settings)
    for host, client, status in (
        ("127.0.0.1", ("127.0.0.1", 9), 200),
        ("::1", ("::1", 9), 200),
        ("::", ("::ffff:127.0.0.1", 9), 200),
        ("0.0.0.0", ("127.0.0.1", 9), 200),
        ("0.0.0.0", ("192.0.2.7", 9), 401),
    ):
        async with open_api(settings, database.url, host=host, client=client) as api:
            assert (await api.get("/orchestration/pipelines/", headers=key)).status_code == status, (host, client)
    async with open_api(settings.model_copy(update={"api_auth": "on"}), database.url) as api:
        assert (await api.get("/orchestration/pipelines/", headers=key)).status_code == 401


async def test_a_page_of_another_site_uses_nobodys_key(settings: Settings, database: Database) -> None:
    async with open_api(settings, database.url) as api:
        for site in ("cross-site", "same-site"):
            answer = await api.post("/alerts/webhook/", json=alert(), headers={"Sec-Fetch-Site": site})
            assert answer.status_code == 403
        assert (await api.get("/incidents/", headers={"Sec-Fetch-Site": "same-origin"})).status_code == 200

    assert await all_runs(database) == []


def test_only_the_owner_can_read_the_local_key(settings: Settings) -> None:
    made = load_local_key(settings)
    key, header = settings.home / KEY_FILE, settings.home / HEADER_FILE

    assert load_local_key(settings) == made
    assert [stat.S_IMODE(file.stat().st_mode) for file in (key, header)] == [0o600, 0o600]
    assert key.read_text().strip() == made
    assert header.read_text().strip() == f"X-API-Key: {made}"


@pytest.mark.parametrize("damage", ["others can read it", "it is empty", "it is a link", "it is a folder"])
async def test_a_local_key_that_cannot_be_trusted_opens_nothing(
    settings: Settings, database: Database, damage: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"home": tmp_path})
    key = load_local_key(settings)
    path = settings.home / KEY_FILE
    match damage:
        case "others can read it":
            path.chmod(0o644)
        case "it is empty":
            path.write_text("")
        case "it is a link":
            path.rename(settings.home / "elsewhere")
            path.symlink_to(settings.home / "elsewhere")
        case _:
            path.unlink()
            path.mkdir()
    async with open_api(settings, database.url, client=("127.0.0.1", 9)) as api:
        assert (await api.get("/orchestration/pipelines/", headers={"X-API-Key": key})).status_code == 401
        assert (await api.get("/orchestration/pipelines/", headers={"X-API-Key": ""})).status_code == 401

    assert "No caller can use the local key" in caplog.text
