"""Analysis without a model: the words of the alert, the checks, and a look at this host."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import psutil

from orchestration.analysis import AnalysisInput
from orchestration.contracts import AnalyzeResult, Check, Target
from orchestration.threads import in_daemon_thread
from tasks.analyze.advice import Findings, advise, also_look_at, worst_path
from tasks.analyze.diagnosis import Cause, Diagnosis, diagnose, unhealthy
from tasks.analyze.host import in_bytes, look_around, one_line, top_by_cpu, top_by_memory

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
        """The likely cause, what the host of the alert shows about it, and what to do.

        Only the host that runs this process can be looked at: an alert about another one gets no findings of this one,
        and its steps say where they are to be taken. `diagnosis.py` has the rules for the cause and the confidence.
        """
        here = case.is_about_this_host
        diagnosis = diagnose(case, of_this_host=here)
        cause = diagnosis.cause
        checks = case.check.checks if case.check else []
        own = next((check for check in checks if check.name == cause), None)
        findings = await _look(case, cause, own) if here else Findings(check=own)
        also = [check for check in unhealthy(checks) if check.name != cause]
        place = "" if here else f"on {_where(case)}: "
        recommendations = [
            one.model_copy(update={"actions": [f"{place}{action}" for action in one.actions]})
            for one in advise(cause, findings)
        ] + list(map(also_look_at, also))
        return AnalyzeResult(
            summary=_summary(case, diagnosis, findings),
            probable_cause=f"{cause}: {'; '.join(diagnosis.evidence)}" if cause else "unknown",
            actions=[f"{each.title}: {next(iter(each.actions), each.description)}" for each in recommendations],
            recommendations=recommendations,
            confidence=diagnosis.confidence,
            model_info={"provider": self.name},
            errors=findings.errors,
        )


def _where(case: AnalysisInput) -> str:
    """The host where a step is to be taken, for people."""
    host = case.target.host if case.target else ""
    return host[:80] or "the host concerned"


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


def _summary(case: AnalysisInput, diagnosis: Diagnosis, findings: Findings) -> str:
    """The analysis in one or two sentences, for a person who was asleep a minute ago."""
    target = case.target.name[:100] if case.target else ""
    title = _title(case)
    about = f"{title} ({target})" if target and case.alerts and case.target and case.target.host not in title else title
    if diagnosis.cause is None:
        return f"{about}: no cause recognized. {_checked(case)}."
    verdict = f"{about}: probably {_IN_WORDS[diagnosis.cause]}."
    return f"{verdict} {_headline(findings, case.target)}".strip()


def _checked(case: AnalysisInput) -> str:
    if case.check is None or not case.check.checks:
        return "Nothing was checked"
    bad = [f"{check.name} is {check.status}" for check in unhealthy(case.check.checks)]
    target = case.check.target.name if case.check.target else ""
    return f"{f'On {target} ' if target else ''}{', '.join(bad) or 'no check is unhealthy'}"


def _headline(findings: Findings, target: Target | None) -> str:
    """The most important finding, in one sentence."""
    own = target.host if target and target.host else "this host"
    if findings.processes:
        return f"Most on {own} by {findings.processes[0]}."
    if findings.files and findings.files.large:
        largest = findings.files.large[0]
        return f"Largest file found on {own}: {largest.path!a}, {in_bytes(largest.size_bytes)}."
    return f"Check of {findings.check.target or own}: {findings.check.message}." if findings.check else ""


def _title(case: AnalysisInput) -> str:
    title = case.incident.title if case.incident else ""
    if not title and case.alerts:
        title = case.alerts[0].title or case.alerts[0].name
    title = one_line(title) or "Health check"
    return title if len(title) <= 100 else f"{title[:99]}…"
