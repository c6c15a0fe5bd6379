"""`alert-pipeline send` and what may answer it: an alert is given up only if the API itself can never read it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.errors import BadSetting
from service.cli.api_door import plain
from service.cli.main import app
from service.cli.send import EMPTY, KEPT
from service.sending import Door, Message, NotNow, Outcome, Spool

HTML = b"<html><body>Please log in</body></html>"
OURS = b'{"error": "payload: too odd"}'
ACCEPTED = b'{"status": "queued", "run_id": "pipeline_run_1"}'
COMMAND = str(Path(sys.executable).parent / "alert-pipeline")


class Server(ThreadingHTTPServer):
    """Answers every request with what the test says, and remembers the bodies."""

    answers: ClassVar[list[tuple[int, bytes]]] = []
    got: ClassVar[list[tuple[str, bytes]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        Server.got.append((self.headers["idempotency-key"], body))
        status, content = Server.answers.pop(0) if len(Server.answers) > 1 else Server.answers[0]
        self.send_response(status)
        if status in (301, 302, 307):
            self.send_header("location", "https://login.example.com/")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    Server.answers[:], Server.got[:] = [(202, ACCEPTED)], []
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALERT_PIPELINE_HOME", str(tmp_path))
    return tmp_path


def send(*arguments: str, url: str = "http://127.0.0.1:1", wait: str = "0") -> int:
    """Run the command in this process."""
    try:
        return app(["send", *arguments, "--url", url, "--wait", wait, "--no-background"], standalone_mode=False) or 0
    except SystemExit as done:
        return int(done.code or 0)


def bodies(home: Path) -> list[dict[str, str]]:
    return [json.loads(path.read_bytes())["body"] for path in Spool(home / "spool").waiting()]


@pytest.mark.parametrize("status", [200, 202, 204, 301, 302, 307, 400, 401, 403, 404, 409, 413, 415, 422, 429, 502])
def test_an_answer_of_somebody_else_costs_no_alert(
    status: int, home: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    Server.answers[:] = [(status, b"" if status == 204 else HTML)]
    assert send("The backup failed", url=server.url) == KEPT
    assert f"answered {status}" in capsys.readouterr().err
    assert send("--flush", url=server.url) == KEPT
    assert [body["name"] for body in bodies(home)] == ["The backup failed"]

    Server.answers[:] = [(202, ACCEPTED)]
    assert send("--flush", url=server.url) == 0
    assert len({key for key, _ in Server.got}) == 1


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b'{"run_id": 7}', b'{"run_id": ""}', b"{}", b"\xff", b'{"error": {}}']
)
def test_an_answer_that_is_no_answer_of_the_api_costs_no_alert(content: bytes, home: Path, server: Server) -> None:
    for status in (202, 422):
        Server.answers[:] = [(status, content)]
        assert send("x", url=server.url) == KEPT
    assert len(bodies(home)) == 2


def test_what_the_api_refuses_is_put_aside_and_can_be_sent_again(
    home: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    Server.answers[:] = [(422, OURS)]
    assert send("The backup failed", "--json", url=server.url) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["status"] == "refused"
    assert "payload: too odd" in said.err
    assert "alert-pipeline send --flush --refused" in said.err

    Server.answers[:] = [(202, ACCEPTED)]
    assert send("Another", url=server.url) == 0
    assert "A refused alert lies in" in capsys.readouterr().err
    assert send("--flush", "--refused", "--json", url=server.url) == 0
    assert json.loads(capsys.readouterr().out) == {"sent": 1, "refused": {}, "kept": 0, "reason": None}


def test_a_flush_says_what_is_refused(home: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert [send("one"), send("two")] == [KEPT, KEPT]
    Server.answers[:] = [(400, OURS), (202, ACCEPTED)]
    assert send("--flush", url=server.url) == 1
    assert "An alert that was kept is refused" in capsys.readouterr().err
    assert (len(Server.got), bodies(home)) == (2, [])


def test_one_alert_that_a_proxy_does_not_let_through_keeps_nobody_back(home: Path, server: Server) -> None:
    assert send("too large for the proxy") == KEPT
    Server.answers[:] = [(413, HTML), (202, ACCEPTED)]
    assert send("another", url=server.url) == 0
    assert [body["name"] for body in bodies(home)] == ["too large for the proxy"]


@pytest.mark.parametrize("key", ["kéy", "a b", "\udce9", "k\ney"])
def test_a_key_that_is_none_costs_no_alert(
    key: str, home: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["x"], ["--flush"]):
        assert send(*arguments, "--key", key, url=server.url) == KEPT
        assert "the API key has characters that no key has" in capsys.readouterr().err
    assert (len(bodies(home)), Server.got) == (1, [])


@given(st.binary())
def test_any_bytes_in_an_argument_are_sent(argument: bytes) -> None:
    assert Message(body={"name": plain(os.fsdecode(argument))}).json


def test_bytes_of_another_encoding_become_marks(home: Path) -> None:
    bad = "caf\udce9"
    assert send(bad, "--name", bad, "--host", bad, "-l", f"team={bad}", "--link", bad, "--environment", bad) == KEPT
    (body,) = bodies(home)
    assert (body["name"], body["description"], body["labels"]) == ("caf�", "caf�", {"team": "caf�"})


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_text_is_an_alert_that_says_so(text: str, home: Path) -> None:
    assert send(text, "-l", "team=") == KEPT
    (body,) = bodies(home)
    assert (body["name"], "labels" in body) == (EMPTY, False)


def test_a_text_that_is_cut_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert send("x" * 100_000) == KEPT
    (body,) = bodies(home)
    assert body["description"].endswith("\n[cut: the first 8,000 characters of 100,000 characters]")
    assert len(body["description"]) < 8_192
    assert "The text is cut" in capsys.readouterr().err


def test_what_is_kept_is_json_as_well(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert send("x", "--json") == KEPT
    said = json.loads(capsys.readouterr().out)
    assert (said["status"], said["run_id"], "does not answer" in said["reason"]) == ("kept", None, True)


def test_an_alert_that_cannot_be_kept_is_sent_all_the_same(
    home: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "spool").write_text("no folder")
    assert send("x", url=server.url) == 0
    Server.answers[:] = [(401, b'{"error": "send an API key"}')]
    assert send("x", url=server.url) == 1
    said = capsys.readouterr().err
    assert "send an API key" in said  # the real cause comes first
    assert "Nor can it be kept" in said


def test_a_folder_that_cannot_be_written_is_named(home: Path) -> None:
    assert send("x") == KEPT
    (home / "spool" / ".lock").unlink()
    (home / "spool" / ".lock").mkdir()
    with pytest.raises(BadSetting, match=r"spool/\.lock cannot be used"):
        send("--flush")
    assert send("y") == KEPT


def test_the_time_bounds_all_of_it(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(NotNow, match=r"within|does not answer"):
            Door(url=f"http://127.0.0.1:{silent.getsockname()[1]}").post(Message(body={}), 0.2)
        assert time.monotonic() - began < 5


def test_the_folder_is_for_one_sender_at_a_time(tmp_path: Path, server: Server) -> None:
    spool = Spool(tmp_path)
    for number in range(20):
        spool.keep(Message(body={"name": str(number)}))
    threads = [
        threading.Thread(target=spool.send_waiting, args=(Door(url=server.url), Outcome(), 30)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [json.loads(body)["name"] for _, body in Server.got] == [str(number) for number in range(20)]


def test_an_alert_survives_the_end_of_its_sender(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [COMMAND, "send", "x", "--url", url, "--wait", "60", "--no-background"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ.copy()) as sender:
            silent.accept()[0].close()  # it tries
            silent.accept()
            sender.send_signal(signal.SIGTERM)
            _, said = sender.communicate(timeout=30)
    assert (sender.returncode, "The alert is kept in" in said) == (143, True)
    assert len(bodies(home)) == 1


def test_an_alert_is_sent_although_nobody_can_hear_of_it(home: Path, server: Server) -> None:
    closed = f"{COMMAND} send closed --url {server.url} --no-background >&- 2>&- <&-"
    full = f"head -c 300000 /dev/zero | {COMMAND} send - --url {server.url} --no-background >/dev/full 2>/dev/full"
    for command in (closed, full):
        ended = subprocess.run(["bash", "-o", "pipefail", "-c", command], env=os.environ.copy(), timeout=60)
        assert ended.returncode == 0
    assert len(Server.got) == 2
