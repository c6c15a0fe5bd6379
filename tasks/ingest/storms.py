"""Storms: many incidents that open on one route at once become one, whose message speaks for all of them.

Before each claim a worker looks whether so many runs wait. If they do, those that would open an incident of their own
become one run of the storm's incident, hundreds in a transaction. From there on the storm is an incident like any
other: its alerts are its members, and it ends with the last of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from pydantic import ValidationError

from orchestration.alert import STORM_KEY, Alert, Severity, title_of
from orchestration.policy.active import ActivePolicy
from orchestration.policy.model import Storm
from orchestration.policy.routing import Decision
from orchestration.reasons import Reason
from orchestration.requests import RunOptions, StoredPush
from orchestration.settings import Settings
from orchestration.signals import Signals, Tags, logger
from orchestration.states import RunReason
from orchestration.store import incidents, open_storms, pushes, storms
from orchestration.store.database import Database, Transaction
from orchestration.store.follow_ups import add_follow_up
from orchestration.store.pushes import NewPush, NewRun
from orchestration.store.records import new_id
from orchestration.store.storms import WaitingRun
from tasks.ingest.incidents import split_by_incident

BATCH = 500
"""How many runs are folded in one transaction."""

_OWN_MESSAGES = 3
"""How many critical incidents have a message of their own: at the beginning of a storm, and later in each of its
windows if no alert of the storm has such a name."""

_NO_OPTIONS = RunOptions()
DEFAULT_ROUTE = "default"


class StormServices(Protocol):
    """What folding needs of a process's services."""

    @property
    def database(self) -> Database: ...

    @property
    def signals(self) -> Signals: ...

    @property
    def settings(self) -> Settings: ...

    async def active_policy(self) -> ActivePolicy | None: ...


Place = tuple[str, str, str]
"""Where a storm can be: environment, source and route."""
Key = tuple[str, str]
"""The environment and the key of an incident."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A run that waits, with what it says."""

    run: WaitingRun
    push: StoredPush
    route: str

    @property
    def place(self) -> Place:
        """Where it would open an incident."""
        return self.run.environment, self.run.source, self.route

    @property
    def alerts(self) -> set[tuple[str, str, str]]:
        """The environments, sources and fingerprints of its alerts."""
        return {(self.run.environment, self.run.source, alert.fingerprint) for alert in self.push.alerts}

    @property
    def names(self) -> set[str]:
        """The names of its alerts."""
        return {alert.name for alert in self.push.alerts}

    @property
    def key(self) -> Key:
        """The incident that it is about."""
        return self.run.environment, self.run.incident_key

    @property
    def firing(self) -> bool:
        """Whether an alert of it fires."""
        return any(alert.firing for alert in self.push.alerts)

    @property
    def severity(self) -> Severity:
        """The worst of its alerts."""
        return Severity.worst(*(alert.severity for alert in self.push.alerts))


def key_of(source: str, route: str) -> str:
    """The incident key of the storm of a source on a route."""
    return f"{STORM_KEY}{source}:{route}"


def route_of(policy: ActivePolicy | None, alerts: Sequence[Alert], environment: str) -> str:
    """The name of the route that alerts take now: of all its targets."""
    if policy is None:
        return DEFAULT_ROUTE
    return _name_of(policy.route(alerts, environment=environment, at=datetime.now(UTC)))


def _name_of(decision: Decision) -> str:
    return ",".join(filter(None, (target.name or target.route for target in decision.targets))) or DEFAULT_ROUTE


@dataclass(frozen=True)
class Folded:
    """What folding has done."""

    seen: int | None = None
    """The number of the latest run that it has seen. None means that it has not looked."""
    more: bool = False
    """Whether there may be more to fold."""
    storm: bool = False
    """Whether there is a storm."""


async def fold_storms(services: StormServices) -> Folded:
    """Fold one batch of waiting runs, if there is a storm.

    Raises:
        Unavailable: the database does not answer.
    """
    async with services.database.statement() as tx:
        backlog = await storms.look(tx)
    if backlog.is_alone:
        return Folded(backlog.latest)  # the policy is read as late as possible
    policy = await services.active_policy()
    rule = Storm() if policy is None else policy.policy.timing.storm
    if not rule:
        return Folded()
    async with services.database.transaction() as tx:
        opened = await storms.count_opened(tx, rule.window)
        is_storm = backlog.is_open or backlog.runs + opened.total() > rule.threshold
        # If another process folds already, what it has locked is not claimed.
        if not is_storm or not await storms.lock_storms(tx):
            return Folded(backlog.latest, storm=is_storm)
        limit = min(max(BATCH, rule.threshold + 1), storms.MOST_READ)
        runs = await storms.list_waiting(tx, limit)
        waiting, repeats = await asyncio.to_thread(_read, runs, policy)
        folded = await _fold_batch(tx, waiting, rule, opened)
    _signal(services.signals, folded)
    # What waits behind a full batch, or repeats an alert of it, may belong to the storm. If nothing of the batch does,
    # nothing waits for it; nor does it for a few alerts that come again and again.
    if folded and 0 < len(repeats) <= len(folded):
        return Folded(repeats[0] - 1, more=True, storm=True)
    more = bool(folded) and len(runs) == limit
    return Folded(runs[-1].id if more else backlog.latest, more=more, storm=True)


def _read(runs: Sequence[WaitingRun], policy: ActivePolicy | None) -> tuple[list[Waiting], list[int]]:
    """What the runs say, and the numbers of those that repeat an alert, which are for the next batch.

    From such a run on its key is for the next batch, and from one that says something special it is left alone.
    """
    found: list[Waiting] = []
    left, seen, repeats = set[tuple[str, str]](), set[tuple[str, str, str]](), list[int]()
    for run in runs:
        key = (run.environment, run.incident_key)
        one = None if key in left else _read_one(run, policy)
        is_repeat = one is not None and not seen.isdisjoint(one.alerts)
        if is_repeat:
            repeats.append(run.id)
        if one is None or is_repeat:
            left.add(key)
            continue
        seen |= one.alerts
        found.append(one)
    return found, repeats


def _read_one(run: WaitingRun, policy: ActivePolicy | None) -> Waiting | None:
    """The run, if it can be folded: its alerts are all that it is about."""
    try:
        push = StoredPush.model_validate(run.payload)
        options = RunOptions.model_validate(run.options)
    except ValidationError as error:
        logger.error("Run %s cannot be read, it is not folded: %d problems", run.run_id, error.error_count())
        return None
    if options != _NO_OPTIONS or not push.alerts or push.omitted or push.all_resolved or push.errors:
        return None
    if policy is None:
        return Waiting(run=run, push=push, route=DEFAULT_ROUTE)
    decision = policy.route(push.alerts, environment=run.environment, at=datetime.now(UTC))
    return None if decision.definition else Waiting(run=run, push=push, route=_name_of(decision))


async def _fold_batch(
    tx: Transaction, waiting: Sequence[Waiting], rule: Storm, opened: Mapping[Place, int]
) -> list[Waiting]:
    """Write the runs of storms. Returns the runs that are over."""
    ended = [alert.fingerprint for one in waiting for alert in one.push.alerts if not alert.firing]
    hot = await storms.list_hot(tx, rule.threshold, rule.window)
    critical = {alert.name for one in waiting if one.severity is Severity.CRITICAL for alert in one.push.alerts}
    chosen, alone = choose(
        waiting,
        rule,
        opened=opened,
        hot=hot,
        names=await storms.names_in_storms(tx, critical) if critical and any(hot.values()) else {},
        known=await storms.list_open(tx, [one.key for one in waiting]),
        members=await storms.members_of_storms(tx, ended),
    )
    await storms.leave_alone(tx, [one.run for one in alone])
    opened_storms = await storms.list_open(tx, list(chosen))
    return [one for storm, group in chosen.items() for one in await _fold(tx, storm, group, opened_storms.get(storm))]


def choose(
    waiting: Sequence[Waiting],
    rule: Storm,
    *,
    opened: Mapping[Place, int],
    hot: Mapping[Key, bool],
    names: Mapping[Key, Collection[str]],
    known: Collection[Key],
    members: Mapping[tuple[str, str, str], str],
) -> tuple[Mapping[Key, list[Waiting]], list[Waiting]]:
    """The runs that become one run of a storm, by the key of the storm, and those with a message of their own. Pure.

    Both are in the order of acceptance. The first few critical incidents of a storm have a message of their own, and
    later those that are unlike it, a few in each window.

    Args:
        waiting: the runs that wait, in the order of acceptance.
        rule: when incidents are a storm.
        opened: how many incidents were opened lately.
        hot: the storms that take new members, however few, and whether each is older than a window.
        names: the names of critical runs that alerts of each storm have as well.
        known: the incidents that are open already: news of them is never folded.
        members: the keys of storms in which alerts fire, by environment, source and fingerprint.
    """
    opening: dict[Place, list[Waiting]] = defaultdict(list)
    folded: dict[Key, list[Waiting]] = defaultdict(list)
    alone: list[Waiting] = []
    for one in waiting:
        if one.key in known:
            continue
        if one.firing:
            opening[one.place].append(one)
        elif (key := _storm_of(one, members)) is not None:
            folded[one.run.environment, key].append(one)
    for place, found in opening.items():
        storm = (place[0], key_of(*place[1:]))
        if storm in hot:
            unlike = [one for one in found if hot[storm] and one.names.isdisjoint(names.get(storm, ()))]
            apart = _first_critical(unlike, _OWN_MESSAGES - opened.get(place, 0))
        elif len({one.key for one in found}) + opened.get(place, 0) > rule.threshold:
            apart = _first_critical(found, _OWN_MESSAGES)
        else:
            continue
        alone += [one for one in found if one.key in apart]
        folded[storm] += [one for one in found if one.key not in apart]
    return {storm: sorted(found, key=lambda one: one.run.id) for storm, found in folded.items() if found}, alone


def _storm_of(one: Waiting, members: Mapping[tuple[str, str, str], str]) -> str | None:
    """The storm in which all alerts of a run fire that have ended. None means that there is no such one."""
    place = (one.run.environment, one.run.source)
    keys = {members.get((*place, alert.fingerprint)) for alert in one.push.alerts}
    return keys.pop() if len(keys) == 1 else None


def _first_critical(found: Sequence[Waiting], most: int) -> set[Key]:
    critical = dict.fromkeys(one.key for one in found if one.severity is Severity.CRITICAL)
    return set(list(critical)[: max(most, 0)])


async def _fold(
    tx: Transaction, storm: Key, group: Sequence[Waiting], incident: storms.OpenIncident | None
) -> list[Waiting]:
    """Write the run of a storm. Returns the runs that are over."""
    *others, _ = group
    alerts = [alert for one in group for alert in one.push.alerts]
    payload = StoredPush(alerts=alerts, folded=[one.run.run_id for one in others])
    await storms.fold(
        tx,
        [one.run for one in group],
        key=storm[1],
        payload=payload.model_dump_json().encode(),
        title=title_of_storm(alerts),
        severity=Severity.worst(*(one.severity for one in group)),
        incident=incident,
    )
    return others


def title_of_storm(alerts: Sequence[Alert]) -> str:
    """What a run of a storm is called: the most frequent names of its alerts."""
    names = Counter(alert.name for alert in alerts).most_common(3)
    return f"{len(alerts):,} alerts at once: {', '.join(name for name, _ in names)}"[:200]


def _signal(signals: Signals, folded: Sequence[Waiting]) -> None:
    """Send the signals of each run that is over before it began."""
    for one in folded:
        tags = Tags(
            trace_id=one.run.trace_id,
            run_id=one.run.run_id,
            source=one.run.source,
            alert_fingerprint=one.push.alerts[0].fingerprint,
            environment=one.run.environment,
        )
        signals.emit_skipped(tags, Reason.FOLDED.value)


async def release_calm(services: StormServices) -> None:
    """End the storms that took no new member for long: the few alerts that still fire become incidents of their own.

    Raises:
        Unavailable: the database does not answer.
    """
    policy = await services.active_policy()
    rule = (policy.policy.timing.storm if policy else None) or Storm()
    async with services.database.statement() as tx:
        calm = await open_storms.list_calm(tx, rule.threshold, rule.window)
    for incident_id, environment, key in calm:
        async with services.database.transaction() as tx:
            await incidents.lock_incident(tx, environment, key)
            alerts = await open_storms.leave_storm(tx, incident_id)
            if alerts:
                await pushes.write_pushes(tx, [_push_of(alerts, environment, services.settings)])
            await add_follow_up(tx, incident_id, RunReason.MEMBER_ENDED)


def _push_of(alerts: Sequence[Alert], environment: str, settings: Settings) -> NewPush:
    """The runs with which alerts that have outlived a storm open incidents of their own."""
    trace_id = new_id()
    runs = [
        NewRun(
            run_id=new_id(),
            trace_id=trace_id,
            source=group[0].source,
            environment=environment,
            payload=StoredPush(alerts=group).model_dump_json().encode(),
            incident_key=group[0].incident_key,
            title=title_of(group),
            alert_fingerprint=group[0].fingerprint,
            severity=Severity.worst(*(alert.severity for alert in group)),
            max_retries=settings.max_retries_per_stage,
            firing=True,
            awaits_ingest=True,
        )
        for group in split_by_incident(alerts)
    ]
    return NewPush(runs=tuple(runs))
