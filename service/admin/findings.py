"""What an attempt found, in a few words: a tone and a sentence for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from orchestration.contracts import (
    AnalyzeResult,
    CheckResult,
    CheckStatus,
    ConditionResult,
    IngestResult,
    NotifyResult,
    Stage,
    TransformResult,
)
from orchestration.redaction import redact_text
from orchestration.store.records import AttemptRecord
from service.admin import words

Finding = tuple[str, str]

_CHECK_TONES = {CheckStatus.OK: words.GOOD, CheckStatus.WARNING: words.WARN, CheckStatus.CRITICAL: words.BAD}


def findings_of(attempt: AttemptRecord) -> list[Finding]:
    """The findings of an attempt that succeeded; none of any other."""
    match attempt.stage:
        case Stage.INGEST:
            return _ingest(attempt.result(IngestResult))
        case Stage.CHECK:
            return _check(attempt.result(CheckResult))
        case Stage.ANALYZE:
            return _analyze(attempt.result(AnalyzeResult))
        case Stage.NOTIFY:
            return _notify(attempt.result(NotifyResult))
        case Stage.TRANSFORM:
            return _transform(attempt.result(TransformResult))
        case Stage.CONDITION:
            return _condition(attempt.result(ConditionResult))


def _ingest(result: IngestResult | None) -> list[Finding]:
    if result is None:
        return []
    told = "somebody is told" if result.tell else "nobody is told"
    return [(words.QUIET, f"{result.severity.value}; {told}: {result.reason or 'no reason is recorded'}")]


def _check(result: CheckResult | None) -> list[Finding]:
    checks = result.checks if result else []
    return [(_CHECK_TONES.get(one.status, words.QUIET), f"{one.name}: {one.message}") for one in checks]


def _analyze(result: AnalyzeResult | None) -> list[Finding]:
    if result is None:
        return []
    tone = words.WARN if result.fallback_used else words.QUIET
    said = (result.summary, result.probable_cause, *result.actions)
    return [(tone, text) for text in said if text]


def _notify(result: NotifyResult | None) -> list[Finding]:
    deliveries = result.deliveries if result else []
    return [
        (words.BAD if one.status == "failed" else words.GOOD, f"{one.channel} via {one.driver}: {one.status}")
        for one in deliveries
    ]


def _transform(result: TransformResult | None) -> list[Finding]:
    return [] if result is None else [(words.QUIET, f"{result.count} items")]


def _condition(result: ConditionResult | None) -> list[Finding]:
    if result is None:
        return []
    return [(words.QUIET, f"{result.expression}: {'holds' if result.holds else 'does not hold'}")]


def links_of(payload: Mapping[str, Any]) -> dict[str, str]:
    """Where a human looks next, as a run's alerts name it: web addresses alone, and none with a secret in it."""
    found: dict[str, str] = {}
    for alert in payload.get("alerts") or ():
        links = cast("Mapping[str, object]", alert).get("links") if isinstance(alert, Mapping) else None
        for name, url in cast("Mapping[str, object]", links).items() if isinstance(links, Mapping) else ():
            if isinstance(url, str) and _is_web(url) and redact_text(url) == url:
                found.setdefault(str(name)[:40], url)
    return dict(list(found.items())[:10])


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc) and url.isprintable() and " " not in url
