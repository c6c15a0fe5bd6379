"""The cases on which analyses are judged: files as a person writes them, and the evidence that they make.

A case is a directory of `tests/analysis/cases`; docs/benchmarks.md says what its files hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field

from orchestration.alert import Alert, Incident, IncidentStatus, Severity, UtcDatetime
from orchestration.analysis import AnalysisInput
from orchestration.changes.blame import Dependency
from orchestration.changes.csv_input import read_dependencies, read_series
from orchestration.changes.ranking import rank
from orchestration.changes.series import Table
from orchestration.contracts import (
    Change,
    ChangeEvent,
    Check,
    CheckResult,
    CheckStatus,
    Claim,
    Episode,
    Evidence,
    EvidenceKind,
    Target,
)
from orchestration.evidence import evidence_of
from orchestration.target import OwnHost, target_of
from tasks.ingest.sources import parse_push

CASES = Path(__file__).resolve().parents[1] / "tests" / "analysis" / "cases"

HEALTHY, UNKNOWN = "healthy", "unknown"
CAUSES = (
    *("memory", "disk", "cpu", "network", "process", "dns"),
    *("certificate", "deploy", "dependency", "traffic", "connections", "backlog"),
)
KINDS = (*CAUSES, HEALTHY, UNKNOWN)
"""What an analysis can name: a cause, that all is well, or that it does not know."""


class Group(StrEnum):
    """What makes a case hard."""

    PLAIN = "plain"
    RED_HERRING = "red-herring"
    EVIDENCE_MISSING = "evidence-missing"
    HEALTHY = "healthy"
    OTHER_HOST = "other-host"


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Setting(_File):
    """`case.yaml`: where and when it happens."""

    group: Group
    about: str = Field(description="What the case is, for people.")
    own_host: str = Field(description="The host that runs the pipeline.")
    during: UtcDatetime = Field(description="When the incident begins: the series before are normal.")
    now: UtcDatetime = Field(description="When it is analyzed: later events are not known.")
    entity: str = Field(default="", description="What the alert's own series is of; empty if there is none.")
    metric: str = ""
    runbook: str = ""


class Citation(_File):
    """A piece of evidence that an answer has to cite: its kind, and a word of it."""

    kind: EvidenceKind
    has: str

    def is_met_by(self, evidence: Evidence) -> bool:
        """Whether the evidence is of the kind and has the word."""
        return evidence.kind is self.kind and self.has.casefold() in f"{evidence.about} {evidence.says}".casefold()


class FirstAction(_File):
    """What a person should do first: a pattern, and an action that fits it."""

    matches: re.Pattern[str]
    example: str


class Expected(_File):
    """`answer.yaml`: what a right analysis says."""

    kind: str
    target: str = Field(description="What has to be named as the part that is in trouble; empty if nothing is known.")
    must_cite: list[Citation] = Field(default_factory=list[Citation])
    forbidden: list[str] = Field(default_factory=list[str], description="Causes that must not be named.")
    may_abstain: bool = Field(default=False, description="Whether `unknown` is right as well.")
    first_action: FirstAction


class _History(_File):
    events: list[ChangeEvent] = Field(default_factory=list[ChangeEvent])
    episodes: list[Episode] = Field(default_factory=list[Episode])


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case, read from its directory."""

    name: str
    setting: Setting
    alerts: tuple[Alert, ...]
    checks: list[Check]
    series: Table
    dependencies: Sequence[Dependency] | None
    """Who calls whom; None if that is not known."""
    history: _History
    expected: Expected
    recorded: str
    """What a model has said, in the form that it is asked for."""

    @cached_property
    def target(self) -> Target | None:
        """What the alerts are about."""
        return target_of(self.alerts, OwnHost(self.setting.own_host))

    @property
    def changes(self) -> list[Change]:
        """What is unlike its own past, the series of the likeliest causes first."""
        name = (self.setting.entity, self.setting.metric)
        began = self.setting.during.timestamp()
        normal = {series: [point for point in points if point[0] < began] for series, points in self.series.items()}
        during = {series: [point for point in points if point[0] >= began] for series, points in self.series.items()}
        if not during.get(name):
            return []
        ranked = rank(normal, {series: points for series, points in during.items() if points}, name, self.dependencies)
        return [change for entity in ranked for change in entity.changes]

    @cached_property
    def input(self) -> AnalysisInput:
        """What a provider is given."""
        ok = sum(check.status is CheckStatus.OK for check in self.checks)
        return AnalysisInput(
            incident=_incident(self.alerts, self.setting.during),
            alerts=self.alerts,
            check=CheckResult(
                checks=self.checks,
                checks_run=len(self.checks),
                checks_passed=ok,
                checks_failed=len(self.checks) - ok,
                target=self.target,
                changes=self.changes,
            ),
            events=sorted(
                (event for event in self.history.events if event.at <= self.setting.now),
                key=lambda event: event.at,
                reverse=True,
            ),
            episodes=sorted(self.history.episodes, key=lambda episode: episode.began_at, reverse=True),
            runbook=self.setting.runbook,
        )

    @cached_property
    def evidence(self) -> dict[str, Evidence]:
        """All that is known, by its id."""
        return {piece.id: piece for piece in evidence_of(self.input)}

    def cited(self, claims: list[Claim]) -> list[Evidence]:
        """The evidence that claims cite, as far as it exists."""
        return [self.evidence[one] for claim in claims for one in claim.cites if one in self.evidence]


def cases(root: Path = CASES) -> Iterator[Case]:
    """All cases, by name."""
    return (read_case(directory) for directory in sorted(root.iterdir()) if directory.is_dir())


def read_case(directory: Path) -> Case:
    """The case of a directory.

    Raises:
        ValueError, BadInput: a file is not what it should be.
        OSError: a file is missing.
    """
    series, calls = directory / "series.csv", directory / "dependencies.csv"
    return Case(
        name=directory.name,
        setting=Setting.model_validate(_yaml(directory / "case.yaml")),
        alerts=parse_push(json.loads((directory / "push.json").read_text())).alerts,
        checks=[Check.model_validate(check) for check in cast("list[Any]", _yaml(directory / "checks.yaml"))],
        series=read_series(series.read_bytes(), series.name) if series.exists() else {},
        dependencies=read_dependencies(calls.read_bytes(), calls.name) if calls.exists() else None,
        history=_History.model_validate(_yaml(directory / "history.yaml")),
        expected=Expected.model_validate(_yaml(directory / "answer.yaml")),
        recorded=(directory / "recorded.json").read_text(),
    )


def _yaml(path: Path) -> object:
    return yaml.safe_load(path.read_text())


def _incident(alerts: tuple[Alert, ...], began: UtcDatetime) -> Incident:
    """The incident that the ingest stage opens for these alerts."""
    firing = any(alert.firing for alert in alerts)
    first = alerts[0]
    return Incident(
        id="1",
        incident_key=first.incident_key,
        title=first.title or first.name,
        status=IncidentStatus.OPEN if firing else IncidentStatus.RESOLVED,
        severity=Severity.worst(*(alert.severity for alert in alerts)),
        description=first.description,
        opened_at=first.started_at or began,
    )
