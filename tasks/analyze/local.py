"""Analysis without a model: the words of the alert, the checks, and a look at this host."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence

import psutil

from orchestration.analysis import AnalysisInput
from orchestration.contracts import AnalyzeResult, Check
from orchestration.threads import in_daemon_thread
from tasks.analyze.advice import Findings, advise, also_look_at, worst_path
from tasks.analyze.diagnosis import Cause, Diagnosis, diagnose, unhealthy
from tasks.analyze.host import hosts_of, in_bytes, look_around, one_line, other_hosts, top_by_cpu, top_by_memory

LOOK_TIMEOUT_SECONDS = 1.0
"""How long the look at this host may take. If a disk or the process table hangs, the page goes out without it."""

_IN_WORDS = {
    Cause.MEMORY: "memory is short",
    Cause.DISK: "a disk is filling up",
    Cause.CPU: "the CPU is overloaded",
    Cause.NETWORK: "the network is disturbed",
    Cause.PROCESS: "a process is down or failing",
}


class LocalAnalysis:
    """The analysis provider that needs no model and no network."""

    name = "local"

    async def analyze(self, case: AnalysisInput) -> AnalyzeResult:
        """The likely cause, what this host shows about it, and what to do.

        The findings are of the host that runs this process. If the alert is about another host, the text says so,
        and the checks do not count. `diagnosis.py` has the rules for the cause and the confidence.
        """
        named = hosts_of(case.alerts)
        others = await other_hosts(named)
        here = not others or len(others) < len(named)
        diagnosis = diagnose(case, of_this_host=here)
        cause = diagnosis.cause
        checks = case.check.checks if case.check else []
        findings = await _look(case, cause, next((check for check in checks if check.name == cause), None))
        note = f"Seen on {socket.gethostname()}, which runs this pipeline, not on {_some(others)}. " if others else ""
        also = [check for check in unhealthy(checks) if check.name != cause]
        advice = [*advise(cause, findings), *map(also_look_at, also)]
        recommendations = [
            each.model_copy(update={"description": f"{note}{each.description}".strip()}) if note else each
            for each in advice
        ]
        return AnalyzeResult(
            summary=_summary(case, diagnosis, findings, named, others),
            probable_cause=f"{cause}: {'; '.join(diagnosis.evidence)}" if cause else "unknown",
            actions=[f"{each.title}: {next(iter(each.actions), each.description)}" for each in recommendations],
            recommendations=recommendations,
            confidence=diagnosis.confidence,
            model_info={"provider": self.name},
            errors=findings.errors,
        )


async def _look(case: AnalysisInput, cause: Cause | None, check: Check | None) -> Findings:
    """What this host shows about a cause. `errors` says what could not be read."""
    try:
        async with asyncio.timeout(LOOK_TIMEOUT_SECONDS):
            return await _findings(case, cause, check)
    except TimeoutError:
        problem = f"no answer after {LOOK_TIMEOUT_SECONDS:g} s"
    except (OSError, psutil.Error) as error:
        problem = str(error)
    return Findings(check=check, errors=[f"could not look at this host for {cause}: {problem}"])


async def _findings(case: AnalysisInput, cause: Cause | None, check: Check | None) -> Findings:
    match cause:
        case Cause.MEMORY:
            return Findings(processes=await top_by_memory(), check=check)
        case Cause.CPU:
            load = os.getloadavg() if hasattr(os, "getloadavg") else None
            return Findings(processes=await top_by_cpu(), load=load, check=check)
        case Cause.DISK:
            labels = (alert.labels.get(name, "") for alert in case.alerts for name in ("mountpoint", "mount", "path"))
            root = await in_daemon_thread(_root_to_search, tuple(dict.fromkeys(labels)), worst_path(check))
            return Findings(files=await in_daemon_thread(look_around, root), check=check)
        case _:
            return Findings(check=check)


def _root_to_search(named: Sequence[str], worst: str) -> str:
    """The mount point that the alert names, if this host has it; else the fullest path that the check found.

    An alert comes from somebody else: it may select one of the local file systems, but no other folder.
    """
    local = {partition.mountpoint for partition in psutil.disk_partitions(all=False)}
    return next((mount for mount in named if mount in local), worst)


def _summary(case: AnalysisInput, diagnosis: Diagnosis, findings: Findings, named: list[str], others: list[str]) -> str:
    """The analysis in one or two sentences, for a person who was asleep a minute ago."""
    own = socket.gethostname()
    title = _title(case)
    unnamed = [host for host in others or named if host not in title]
    about = title + (f" ({_some(unnamed)})" if unnamed else "")
    if others:
        verdict = f"probably {_IN_WORDS[diagnosis.cause]}" if diagnosis.cause else "no cause recognized"
        return (
            f"{about}: {verdict}. Checks and findings are of {own}, which runs this pipeline, not of {_some(others)}."
        )
    if diagnosis.cause is None:
        return f"{about}: no cause recognized. On {own} {_checked(case)}."
    return f"{about}: probably {_IN_WORDS[diagnosis.cause]}. {_headline(findings, own)}".strip()


def _checked(case: AnalysisInput) -> str:
    if case.check is None or not case.check.checks:
        return "nothing was checked"
    bad = [f"{check.name} is {check.status}" for check in unhealthy(case.check.checks)]
    return ", ".join(bad) or "no check is unhealthy"


def _headline(findings: Findings, own: str) -> str:
    """The most important finding, in one sentence."""
    if findings.processes:
        return f"Most on {own} by {findings.processes[0]}."
    if findings.files and findings.files.large:
        largest = findings.files.large[0]
        return f"Largest file found on {own}: {largest.path!a}, {in_bytes(largest.size_bytes)}."
    return f"Check on {own}: {findings.check.message}." if findings.check else ""


def _title(case: AnalysisInput) -> str:
    title = case.incident.title if case.incident else ""
    if not title and case.alerts:
        title = case.alerts[0].title or case.alerts[0].name
    title = one_line(title) or "Health check"
    return title if len(title) <= 100 else f"{title[:99]}…"


def _some(hosts: Sequence[str]) -> str:
    shown = ", ".join(host[:60] for host in hosts[:3])
    return f"{shown} and {len(hosts) - 3} more" if len(hosts) > 3 else shown
