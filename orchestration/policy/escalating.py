"""From a policy's escalation to that of one incident, and from a step to the people and channels that it notifies."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from orchestration.alert import Severity
from orchestration.escalation import EscalationProgress, EscalationStep, TakenStep
from orchestration.policy.active import ActivePolicy
from orchestration.policy.model import Policy, Step


def plan(policy: Policy, name: str, severity: Severity, at: datetime) -> EscalationProgress | None:
    """The escalation of this name for an incident of this severity, from this moment on.

    None means that the policy has none of this name, or that no step of it counts for the severity.
    """
    escalation = policy.escalations.get(name)
    steps = [step for step in escalation.steps if not step.severity or severity in step.severity] if escalation else []
    if escalation is None or not steps:
        return None
    return EscalationProgress(
        name=name,
        began_at=at,
        steps=tuple(_step(step) for step in steps),
        # Steps without any wait would all be due at this moment, again and again.
        repeat=escalation.repeat if any(step.wait for step in steps) else 0,
        catch_all=tuple(policy.catch_all),
    )


def _step(step: Step) -> EscalationStep:
    return EscalationStep(
        channels=tuple(step.channels),
        schedules=(step.schedule,) if step.schedule else (),
        people=tuple(step.people),
        wait_seconds=step.wait.total_seconds(),
    )


def notified_by(
    step: EscalationStep | None, number: int, at: datetime, active: ActivePolicy | None, progress: EscalationProgress
) -> TakenStep:
    """Whom a step notifies at this moment.

    Whoever cannot be reached is said, and the catch-all channels are told instead; without such a channel those that
    have been told already.

    Args:
        step: None means the end of the chain: nobody has acknowledged.
        number: the number of the step.
        at: the moment: it decides who is on call.
        active: the present policy. None means that it was deleted since the escalation began.
        progress: the escalation before the step.
    """
    instead = progress.catch_all or progress.told
    if step is None:
        return TakenStep(number=number, at=at, channels=instead, note="nobody has acknowledged it")
    notes = list[str]()
    people = list(dict.fromkeys([*step.people, *_on_call(step, at, active, notes)]))
    contacts = list[str]()
    for person in people:
        reached_by = () if active is None else active.contacts_of(person)
        if not reached_by:
            notes.append(f"the policy does not say how to reach {person}")
        contacts += reached_by
    channels = tuple(dict.fromkeys([*step.channels, *contacts, *(instead if notes else ())]))
    return TakenStep(number=number, at=at, people=tuple(people), channels=channels, note="; ".join(notes))


def _on_call(step: EscalationStep, at: datetime, active: ActivePolicy | None, notes: list[str]) -> Iterator[str]:
    for schedule in step.schedules:
        people = () if active is None else active.people_of(schedule, at)
        if not people:
            notes.append(f"nobody is on call by the schedule {schedule}")
        yield from people
