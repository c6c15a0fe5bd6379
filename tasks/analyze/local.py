"""Analysis without a model and a network: what the evidence votes for, and a look at this host if it is meant."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace

import psutil

from orchestration.alert import KEPT_PUSH, NOT_UNDERSTOOD
from orchestration.analysis import FOLLOW_THE_RUNBOOK, AnalysisInput
from orchestration.contracts import AnalyzeResult, Check, CheckStatus, Claim, ClaimKind, Recommendation, Target
from orchestration.redaction import one_line
from orchestration.support import unsupported
from orchestration.threads import in_daemon_thread
from tasks.analyze.advice import HIGH, MEDIUM, Findings, advise, also_look_at, worst_path
from tasks.analyze.case import PATH_LABELS
from tasks.analyze.diagnosis import IN_WORDS, Diagnosis, diagnose
from tasks.analyze.host import in_bytes, look_around, printable, top_by_cpu, top_by_memory
from tasks.analyze.topics import Topic, topic_of_check, words_of

LOOK_TIMEOUT_SECONDS = 0.25
"""How long the look at this host may take. If a disk or the process table hangs, the page goes out without it."""

_WINDOWS = frozenset({"windows", "mssql", "mssqlserver", "iis", "powershell", "win32"})
_DRIVE = re.compile(r"(?<![\w/])[A-Z]:(?=[\\\s),]|$)")
_PATH = re.compile(r"(?<![\w/:.])/(?:[\w@+-][\w.@+-]*/?){0,12}(?![\w/])")
_FAILING = re.compile(r"raid|\bsmart\b|mdadm|degraded|i/?o errors?|bad sectors?|predictive failure", re.IGNORECASE)
_BUSY = re.compile(r"disk_(reads?|writes?|written|io)_|disk_io|iops", re.IGNORECASE)
_LOCKED = re.compile(r"dead_?locks?|lock wait|waiting for locks?", re.IGNORECASE)
_REPLICA = re.compile(r"replica|standby|secondary|seconds[ _]behind", re.IGNORECASE)
_PUSH = re.compile(r"refused-\d{1,18}")
_READ = 2000
_MAX_ALERTS = 100
_TITLE_CHARACTERS = 100
_NOTE_CHARACTERS = 200


class LocalAnalysis:
    """The analysis provider that needs no model and no network."""

    name = "local"

    async def analyze(self, case: AnalysisInput) -> AnalyzeResult:
        """The likely cause with its evidence, and what to do, within 0.3 s.

        `diagnosis.py` has the rules for the cause and the confidence. This host's processes and files are looked at
        only if the alert is about this host.
        """
        diagnosis, dropped = _supported(diagnose(case))
        target = case.target or Target(is_own=case.is_about_this_host)
        checks = case.check.checks if case.check else []
        check = next((check for check in checks if diagnosis.topic and topic_of_check(check) is diagnosis.topic), None)
        name = target.name or next((alert.place for alert in case.alerts if alert.place), "")
        said = " ".join(f"{alert.name} {alert.description}"[:_READ] for alert in case.alerts[:1])
        seen = " ".join(claim.says for claim in diagnosis.claims[:1])
        known = Findings(
            target=target,
            name=name,
            is_windows=_is_windows(case),
            about=diagnosis.about,
            event=diagnosis.event,
            path="" if target.is_own else _named_path(case),
            is_failing=_FAILING.search(said) is not None,
            is_busy=diagnosis.topic is Topic.DISK and check is None and _BUSY.search(seen) is not None,
            is_locked=_LOCKED.search(said) is not None,
            is_replica=_REPLICA.search(said) is not None,
            check=check,
        )
        findings = await _look(case, diagnosis.topic, known) if target.is_own else known
        recommendations = list(_recommend(case, diagnosis, findings))
        return AnalyzeResult(
            summary=_summary(case, diagnosis, findings),
            probable_cause=_cause(diagnosis),
            actions=list(dict.fromkeys(_in_one_line(each) for each in recommendations)),
            recommendations=recommendations,
            confidence=diagnosis.confidence,
            claims=list(diagnosis.claims),
            evidence=list(diagnosis.evidence),
            dropped=dropped,
            model_info={"provider": self.name},
            errors=findings.errors,
        )


def _named_path(case: AnalysisInput) -> str:
    """The mount point that the first alert names in its labels, or the first path in what it says; "" if none."""
    for alert in case.alerts[:1]:
        labels = (alert.labels.get(name, "") for name in PATH_LABELS)
        said = _PATH.search(f"{alert.name} {alert.description} {alert.annotations.get('summary', '')}"[:_READ])
        return next((path for path in (*labels, said[0] if said else "") if _PATH.fullmatch(path)), "")
    return ""


def _is_windows(case: AnalysisInput) -> bool:
    """Whether the alerts say that the host runs Windows, or name a drive of it."""
    alerts = case.alerts[:_MAX_ALERTS]
    texts = (" ".join([alert.name, alert.description, *alert.labels.values()])[:_READ] for alert in alerts)
    return any(words_of(text) & _WINDOWS or _DRIVE.search(text) for text in texts)


def _supported(diagnosis: Diagnosis) -> tuple[Diagnosis, list[str]]:
    """The diagnosis with the claims that its evidence supports, as of a model; and why the others are dropped."""
    known = {one.id: one for one in diagnosis.evidence}
    judged = [(claim, unsupported(claim, known)) for claim in diagnosis.claims]
    kept = [claim for claim, why in judged if why is None]
    dropped = [f"{one_line(claim.says, 200)!r}: {why}" for claim, why in judged if why is not None]
    # The first claim is the answer. Without it nothing is known.
    if diagnosis.claims and judged[0][1] is not None:
        return Diagnosis(claims=kept, evidence=diagnosis.evidence), dropped
    return replace(diagnosis, claims=kept), dropped


async def _look(case: AnalysisInput, topic: Topic | None, known: Findings) -> Findings:
    """What this host shows about a topic, beside what is known. `errors` says what could not be read."""
    try:
        async with asyncio.timeout(LOOK_TIMEOUT_SECONDS):
            return await _findings(case, topic, known)
    except TimeoutError:
        problem = f"no answer after {LOOK_TIMEOUT_SECONDS:g} s"
    except (OSError, psutil.Error) as error:
        problem = str(error)
    return replace(known, errors=[f"could not look at this host for {topic}: {problem}"])


async def _findings(case: AnalysisInput, topic: Topic | None, known: Findings) -> Findings:
    match topic:
        case Topic.MEMORY:
            return replace(known, processes=await top_by_memory())
        case Topic.CPU:
            load = os.getloadavg() if hasattr(os, "getloadavg") else None
            return replace(known, processes=await top_by_cpu(), load=load)
        case Topic.DISK:
            labels = (alert.labels.get(name, "") for alert in case.alerts for name in ("mountpoint", "mount", "path"))
            root = await in_daemon_thread(_root_to_search, tuple(dict.fromkeys(labels)), worst_path(known.check))
            return replace(known, files=await in_daemon_thread(look_around, root))
        case _:
            return known


def _root_to_search(named: Sequence[str], worst: str) -> str:
    """The mount point that the alert names, if this host has it; else the fullest path that the check found.

    An alert comes from somebody else: it may select one of the local file systems, but no other folder.
    """
    local = {partition.mountpoint for partition in psutil.disk_partitions(all=False)}
    return next((mount for mount in named if mount in local), worst)


def _recommend(case: AnalysisInput, diagnosis: Diagnosis, findings: Findings) -> Iterator[Recommendation]:
    """What to do, the most useful first: what people wrote down for this alert comes before what code advises."""
    if case.runbook or any("runbook" in alert.links for alert in case.alerts):
        yield Recommendation(type="runbook", priority=HIGH, title=FOLLOW_THE_RUNBOOK)
    if push := _kept_push(case):
        title = "Describe its sender by a mapping"
        yield Recommendation(
            type="general", priority=HIGH, title=title, actions=[f"alert-pipeline sources draft --push {push}"]
        )
    elif diagnosis.is_test:
        title = "Nothing is to be done: it is a test notification"
        yield Recommendation(type="general", priority=MEDIUM, title=title)
    elif diagnosis.healthy:
        yield Recommendation(type="general", priority=MEDIUM, title="See whether it still fires: nothing is wrong now")
    else:
        yield from advise(diagnosis.topic, findings)
    if note := next((note for episode in case.episodes for note in episode.notes), ""):
        title = "See what helped before"
        yield Recommendation(type="episode", priority=MEDIUM, title=title, description=one_line(note, _NOTE_CHARACTERS))
    for check in _unhealthy(case):
        if (topic := topic_of_check(check)) is None or topic is not diagnosis.topic:
            yield also_look_at(check, findings)


def _kept_push(case: AnalysisInput) -> str:
    """The push that no source can read, if that is what the alert says; else ""."""
    kept = (alert.annotations.get(KEPT_PUSH, "") for alert in case.alerts[:1] if alert.name == NOT_UNDERSTOOD)
    return next((name for name in kept if _PUSH.fullmatch(name)), "")


def _unhealthy(case: AnalysisInput) -> list[Check]:
    """The checks with status critical or warning, the critical ones first."""
    found = [check for check in (case.check.checks if case.check else []) if check.status.is_unhealthy]
    return sorted(found, key=lambda check: check.status is not CheckStatus.CRITICAL)


def _in_one_line(each: Recommendation) -> str:
    detail = next(iter(each.actions), each.description)
    return f"{each.title}: {detail}" if detail else each.title


def _cause(diagnosis: Diagnosis) -> str:
    if diagnosis.topic is None:
        return "nothing is wrong now" if diagnosis.healthy else "unknown"
    first = next(iter(diagnosis.claims), None)
    return f"{diagnosis.topic}: {_why(first)}" if first else diagnosis.topic.value


def _why(claim: Claim) -> str:
    return claim.says.partition(": ")[2]


def _summary(case: AnalysisInput, diagnosis: Diagnosis, findings: Findings) -> str:
    """The analysis in one or two sentences, for a person who was asleep a minute ago."""
    title, claim = _title(case), next(iter(diagnosis.claims), None)
    if diagnosis.is_test:
        return f"{title}: it is a test notification, and nothing has happened."
    if diagnosis.healthy and claim is not None:
        return f"{title}: nothing is wrong there now. {_why(claim)}."
    if diagnosis.topic is None:
        return f"{title}: no cause recognized, {_looked_at(case)}."
    if claim is None or claim.kind is not ClaimKind.CAUSE:
        return f"{title}: probably {IN_WORDS[diagnosis.topic]}."
    return f"{title}: probably {IN_WORDS[diagnosis.topic]}. {_headline(findings) or _sentence(_why(claim))}"


def _looked_at(case: AnalysisInput) -> str:
    checks = case.check.checks if case.check else []
    if not checks:
        return "and nothing was looked at"
    bad = [f"{check.name} is {check.status}" for check in _unhealthy(case)]
    return ", ".join(bad) or f"and no check is unhealthy ({', '.join(check.name for check in checks[:5])})"


def _headline(findings: Findings) -> str:
    """The most important finding on this host, in one sentence."""
    own = socket.gethostname()
    if findings.processes:
        return f"Most on {own} by {findings.processes[0]}."
    if findings.files and findings.files.large:
        largest = findings.files.large[0]
        return f"Largest file found on {own}: {largest.path!a}, {in_bytes(largest.size_bytes)}."
    return ""


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}" if text else ""


def _title(case: AnalysisInput) -> str:
    title = case.incident.title if case.incident else ""
    if not title and case.alerts:
        title = case.alerts[0].title or case.alerts[0].name
    title = one_line(title, _TITLE_CHARACTERS) or "Health check"
    named = (
        list(dict.fromkeys(alert.place for alert in case.alerts)) if any(alert.place for alert in case.alerts) else []
    )
    if not named and case.target is not None and case.alerts:
        named = [case.target.name]
    places = [place for place in named if place and place not in title]
    shown = f"{places[0]} and {len(places) - 1} more" if len(places) > 1 else "".join(places)
    return printable(f"{title} ({one_line(shown, 80)})" if shown else title)
