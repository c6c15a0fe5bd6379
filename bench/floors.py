"""What our figures are measured beside, in the same run: the least that anybody needs for the same work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from bench.load import answers, free_port

DBOS_RUNS = 200
"""How many workflows of DBOS are measured together."""


@contextmanager
def bare_api(database_url: str) -> Iterator[int]:
    """Run FastAPI with one insert and commit a request. Yields its port; `POST /` keeps a body."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "bench.bare_api:app", "--port", str(port), "--log-level", "error"]
    process = subprocess.Popen([*command, "--no-access-log"], env={**os.environ, "DATABASE_URL": database_url})
    try:
        while not answers(port, "/health"):
            if process.poll() is not None:
                raise SystemExit("the floor of accepts did not start")
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def four_steps(database_url: str) -> tuple[list[float], list[float]]:
    """Workflows of four empty steps with DBOS: milliseconds to the fourth step, and workflows per second."""
    command = [sys.executable, "-m", "bench.dbos_steps", database_url, str(DBOS_RUNS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = cast("dict[str, list[float]]", json.loads(done.stdout.splitlines()[-1]))
    return [seconds * 1000 for seconds in found["seconds"]], found["rates"]
