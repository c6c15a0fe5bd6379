"""A Prefect server on a free port of the loopback address, for the benchmark and the tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

READY_SECONDS = 120.0
"""How long the server may take to start: its first start on an empty database creates its tables."""


@contextmanager
def open_server(folder: Path) -> Generator[str]:
    """A server with its data in the folder; the URL of its API.

    `PREFECT_SERVER_DATABASE_CONNECTION_URL` says which database it uses, by default an SQLite file in the folder.

    Raises:
        RuntimeError: it does not start; the end of its log is in the message.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"],
            env={**os.environ, "PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"},
            stdout=output,
            stderr=output,
            cwd=folder,
        )
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/api", log)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], api_url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{api_url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"Prefect's server did not start: {log.read_text(errors='replace')[-2000:]}")
