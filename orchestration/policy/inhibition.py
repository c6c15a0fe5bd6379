"""Which firing alert explains another one, so that nobody has to be notified of both. Alertmanager's rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestration.policy.matchers import all_match
from orchestration.policy.model import Inhibition, Policy


@dataclass(frozen=True, kw_only=True)
class InhibitedBy:
    """The rule that keeps an alert back, and the labels of the alert that fires instead."""

    rule: int
    """The number of the rule in the policy, from 0."""
    labels: Mapping[str, str]


def inhibited_by(policy: Policy, labels: Mapping[str, str], firing: Iterable[Mapping[str, str]]) -> InhibitedBy | None:
    """The first rule that keeps an alert with these labels back, given the labels of the alerts that fire now.

    The alert itself may be among them: an alert never keeps itself back, nor do two alerts keep each other back that
    both are source and target of a rule. None means that the alert is told of.
    """
    others = list(firing) if policy.inhibitions else []
    for number, rule in enumerate(policy.inhibitions):
        if not all_match(rule.target_matchers, labels):
            continue
        for source in others:
            if _explains(rule, source, labels):
                return InhibitedBy(rule=number, labels=source)
    return None


def _explains(rule: Inhibition, source: Mapping[str, str], target: Mapping[str, str]) -> bool:
    if not all_match(rule.source_matchers, source):
        return False
    if any(source.get(name, "") != target.get(name, "") for name in rule.equal):
        return False
    # As in Alertmanager: where the target is a source as well, a source that is a target as well does not count.
    return not (all_match(rule.source_matchers, target) and all_match(rule.target_matchers, source))
