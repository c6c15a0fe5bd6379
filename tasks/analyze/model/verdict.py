"""What of a model's answer stands: code drops each claim that its evidence does not support. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from orchestration.analysis import AnalysisInput
from orchestration.contracts import (
    WORST_FIRST,
    AnalyzeResult,
    Claim,
    ClaimKind,
    Evidence,
    EvidenceKind,
    Recommendation,
    Target,
)
from orchestration.orders import gives_orders, leaves_alone, without_orders
from orchestration.redaction import one_line
from orchestration.support import adds, names_trouble, unsupported
from orchestration.target import read_place
from tasks.analyze.advice import Findings
from tasks.analyze.model.commands import is_command, refused, runs_on_a_host
from tasks.analyze.model.question import ModelAnswer, ModelStep

UNSUPPORTED_CONFIDENCE = 0.2
"""The most confidence of an analysis of which no claim stands."""

_ONLY_THE_ALERT = 0.6
"""The most confidence of one that rests on nothing but what the alert says of itself."""

_NO_TROUBLE = 0.3
"""The most confidence if, besides, no cause says what is short, failing or out of order."""

_MOST_CONFIDENCE = 0.95
_MAX_CLAIMS, _MAX_STEPS, _MAX_ACTIONS = 12, 8, 8
_SENTENCE, _LONG = 300, 600

_URL = re.compile(
    r"\b[a-z][a-z0-9+.\-]*://[^\s\"'<>)`]+|\bwww\.[^\s\"'<>)`]+"
    r"|(?<![\w./@\-])(?:(?:[a-z0-9\-]+\.)+[a-z]{2,24}|\d{1,3}(?:\.\d{1,3}){3})(?::\d{1,5})?/[^\s\"'<>)`]*",
    re.IGNORECASE,
)
"""Addresses, with and without a scheme."""

_KINDS = re.compile(r"[\w.\-]*\.(?:apps|batch|k8s\.io|kubernetes\.io)/")
"""Kinds and labels of Kubernetes, which look like addresses."""

_GOES_TO = re.compile(
    r"\b(?:visit|browse|download|fetch|upload|send|post|connect|go|log ?in)\b[^.]{0,40}?\s"
    r"((?:[a-z0-9\-]+\.)+[a-z]{2,24})(?![\w.\-])",
    re.IGNORECASE,
)
"""A name of a host that a step leads to."""

_ALIKE_WORDS = 4
"""From how many equal words in a row a step repeats an order that stands in the evidence."""


def judge(answer: ModelAnswer, evidence: Sequence[Evidence], case: AnalysisInput) -> AnalyzeResult:
    """The analysis that is left of an answer about a case, in words that evidence supports."""
    known = {one.id: one for one in evidence}
    kept: list[Claim] = []
    dropped: list[str] = []
    for said in answer.claims[:_MAX_CLAIMS]:
        claim = Claim.model_validate(said.model_dump())
        why = _falls(claim, known)
        if why is None:
            kept.append(claim.model_copy(update={"says": one_line(claim.says, _SENTENCE)}))
        else:
            dropped.append(f"{one_line(claim.says, 200)!r}: {why}")
    if (more := len(answer.claims) - _MAX_CLAIMS) > 0:
        dropped.append(f"{more} more claims: only the first {_MAX_CLAIMS} are read")
    steps, refused = _steps(answer.recommendations, kept, known, case)
    causes = [claim for claim in kept if claim.kind is ClaimKind.CAUSE]
    return AnalyzeResult(
        summary=_summary(answer, kept, evidence, known) if kept else _from_evidence(evidence, len(dropped)),
        probable_cause=causes[0].says if causes else "unknown",
        actions=[f"{step.title}: {next(iter(step.actions), step.description)}".rstrip(": ") for step in steps],
        recommendations=steps,
        confidence=_confidence(answer.confidence, kept, len(dropped), known),
        claims=kept,
        evidence=list(evidence),
        dropped=[*dropped, *refused],
    )


def _falls(claim: Claim, known: Mapping[str, Evidence]) -> str | None:
    return unsupported(claim, known) or adds(claim, known)


def _confidence(said: float, kept: Sequence[Claim], dropped: int, known: Mapping[str, Evidence]) -> float:
    """The model's own confidence, less the share of what it said without evidence."""
    if not kept:
        return round(min(said, UNSUPPORTED_CONFIDENCE), 2)
    seen = {known[cited].kind for claim in kept for cited in claim.cites}
    most = _MOST_CONFIDENCE
    if seen <= {EvidenceKind.ALERT, EvidenceKind.RUNBOOK}:
        causes = [claim for claim in kept if claim.kind is ClaimKind.CAUSE]
        most = _ONLY_THE_ALERT if not causes or any(names_trouble(cause.says) for cause in causes) else _NO_TROUBLE
    return round(min(said, most) * len(kept) / (len(kept) + dropped), 2)


def _summary(
    answer: ModelAnswer, kept: Sequence[Claim], evidence: Sequence[Evidence], known: Mapping[str, Evidence]
) -> str:
    """The model's summary, if all of it stands; else the claims that do, the cause first."""
    del evidence
    cites = list(dict.fromkeys(cited for claim in kept for cited in claim.cites))
    kind = ClaimKind.CAUSE if any(claim.kind is ClaimKind.CAUSE for claim in kept) else kept[0].kind
    all_stand = len(kept) == len(answer.claims) and not gives_orders(answer.summary)
    if all_stand and _falls(Claim(kind=kind, says=answer.summary, cites=cites), known) is None:
        return one_line(answer.summary, _LONG)
    in_order = sorted(kept, key=lambda claim: claim.kind is not ClaimKind.CAUSE)
    return one_line(" ".join(f"{claim.says.rstrip('.')}." for claim in in_order[:3]), _LONG)


def _from_evidence(evidence: Sequence[Evidence], dropped: int) -> str:
    """What is known, in the words of the evidence: none of the model's words stands."""
    said = f"none of its {dropped} claims stands" if dropped else "it claims nothing"
    bad = [one for status in WORST_FIRST if status.is_unhealthy for one in evidence if one.status is status]
    changed = [one for one in evidence if one.kind in (EvidenceKind.CHANGE, EvidenceKind.EVENT)]
    alerts = [one for one in evidence if one.kind is EvidenceKind.ALERT]
    known = [f"{one.about}: {without_orders(one)}".removeprefix(": ") for one in (*bad, *changed, *alerts)[:2]]
    return f"The model shows no cause: {said}. Known is: {'; '.join(one_line(one, 160) for one in known) or 'nothing'}"


def _steps(
    said: Sequence[ModelStep], kept: Sequence[Claim], known: Mapping[str, Evidence], case: AnalysisInput
) -> tuple[list[Recommendation], list[str]]:
    """The steps that follow from claims which stand, and why each other one is left out."""
    steps: list[Recommendation] = []
    refused: list[str] = []
    for one in said[:_MAX_STEPS]:
        why = _no_step(one, kept, known)
        if why is not None:
            refused.append(f"the step {one_line(one.title, 120)!r}: {why}")
            continue
        steps.append(
            Recommendation(
                type=one_line(one.type, 40) or "general",
                priority=one.priority.lower() if one.priority.lower() in ("high", "medium", "low") else "medium",
                title=one_line(_as_command(one.title, case), 120),
                description=one_line(_as_command(one.description, case), _LONG),
                actions=[
                    one_line(_placed(action, one.title, case), _SENTENCE)
                    for action in one.actions[:_MAX_ACTIONS]
                    if action.strip()
                ],
            )
        )
    return steps, refused


def _as_command(text: str, case: AnalysisInput) -> str:
    return _placed(text, "", case) if is_command(text) else text


def _placed(action: str, title: str, case: AnalysisInput) -> str:
    """A step's action; a command about the machine on which it runs says which one that is."""
    target = case.target or Target(is_own=case.is_about_this_host)
    name = target.name or next((alert.place for alert in case.alerts if alert.place), "")
    if not target.is_own and not target.host and (place := read_place(name)) is not None:
        target = target.model_copy(update={"host": place.host})
    said = f"{title} {action}".casefold()
    if not runs_on_a_host(action) or (target.host and re.search(rf"\bon {re.escape(target.host.casefold())}\b", said)):
        return action
    return Findings(target=target, name=name).there(action)[0]


def _no_step(step: ModelStep, kept: Sequence[Claim], known: Mapping[str, Evidence]) -> str | None:
    if not step.title.strip():
        return "it says nothing"
    rests_on = {cited for claim in kept for cited in claim.cites}
    if not rests_on.intersection(step.cites):
        return "it follows from no claim that stands"
    text = "\n".join([step.title, step.description, *step.actions])
    if leaves_alone(text):
        return "it tells people not to act"
    if (why := _leads_astray(text, known)) is not None:
        return why
    orders = [
        sentence
        for one in known.values()
        for sentence in re.split(r"(?<=[.!?\n])\s+", one.says)
        if gives_orders(sentence)
    ]
    return "it repeats an order that stands in the evidence" if any(_alike(text, order) for order in orders) else None


def _leads_astray(text: str, known: Mapping[str, Evidence]) -> str | None:
    for said in text.split("\n"):
        if (command := refused(unicodedata.normalize("NFKC", said))) is not None:
            return f"it has a command that may do more than look: {one_line(command, 80)}"
    runbooks = " ".join(one.says for one in known.values() if one.kind is EvidenceKind.RUNBOOK)
    if any(url not in runbooks for url in _URL.findall(_KINDS.sub(" ", text))):
        return "it leads to an address that no runbook names"
    evidence = " ".join(f"{one.about} {one.says}" for one in known.values()).casefold()
    if any(host.casefold() not in evidence for host in _GOES_TO.findall(text)):
        return "it leads to an address that no runbook names"
    return None


def _alike(text: str, order: str) -> bool:
    words, other = (re.findall(r"\w+", one.casefold()) for one in (text, order))
    rows = {tuple(other[start : start + _ALIKE_WORDS]) for start in range(len(other) - _ALIKE_WORDS + 1)}
    return any(tuple(words[start : start + _ALIKE_WORDS]) in rows for start in range(len(words) - _ALIKE_WORDS + 1))
