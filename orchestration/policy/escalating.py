"""From a policy's escalation to that of one incident, and from a step to the people and channels that it notifies."""

from __future__ import annotations

from datetime import datetime

from orchestration.alert import Severity
from orchestration.escalation import EscalationProgress, EscalationStep, TakenStep
from orchestration.policy.active import ActivePolicy
from orchestration.policy.model import Policy, Step
from orchestration.policy.routing import Decision


def plan(policy: Policy, decision: Decision, severity: Severity, at: datetime) -> EscalationProgress | None:
    """The escalation that an incident of this severity follows, from this moment on.

    This is the first that has a step for the severity. If none has one, and no route names a channel either, it is an
    escalation without steps: its end, which the catch-all channels are told, comes at once. None means that it follows
    none.
    """
    names = decision.escalations
    followed = next((name for name in names if _steps_for(policy, name, severity)), None)
    if followed is None and (not names or decision.channels or decision.is_default):
        return None
    name = followed or names[0]
    steps = _steps_for(policy, name, severity)
    return EscalationProgress(
        name=name,
        began_at=at,
        steps=tuple(_step(step) for step in steps),
        # Steps without any wait would all be due at this moment, again and again.
        repeat=policy.escalations[name].repeat if any(step.wait for step in steps) else 0,
        catch_all=tuple(policy.catch_all),
    )


def _steps_for(policy: Policy, name: str, severity: Severity) -> list[Step]:
    escalation = policy.escalations.get(name)
    return [step for step in escalation.steps if step.counts_for(severity)] if escalation else []


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
    have been told already, and without those the default channels.

    Args:
        step: None means the end of the chain: nobody has acknowledged.
        number: the number of the step.
        at: the moment: it decides who is on call.
        active: the present policy. None means that it was deleted since the escalation began.
        progress: the escalation before the step.
    """
    instead = progress.catch_all or progress.told or (None,)
    if step is None:
        missing = f"the escalation {progress.name} has no step for an incident of this severity"
        note = "nobody has acknowledged it" if progress.steps else missing
        return TakenStep(number=number, at=at, channels=instead, note=note)
    found = {name: active.on_call(name, at) if active else None for name in step.schedules}
    notes = [f"nobody is on call by the schedule {name}" for name, who in found.items() if not (who and who.people)]
    known = [who for who in found.values() if who is not None and who.people]
    people = list(dict.fromkeys([*step.people, *(person for who in known for person in who.people)]))
    contacts = {person: active.contacts_of(person) if active else () for person in people}
    notes += [f"the policy does not say how to reach {person}" for person, by in contacts.items() if not by]
    notes += [] if people or step.schedules or step.channels else ["the step names nobody"]
    reached_by = [contact for by in contacts.values() for contact in by]
    return TakenStep(
        number=number,
        at=at,
        people=tuple(people),
        until=min((who.until for who in known if who.until is not None), default=None),
        time_zone=next((zone.key for name in found if active and (zone := active.zone_of(name))), ""),
        channels=tuple(dict.fromkeys([*step.channels, *reached_by, *(instead if notes else ())])),
        note="; ".join(notes),
    )
