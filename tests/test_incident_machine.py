"""Whatever senders, channels, workers and people do, and in whatever order: what the channels were sent last is true,
nothing contradicts what was sent before it, nobody is notified twice, and nothing stays unsaid."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from sqlalchemy import text

from orchestration.alert import Severity
from orchestration.engine.run import Services
from orchestration.errors import IllegalTransition, PipelineError, Unavailable
from orchestration.requests import RunRequest
from orchestration.settings import Settings
from orchestration.signals import Signals, logger
from orchestration.store import actions, claims
from orchestration.store.actions import Actor, Via
from orchestration.store.database import Database, migrate
from service.worker.breaker import Breaker
from service.worker.executor import RunExecutor
from service.worker.outages import look_after_channels
from tasks.analyze.local import LocalAnalysis
from tasks.ingest.inbox import PushMetadata, accept
from tasks.kinds import KINDS
from tests.incident_model import Key, Truth
from tests.incident_senders import FIXED_SEVERITY, GROUPING, VENDORS, Monitored, Push, said_of
from tests.incident_world import (
    MoodyChannel,
    MoodyChannels,
    MortalDatabase,
    Worker,
    current_worker,
    empty,
    let_pass,
    version_of,
)
from tests.stack_fixtures import settings_for

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ADA = Actor(by="ada", via=Via.CLI)
SEVERITIES = list(Severity)
executed: Counter[str] = Counter()
"""How often each rule was executed."""

numbers = st.integers(0, 3)


class Machine(RuleBasedStateMachine):
    """Drives the product and the model side by side."""

    loop: asyncio.AbstractEventLoop
    database: Database
    product_settings: Settings
    results: Path

    def __init__(self) -> None:
        super().__init__()
        self.shift = timedelta()
        self.truth = Truth()
        self.monitored: dict[tuple[str, str, int], Monitored] = {}
        self.outbox: list[Push] = []
        self.delivered: list[Push] = []
        self.accepted: dict[Key, list[tuple[str, Push, datetime]]] = {}
        """The runs of each incident key that the model has not recorded yet, in the order of acceptance."""
        self.keys: dict[tuple[str, str], Key] = {}
        self.history_seen = 0
        self.gave_up: set[str] = set()
        self.followed: list[str] = []
        """What the model has recorded, for whoever reads a failure."""
        self.workers: list[Worker] = []
        self.changed = asyncio.Event()
        names = ("chat", "mail", "spare")
        self.channels = MoodyChannels(*(MoodyChannel(name, self.database) for name in names))
        for channel in self.channels.all.values():
            channel.changed = self.changed.set
        self.do(empty(self.database))
        self.services = self._services(self.database)

    # Wiring

    def do(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 60))

    @property
    def now(self) -> datetime:
        return datetime.now(UTC) + self.shift

    def _services(self, database: Database) -> Services:
        return Services(
            database=database,
            signals=Signals([]),
            settings=self.product_settings,
            channels=self.channels,
            analysis=LocalAnalysis(),
            kinds=KINDS,
        )

    def _worker(self, number: int) -> Worker:
        """A living worker."""
        while len(living := [one for one in self.workers if not one.database.dead]) <= number:
            name = f"machine/{len(self.workers)}/1"
            worker = Worker(name, MortalDatabase(self.database, partial(self._bury, name)), None)
            breaker = Breaker()
            breaker.trip("there is no Prefect")
            mirror: Any = None
            worker.executor = RunExecutor(self._services(worker.database), mirror, breaker, self.results)
            self.workers.append(worker)
        return living[number]

    def _bury(self, name: str) -> None:
        for worker in self.workers:
            if worker.name == name:
                for task in worker.tasks:
                    task.cancel()
        self.changed.set()

    async def _claim(self, worker: Worker, limit: int) -> int:
        try:
            async with worker.database.transaction() as tx:
                claimed = await claims.claim_runs(
                    tx, process=worker.name, limit=limit, lease_seconds=30.0, deadline_seconds=30.0
                )
        except Unavailable:
            return 0
        for claim in claimed:
            task = asyncio.create_task(self._execute(worker, claim))
            worker.tasks.add(task)
            task.add_done_callback(worker.tasks.discard)
            if worker.database.dead:
                task.cancel()
        return len(claimed)

    async def _execute(self, worker: Worker, claim: claims.Claim) -> None:
        current_worker.set(worker)
        with suppress(PipelineError, asyncio.CancelledError):
            await worker.executor.execute(claim)

    async def _settle(self) -> None:
        """Wait until every run is over, or hangs in a channel."""
        while True:
            hanging = {one.message.run_id for channel in self.channels.all.values() for one in channel.hanging}
            tasks = {task for worker in self.workers for task in worker.tasks}
            if len(tasks) <= len(hanging) and self.database.engine.pool.checkedout() == 0:  # pyright: ignore
                return
            self.changed.clear()
            waiter = asyncio.create_task(self.changed.wait())
            await asyncio.wait({*tasks, waiter}, return_when=asyncio.FIRST_COMPLETED, timeout=0.01)
            waiter.cancel()

    # What senders do

    def _alert(self, vendor: str, environment: str, number: int) -> Monitored:
        number = number if vendor in GROUPING else number % 2
        place = (vendor, environment, number)
        severity = (Severity.CRITICAL, Severity.WARNING, Severity.CRITICAL, Severity.INFO)[number]
        return self.monitored.setdefault(place, Monitored(*place, severity))

    def _say(self, alert: Monitored, skew: timedelta = timedelta()) -> Push:
        members = [alert]
        if alert.vendor in GROUPING:
            members = [one for one in self.monitored.values() if one.key == alert.key and one.start is not None]
        return said_of(*sorted(members, key=lambda one: one.number), now=self.now, skew=skew)

    @rule(
        vendor=st.sampled_from(VENDORS),
        environment=st.sampled_from(("production", "production", "staging")),
        number=numbers,
        severity=st.sampled_from(SEVERITIES),
        fate=st.sampled_from(("arrives", "arrives", "arrives", "late", "lost")),
        seconds=st.integers(1, 1200),
    )
    def change(self, vendor: str, environment: str, number: int, severity: Severity, fate: str, seconds: int) -> None:
        """Something begins, ends, or gets better or worse."""
        executed["change"] += 1
        alert = self._alert(vendor, environment, number)
        early = alert.start is not None and self.now + timedelta(seconds=seconds) < alert.start + 4 * MINUTE
        self._pass(timedelta(seconds=seconds) + (4 * MINUTE if early else timedelta()))
        if alert.firing and severity is not alert.severity and vendor not in FIXED_SEVERITY:
            alert.severity = severity
        elif alert.firing:
            alert.firing = False
        else:
            alert.firing, alert.start, alert.episode = True, self.now, alert.episode + 1
            alert.severity = alert.severity if vendor in FIXED_SEVERITY else severity
        push = self._say(alert)
        if fate == "arrives":
            self._deliver(push)
        elif fate == "late":
            self.outbox.append(push)

    @precondition(lambda self: any(one.firing for one in self.monitored.values()))
    @rule(pick=st.integers(0, 100), skew=st.integers(0, 100), late=st.booleans())
    def repeat(self, pick: int, skew: int, late: bool) -> None:
        """A sender repeats itself, or the other server of its pair says the same."""
        executed["repeat"] += 1
        firing = [one for one in self.monitored.values() if one.firing]
        push = self._say(firing[pick % len(firing)], timedelta(seconds=skew))
        self.outbox.append(push) if late else self._deliver(push)

    @precondition(lambda self: self.outbox)
    @rule(pick=st.integers(0, 100))
    def arrive(self, pick: int) -> None:
        """Something arrives late."""
        executed["arrive"] += 1
        self._deliver(self.outbox.pop(pick % len(self.outbox)))

    @precondition(lambda self: self.delivered)
    @rule(back=st.integers(1, 6))
    def arrive_again(self, back: int) -> None:
        """Something is delivered once more."""
        executed["arrive_again"] += 1
        self._deliver(self.delivered[-min(back, len(self.delivered))])

    def _deliver(self, push: Push) -> None:
        request = RunRequest(payload=push.body(self.shift), source=push.vendor, environment=push.environment)
        written = self.do(accept(self.services, request, PushMetadata(skip_duplicates=True)))
        self.delivered.append(push)
        (run_id,) = written.run_ids
        if not written.duplicates:
            self.accepted.setdefault(push.key, []).append((run_id, push, self.now))
        self.do(self._note_key(run_id, push))

    async def _note_key(self, run_id: str, push: Push) -> None:
        async with self.database.statement() as tx:
            query = text("select environment, incident_key from pipeline_run where run_id = :id")
            row = (await tx.execute(query, {"id": run_id})).one()
        found = self.keys.setdefault((row[0], row[1]), push.key)
        assert found == push.key, f"{row} is the key of {found} and of {push.key}"

    # What channels do

    @rule(
        name=st.sampled_from(("chat", "chat", "mail", "spare")),
        mood=st.sampled_from(("ok", "ok", "500", "429", "404", "hang", "drop", "reset")),
        retry_after=st.integers(1, 900),
    )
    def mood(self, name: str, mood: str, retry_after: int) -> None:
        """A channel changes its mood."""
        executed["mood"] += 1
        channel = self.channels.all[name]
        channel.mood, channel.retry_after = mood, float(retry_after)

    @precondition(lambda self: any(one.hanging for one in self.channels.all.values()))
    @rule(name=st.sampled_from(("chat", "mail", "spare")), answers=st.booleans())
    def answer(self, name: str, answers: bool) -> None:
        """A channel that hangs answers after all, or its time is over."""
        executed["answer"] += 1
        self.do(self._answer(name, answers))

    async def _answer(self, name: str, answers: bool) -> None:
        for sending in self.channels.all[name].hanging:
            sending.answers = answers
            sending.go.set()
        await asyncio.sleep(0)
        await self._settle()

    # What workers do

    @rule(
        first=st.integers(1, 4),
        second=st.integers(0, 3),
        dies_after=st.none() | st.none() | st.integers(0, 60),
        polls=st.booleans(),
    )
    def work(self, first: int, second: int, dies_after: int | None, polls: bool) -> None:
        """Two workers execute what is due; one of them may die."""
        executed["work"] += 1
        if polls:
            self.do(self._poll())
        self.do(self._work((first, second), dies_after))
        self.check_messages()

    async def _work(self, limits: tuple[int, ...], dies_after: int | None = None) -> int:
        workers = [self._worker(number) for number in range(len(limits))]
        workers[0].database.dies_after = dies_after
        claimed = await asyncio.gather(*(self._claim(one, limit) for one, limit in zip(workers, limits, strict=True)))
        await self._settle()
        workers[0].database.dies_after = None
        return sum(claimed)

    async def _poll(self) -> None:
        """A worker looks after channels, and after runs of workers that are gone."""
        async with self.database.transaction() as tx:
            for worker in self.workers:
                if worker.database.dead:
                    owners = [o for o in await claims.list_lease_owners(tx) if o.startswith(f"{worker.name}/")]
                    await claims.release_leases(tx, owners)
        await look_after_channels(self.services)

    @precondition(lambda self: any(one.hanging for one in self.channels.all.values()))
    @rule(number=st.integers(0, 1))
    def kill(self, number: int) -> None:
        """A worker dies while it waits for a channel."""
        executed["kill"] += 1
        self._worker(number).database.die()
        self.do(self._settle())

    # What people do

    @precondition(lambda self: self.truth.incidents)
    @rule(
        pick=st.integers(0, 100),
        action=st.sampled_from(("acknowledge", "unacknowledge", "resolve", "close", "snooze", "snooze")),
        hours=st.integers(0, 12),
    )
    def act(self, pick: int, action: str, hours: int) -> None:
        """A person acts on an incident."""
        executed["act"] += 1
        self.do(self._act(pick, action, timedelta(hours=hours)))

    async def _act(self, pick: int, action: str, until: timedelta) -> None:
        async with self.database.transaction() as tx:
            ids = list((await tx.execute(text("select id from incident order by id"))).scalars())
            incident_id = str(ids[pick % len(ids)]) if ids else ""
        if not incident_id:
            return
        try:
            async with self.database.transaction() as tx:
                match action:
                    case "acknowledge":
                        await actions.acknowledge(tx, incident_id, ADA, self.product_settings)
                    case "unacknowledge":
                        await actions.unacknowledge(tx, incident_id, ADA, self.product_settings)
                    case "resolve":
                        await actions.resolve(tx, incident_id, ADA)
                    case "close":
                        await actions.close(tx, incident_id, ADA)
                    case _:
                        await actions.snooze(tx, incident_id, ADA, self.product_settings, until=until)
        except IllegalTransition:
            return
        await self._follow()

    # Time

    @rule(span=st.sampled_from((10 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, DAY, 3 * DAY)))
    def wait(self, span: timedelta) -> None:
        """Time passes."""
        executed["wait"] += 1
        self._pass(span)

    def _pass(self, span: timedelta) -> None:
        self.do(self._let_pass(span))

    async def _let_pass(self, span: timedelta) -> None:
        for name in self.channels.all:
            await self._answer(name, False)
        await self._follow()
        await let_pass(self.database, span)
        self.shift += span

    # What has to be true

    async def _follow(self) -> None:
        """The model records what the product has recorded, in the order of the locks."""
        async with self.database.transaction() as tx:
            waiting = set((await tx.execute(text("select run_id from pipeline_run where awaits_ingest"))).scalars())
            query = text(
                """
                select history.id, history.run_id, history.event, history.details, history.incident_id,
                    incident.environment, incident.incident_key
                from history left join incident on incident.id = history.incident_id
                where history.id > :seen order by history.id
                """
            )
            lines = (await tx.execute(query, {"seen": self.history_seen})).mappings().all()
        first: dict[str, int] = {}
        for line in lines:
            self.history_seen = max(self.history_seen, line["id"])
            if line["run_id"] and not line["event"].startswith(("run_", "incident_reminded")):
                first.setdefault(line["run_id"], line["id"])
        stream: list[tuple[int, int, Any]] = [(line["id"], 0, line) for line in lines]
        for key, runs in self.accepted.items():
            position = 0
            while runs and runs[0][0] not in waiting:
                run = runs.pop(0)
                position = max(position, first.get(run[0], position))
                stream.append((position, 1, (key, *run[1:])))
        for _, is_push, item in sorted(stream, key=lambda each: each[:2]):
            if is_push:
                key, push, accepted = item
                self.truth.push(key, list(push.events), accepted=accepted, now=self.now)
                said = [(e.alert[2], e.firing, str(e.severity), e.start, e.at) for e in push.events]
                self.followed.append(f"{self.now:%d %H:%M:%S} {key} {said} -> {self.truth.incidents.get(key)}")
            else:
                self._follow_line(item)

    def _follow_line(self, line: Any) -> None:
        key = self.keys.get((line["environment"], line["incident_key"]))
        if key is None or not self.truth.incidents.get(key):
            return
        incident, details = self.truth.incidents[key][-1], line["details"]
        self.followed.append(f"{self.now:%d %H:%M:%S} {line['incident_id']} {key} {line['event']} {details}")
        match line["event"]:
            case "incident_resolved" if "via" in details:
                incident.end("dismissed")
            case "incident_closed":
                assert incident.status == "resolved"
                incident.status = "closed"
            case "incident_expired":
                assert incident.status == "open"
                assert incident.heard is not None
                assert self.now - incident.heard >= DAY, f"{key} expired after {self.now - incident.heard}"
                incident.end("expired")
            case "incident_reminded":
                assert incident.status == "open", f"{key} was reminded of, and is over"
                incident.snoozed_until = None
                incident.changed()
            case "channel_given_up" if incident.status == "open" and line["run_id"] not in self.gave_up:
                self.gave_up.add(line["run_id"])  # a line for each channel is one change
                incident.changed()
            case "incident_snoozed":
                incident.snoozed_until = datetime.fromisoformat(details["until"]) + self.shift
            case "incident_snooze_ended":
                incident.snoozed_until = None
            case _:
                pass

    def check_messages(self) -> None:
        """No message contradicts an earlier one, and none is sent twice."""
        problems = [problem for channel in self.channels.all.values() for problem in channel.problems]
        assert not problems, problems

    @rule()
    def rest(self) -> None:
        """Every channel works, and everything that is due is executed."""
        executed["rest"] += 1
        self.do(self._rest())

    async def _rest(self) -> None:
        for channel in self.channels.all.values():
            channel.mood = "ok"
        for name in self.channels.all:
            await self._answer(name, True)
        for _ in range(12):
            for _ in range(40):
                await self._poll()
                if not await self._work((8, 8)):
                    break
            else:
                raise AssertionError("there is no end to what is due")
            async with self.database.statement() as tx:
                query = "select count(*) from pipeline_run where reason = 'redelivery' and status = 'pending'"
                if not (await tx.execute(text(query))).scalar_one():
                    break
            await self._let_pass(20 * MINUTE)
        else:
            raise AssertionError("there is no end to redeliveries")
        await self._follow()
        try:
            self.check_messages()
            await self._check_truth()
        except AssertionError as error:
            sent = [
                f"{one.key} {one.message.status} {one.message.severity}"
                for channel in self.channels.all.values()
                for one in channel.accepted
            ]
            raise AssertionError("\n".join([str(error), *self.followed, *sent])) from None

    async def _check_truth(self) -> None:
        async with self.database.statement() as tx:
            query = "select id, environment, incident_key, status, severity, version from incident order by id"
            incidents = (await tx.execute(text(query))).mappings().all()
            query = "select incident_id, channel from incident_channel where given_up_at is not null"
            given_up = {(row[0], row[1]) for row in (await tx.execute(text(query))).all()}
        seen: Counter[Key] = Counter()
        for row in incidents:
            name = f"incident {row['id']} {row['incident_key']}"
            last = {
                channel.name: max(
                    (one for one in channel.accepted if one.key.startswith(f"incident-{row['id']}/")),
                    key=version_of,
                    default=None,
                )
                for channel in self.channels.all.values()
            }
            over = row["status"] in ("resolved", "closed")
            for channel, message in last.items():
                if over and message is not None:
                    assert message.message.status == "resolved", f"{name} is over: {channel} has not heard of it"
                if not over and message is not None and (row["id"], channel) not in given_up:
                    assert message.message.status == "firing", f"{name} fires: {channel} believes that it is over"
            key = self.keys.get((row["environment"], row["incident_key"]))
            if key is None:
                continue
            truth = self.truth.incidents[key][seen[key]]
            seen[key] += 1
            status = "open" if row["status"] == "acknowledged" else row["status"]
            assert status == truth.status, f"{name} is {status}, and should be {truth.status}"
            least, most = truth.versions
            assert least <= row["version"] <= most, f"{name} has version {row['version']}, not {truth.versions}"
            if over:
                continue
            assert row["severity"] == truth.severity, f"{name} is {row['severity']}, not {truth.severity}"
            for channel in self.channels.default:
                message = last[channel]
                if (row["id"], channel) in given_up or truth.hushed:
                    continue
                assert message is not None, f"{name} is open, and {channel} has heard nothing"
                assert version_of(message) == row["version"], f"{name} changed, and {channel} has not heard of it"
                severity = message.message.severity
                assert severity in truth.may_say, f"{name}: {channel} was sent {severity}, not {truth.may_say}"
        assert {key: len(each) for key, each in self.truth.incidents.items()} == dict(seen)

    def teardown(self) -> None:
        try:
            self.do(self._rest())
        finally:
            for channel in self.channels.all.values():
                channel.mood = "ok"
            for worker in self.workers:
                worker.database.die()
            self.do(self._settle())


def test_what_channels_were_sent_last_is_true(postgres_url: str, home: Path, tmp_path: Path) -> None:
    migrate(postgres_url)
    loop = asyncio.new_event_loop()
    Machine.loop, Machine.results = loop, tmp_path
    Machine.product_settings = settings_for(
        home, backoff_factor=0.0, max_retries_per_stage=0, checkers_skip_all=True, duplicate_window_seconds=60.0
    )

    async def opened() -> Database:
        return Database(postgres_url, pool_size=16)

    Machine.database = loop.run_until_complete(opened())
    examples = int(os.environ.get("INCIDENT_MACHINE_EXAMPLES", "22"))
    by_hand = "INCIDENT_MACHINE_EXAMPLES" in os.environ
    profile = settings(
        max_examples=examples,
        stateful_step_count=int(os.environ.get("INCIDENT_MACHINE_STEPS", "30")),
        deadline=None,
        derandomize=not by_hand,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        phases=[Phase.generate] if "INCIDENT_MACHINE_FAST" in os.environ else list(Phase),
    )
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        run_state_machine_as_test(Machine, settings=profile)
    finally:
        logger.setLevel(level)
        sys.stdout.write(f"rules executed: {sum(executed.values())} {dict(executed)}\n")
        loop.run_until_complete(Machine.database.close())
        loop.close()
