"""The flow in a process that is warm: from taking a run up to its final status."""

from __future__ import annotations

from bench.commands import fresh_home
from bench.figures import Figures, timed
from orchestration.contracts import PipelineOutcome
from orchestration.settings import load_settings
from service.orchestrator import PipelineOrchestrator


def measure(times: int) -> list[Figures]:
    """The run's own duration, and the call as a caller sees it, with the default checks."""
    durations: list[float] = []

    def once(number: int) -> None:
        payload = {"name": f"Bench{number}", "severity": "critical", "host": f"bench-{number}"}
        result = orchestrator.run_pipeline(payload, "generic")
        if result.status is not PipelineOutcome.COMPLETED:
            raise SystemExit(f"A run did not complete: {result.final_error}")
        durations.append(result.total_duration_ms)

    with fresh_home() as home, PipelineOrchestrator(load_settings({"home": home})) as orchestrator:
        once(0)
        durations.clear()
        calls = [timed(lambda number=number: once(number)) * 1000 for number in range(1, times + 1)]
    return [
        Figures(what="flow in process, default checks", values=durations, unit="ms", target="≤ 600 ms"),
        Figures(what="run_pipeline() of the Python API", values=calls, unit="ms"),
    ]
