"""Whatever senders, channels, workers and people do, and in whatever order: what the channels were sent last is true,
nothing contradicts what was sent before it, nobody is notified twice, and nothing stays unsaid.

Some hundred steps in CI, always the same. By hand as many as you like, always others:

    INCIDENT_MACHINE_EXAMPLES=400 INCIDENT_MACHINE_STEPS=50 uv run pytest -s -n 0 tests/test_incident_machine.py

With INCIDENT_MACHINE_SHRINK=1 a failure is reduced to the fewest steps, which can take minutes.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from orchestration.alert import Severity
from orchestration.engine.run import Services
from orchestration.settings import Settings
from orchestration.signals import logger
from orchestration.store.database import Database, migrate
from service.worker.executor import RunExecutor
from tests.incident_follower import Follower
from tests.incident_product import Product, Recorded, executor_without_prefect, recorded_runs
from tests.incident_senders import FIXED_SEVERITY, GROUPING, VENDORS, Monitored, Push, said_of
from tests.incident_world import JumpingLoop
from tests.stack_fixtures import settings_for

SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SEVERITIES = list(Severity)
FATES = ("arrives", "arrives", "arrives", "late", "lost")
ACTIONS = ("acknowledge", "unacknowledge", "resolve", "close", "snooze", "snooze")
TROUBLES = ("500", "429", "404", "hang", "drop", "reset")
SPANS = (10 * SECOND, 10 * SECOND, MINUTE, MINUTE, 10 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, DAY)
NUMBERS = ((1,), (0, 1), (1, 2), (2, 3), (0, 1, 2, 3))
STEPS_BETWEEN_RESTS = 6
executed: Counter[str] = Counter()
"""How often each rule was executed."""

numbers, picks = st.integers(0, 3), st.integers(0, 100)
a_while = st.none() | st.none() | st.integers(0, 60)
"""After how many steps of its work something happens to a worker; None means never."""


class Machine(RuleBasedStateMachine):
    """Drives the product and the model side by side."""

    loop: JumpingLoop
    database: Database
    product_settings: Settings
    executor: RunExecutor
    recorded: list[Recorded]

    def __init__(self) -> None:
        super().__init__()
        self.product = Product(self.loop, self.database, self.product_settings, self.executor)
        self.follower = Follower(self.product, self.recorded)
        self.channels, self.do = self.product.channels, self.product.do
        self.vendors: list[str] = []
        self.numbers: tuple[int, ...] = ()
        self.troubles: list[str] = []
        self.monitored: dict[tuple[str, str, int], Monitored] = {}
        self.outbox: list[Push] = []
        self.delivered: list[Push] = []
        # What rules are possible depends on these, and never on the product: its workers differ from time to time.
        self.steps_since_rest = 0
        self.may_hang = False
        self.may_sleep = False

    def _count(self, rule: str) -> None:
        executed[rule] += 1
        self.steps_since_rest += 1

    # What senders do

    @initialize(
        vendors=st.lists(
            st.sampled_from((*VENDORS, *GROUPING, "alertmanager", "alertmanager")), min_size=1, max_size=2
        ),
        numbers=st.sampled_from(NUMBERS),
        troubles=st.lists(st.sampled_from(TROUBLES), min_size=1, max_size=3, unique=True),
    )
    def choose(self, vendors: list[str], numbers: tuple[int, ...], troubles: list[str]) -> None:
        """A few alerts of one or two vendors, and a few kinds of trouble: of fewer each more happens to it."""
        self.vendors, self.numbers, self.troubles = vendors, numbers, troubles

    def _alert(self, vendor: str, environment: str, number: int) -> Monitored:
        number = self.numbers[number % len(self.numbers)] if vendor in GROUPING else number % 2
        place = (vendor, environment, number)
        severity = (Severity.CRITICAL, Severity.WARNING, Severity.CRITICAL, Severity.INFO)[number]
        return self.monitored.setdefault(place, Monitored(*place, severity))

    def _say(self, alert: Monitored, group: str, skew: timedelta = timedelta()) -> Push:
        """The push of a group: all that fires in it, and whose end was not said."""
        members = [alert]
        if alert.vendor in GROUPING:
            beside = (one for one in self.monitored.values() if one.environment == alert.environment)
            same = [one for one in beside if one.vendor == alert.vendor and group in one.groups]
            members = [one for one in same if one.firing or group in one.unsaid]
        return said_of(*members, group=group, now=self.product.now, skew=skew)

    @rule(
        which=picks,
        environment=st.sampled_from(("production", "production", "production", "staging")),
        number=numbers,
        severity=st.sampled_from(SEVERITIES),
        fates=st.tuples(st.sampled_from(FATES), st.sampled_from(FATES)),
        seconds=st.integers(0, 1200),
    )
    def change(
        self, which: int, environment: str, number: int, severity: Severity, fates: tuple[str, str], seconds: int
    ) -> None:
        """Something begins, ends, or gets better or worse. Each group that it is in says so, if it arrives."""
        self._count("change")
        vendor = self.vendors[which % len(self.vendors)]
        self._change(self._alert(vendor, environment, number), severity, fates, timedelta(seconds=seconds))

    def _change_one(self, which: int, number: int) -> None:
        """Something changes at this very moment, and is heard of."""
        alert = self._alert(self.vendors[which % len(self.vendors)], "production", number)
        self._change(alert, SEVERITIES[which % len(SEVERITIES)], ("arrives", "arrives"), timedelta())

    def _change(self, alert: Monitored, severity: Severity, fates: tuple[str, str], after: timedelta) -> None:
        vendor = alert.vendor
        if alert.start is not None and not alert.firing and self.product.now + after < alert.start + 4 * MINUTE:
            after += 4 * MINUTE  # or else this could be the firing before, as the other server of a pair sees it
        if after:
            self._pass(after)
        if alert.firing and severity is not alert.severity and vendor not in FIXED_SEVERITY:
            alert.severity = severity
        elif alert.firing:
            alert.end(self.product.now)
        else:
            alert.begin(self.product.now)
            alert.severity = alert.severity if vendor in FIXED_SEVERITY else severity
        for group, fate in zip(alert.groups, fates, strict=False):
            self._send(self._say(alert, group), fate)

    @rule(which=picks, fate=st.sampled_from(FATES))
    def change_all(self, which: int, fate: str) -> None:
        """All alerts of a vendor end that fire, one after the other, or else all begin. Of each group the last push
        says so; the others are lost."""
        self._count("change_all")
        vendor = self.vendors[which % len(self.vendors)]
        alerts = (self._alert(vendor, "production", number) for number in range(4))
        every = list({alert.number: alert for alert in alerts}.values())
        ending = [one for one in every if one.firing]
        last: dict[str, Push] = {}
        for alert in ending or every:
            self._pass(SECOND if ending else 4 * MINUTE)
            (alert.end if ending else alert.begin)(self.product.now)
            last |= {group: self._say(alert, group) for group in alert.groups}
        for push in last.values():
            self._send(push, fate)

    @precondition(lambda self: any(one.firing for one in self.monitored.values()))
    @rule(pick=picks, group=st.integers(0, 1), skew=st.integers(0, 100), late=st.booleans())
    def repeat(self, pick: int, group: int, skew: int, late: bool) -> None:
        """A sender repeats itself, or the other server of its pair says the same."""
        self._count("repeat")
        firing = [one for one in self.monitored.values() if one.firing]
        alert = firing[pick % len(firing)]
        push = self._say(alert, alert.groups[group % len(alert.groups)], timedelta(seconds=skew))
        self._send(push, "late" if late else "arrives")

    @precondition(lambda self: self.outbox)
    @rule(pick=picks)
    def arrive(self, pick: int) -> None:
        """Something arrives late."""
        self._count("arrive")
        self._deliver(self.outbox.pop(pick % len(self.outbox)))

    @precondition(lambda self: self.delivered)
    @rule(back=st.integers(1, 6))
    def arrive_again(self, back: int) -> None:
        """Something is delivered once more."""
        self._count("arrive_again")
        self._deliver(self.delivered[-min(back, len(self.delivered))])

    def _send(self, push: Push, fate: str) -> None:
        if fate == "arrives":
            self._deliver(push)
        elif fate == "late":
            self.outbox.append(push)

    def _deliver(self, push: Push) -> None:
        run_id, duplicate, stored_key = self.do(self.product.accept(push))
        self.delivered.append(push)
        self.follower.accepted(run_id, push, duplicate=duplicate, stored_key=stored_key)

    # What channels do

    @rule(
        name=st.sampled_from(("chat", "chat", "mail", "spare")),
        trouble=st.none() | picks,
        retry_after=st.sampled_from((1, 20, 55, 300, 900)),
    )
    def mood(self, name: str, trouble: int | None, retry_after: int) -> None:
        """A channel changes its mood."""
        self._count("mood")
        self._trouble(name, trouble, retry_after)

    def _trouble(self, name: str, trouble: int | None, retry_after: int = 20) -> None:
        mood = "ok" if trouble is None else self.troubles[trouble % len(self.troubles)]
        channel = self.channels.all[name]
        channel.mood, channel.retry_after = mood, float(retry_after)
        self.may_hang |= mood == "hang"

    @precondition(lambda self: self.may_hang)
    @rule(name=st.sampled_from(("chat", "mail", "spare")), answers=st.booleans())
    def answer(self, name: str, answers: bool) -> None:
        """A channel that hangs answers after all, or its time is over."""
        self._count("answer")
        self.do(self.product.answer(name, answers))

    # What workers do

    @rule(first=st.integers(1, 4), second=numbers, dies_after=a_while, polls=st.booleans())
    def work(self, first: int, second: int, dies_after: int | None, polls: bool) -> None:
        """Two workers execute what is due; one of them may die at any point."""
        self._count("work")
        if polls:
            self.do(self.product.poll())
        self.do(self.product.work(first, second, dies_after=dies_after))
        self.follower.check_messages()

    @rule(first=st.integers(1, 4), second=numbers, sleeps_after=st.integers(0, 40))
    def fall_asleep(self, first: int, second: int, sleeps_after: int) -> None:
        """Two workers execute what is due; one of them falls asleep in the middle, perhaps for long."""
        self._count("fall_asleep")
        self.do(self.product.work(first, second, sleeps_after=sleeps_after))
        self.may_sleep = True

    @precondition(lambda self: self.may_sleep)
    @rule()
    def wake(self) -> None:
        """Whoever is asleep wakes up, and goes on."""
        self._count("wake")
        self.may_sleep = False
        self.do(self.product.wake_all())
        self.follower.check_messages()

    @rule(
        name=st.sampled_from(("chat", "chat", "mail")),
        which=picks,
        number=numbers,
        action=st.none() | st.sampled_from(ACTIONS),
        ending=st.sampled_from(("answers", "answers", "fails", "dies")),
        trouble=st.none() | picks,
    )
    def hang(self, name: str, which: int, number: int, action: str | None, ending: str, trouble: int | None) -> None:
        """While a message is on its way something happens, which another worker records; then the channel answers."""
        self._count("hang")
        self.channels.all[name].mood = "hang"
        self.do(self.product.work(4, 0))
        if action is None:
            self._change_one(which, number)
        else:
            self._act(which, action, 1 + number)
        self._trouble(name, trouble)
        self.do(self.product.work(0, 4))
        self.do(self.product.kill(0) if ending == "dies" else self.product.answer(name, ending == "answers"))
        self.follower.check_messages()

    @rule(
        after=st.integers(0, 40),
        name=st.sampled_from(("chat", "chat", "mail")),
        troubles=st.tuples(st.none() | picks, st.none() | picks),
        which=picks,
        number=numbers,
        answers=st.booleans(),
    )
    def oversleep(
        self, after: int, name: str, troubles: tuple[int | None, int | None], which: int, number: int, answers: bool
    ) -> None:
        """A worker sleeps for longer than its lease, another goes on for it, and then the first one wakes up."""
        self._count("oversleep")
        self._trouble(name, troubles[0])
        self.do(self.product.work(4, 0, sleeps_after=after))
        self._pass(MINUTE)
        self._trouble(name, troubles[1])
        self.do(self.product.poll())
        self.do(self.product.work(4, 0))
        self.do(self.product.wake_all())
        self._change_one(which, number)
        self.do(self.product.work(0, 4))
        self.do(self.product.answer(name, answers))
        self.follower.check_messages()

    @precondition(lambda self: self.may_hang)
    @rule(number=st.integers(0, 1))
    def kill(self, number: int) -> None:
        """A worker dies while it waits for a channel."""
        self._count("kill")
        self.do(self.product.kill(number))

    # What people do

    @precondition(lambda self: self.delivered)
    @rule(pick=picks, action=st.sampled_from(ACTIONS), hours=st.integers(0, 12))
    def act(self, pick: int, action: str, hours: int) -> None:
        """A person acts on an incident."""
        self._count("act")
        self._act(pick, action, hours)

    @precondition(lambda self: self.delivered)
    @rule(pick=picks, hours=st.integers(1, 12), which=picks, number=numbers)
    def snooze(self, pick: int, hours: int, which: int, number: int) -> None:
        """A person snoozes an incident of which all has been said, and then something happens."""
        self._count("snooze")
        self._work_well()
        self._execute_all()
        self._act(pick, "snooze", hours)
        self._change_one(which, number)
        self.do(self.product.work(4, 4))
        self.follower.check_messages()

    @precondition(lambda self: self.delivered)
    @rule(after=st.integers(0, 40), pick=picks, action=st.sampled_from(ACTIONS), hours=st.integers(0, 12))
    def act_meanwhile(self, after: int, pick: int, action: str, hours: int) -> None:
        """A person acts while a worker is in the middle of its runs."""
        self._count("act_meanwhile")
        self.do(self.product.work(3, 0, sleeps_after=after))
        self._act(pick, action, hours)
        self.do(self.product.wake_all())
        self.follower.check_messages()

    def _act(self, pick: int, action: str, hours: int) -> None:
        if (acted := self.do(self.product.act(pick, action, timedelta(hours=hours)))) is not None:
            self.do(self.follower.acted(action, *acted))

    # Time

    @rule(span=st.sampled_from(SPANS), first=numbers, second=numbers)
    def wait(self, span: timedelta, first: int, second: int) -> None:
        """Time passes, and two workers execute what has become due."""
        self._count("wait")
        self._pass(span)
        self.do(self.product.work(first, second))
        self.follower.check_messages()

    def _pass(self, span: timedelta) -> None:
        self.do(self.follower.follow())
        self.product.let_pass(span)

    # What has to be true

    @precondition(lambda self: self.steps_since_rest >= STEPS_BETWEEN_RESTS)
    @rule()
    def rest(self) -> None:
        """Every channel works, nobody is asleep, and everything that is due is executed."""
        self._count("rest")
        self._rest()

    def _rest(self) -> None:
        self.steps_since_rest, self.may_hang, self.may_sleep = 0, False, False
        self._work_well()
        for _ in range(10):
            self._execute_all()
            if not (left := self.do(self.product.left_to_do())):
                break
            self._pass(20 * MINUTE)
        else:
            raise AssertionError(f"there is no end to what waits for its time: {left}")
        self.do(self.follower.check_truth())

    def _work_well(self) -> None:
        for channel in self.channels.all.values():
            channel.mood = "ok"
        self.do(self.product.wake_all())

    def _execute_all(self) -> None:
        for _ in range(20):
            for name in self.channels.all:
                self.do(self.product.answer(name, True))
            self.do(self.product.poll())
            if not self.do(self.product.work(12, 12)):
                return
        raise AssertionError("there is no end to what is due")

    def teardown(self) -> None:
        try:
            self._rest()
        finally:
            for channel in self.channels.all.values():
                channel.mood = "ok"
            for worker in self.product.workers:
                worker.database.die()
            self.do(self.product.settle())


@pytest.fixture
def machine(postgres_url: str, home: Path, tmp_path: Path) -> Iterator[type[Machine]]:
    """The machine on the session's database."""
    migrate(postgres_url)
    # A crash of PostgreSQL does not matter here, and not to wait for its disk makes the machine faster.
    url = f"{postgres_url}{'&' if '?' in postgres_url else '?'}options=-csynchronous_commit%3Doff"
    loop = Machine.loop = JumpingLoop()
    Machine.product_settings = settings_for(
        home, backoff_factor=0.0, max_retries_per_stage=1, checkers_skip_all=True, duplicate_window_seconds=60.0
    )
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    Machine.database = loop.run_until_complete(_open(url))
    Machine.executor = executor_without_prefect(cast("Services", None), tmp_path)
    try:
        with recorded_runs() as Machine.recorded:
            yield Machine
    finally:
        logger.setLevel(level)
        loop.run_until_complete(Machine.database.close())
        loop.close()


async def _open(url: str) -> Database:
    return Database(url, pool_size=16)


@pytest.mark.timeout(300 if "INCIDENT_MACHINE_EXAMPLES" not in os.environ else 7200)
def test_what_channels_were_sent_last_is_true(machine: type[Machine]) -> None:
    by_hand = "INCIDENT_MACHINE_EXAMPLES" in os.environ
    phases = [Phase.generate, Phase.shrink] if "INCIDENT_MACHINE_SHRINK" in os.environ else [Phase.generate]
    profile = settings(
        max_examples=int(os.environ.get("INCIDENT_MACHINE_EXAMPLES", "10")),
        stateful_step_count=int(os.environ.get("INCIDENT_MACHINE_STEPS", "25")),
        deadline=None,
        derandomize=not by_hand,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        phases=phases,
    )
    try:
        run_state_machine_as_test(machine, settings=profile)
    finally:
        sys.stdout.write(f"rules executed: {sum(executed.values())} {dict(executed)}\n")
