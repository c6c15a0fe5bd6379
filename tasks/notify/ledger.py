"""Bringing one channel from what it knows to what is true now, on record: look, wait for the turn, send, settle, look
again. No transaction is open while a message is sent."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace

from orchestration.contracts import Delivery
from orchestration.errors import DeliveryFailed, NotSent, Unavailable, error_in_words, is_retryable
from orchestration.message import AskedPauses, Message, NamedChannel
from orchestration.redaction import redact, redact_text
from orchestration.respond_links import LINK
from orchestration.signals import logger
from orchestration.store import channels, deliveries, standings
from orchestration.store.channels import PATIENCE_SECONDS, Turn
from orchestration.store.database import AsyncConnection, Database
from orchestration.store.deliveries import Place, Try
from orchestration.store.standings import Standing
from tasks.notify.message import render_message
from tasks.notify.reconcile import BEGINNINGS, Decision, Why, decide, reason_to_say
from tasks.notify.subject import MessageSubject

_PROVIDER_ID_CHARACTERS = 512
_SETTLE_RETRY_SECONDS = 0.2
_SHORT_WAIT_SECONDS = 0.25
"""An attempt waits for a channel that fails if the channel may be tried again within this time. While another message
tries the channel, the attempt looks this often whether it works."""

_MAX_MESSAGES = 5
"""The most messages that one attempt sends to a channel, while the incident goes on changing."""
_MAX_LOOKS = 50

Outside = Callable[[], AbstractAsyncContextManager[None]]
"""Makes a context manager. Within its body the run only waits for somebody outside, so others may use its slot."""

SETTLE_SECONDS = 20.0
"""How long the result of a message that was sent is recorded again and again. Shorter than the default lease."""

PAUSE_PER_BACKOFF = 0.5
"""The first pause of a channel that fails, as a part of the backoff factor: 1 s by default, so that the retry of the
run that met the failure (after 2 s) finds the channel free."""

ALREADY_SENT = "already_sent"


@dataclass(kw_only=True)
class Outcome:
    """The result of one attempt on one channel."""

    delivery: Delivery
    failure: DeliveryFailed | None = None
    texts: list[str] = field(default_factory=list[str])
    """The messages that were sent."""
    silent: bool = False
    """Whether the attempt was only to bring a message up to date that is there."""

    @property
    def notified(self) -> bool:
        """Whether this run has a message on the channel."""
        return self.delivery.status in (deliveries.SENT, ALREADY_SENT)

    @property
    def reached(self) -> bool:
        """Whether the channel knows what is true now, or another run is about to notify it."""
        return self.failure is None and self.delivery.status != Why.GIVEN_UP


@dataclass(frozen=True, kw_only=True)
class Notification:
    """What a notify node has to say, with what is needed to say it on any channel."""

    database: Database
    subject: MessageSubject
    """What was true when the attempt began."""
    reload: Callable[[], Awaitable[MessageSubject]]
    """Reads what is true now."""
    backoff_factor: float
    asked_pauses: AskedPauses
    owner: str
    """The name under which this process has leased the run."""
    lease_seconds: float
    """How long a lease lasts from its renewal."""
    outside: Outside = nullcontext
    """Surrounds each wait for a channel, so that a channel that hangs does not keep the run's slot."""
    redelivery: bool = False
    """Whether the run only repeats what was refused."""
    escalation: bool = False
    """Whether it is a step of an escalation: nothing is sent once somebody has the incident."""
    state_only: bool = False
    """Whether only messages that are there are brought up to date."""
    respond_link: Callable[[MessageSubject, str], str] = lambda _subject, _channel: ""
    """The address on which whoever reads a channel can answer; "" if there is none."""
    tried: Callable[[str, str, str, float], None] = lambda _channel, _driver, _outcome, _duration_ms: None
    """Hears of each try: the channel, its driver, the outcome as in `DeliveryTried`, the milliseconds."""

    def place(self, named: NamedChannel) -> Place:
        """Where the message to this channel is on record."""
        subject, channel = self.subject, named.channel
        return Place(
            run_id=subject.run_id,
            node_id=subject.node_id,
            channel=named.name,
            driver=channel.driver,
            target=channel.target,
            shows_state=channel.shows_state,
            incident_id=subject.incident.id if subject.incident and subject.version is not None else None,
            owner=self.owner,
            lease_seconds=self.lease_seconds,
        )


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What a look at the channel led to: a try, a wait, or that nothing is sent."""

    decision: Decision | None = None
    standing: Standing | None = None
    tried: Try | None = None
    turn: Turn | None = None
    wait_seconds: float | None = None
    """How long this attempt waits before it looks again. None means not at all."""
    sent_as: str | None = None
    """The vendor's id of the message that is out already."""

    @property
    def is_silent(self) -> bool:
        """Whether nobody is notified: a message that is there is only brought up to date."""
        return self.decision is not None and self.decision.why is Why.STATE


async def bring_up_to_date(notification: Notification, named: NamedChannel, *, notes: Sequence[str] = ()) -> Outcome:
    """Notify the channel of what is true now, unless it knows; and again, if that has changed meanwhile.

    `notes` are said in the message: why it goes to this channel.

    Raises:
        RunBusy: another process has the lease of the run.
        Unavailable: the ledger cannot be read or written.
    """
    return await _ChannelLedger(notification, named, notes).bring_up_to_date()


class _ChannelLedger:
    def __init__(self, notification: Notification, named: NamedChannel, notes: Sequence[str]) -> None:
        self._notification = notification
        self._database = notification.database
        self._named = named
        self._notes = tuple(notes)
        self._place = notification.place(named)
        self._pace_seconds = float(getattr(named.channel, "seconds_between_messages", 0.0) or 0.0)
        self._patient_until = time.monotonic() + PATIENCE_SECONDS
        self._texts: list[str] = []

    async def bring_up_to_date(self) -> Outcome:
        subject = self._notification.subject
        for _ in range(_MAX_LOOKS):
            subject, look = await self._look_in_turn(subject)
            if look.tried is not None:
                outcome = await self._send(subject, look, look.tried)
                if outcome.failure is not None or subject.version is None or not await self._is_behind():
                    return outcome
                if len(self._texts) >= _MAX_MESSAGES:
                    break
            elif look.turn is not None:
                return self._outcome(deliveries.FAILED, failure=_not_yet(look.turn))
            elif not _is_overtaken(look, subject):
                return self._nothing_to_send(look)
            subject = await self._reload(subject)
        failure = DeliveryFailed("the incident changes faster than the channel can be notified", retryable=True)
        return self._outcome(deliveries.FAILED, failure=failure)

    async def _reload(self, subject: MessageSubject) -> MessageSubject:
        return subject if subject.version is None else await self._notification.reload()

    async def _look_in_turn(self, subject: MessageSubject) -> tuple[MessageSubject, _Look]:
        """Look at the channel; as long as its turn is only moments away, wait and look again."""
        look = await self._look(subject, None)
        if look.wait_seconds is None:
            return subject, look
        async with self._notification.outside():
            while look.turn is not None and look.wait_seconds is not None:
                await asyncio.sleep(look.wait_seconds)
                subject = await self._reload(subject)
                look = await self._look(subject, look.turn if look.turn.granted else None)
        return subject, look

    async def _look(self, subject: MessageSubject, reserved: Turn | None) -> _Look:
        """Look at the channel and, if something is to be sent and it is its turn, open a try: a short transaction."""
        place = self._place
        async with self._database.transaction() as tx:
            if subject.version is None:
                if (sent := await deliveries.find_sent(tx, place)) is not None:
                    return _Look(sent_as=sent.provider_id)
                needs_turn = await channels.needs_turn(tx, self._named.name)
                return await self._open(tx, _Look(), None, reserved, needs_turn=needs_turn)
            standing = await standings.lock_and_look(tx, place)
            notification = self._notification
            decision = decide(
                standing,
                redelivery=notification.redelivery,
                escalation=notification.escalation,
                state_only=notification.state_only,
            )
            look = _Look(decision=decision, standing=standing, sent_as=standing.provider_id)
            if standing.unfinished:
                overtaken = standing.wanted_version if decision.sends else standing.known_version + 1
                await deliveries.supersede_older(tx, place, overtaken)
            if not decision.sends or standing.version != subject.version:
                return look
            return await self._open(tx, look, standing.wanted_version, reserved, needs_turn=standing.needs_turn)

    async def _open(
        self, tx: AsyncConnection, look: _Look, version: int | None, reserved: Turn | None, *, needs_turn: bool
    ) -> _Look:
        # A turn that was reserved is lost if the channel has refused another message since.
        turn = None if needs_turn else reserved
        if turn is None and (needs_turn or self._pace_seconds > 0):
            turn = await channels.reserve_turn(tx, self._named.name, pace_seconds=self._pace_seconds)
            wait = self._seconds_to_wait(turn)
            if wait is None:
                await deliveries.note_wait(tx, self._place, str(_not_yet(turn)), version=version)
            if wait is None or wait > 0 or not turn.granted:
                return replace(look, turn=turn, wait_seconds=wait)
        return replace(look, tried=await deliveries.open_try(tx, self._place, version=version), turn=turn)

    def _seconds_to_wait(self, turn: Turn) -> float | None:
        """How long the attempt waits before it looks again. None means that this is left to another attempt."""
        if turn.granted or turn.wait_seconds <= _SHORT_WAIT_SECONDS:
            return turn.wait_seconds
        patient = turn.after_probe and time.monotonic() < self._patient_until
        return _SHORT_WAIT_SECONDS if patient else None

    async def _send(self, subject: MessageSubject, look: _Look, tried: Try) -> Outcome:
        """Send one message, and record what became of it."""
        message: Message | None = None
        failure: DeliveryFailed | None = None
        started = time.perf_counter()
        try:
            known = {"idempotency_key": tried.key, "thread": _thread(look), "silent": look.is_silent}
            message = self._render(subject, look).model_copy(update=known)
            async with self._notification.outside():
                self._obey_pause()
                delivery = _storable(await self._named.channel.send(message), self._named)
        except Exception as error:  # noqa: BLE001 - a bug in one channel must not stop the other channels
            failure = _failure(self._named, error)
            if failure.retry_after_seconds is not None:
                pause = min(failure.retry_after_seconds, channels.LONGEST_RETRY_AFTER_SECONDS)
                self._notification.asked_pauses.note(self._named.name, pause)
            delivery = self._delivery(deliveries.FAILED, error=redact_text(str(failure)))
        elapsed_ms = (time.perf_counter() - started) * 1000
        self._notification.tried(self._named.name, delivery.driver, _outcome_of(failure), elapsed_ms)
        if failure is None and message is not None:
            self._texts.append(_text_to_keep(message))
        await self._record(tried, delivery, failure, message, look.turn)
        return Outcome(delivery=delivery, failure=failure, texts=self._texts, silent=look.is_silent)

    def _obey_pause(self) -> None:
        """
        Raises:
            NotSent: the channel has asked another message to wait since this one's turn came.
        """
        if seconds := self._notification.asked_pauses.seconds_left(self._named.name):
            raise _not_yet(Turn(granted=False, wait_seconds=seconds, paused=True))

    def _render(self, subject: MessageSubject, look: _Look) -> Message:
        subject = replace(subject, is_edited=self._named.channel.shows_state)
        if url := self._notification.respond_link(subject, self._named.name):
            subject = replace(subject, pages={**subject.pages, LINK: url})
        if look.decision is None or look.standing is None:
            return render_message(replace(subject, notes=self._notes))
        return render_message(
            replace(
                subject,
                notes=self._notes,
                reason=reason_to_say(look.decision, look.standing, subject.reason, subject.ended),
                began_and_ended=look.decision.why is Why.BEGAN_AND_ENDED,
            )
        )

    async def _record(
        self, tried: Try, delivery: Delivery, failure: DeliveryFailed | None, message: Message | None, turn: Turn | None
    ) -> None:
        """Record the result of a try. If the database is down, retry for up to `SETTLE_SECONDS`.

        Raises:
            Unavailable: the database is still down. The next attempt sends the message again, under the same key.
        """
        reserved = turn.reserved_until if turn else None
        pause = self._notification.backoff_factor * PAUSE_PER_BACKOFF
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            try:
                async with self._database.statement() as tx:
                    if failure is not None or message is None:
                        failed = failure or DeliveryFailed("nothing was sent", retryable=True)
                        await deliveries.settle_failed(
                            tx, tried, delivery, failed, pause_seconds=pause, reserved_until=reserved
                        )
                    else:
                        await deliveries.settle_sent(
                            tx,
                            tried,
                            delivery,
                            told=message.status,
                            severity=message.severity,
                            silent=message.silent,
                            reserved_until=reserved,
                        )
                return
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_SETTLE_RETRY_SECONDS)

    async def _is_behind(self) -> bool:
        """Whether the incident has changed while the message was sent. Meanwhile other runs left that to this one."""
        async with self._database.statement() as tx:
            return await standings.is_behind(tx, self._place)

    def _nothing_to_send(self, look: _Look) -> Outcome:
        sent_by_run = look.standing is None or look.standing.sent_by_run
        status = deliveries.SENT if self._texts else ALREADY_SENT
        if not sent_by_run and look.decision is not None:
            status = str(look.decision.why)
        return self._outcome(status, provider_id=look.sent_as)

    def _outcome(
        self, status: str, *, provider_id: str | None = None, failure: DeliveryFailed | None = None
    ) -> Outcome:
        error = None if failure is None else redact_text(str(failure))
        delivery = self._delivery(status, error=error).model_copy(update={"provider_id": provider_id})
        return Outcome(delivery=delivery, failure=failure, texts=self._texts)

    def _delivery(self, status: str, *, error: str | None = None) -> Delivery:
        driver = self._named.channel.driver
        return Delivery(driver=driver, provider=driver, channel=self._named.name, status=status, error=error)


def _outcome_of(failure: DeliveryFailed | None) -> str:
    if failure is None:
        return "sent"
    if isinstance(failure, NotSent):
        return "postponed"
    return "failed" if failure.retryable else "refused"


def _is_overtaken(look: _Look, subject: MessageSubject) -> bool:
    """Whether the incident has changed since it was read, so that there is something else to say."""
    standing, decision = look.standing, look.decision
    return standing is not None and decision is not None and decision.sends and standing.version != subject.version


def _thread(look: _Look) -> str | None:
    """What the channel needs to add to its messages about this episode. None means that it was sent none."""
    if look.standing is None or look.decision is None or look.decision.why in BEGINNINGS:
        return None
    return look.standing.thread


def _text_to_keep(message: Message) -> str:
    """The text as it is stored, without the link with which whoever may read it could answer."""
    url = message.links.get(LINK)
    return message.text.replace(url, "…") if url else message.text


def _not_yet(turn: Turn) -> NotSent:
    """The failure of a message that the channel may not be sent yet."""
    said = "it has asked to be left alone" if turn.paused else "other messages come before this one"
    said = f"it failed ({turn.error})" if turn.failing else said
    return NotSent(
        f"nothing is sent for another {turn.wait_seconds:.1f} s: {said}",
        retryable=True,
        retry_after_seconds=turn.wait_seconds,
    )


def _storable(delivery: Delivery, named: NamedChannel) -> Delivery:
    """The delivery under the channel's own name, with the vendor's answer redacted and shortened, so that the row
    can always be written: a message that was sent and not recorded would be sent again."""
    provider_id = delivery.provider_id and redact_text(delivery.provider_id, limit=_PROVIDER_ID_CHARACTERS)
    response = {name: redact(value) for name, value in delivery.response.items()}
    return delivery.model_copy(update={"channel": named.name, "provider_id": provider_id, "response": response})


def _failure(named: NamedChannel, error: Exception) -> DeliveryFailed:
    if isinstance(error, DeliveryFailed):
        return error
    stack = "".join(traceback.format_exception(error))
    logger.error("Channel %s raised an unexpected error: %s", named.name, redact_text(stack))
    said = error_in_words(type(error).__name__, redact_text(str(error)))
    return DeliveryFailed(said, retryable=is_retryable(error), perhaps_accepted=True)
