"""Notify: each channel of the run is brought from what it knows of the incident to what is true now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from pydantic import Field

from orchestration.alert import AlertStatus, Incident, Severity
from orchestration.contracts import Contract, NotifyResult, Stage, StageContext
from orchestration.engine.run import ActiveRun, NodeKind, Step
from orchestration.errors import BadInput, BadSetting, DeliveryFailed
from orchestration.graph import Name, NodeConfig
from orchestration.message import NamedChannel
from orchestration.policy.active import ActivePolicy
from orchestration.reasons import Reason
from orchestration.redaction import redact_text
from orchestration.requests import RunOptions
from orchestration.signals import DeliveryTried, logger
from orchestration.states import RunReason
from orchestration.store import standings
from orchestration.store.channels import OUTAGE_SECONDS
from orchestration.store.follow_ups import change_state
from tasks.notify.ledger import Notification, Outcome, bring_up_to_date
from tasks.notify.read_subject import read_subject
from tasks.notify.reconcile import Why
from tasks.notify.redelivery import redeliver_later
from tasks.notify.respond import respond_link
from tasks.notify.route import is_escalation, route_of


@dataclass(frozen=True, kw_only=True)
class NotifyConfig:
    """What the message says, and where it goes."""

    notification: Notification
    channels: Sequence[NamedChannel]
    others: Callable[[Collection[str]], Awaitable[Sequence[NamedChannel]]]
    """The channels beside these, for what none of these accepts."""
    catch_all: Sequence[NamedChannel] = ()
    """The channels of the policy that are told what reached nobody, before the others are."""
    contacts: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    """The channels of each person of the policy whom the run notifies on all of them."""
    excepted: Sequence[str] = ()
    """The channels that are left out, because the message is about them."""
    missing: Mapping[str, DeliveryFailed] = field(default_factory=dict[str, DeliveryFailed])
    """The names in the run that no channel has, or that cannot be used, and why."""
    nobody: bool = False
    """Whether the policy says that nobody is notified."""
    state_only: bool = False
    """Whether only messages that are there are brought up to date."""
    settled: bool = False
    """Whether the incident is over, and the run names nobody who was told of it."""


async def notify(_context: StageContext, config: NotifyConfig) -> NotifyResult:
    """Notify every channel at once of what is true now; a channel that knows it already is not notified again.

    Raises:
        DeliveryFailed: at least one channel did not accept it; the others have it. Worth a retry if it is for
            one of those that failed.
        Unavailable: the ledger cannot be read or written.
    """
    if not config.channels and (config.state_only or config.settled):
        late = config.state_only and config.notification.subject.reason == Reason.ANALYSIS
        return NotifyResult(skip_reason=Reason.NOT_EDITABLE if late else Reason.COALESCED)
    if not config.channels and config.nobody:
        return NotifyResult(skip_reason=Reason.NOBODY)
    if not config.channels and not config.missing:
        logger.warning(
            "Run %s: nobody is notified, because no %schannel is set up. Set one up (docs/channels.md); "
            "`alert-pipeline doctor` shows what is missing",
            config.notification.subject.run_id,
            "other " if config.excepted else "",
        )
        return NotifyResult(skip_reason=Reason.NO_OTHER_CHANNEL if config.excepted else Reason.NO_CHANNEL)
    outcomes = await _notify_all(config.notification, config.channels)
    elsewhere, failover_in = await _fail_over(config, outcomes)
    if config.missing or any(outcome.failure for outcome in outcomes):
        raise _failed(config, outcomes, elsewhere, failover_in)
    tried = [*outcomes, *elsewhere]
    sent = [outcome for outcome in tried if outcome.notified]
    texts = [text for outcome in tried for text in outcome.texts]
    return NotifyResult(
        deliveries=[outcome.delivery for outcome in tried],
        provider_ids=[outcome.delivery.provider_id for outcome in sent if outcome.delivery.provider_id],
        messages=list(dict.fromkeys(texts)),
        channels_attempted=len(sent),
        channels_succeeded=len(sent),
        skip_reason=None if sent else _why_silent(outcomes),
    )


def _why_silent(outcomes: Sequence[Outcome]) -> Reason:
    given_up = any(outcome.delivery.status == Why.GIVEN_UP for outcome in outcomes)
    return Reason.GIVEN_UP if given_up else Reason.COALESCED


async def _notify_all(
    notification: Notification, channels: Sequence[NamedChannel], *, notes: Sequence[str] = ()
) -> list[Outcome]:
    endings = await asyncio.gather(
        *(bring_up_to_date(notification, named, notes=notes) for named in channels),
        # An error on one channel must not leave the others at work while the next attempt begins.
        return_exceptions=True,
    )
    if broken := [ended for ended in endings if isinstance(ended, BaseException)]:
        raise broken[0]
    return [ended for ended in endings if not isinstance(ended, BaseException)]


def _failures(config: NotifyConfig, outcomes: Sequence[Outcome]) -> dict[str, DeliveryFailed]:
    """Why the message is not on each of the run's channels."""
    failed = {one.delivery.channel: one.failure for one in outcomes if one.failure is not None}
    return {**config.missing, **failed}


def _failed(
    config: NotifyConfig, outcomes: Sequence[Outcome], elsewhere: Sequence[Outcome], failover_in: float | None
) -> DeliveryFailed:
    """What the attempt fails with: each channel that failed, and when the first of them may be tried again."""
    failures = _failures(config, outcomes)
    wanted = len(outcomes) + len(config.missing)
    others = f" ({wanted - len(failures)} of {wanted} channels have it)" if wanted > 1 else ""
    instead = [one.delivery.channel for one in elsewhere if one.reached]
    notified = f" (notified instead: {', '.join(instead)})" if instead else ""
    retryable = [failure for failure in failures.values() if failure.retryable]
    waits = [failure.retry_after_seconds for failure in retryable]
    known = [seconds for seconds in waits if seconds is not None]
    wait = min(known) if known and len(known) == len(waits) else None
    if wait is not None and failover_in is not None:
        wait = min(wait, failover_in)
    return DeliveryFailed(
        "; ".join(f"{channel}: {failure}" for channel, failure in failures.items()) + others + notified,
        retryable=bool(retryable),
        retry_after_seconds=wait,
    )


async def _fail_over(config: NotifyConfig, outcomes: Sequence[Outcome]) -> tuple[list[Outcome], float | None]:
    """Send the message on other channels, if it has reached nobody, or not a person whom the policy names.

    These are the catch-all channels of the policy. Where none of them accepts what has reached nobody, or there are
    none, all channels are notified.

    Returns the outcomes on these channels, and the seconds until they are due, None if no wait is needed.
    """
    failures = _failures(config, outcomes)
    reached = any(one.reached or one.silent for one in outcomes)
    firing = config.notification.subject.status is AlertStatus.FIRING
    lost = [names for names in config.contacts.values() if names <= failures.keys()] if firing else []
    groups = lost if reached else [frozenset(failures)]
    waits = [await _seconds_until_failover(config, {name: failures[name] for name in group}) for group in groups]
    due = {name for group, wait in zip(groups, waits, strict=True) if wait == 0 for name in group}
    if not due:
        return [], min((wait for wait in waits if wait is not None), default=None)
    asked = {one.delivery.channel for one in outcomes} | config.missing.keys()
    notes = [f"{name} did not accept it: {redact_text(str(failures[name]))}" for name in sorted(due)]
    instead = [named for named in config.catch_all if named.name not in asked]
    elsewhere = await _notify_all(config.notification, instead, notes=notes)
    if not reached and not any(one.reached for one in elsewhere):
        asked |= {named.name for named in instead}
        elsewhere += await _notify_all(config.notification, await config.others(asked), notes=notes)
        if not any(one.reached for one in elsewhere):
            subject = config.notification.subject
            said = "; ".join([*notes, *subject.delivery])
            logger.error("Run %s: the message reached nobody: %s", subject.run_id, said)
    return elsewhere, None


async def _seconds_until_failover(config: NotifyConfig, failures: Mapping[str, DeliveryFailed]) -> float | None:
    """When a message that all of these channels have refused goes to others. None means that it does not.

    It goes at once if all of them refuse it for good, or do not exist. Otherwise it goes only for a critical incident,
    after `OUTAGE_SECONDS`.
    """
    if not any(failure.retryable for failure in failures.values()):
        return 0
    subject = config.notification.subject
    if subject.severity is not Severity.CRITICAL or subject.version is None or subject.incident is None:
        return None
    async with config.notification.database.statement() as tx:
        failing = await standings.failing_channels(tx, subject.incident.id)
    return max(0.0, OUTAGE_SECONDS - min((failing.get(channel, 0.0) for channel in failures), default=0.0))


class NotifyNode(NodeConfig):
    """Where the message goes: channels or drivers. Without any: where the run says, else the default channels."""

    driver: Name | None = None
    channel: Name | None = None
    channels: list[Name] = Field(default_factory=list[str], max_length=50)

    @property
    def names(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys(name for name in (*self.channels, self.channel, self.driver) if name))


async def _set_up(run: ActiveRun, step: Step) -> NotifyConfig:
    if run.record.reason is RunReason.ANALYSIS and run.record.incident_id is not None:
        # Only now, as what others bring up to date before it does not have the model's answer.
        async with run.services.database.transaction() as tx:
            await change_state(tx, int(run.record.incident_id))
    subject, policy = await read_subject(run, step), await run.services.active_policy()
    notification = Notification(
        database=run.services.database,
        subject=subject,
        reload=partial(read_subject, run, step),
        backoff_factor=run.services.settings.backoff_factor,
        outside=partial(run.waits.outside, step.node.id),
        asked_pauses=run.services.asked_pauses,
        owner=run.owner,
        lease_seconds=run.services.settings.lease_seconds,
        redelivery=run.record.reason is RunReason.REDELIVERY,
        escalation=is_escalation(run),
        state_only=run.record.reason.disturbs_nobody,
        respond_link=respond_link(run.services.settings, policy),
        tried=partial(_note_try, run, step),
    )
    asked = cast("NotifyNode", step.config).names or [name for name in [run.record.options.notify_driver] if name]
    if notification.state_only:
        return await _state_only(run, notification, asked)
    names = tuple(asked) or route_of(run, subject, policy)
    excepted = run.record.options.except_channels
    chosen, missing = await _select(run, names)
    owed = await _still_owed(run, subject.incident, missing)
    settled, missing = bool(missing) and not owed, owed
    chosen = [named for named in chosen if named.name not in excepted]
    if not chosen and not missing and excepted:
        chosen = list(await run.services.channels.others(excepted))
    # A channel that was told that the incident fires is told the end too, even if the run leaves it out.
    told = [] if asked else await _told_before(run, subject.incident, [named.name for named in chosen])
    channels = {named.name: named for named in (*chosen, *told)}
    return NotifyConfig(
        notification=notification,
        channels=list(channels.values()),
        others=partial(_others, run),
        catch_all=await _catch_all(run, policy),
        contacts=_contacts(policy, names),
        excepted=excepted,
        missing=missing,
        nobody=not names,
        settled=settled,
    )


def _note_try(run: ActiveRun, step: Step, channel: str, driver: str, outcome: str, duration_ms: float) -> None:
    tried = run.tries.get(step.node.id)
    tags = run.tags(step.node.stage.value, tried.number if tried else 1)
    run.services.signals.note(
        DeliveryTried(
            tags=tags, node=step.node.id, channel=channel, driver=driver, outcome=outcome, duration_ms=duration_ms
        )
    )


async def _catch_all(run: ActiveRun, active: ActivePolicy | None) -> list[NamedChannel]:
    names = active.policy.catch_all if active else ()
    found, _ = await _select(run, [name for name in names if name not in run.record.options.except_channels])
    return found


def _contacts(active: ActivePolicy | None, names: Sequence[str | None]) -> dict[str, frozenset[str]]:
    """The people of the policy all of whose contacts are among these names."""
    people = active.policy.people if active else {}
    return {name: frozenset(one.contacts) for name, one in people.items() if {*one.contacts} <= {*names}}


async def _still_owed(
    run: ActiveRun, incident: Incident | None, missing: Mapping[str, DeliveryFailed]
) -> dict[str, DeliveryFailed]:
    """The channels that do not exist, without those to which nobody owes the end of an incident: it is over, others
    were told of it, and these never were."""
    if incident is None or not missing or not incident.status.ended:
        return dict(missing)
    async with run.services.database.statement() as tx:
        told = await standings.channels_told(tx, incident.id)
    return {name: error for name, error in missing.items() if not told or name in told}


async def _state_only(run: ActiveRun, notification: Notification, asked: Sequence[str]) -> NotifyConfig:
    """Of the channels that have a message about the incident, those that can bring it up to date."""
    incident_id = str(run.record.incident_id)
    async with run.services.database.statement() as tx:
        showing = await standings.channels_showing(tx, incident_id)
    wanted = [name for name in showing if not asked or name in asked]
    found = await _select_known(run, wanted, f"brought up to date about incident {incident_id}")
    channels = [named for named in found if named.channel.shows_state]
    return NotifyConfig(notification=notification, channels=channels, others=partial(_others, run), state_only=True)


async def _select(run: ActiveRun, names: Sequence[str | None]) -> tuple[list[NamedChannel], dict[str, DeliveryFailed]]:
    """The channels with these names, and why each other name has none: a wrong name must not silence the right ones."""
    chosen, missing = list[NamedChannel](), dict[str, DeliveryFailed]()
    for name in names:
        try:
            chosen += await run.services.channels.select(name)
        except (BadInput, BadSetting) as error:
            missing[name or "the default channels"] = DeliveryFailed(str(error), retryable=False)
    return chosen, missing


async def _told_before(run: ActiveRun, incident: Incident | None, names: Collection[str]) -> list[NamedChannel]:
    """The channels beside the run's own whose last message says that the incident fires, which is over now.

    They heard of it because another channel did not work, or because a run named them.
    """
    chosen = run.record.options.defined and not run.record.options.routed
    if incident is None or chosen or not incident.status.ended:
        return []
    async with run.services.database.statement() as tx:
        told = await standings.channels_told_firing(tx, incident.id)
    missing = [name for name in told if name not in names]
    return await _select_known(run, missing, f"told that incident {incident.id} is over")


async def _select_known(run: ActiveRun, names: Sequence[str], what: str) -> list[NamedChannel]:
    """The channels with these names, which a message about the incident has been sent to. Some may not exist now."""
    found: list[NamedChannel] = []
    for name in names:
        try:
            found += [named for named in await run.services.channels.select(name) if named.name == name]
        except (BadInput, BadSetting) as error:
            logger.warning("Channel %s cannot be %s: %s", name, what, error)
    return found


async def _others(run: ActiveRun, names: Collection[str]) -> Sequence[NamedChannel]:
    options: RunOptions = run.record.options
    return await run.services.channels.others([*names, *options.except_channels])


def _silences(result: Contract) -> str | None:
    return result.skip_reason if isinstance(result, NotifyResult) else None


NOTIFY = NodeKind(
    name="notify",
    stage=Stage.NOTIFY,
    config=NotifyNode,
    result=NotifyResult,
    function=notify,
    set_up=_set_up,
    result_ref="notify_output_ref",
    run_ref="notify_output_ref",
    silences=_silences,
    after_failure=redeliver_later,
    notifies=True,
)
