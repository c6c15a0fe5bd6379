"""Which alerts make one incident by the policy: those with some labels in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache

from orchestration.alert import HEARTBEAT_SOURCE, OWN_SOURCE, TOO_LARGE, Alert, bounded_key
from orchestration.policy.matchers import all_match
from orchestration.policy.model import ALL_LABELS, Grouping, Policy
from orchestration.policy.routing import Subject
from orchestration.redaction import is_secret, redact_text

KEY_START = "policy:"
"""How the incident keys begin that are made of a policy's grouping. No source makes such keys."""

_OWN_SOURCES = frozenset({OWN_SOURCE, HEARTBEAT_SOURCE})


def grouping_of(policy: Policy, labels: Mapping[str, str]) -> Grouping | None:
    """The grouping that counts for an alert with these labels. None means that its sender decides."""
    return next((grouping for grouping in policy.grouping if all_match(grouping.matchers, labels)), None)


def grouped_by(policy: Policy, subject: Subject) -> dict[str, str] | None:
    """The labels that alerts of one incident have in common. None means that the policy does not say it."""
    grouping = grouping_of(policy, subject.labels)
    return None if grouping is None else _values(grouping, subject.labels)


def key_of(policy: Policy, alert: Alert, *, environment: str) -> str | None:
    """The incident key of an alert by the policy's grouping. None means that its sender's key counts.

    The key is made of the matchers and the labels in a fixed order, so that it is the same in every process. A value
    with a secret in it becomes its digest. What this installation reports of itself, and heartbeats, keep their keys.
    """
    if alert.source in _OWN_SOURCES or alert.name == TOO_LARGE:
        return None
    labels = Subject.of(alert, environment=environment).labels
    grouping = grouping_of(policy, labels)
    if grouping is None:
        return None
    matchers = ",".join(sorted(map(str, grouping.matchers)))
    values = sorted(_values(grouping, labels).items())
    by = ",".join(f"{name}={json.dumps(_without_secret(name, value))}" for name, value in values)
    return bounded_key(f"{KEY_START}{{{matchers}}}:{{{by}}}")


@lru_cache(maxsize=4096)
def _without_secret(name: str, value: str) -> str:
    if not is_secret(name, value) and redact_text(value) == value:
        return value
    return f"sha256:{hashlib.sha256(value.encode(errors='replace')).hexdigest()}"


def _values(grouping: Grouping, labels: Mapping[str, str]) -> dict[str, str]:
    names = sorted(labels) if ALL_LABELS in grouping.by else grouping.by
    return {name: labels.get(name, "") for name in names}
