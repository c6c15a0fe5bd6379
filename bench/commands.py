"""Whole commands, as a user starts them: with the stack up, and with nothing running."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.figures import Figures, timed
from orchestration.settings import load_settings
from service.stack import attach


@contextmanager
def fresh_home() -> Iterator[Path]:
    """A home of its own under /tmp, which PostgreSQL's own user can reach when we are root."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp", ignore_cleanup_errors=True) as place:
        Path(place).chmod(0o711)
        yield Path(place) / "home"


def run(home: Path, name: str, *arguments: str) -> None:
    """Run one of our commands; it has to succeed."""
    subprocess.run(
        [str(Path(sys.executable).parent / name), *arguments],
        env={**os.environ, "ALERT_PIPELINE_HOME": str(home)},
        check=True,
        capture_output=True,
    )


def measure(times: int) -> list[Figures]:
    """`run_pipeline --sample` and `monitor_pipeline` as whole processes."""
    with fresh_home() as home:
        first = timed(lambda: run(home, "run_pipeline", "--sample"))
        cold = [timed(lambda: run(home, "run_pipeline", "--sample")) for _ in range(max(times // 3, 2))]
        with attach(load_settings({"home": home})):
            run(home, "run_pipeline", "--sample")
            warm = [timed(lambda: run(home, "run_pipeline", "--sample")) for _ in range(times)]
            monitor = [timed(lambda: run(home, "monitor_pipeline")) for _ in range(times)]
    return [
        Figures(what="run_pipeline --sample, stack up", values=warm, unit="s", target="≤ 3 s"),
        Figures(what="run_pipeline --sample, nothing running", values=cold, unit="s", target="≤ 15 s"),
        Figures(what="run_pipeline --sample, first time ever", values=[first], unit="s"),
        Figures(what="monitor_pipeline, stack up", values=monitor, unit="s", target="≤ 1 s"),
    ]
