"""Shared by the tests of the embedded stack: homes that PostgreSQL can reach, commands, and helpers for both."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest

from orchestration.settings import Settings, load_settings
from service.stack import attach

ROOT = os.geteuid() == 0

COMMAND = """
import sys, signal
from pathlib import Path
from orchestration.errors import PipelineError
from orchestration.settings import load_settings
from service.stack import attach
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
settings = load_settings({"home": Path(sys.argv[1]), "database_url": None, "prefect_api_url": None})
try:
    with attach(settings, need_prefect=False, progress=lambda text: print(text, flush=True)) as addresses:
        print("READY", addresses.database_url, flush=True)
        sys.stdin.read()
except PipelineError as error:
    print("ERROR", error, flush=True)
    sys.exit(2)
"""
"""A program that uses the stack until its standard input ends."""


def as_superuser(database_url: str) -> str:
    """The URL with which the owner of an embedded cluster connects: it may create databases."""
    return database_url.replace("alert_pipeline@/alert_pipeline?", "postgres@/postgres?")


@contextlib.contextmanager
def new_home() -> Iterator[Path]:
    """An empty folder under /tmp. PostgreSQL's system user can pass through it, unlike through pytest's tmp_path."""
    place = Path(tempfile.mkdtemp(prefix="stack-", dir="/tmp"))
    place.chmod(0o711)
    try:
        yield place / "home"
    finally:
        until(lambda: not processes_of(place), "the stack to end after the test")
        shutil.rmtree(place)


def settings_for(home: Path, **more: object) -> Settings:
    """Settings for a stack in `home`; the environment of the tests does not matter."""
    return load_settings({"home": home, "database_url": None, "prefect_api_url": None, **more})


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def processes_of(place: Path) -> list[str]:
    """The processes whose command line or working folder lies in `place`."""
    found: list[str] = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if one.pid == os.getpid() or one.status() == psutil.STATUS_ZOMBIE:
                continue
            about = [*one.cmdline(), one.cwd()]
            if any(str(place) in word for word in about):
                found.append(f"{one.pid} {' '.join(about)}")
    return found


class Command:
    """A process that runs beside the test."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def read_until(self, start: str) -> str:
        """The next line that begins with `start`."""
        assert self.process.stdout is not None
        said: list[str] = []
        for line in self.process.stdout:
            if line.startswith(start):
                return line.strip()
            said.append(line)
        raise AssertionError(f"the command ended ({self.process.wait()}) before it printed {start!r}: {said}")

    def leave(self) -> int:
        """Let it end normally, and return its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(30)

    def close(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


@pytest.fixture
def stack_home() -> Iterator[Path]:
    with new_home() as place:
        yield place


@pytest.fixture
def stack_command() -> Iterator[type[Command]]:
    """Starts commands that end with the test."""
    with contextlib.ExitStack() as started:

        class Started(Command):
            def __init__(self, home: Path) -> None:
                super().__init__(home)
                started.callback(self.close)

        yield Started


def query(url: str, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, connect_timeout=10) as connection:
        return connection.execute(sql.encode()).fetchall()


def answers(url: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        return query(url, "SELECT 1") == [(1,)]
    return False


def state_of(home: Path) -> dict[str, object]:
    return json.loads((home / "stack.json").read_text())


def part_pid(home: Path, part: str) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        parts = state_of(home)["parts"]
        assert isinstance(parts, dict)
        return parts.get(part)
    return None


def enter(home: Path) -> None:
    with attach(settings_for(home), need_prefect=False):
        pass


def get(url: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request("GET", parts.path)
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()
