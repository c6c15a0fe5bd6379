"""The command `alert-pipeline policy test`: the way of an alert through the policy, and whom it reaches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer

from orchestration.alert import Severity
from orchestration.escalation import EscalationProgress, TakenStep
from orchestration.policy.escalating import foreseen, plan
from orchestration.policy.grouping import grouped_by
from orchestration.policy.routing import Decision, Verdict, decide, union
from orchestration.redaction import shown
from orchestration.settings import load_settings
from service.cli.policy_input import (
    NamedSubject,
    PolicyInUse,
    moment_of,
    policy_of_file,
    stored_policy,
    subjects_of_alert,
    subjects_of_file,
    subjects_of_incident,
    with_rosters,
)
from service.cli.terminal import USAGE, Json, as_json, errors, fail, output, show_facts

_MARKS = {Verdict.CHOSEN: "✓", Verdict.MUTED: "-", Verdict.PASSED_ON: "↓", Verdict.NOT_MATCHED: "·"}
_OF_ONE = ("alert", "labels", "grouped_by", "path")


def show_way(
    alert: Annotated[
        str | None, typer.Option(metavar="JSON", help="An alert: its labels, or a push as its sender sends it.")
    ] = None,
    file: Annotated[str | None, typer.Option(help="A JSON file with an alert or a push; - is stdin.")] = None,
    incident: Annotated[
        str | None, typer.Option(help="An incident: its number, or the start of its title. Its firing alerts count.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="The moment, in UTC unless it names a zone: 03:12 is the next one. Default: now.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(metavar="FILE", help="A file with a policy, instead of the stored one; - is stdin.")
    ] = None,
    environment: Annotated[
        str, typer.Option(help="The environment of an alert that does not name its own.")
    ] = "production",
    json: Json = False,
) -> int:
    """Show the way of an alert through the policy, why each route matches or not, and who would be notified.

    Nothing is written and nothing is sent.
    """
    if sum(given is not None for given in (alert, file, incident)) != 1:
        fail("Give one of --alert, --file and --incident", code=USAGE)
    settings, moment = load_settings(), moment_of(at, "--at")
    in_use = with_rosters(settings, stored_policy(settings) if policy is None else policy_of_file(policy), moment)
    if incident is not None:
        subjects = subjects_of_incident(settings, incident)
    elif file is not None:
        subjects = subjects_of_file(file, environment=environment)
    else:
        subjects = subjects_of_alert(alert or "", environment=environment)
    ways = [_Way.of(in_use, [each], moment) for each in subjects]
    together = _Way.of(in_use, subjects, moment)
    if json:
        alerts = [_as_data(way) for way in ways]
        data = {name: value for name, value in _as_data(together).items() if name not in _OF_ONE}
        as_json({"policy_version": in_use.version, "at": moment.isoformat(), "alerts": alerts, "together": data})
    else:
        output.print(f"By {in_use.called}, at {moment:%Y-%m-%d %H:%M} UTC", style="dim")
        for way in ways:
            _show_way(way, with_steps=len(ways) == 1)
        if len(ways) > 1:
            output.print("Together, as one incident", style="bold")
            _show_notified(together)
        if in_use.note:
            errors.print(in_use.note, style="dim")
    return 0


@dataclass(frozen=True, kw_only=True)
class _Way:
    """Alerts of one incident, where the policy sends them, and whom the escalation notifies that they follow."""

    subjects: Sequence[NamedSubject]
    decision: Decision
    severity: Severity
    progress: EscalationProgress | None
    steps: Sequence[TakenStep]
    contacts: Mapping[str, Sequence[str]]
    """Of the people of the steps."""
    grouped_by: Mapping[str, str] | None

    @classmethod
    def of(cls, in_use: PolicyInUse, subjects: Sequence[NamedSubject], at: datetime) -> _Way:
        active = in_use.active
        decision = union([decide(active.policy, each.subject, at) for each in subjects])
        severity = Severity.worst(*(each.subject.severity for each in subjects))
        progress = None if decision.muted_by else plan(active.policy, decision, severity, at)
        steps = [] if progress is None else foreseen(progress, active)
        return cls(
            subjects=subjects,
            decision=decision,
            severity=severity,
            progress=progress,
            steps=steps,
            contacts={person: active.contacts_of(person) for step in steps for person in step.people},
            grouped_by=grouped_by(active.policy, subjects[0].subject) if subjects else None,
        )

    @property
    def followed(self) -> str | None:
        """The name of the escalation that begins."""
        return self.progress.name if self.progress is not None and self.progress.steps else None

    @property
    def not_followed(self) -> list[str]:
        """The names of the escalations that routes name, and that do not begin."""
        return [name for name in self.decision.escalations if name != self.followed]

    @property
    def notified(self) -> str:
        """Who is notified, in words."""
        if self.decision.muted_by:
            return f"nobody now ({self.decision.muted_by})"
        parts = ["the default channels"] if self.decision.is_default else []
        parts += [f"channel {name}" for name in self.decision.channels]
        if self.followed:
            parts.append(f"escalation {self.followed}")
        elif self.progress is not None:
            parts += [_channel(name) for name in self.steps[0].channels]
        return ", ".join(parts) or "nobody"

    @property
    def passed_over(self) -> str | None:
        """The escalations that do not begin, and why, in words."""
        if self.followed:
            reason = f"an incident follows one escalation, here {self.followed}"
        else:
            reason = f"no step for severity {self.severity}"
        return f"escalation {', '.join(self.not_followed)}: {reason}" if self.not_followed else None

    def step_lines(self) -> Iterator[tuple[str, str]]:
        """The steps in words: a label, and whom they notify."""
        if self.progress is None or not self.progress.steps:
            return
        for number, step in enumerate(self.steps, 1):
            label = f"Step {number}" if number < len(self.steps) else "The end"
            if number == len(self.steps) and self.progress.repeat:
                yield "Again", f"all steps, {self.progress.repeat} times" if self.progress.repeat > 1 else "all steps"
            yield label, f"{step.at:%Y-%m-%d %H:%M} UTC: {self._whom(step)}"

    def _whom(self, step: TakenStep) -> str:
        people = [f"{person} ({', '.join(self.contacts[person]) or 'no contact'})" for person in step.people]
        reached = {contact for person in step.people for contact in self.contacts[person]}
        channels = [_channel(name) for name in step.channels if name not in reached]
        return ", ".join([*people, *channels]) + (f"; {step.note}" if step.note else "")


def _channel(name: str | None) -> str:
    return "the default channels" if name is None else f"channel {name}"


def _show_way(way: _Way, *, with_steps: bool) -> None:
    (alert,) = way.subjects
    output.print(alert.name, style="bold")
    for step in way.decision.path:
        called = step.name or step.route
        output.print(
            f"  {'  ' * step.depth}{_MARKS[step.verdict]} {called}: {step.verdict.replace('_', ' ')}, {step.reason}"
        )
    if not way.decision.targets:
        output.print(f"  no route matches{'' if way.decision.path else ': there is none'}")
    _show_notified(way, with_steps=with_steps)
    by = way.grouped_by
    said = None if by is None else ", ".join(f"{label}={shown(value)}" for label, value in by.items())
    show_facts({"Pipeline": way.decision.definition, "Incident": said})


def _show_notified(way: _Way, *, with_steps: bool = True) -> None:
    given = way.subjects[0].subject.labels.get("severity") if len(way.subjects) == 1 else None
    read = f" (read from {shown(given)})" if given is not None and given != way.severity else ""
    show_facts({"Severity": f"{way.severity}{read}", "Notified": way.notified, "Not begun": way.passed_over})
    if with_steps:
        for label, said in way.step_lines():
            output.print(f"    {label + ':':<8} {said}")


def _as_data(way: _Way) -> dict[str, Any]:
    decision = way.decision
    steps = [step.model_dump(mode="json", include={"number", "at", "people", "channels", "note"}) for step in way.steps]
    return {
        "alert": way.subjects[0].name if way.subjects else "",
        "labels": dict(way.subjects[0].subject.labels) if way.subjects else {},
        "grouped_by": way.grouped_by,
        "severity": way.severity,
        **decision.model_dump(mode="json"),
        "default_channels": decision.is_default,
        "channels": decision.channels,
        "escalations": [way.followed] if way.followed else [],
        "not_followed": way.not_followed,
        "steps": steps,
        "muted_by": decision.muted_by,
        "definition": decision.definition,
    }
