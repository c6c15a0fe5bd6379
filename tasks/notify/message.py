"""The message about a run: how bad it is, what, where and since when, what to do first; the evidence after that.

All text from outside is cleaned, redacted and bounded before a template gets it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from orchestration.alert import AlertStatus, named, web_address
from orchestration.analysis import FOLLOW_THE_RUNBOOK
from orchestration.contracts import WORST_FIRST, AnalyzeResult, Check, CheckResult, CheckStatus, EvidenceKind
from orchestration.message import Message
from orchestration.redaction import REDACTED, one_line, redact_text
from orchestration.respond_links import LINK
from tasks.notify.facts import details_of, facts_of, follow_ups_of, place_of
from tasks.notify.subject import MessageSubject, worst_check
from tasks.notify.templates import render

LINES_ABOVE_THE_FOLD = 12
"""The most lines of a message before the word More: what a person reads in half a minute."""

_FIRST_STEPS = 3
_MAX_CLAIMS, _MAX_CITED = 3, 2
_MAX_LINES, _LINE_CHARACTERS = 40, 1000  # of a text that somebody has asked to send
_MAX_CHECKS = 20  # that are named; the others are counted
_MAX_ACTIONS = 8
_MAX_LINKS = 8
_MAX_ALERTS_WITH_LINKS = 100
_MAX_URL_CHARACTERS = 2000
_NAME_CHARACTERS, _PLACE_CHARACTERS, _TITLE_CHARACTERS = 60, 24, 84

_TEST_TITLE = "[TEST] "

_LINKS_FIRST = ("runbook", LINK, "dashboard", "panel", "incident", "source", "silence", "pipeline run")
_URL_CHARACTERS = "!#$%&'()*+,-./:;=?@[]_~"
_MARKS = {CheckStatus.OK: "✓", CheckStatus.WARNING: "✗", CheckStatus.CRITICAL: "✗", CheckStatus.UNKNOWN: "?"}


def render_message(subject: MessageSubject) -> Message:
    """The message about a run, for one channel. Its ledger names the idempotency key that is sent.

    Deterministic: equal subjects are equal messages.
    """
    links = _links(subject)
    analysis = [*_said(subject), *_analysis(subject.analysis, edited=subject.is_edited)]
    view: dict[str, Any] = {
        "title": f"{_TEST_TITLE if subject.test else ''}{_title(subject)}",
        "facts": list(facts_of(subject)),
        "actions": _actions(subject, links),
        "follow_ups": list(follow_ups_of(subject)),
        "links": links,
        "details": list(details_of(subject)),
        "checks": _checks(subject.check),
        "trace_id": one_line(subject.trace_id, 200),
        "run_id": subject.run_id,
    }
    shown = view | {"analysis": analysis, **_folded(view)}
    return Message(
        idempotency_key=f"{subject.run_id}/{subject.node_id}",
        dedup_key=subject.incident.public_key if subject.incident else subject.run_id,
        text=render("message.txt.j2", shown),
        markdown=render("message.md.j2", shown),
        html=render("message.html.j2", shown),
        severity=subject.severity,
        status=subject.status,
        acknowledged_by=subject.acknowledged_by or None,
        buttons=list(subject.buttons),
        summary="\n".join(analysis),
        source=one_line(subject.source, 80),
        environment=one_line(subject.environment, 80),
        **view,
    )


def _folded(view: dict[str, Any]) -> dict[str, Any]:
    """The steps and the links, parted into those that there is room for beside title and facts, and the others."""
    links: dict[str, str] = dict(view["links"])
    steps: list[dict[str, str]] = [{"label": "Then", "says": action, "url": ""} for action in view["actions"]]
    if steps:
        steps[0] |= {"label": "Do first"}
        # The runbook's own step has its link.
        steps[0] |= {"url": links.pop("runbook")} if steps[0]["says"] == FOLLOW_THE_RUNBOOK else {}
    room = LINES_ABOVE_THE_FOLD - 1 - len(view["facts"]) - len(view["follow_ups"])
    shown = min(max(room - 1, 1), _FIRST_STEPS)
    left = max(room - len(steps[:shown]), 0)
    return {
        "steps": steps[:shown],
        "later_steps": [step["says"] for step in steps[shown:]],
        "first_links": dict(list(links.items())[:left]),
        "later_links": dict(list(links.items())[left:]),
    }


def _title(subject: MessageSubject) -> str:
    """One line of which the first 100 characters, a lock screen, say how bad it is, what it is, and where.

    All three are of one alert, the worst: its severity never stands beside the name and the place of another one.
    """
    word = "RESOLVED" if subject.status is AlertStatus.RESOLVED else subject.severity.value.upper()
    word, spent = ", ".join([word, *subject.marks]), sum(len(mark) + 2 for mark in subject.marks)
    if not subject.alerts and subject.incident is None:
        if subject.check is None and subject.title:
            return f"[{word}] {one_line(subject.title, 160)}"
        host = one_line(subject.checked_host, 80)
        return f"[{worst_check(subject.check).value.upper()}] Health{f' of {host}' if host else ' check'}"
    environment = f" ({one_line(subject.environment, 40)})" if subject.environment else ""
    if not subject.relevant:
        name = subject.incident.title if subject.incident else subject.title
        return f"[{word}] {one_line(name, 160)}{environment}"
    lead = subject.relevant[0]
    name = one_line(lead.name, _NAME_CHARACTERS - spent) or "nameless alert"
    limit = max(_TITLE_CHARACTERS - spent - len(name), _PLACE_CHARACTERS)
    where = one_line(lead.place, limit) if subject.is_mixed else place_of(subject, named=2, limit=limit)
    more = _others(subject) if subject.is_mixed else ""
    return f"[{word}] {named(name, where, more)}{environment}"


def _others(subject: MessageSubject) -> str:
    """How many alerts there are beside the one that the title names."""
    count = len(subject.relevant) - 1 + subject.unread + subject.omitted
    return f" and {count} more alert{'s' if count > 1 else ''}"


def _checks(check: CheckResult | None) -> list[str]:
    if check is None:
        return []
    found = sorted(check.checks, key=lambda one: WORST_FIRST.index(one.status))
    more = [f"and {len(found) - _MAX_CHECKS} more"] if len(found) > _MAX_CHECKS else []
    return [*(_check(one) for one in found[:_MAX_CHECKS]), *more]


def _check(check: Check) -> str:
    says = one_line(check.error or check.message, 300)
    target = one_line(check.target, 120)
    what = f"{one_line(check.name, 60)}{f' of {target}' if target else ''}"
    return f"{_MARKS[check.status]} {what}: {check.status.value}{f', {says}' if says else ''}"


def _said(subject: MessageSubject) -> Iterable[str]:
    """The text that a run was asked to send, line by line."""
    lines = [line for each in subject.text.splitlines() if (line := one_line(each, _LINE_CHARACTERS))]
    yield from lines[:_MAX_LINES]
    if len(lines) > _MAX_LINES:
        yield f"and {len(lines) - _MAX_LINES} more lines"


def _analysis(analysis: AnalyzeResult | None, *, edited: bool) -> Iterable[str]:
    if analysis is None:
        return
    summary, cause = one_line(analysis.summary, 1000), one_line(analysis.probable_cause, 1000)
    if analysis.fallback_used:
        # The summary of a fallback says that there is no analysis; the message adds the error.
        why = one_line(next(iter(analysis.errors), ""), 500) or cause
        summary, cause = f"{summary}: {why}" if why else f"{summary}.", ""
    if summary:
        yield summary
    if cause and not analysis.claims:
        yield f"Probable cause: {cause}"
    yield from _claims(analysis)
    if analysis.confidence > 0:
        yield f"Confidence: {analysis.confidence:.0%}"
    if note := one_line(str(analysis.model_info.get("note") or ""), 300):
        # A promise only where it is kept: not every channel can bring its messages up to date.
        late = "; its answer follows here" if edited else "; its answer will only be on record"
        yield f"Note: {note}{late if analysis.model_info.get('follows') else ''}"


def _claims(analysis: AnalyzeResult) -> Iterable[str]:
    """The first claims, each with the evidence that it cites and does not repeat: what was seen, in a few words.

    The alert is left out, because the message is about it, and so is a claim that the summary repeats.
    """
    summary = analysis.summary.casefold()
    evidence = {one.id: one for one in analysis.evidence if one.kind is not EvidenceKind.ALERT}
    for claim in analysis.claims[:_MAX_CLAIMS]:
        if (why := claim.says.partition(": ")[2].casefold()) and why in summary:
            continue
        cited = [evidence[each] for each in claim.cites if each in evidence and evidence[each].says not in claim.says]
        texts = (f"{one.about}: {one.says}" if one.about else one.says for one in cited[:_MAX_CITED])
        seen = "; ".join(one_line(text, 120) for text in texts)
        yield f"{claim.kind.value.capitalize()}: {one_line(claim.says, 200)}{f' ({seen})' if seen else ''}"


def _actions(subject: MessageSubject, links: dict[str, str]) -> list[str]:
    if subject.status is AlertStatus.RESOLVED:
        return []
    analysis = subject.analysis
    advice = list(analysis.actions) if analysis else []
    if analysis and not advice:
        advice = [
            f"{one.title}: {one.description}" if one.description else one.title for one in analysis.recommendations
        ]
    runbook = [FOLLOW_THE_RUNBOOK] if "runbook" in links else []
    return [line for line in dict.fromkeys([*runbook, *(one_line(step, 300) for step in advice)]) if line][
        :_MAX_ACTIONS
    ]


def _links(subject: MessageSubject) -> dict[str, str]:
    """The web links of the alerts, without secrets, and our own pages; the most useful links first.

    A link that only alerts of another name than the worst one have says whose it is: their runbook is not its runbook.
    """
    found: dict[str, str] = dict(subject.pages)
    others = dict[str, tuple[str, str]]()
    for alert in subject.relevant[:_MAX_ALERTS_WITH_LINKS]:
        for name, url in alert.links.items():
            address = web_address(url)
            if not address or len(url) > _MAX_URL_CHARACTERS:
                continue
            clean = quote(redact_text(address).replace(REDACTED, "redacted"), safe=_URL_CHARACTERS)
            if alert.name == subject.relevant[0].name:
                found.setdefault(one_line(name, 40), clean)
            else:
                others.setdefault(one_line(name, 40), (one_line(alert.name, 40), clean))
    found |= {f"{name} of {whose}": url for name, (whose, url) in others.items() if name not in found}
    names = dict.fromkeys((*_LINKS_FIRST, *found))
    return {name: found[name] for name in [name for name in names if name in found][:_MAX_LINKS]}
