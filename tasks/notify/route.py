"""Which channels a run notifies: those that it names, else those of the policy's route and of the escalation."""

from __future__ import annotations

from orchestration.engine.run import ActiveRun
from orchestration.escalation import progress_of
from orchestration.policy.active import ActivePolicy
from orchestration.states import RunReason
from tasks.notify.subject import MessageSubject


def is_escalation(run: ActiveRun) -> bool:
    """Whether the run is a step of an escalation, or sends again what a channel has refused of one."""
    if run.record.reason.disturbs_nobody:
        return False
    reasons = {run.record.reason, *([run.followed.record.reason] if run.followed else [])}
    return RunReason.ESCALATION in reasons


def route_of(run: ActiveRun, subject: MessageSubject, active: ActivePolicy | None) -> tuple[str | None, ...]:
    """Names of the channels that a message goes to if neither its node nor the run names one.

    None stands for the default channels.
    """
    incident = subject.incident
    progress = progress_of(incident) if incident else None
    if progress is not None and run.record.reason is RunReason.ESCALATION:
        return tuple(dict.fromkeys(name for step in progress.last for name in step.channels))
    if progress is not None and is_escalation(run):
        # A later step may have been taken since. Whoever knows of the incident is not told again.
        return progress.told
    told = progress.told if progress is not None else ()
    if active is None or incident is None or subject.at is None:
        return (None, *told)
    decision = active.route(subject.alerts, environment=incident.environment, at=subject.at)
    chosen: tuple[str | None, ...] = (*([None] if decision.is_default else []), *decision.channels)
    return tuple(dict.fromkeys((*chosen, *told)))
