"""Which channels a run notifies: those that it names, else those of the policy's route and of the escalation."""

from __future__ import annotations

from dataclasses import dataclass

from orchestration.engine.run import ActiveRun
from orchestration.escalation import progress_of
from orchestration.policy.active import ActivePolicy
from orchestration.states import RunReason
from tasks.notify.subject import MessageSubject


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where the message of a run goes."""

    names: tuple[str | None, ...]
    """Names of channels or drivers. None stands for the default channels."""


def is_escalation(run: ActiveRun) -> bool:
    """Whether the run is a step of an escalation, or sends again what a channel has refused of one."""
    reasons = {run.record.reason, *([run.followed.record.reason] if run.followed else [])}
    return RunReason.ESCALATION in reasons


def route_of(run: ActiveRun, subject: MessageSubject, active: ActivePolicy | None) -> Route:
    """Where the message goes if neither its node nor the run names a channel."""
    incident = subject.incident
    progress = progress_of(incident) if incident else None
    if progress is not None and run.record.reason is RunReason.ESCALATION:
        return Route(names=tuple(dict.fromkeys(name for step in progress.last for name in step.channels)))
    if progress is not None and is_escalation(run):
        # A later step may have been taken since. Whoever knows of the incident is not told again.
        return Route(names=progress.told)
    told = progress.told if progress is not None else ()
    if active is None or incident is None or subject.at is None:
        return Route(names=(None, *told))
    decision = active.route(subject.alerts, environment=incident.environment, at=subject.at)
    chosen: tuple[str | None, ...] = (*([None] if decision.is_default else []), *decision.channels)
    return Route(names=tuple(dict.fromkeys((*chosen, *told))))
