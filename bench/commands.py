"""`run_pipeline` and `monitor_pipeline` as processes that a user starts, and the Python API in a warm process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.figures import Figures, timed
from orchestration.contracts import PipelineOutcome
from orchestration.settings import load_settings
from service.orchestrator import PipelineOrchestrator
from service.stack import attach


@contextmanager
def fresh_home() -> Iterator[Path]:
    """An empty home folder under /tmp. Started as root, PostgreSQL runs as another user, who can reach it there."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "home"


def run(home: Path, name: str, *arguments: str) -> None:
    """Run one of our commands. A failure raises `CalledProcessError`."""
    subprocess.run(
        [str(Path(sys.executable).parent / name), *arguments],
        env={**os.environ, "ALERT_PIPELINE_HOME": str(home)},
        check=True,
        capture_output=True,
    )


def measure_commands(times: int) -> list[Figures]:
    """Seconds of the processes `run_pipeline --sample` and `monitor_pipeline`, with and without a running stack."""
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


def measure_python_api(times: int) -> list[Figures]:
    """Milliseconds of a run itself and of the call around it, with the default checks."""
    durations: list[float] = []

    def run_once(number: int) -> None:
        payload = {"name": f"Bench{number}", "severity": "critical", "host": f"bench-{number}"}
        result = orchestrator.run_pipeline(payload, "generic")
        if result.status is not PipelineOutcome.COMPLETED:
            raise SystemExit(f"A run did not complete: {result.final_error}")
        durations.append(result.total_duration_ms)

    with fresh_home() as home, PipelineOrchestrator(load_settings({"home": home}), console=True) as orchestrator:
        run_once(0)
        durations.clear()
        calls = [timed(lambda number=number: run_once(number)) * 1000 for number in range(1, times + 1)]
    return [
        Figures(what="flow in process, default checks", values=durations, unit="ms", target="≤ 600 ms"),
        Figures(what="run_pipeline() of the Python API", values=calls, unit="ms"),
    ]
