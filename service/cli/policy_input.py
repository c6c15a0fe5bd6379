"""Policies and alerts as the commands of the policy get them: from files, from arguments, and from the store."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from orchestration.alert import Alert
from orchestration.errors import BadInput
from orchestration.moments import parse_moment
from orchestration.policy.active import ActivePolicy
from orchestration.policy.document import MAX_BYTES
from orchestration.policy.model import Policy
from orchestration.policy.oncall import policy_warnings, roster_of
from orchestration.policy.parse import ReadPolicy, parse_policy, read_policy
from orchestration.policy.problems import BadPolicy, PolicyProblem
from orchestration.policy.routing import Subject
from orchestration.policy.schedules import Roster
from orchestration.problems import path_of
from orchestration.settings import Settings
from orchestration.store.database import AsyncConnection
from orchestration.store.definitions import find_policy
from orchestration.store.encrypted_cache import find_channel_names
from orchestration.store.incident_list import find_by_words
from orchestration.store.oncall import find_schedules
from orchestration.store.present import read_present
from service.cli.reader import look, read
from service.cli.terminal import read_file
from tasks.check.checkers.registry import CHECKERS
from tasks.ingest.sources import parse_push

T = TypeVar("T")


class BadPolicyFile(BadPolicy):
    """The policy in a file cannot be used. The error has the file's name and all problems."""

    def __init__(self, file: str, error: BadPolicy) -> None:
        super().__init__(error.problems)
        self.more = error.more
        self.args = (f"{file}: {error}",)


@dataclass(frozen=True, kw_only=True)
class NamedSubject:
    """An alert that is routed, and how outputs call it."""

    name: str
    subject: Subject


@dataclass(frozen=True, kw_only=True)
class PolicyInUse:
    """The policy that an alert is routed by. `version` is None where it is none of the store's."""

    policy: Policy
    called: str
    version: int | None = None
    rosters: Mapping[str, Roster] = field(default_factory=dict[str, Roster])
    """Who is on call by its schedules."""
    note: str = ""
    """What is not known of that."""

    @property
    def active(self) -> ActivePolicy:
        """As the pipeline uses it."""
        return ActivePolicy(policy=self.policy, version=self.version, rosters=self.rosters)


def known_channels(settings: Settings) -> list[str] | None:
    """The names of all channels, as workers have written them down. None means that none has, or no answer."""
    return look(settings, find_channel_names)


def with_rosters(settings: Settings, in_use: PolicyInUse, at: datetime) -> PolicyInUse:
    """The policy with who is on call around a moment: with overrides and calendars, if the database answers."""
    policy = in_use.policy
    if not policy.schedules:
        return in_use
    if (found := look(settings, lambda database: find_schedules(database, at, policy))) is not None:
        return replace(in_use, rosters=found.rosters)
    note = "Overrides and calendars were not looked at: the database does not answer"
    return replace(in_use, rosters={name: roster_of(policy, name) for name in policy.schedules}, note=note)


def read_policy_file(file: str, *, channels: Collection[str] | None = None) -> ReadPolicy:
    """Read the policy in a file; `-` is standard input. `channels` are the names of all channels, if they are known.

    Raises:
        BadInput: the file cannot be read.
        BadPolicyFile: it holds no valid policy; the error lists all problems.
    """
    text = read_file(file, MAX_BYTES)
    try:
        found = read_policy(text, channels=channels, checkers=CHECKERS)
    except BadPolicy as error:
        raise BadPolicyFile(file, error) from None
    of_schedules = [
        PolicyProblem(line=None, field=path_of(("schedules", warning.schedule)), message=warning.message)
        for warning in policy_warnings(found.policy, datetime.now(UTC))
    ]
    return replace(found, warnings=(*found.warnings, *of_schedules))


def stored_policy(settings: Settings) -> PolicyInUse:
    """The policy of the store; an empty one where there is none.

    Raises:
        BadPolicy: this version of alert-pipeline cannot read it.
        Unavailable: the database does not answer.
    """
    record = read(settings, find_policy)
    if record is None:
        return PolicyInUse(policy=Policy(), called="no policy")
    policy = parse_policy(record.config).policy
    return PolicyInUse(policy=policy, called=f"the policy, version {record.version}", version=record.version)


def policy_of_file(file: str) -> PolicyInUse:
    """The policy in a file; `-` is standard input.

    Raises:
        BadInput: the file cannot be read.
        BadPolicyFile: it holds no valid policy; the error lists all problems.
    """
    return PolicyInUse(policy=read_policy_file(file).policy, called=file)


def moment_of(text: str | None, option: str) -> datetime:
    """The moment of an option; None means now.

    Raises:
        BadInput: it is no moment.
    """
    now = datetime.now(UTC)
    return now if text is None else parse_moment(text, now, clock_time="next", name=option)


def subjects_of_alert(text: str, *, environment: str) -> list[NamedSubject]:
    """The alerts in a JSON text: labels alone, or a push as its sender sends it.

    Raises:
        BadInput: it is no JSON, or no alert can be read from it.
    """
    try:
        given: object = json.loads(text)
    except (ValueError, RecursionError):
        example = """{"alertname": "DiskFull", "severity": "critical", "team": "db"}"""
        raise BadInput(f"The alert is no JSON; expected its labels, such as '{example}', or a push") from None
    if isinstance(given, dict) and given:
        values = cast("dict[str, Any]", given)
        if all(isinstance(value, str) for value in values.values()):
            return [_of_labels(cast("dict[str, str]", values), environment=environment)]
    return [_of(alert, environment=environment) for alert in parse_push(cast("Any", given)).alerts]


def subjects_of_file(file: str, *, environment: str) -> list[NamedSubject]:
    """The alerts in a file; `-` is standard input.

    Raises:
        BadInput: it cannot be read, or no alert can be read from it.
    """
    return subjects_of_alert(read_file(file, MAX_BYTES).decode("utf-8", "replace"), environment=environment)


def subjects_of_incident(settings: Settings, words: str) -> list[NamedSubject]:
    """The alerts that fire in an incident, or, if none does, those that ended last.

    Raises:
        IncidentNotFound: there is no such incident.
        Unavailable: the database does not answer.
    """

    async def query(tx: AsyncConnection) -> tuple[str, Sequence[Alert]]:
        found = await find_by_words(tx, words)
        return found.environment, (await read_present(tx, found.id)).alerts

    environment, alerts = read(settings, query)
    return [_of(alert, environment=environment) for alert in alerts]


def _of(alert: Alert, *, environment: str) -> NamedSubject:
    return NamedSubject(name=alert.title or alert.name, subject=Subject.of(alert, environment=environment))


def _of_labels(labels: dict[str, str], *, environment: str) -> NamedSubject:
    """An alert of which only the labels are given. A label `source` or `environment` names what the alert has."""
    name = labels.get("alertname") or labels.get("name") or "alert"
    known = {"severity": labels["severity"]} if "severity" in labels else {}
    (alert, *_) = parse_push({"name": name, **known}, source="generic").alerts
    subject = Subject.from_parts(
        labels,
        name=name,
        severity=alert.severity,
        source=labels.get("source", alert.source),
        environment=labels.get("environment", environment),
    )
    return NamedSubject(name=name, subject=subject)
