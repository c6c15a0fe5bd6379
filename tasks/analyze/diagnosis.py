"""The local provider's judgement: one cause, how sure, and why. Pure: it reads nothing but the case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestration.alert import Alert
from orchestration.analysis import AnalysisInput
from orchestration.contracts import Check, CheckStatus
from tasks.analyze.words import Cause, causes_in

# One name outweighs any description and label together.
_NAME_WEIGHT, _DESCRIPTION_WEIGHT, _LABEL_WEIGHT = 4.0, 2.0, 1.0
_CHECK_WEIGHT = {CheckStatus.CRITICAL: 1.5, CheckStatus.WARNING: 0.5}
_CHECK_CONFIDENCE = {CheckStatus.CRITICAL: 0.3, CheckStatus.WARNING: 0.15, CheckStatus.OK: -0.15}
_MAX_ALERTS = 100  # of one incident: enough words to judge by, and ten thousand would hold up the loop


@dataclass(frozen=True)
class Diagnosis:
    """The likeliest cause (None: unknown), how sure from 0 to 1, and the reasons in words."""

    cause: Cause | None
    confidence: float
    evidence: tuple[str, ...]


def diagnose(case: AnalysisInput, *, of_this_host: bool) -> Diagnosis:
    """Judge a case. `of_this_host`: the checks looked at the host that the alert is about.

    The cause is the one that weighs most: 4 if a title or name speaks of it, 2 a description or annotation, 1 a
    label (half for a vague word), and, where the words speak of it at all, 1.5 for its critical check, 0.5 for a
    warning. Where no word speaks of anything, an unhealthy check is the cause.

    Confidence: 0.6 if a name speaks of the cause (a weight of 4 or more in words), 0.45 from 2 on, 0.3 from 1
    on, else 0.2. Its check adds 0.3 if critical, 0.15 if a warning, and takes 0.15 if ok. Without words: 0.5 for
    a critical check when there is no alert, 0.4 beside an alert that does not mention it, 0.3 for a warning. A
    rival of equal weight takes 0.1. An alert about another host keeps it at 0.5 or less, and its checks aside:
    they saw this host. Never under 0.05 or over 0.95; unknown is 0.1.
    """
    checks = {check.name: check for check in case.check.checks} if case.check and of_this_host else {}
    weights, reasons = _weigh_words(case)
    if not weights:
        return _from_checks(checks, beside_alert=bool(case.alerts or case.incident))
    totals = {cause: weight + _CHECK_WEIGHT.get(_status(checks, cause), 0.0) for cause, weight in weights.items()}
    cause = max(totals, key=lambda candidate: totals[candidate])
    status = _status(checks, cause)
    confidence = _from_weight(weights[cause]) + _CHECK_CONFIDENCE.get(status, 0.0)
    if list(totals.values()).count(totals[cause]) > 1:
        confidence -= 0.1
    if not of_this_host:
        confidence = min(confidence, 0.5)
    evidence = [f"{reasons[cause]} speaks of {cause}"]
    if status is not CheckStatus.UNKNOWN:
        evidence.append(f"the {cause} check is {status}: {checks[cause].message}")
    return Diagnosis(cause, _bounded(confidence), tuple(evidence))


def unhealthy(checks: Sequence[Check]) -> list[Check]:
    """The checks that found something, the worst first."""
    found = [check for check in checks if check.status in _CHECK_WEIGHT]
    return sorted(found, key=lambda check: check.status is not CheckStatus.CRITICAL)


def _from_checks(checks: dict[str, Check], *, beside_alert: bool) -> Diagnosis:
    known = [checks[cause] for cause in Cause if cause in checks]
    suspects = [check for check in unhealthy(known) if check.status is CheckStatus.CRITICAL or not beside_alert]
    if not suspects:
        return Diagnosis(None, 0.1, ())
    worst = suspects[0]
    confidence = 0.3
    if worst.status is CheckStatus.CRITICAL:
        confidence = 0.4 if beside_alert else 0.5
    if sum(check.status is worst.status for check in suspects) > 1:
        confidence -= 0.1
    return Diagnosis(
        Cause(worst.name), _bounded(confidence), (f"the {worst.name} check is {worst.status}: {worst.message}",)
    )


def _weigh_words(case: AnalysisInput) -> tuple[dict[Cause, float], dict[Cause, str]]:
    """How much the words speak of each cause, and where they do most."""
    weights: dict[Cause, float] = {}
    reasons: dict[Cause, str] = {}
    for weight, place, texts in _texts(case):
        for cause, clarity in causes_in(texts).items():
            weights[cause] = weights.get(cause, 0.0) + weight * clarity
            reasons.setdefault(cause, place)
    return {cause: weights[cause] for cause in Cause if cause in weights}, reasons


def _texts(case: AnalysisInput) -> list[tuple[float, str, set[str]]]:
    incident, alerts = case.incident, list(case.alerts)[:_MAX_ALERTS]
    names = {alert.name for alert in alerts} | {alert.title for alert in alerts}
    descriptions = {alert.description for alert in alerts}
    if incident is not None:
        # Not incident.summary: an earlier analysis may have written it.
        names.add(incident.title)
        descriptions.add(incident.description)
    return [
        (_NAME_WEIGHT, "the alert's name", names),
        (_DESCRIPTION_WEIGHT, "the description", descriptions | _values(alerts, "annotations")),
        (_LABEL_WEIGHT, "a label", _values(alerts, "labels")),
    ]


def _values(alerts: list[Alert], kind: str) -> set[str]:
    """The values of labels or annotations, without links: a dashboard's URL may name everything there is."""
    values = {value for alert in alerts for value in getattr(alert, kind).values()}
    return {value for value in values if "://" not in value or " " in value}


def _status(checks: dict[str, Check], cause: Cause) -> CheckStatus:
    return checks[cause].status if cause in checks else CheckStatus.UNKNOWN


def _from_weight(weight: float) -> float:
    for least, confidence in ((4.0, 0.6), (2.0, 0.45), (1.0, 0.3)):
        if weight >= least:
            return confidence
    return 0.2


def _bounded(confidence: float) -> float:
    return round(min(0.95, max(0.05, confidence)), 2)
