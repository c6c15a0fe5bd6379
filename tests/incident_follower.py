"""Follows what the product records, has the model record the same, and compares the two with what the channels got."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text

from orchestration.alert import Severity
from tests.incident_model import IncidentTruth, Truth
from tests.incident_product import Product, Recorded
from tests.incident_senders import GROUPING, Key, Push
from tests.incident_world import Sending, version_of

DAY = timedelta(days=1)
ACKNOWLEDGED_FOR = timedelta(hours=8)
REMIND = {Severity.CRITICAL: timedelta(hours=1)}
REMIND_OTHERS = timedelta(hours=4)
SLACK = timedelta(minutes=2)
"""How much later or earlier than planned something may be: the machine's own work takes time, too."""

_LINES = text(
    """
    select history.id, history.run_id, history.event, history.details, history.incident_id,
        incident.environment, incident.incident_key
    from history left join incident on incident.id = history.incident_id
    where history.id > :seen order by history.id
    """
)
_RUNS = text(
    """
    select run.run_id, run.reason, incident.environment, incident.incident_key
    from pipeline_run as run left join incident on incident.id = run.incident_id
    where run.run_id = any(:ids) and run.ingest_result is not null
    """
)
_OVER = text(
    """
    select run_id, status,
        (select count(*) from stage_execution where pipeline_run_id = run.id) as attempts
    from pipeline_run as run where status in ('notified', 'skipped', 'failed')
    """
)
_INCIDENTS = text(
    """
    select id, environment, incident_key, status, severity, news_version,
        version - (
            select count(*) from history where incident_id = incident.id and event in (
                'incident_acknowledged', 'incident_unacknowledged', 'incident_snoozed', 'incident_snooze_ended'
            )
        ) as news,
        (select max(sent_at) from incident_channel where incident_id = incident.id) as sent_at,
        (
            select coalesce(array_agg(channel), '{}') from incident_channel
            where incident_id = incident.id and given_up_at is not null
        ) as given_up
    from incident order by id
    """
)


class Follower:
    """The model beside the product."""

    def __init__(self, product: Product, recorded: list[Recorded]) -> None:
        self._product = product
        self._recorded = recorded
        self._recorded_seen = len(recorded)
        self._history_seen = 0
        self._truth = Truth()
        self._accepted: dict[str, tuple[Push, datetime]] = {}
        """The accepted pushes that the model has not recorded yet, by run."""
        self._keys: dict[tuple[str, str], Key] = {}
        self._opened: dict[Key, list[int]] = {}
        """The ids of the incidents of each key, in the order in which they were opened."""
        self._gave_up: set[str] = set()
        self._over: dict[str, tuple[str, int]] = {}
        """The runs that are over, with the number of their attempts."""
        self._quiet: dict[str, int] = {}
        """How many messages there were about an incident when it was snoozed, and all had been said."""
        self._story: list[str] = []

    # What happens

    def accepted(self, run_id: str, push: Push, *, duplicate: bool, stored_key: tuple[str, str]) -> None:
        """A push was accepted. Its sender's group and the product's incident key name the same."""
        found = self._keys.setdefault(stored_key, push.key)
        assert found == push.key, f"{stored_key} is the key of {found} and of {push.key}"
        if not duplicate:
            self._accepted[run_id] = push, self._product.now

    async def acted(self, action: str, incident_id: str, all_said: bool) -> None:
        """A person has acted on an incident."""
        await self.follow()
        self._quiet.pop(incident_id, None)
        if action == "snooze" and all_said:
            self._quiet[incident_id] = self._count_messages(incident_id)

    async def follow(self) -> None:
        """The model records what the product has recorded, in the order of the locks."""
        async with self._product.database.transaction() as tx:
            lines = (await tx.execute(_LINES, {"seen": self._history_seen})).mappings().all()
            new = self._recorded[self._recorded_seen :]
            self._recorded_seen = len(self._recorded)
            found = (await tx.execute(_RUNS, {"ids": [one.run_id for one in new]})).mappings().all()
            over = {row.run_id: (row.status, row.attempts) for row in await tx.execute(_OVER)}
        changed = {run_id: over.get(run_id) for run_id in self._over if over.get(run_id) != self._over[run_id]}
        assert not changed, f"{changed} were over: {[self._over[run_id] for run_id in changed]}"
        self._over = over
        kept = {run["run_id"]: run for run in found}
        stream: list[tuple[int, int, Any]] = [(line["id"], 0, line) for line in lines]
        for one in {one.run_id: one for one in new}.values():  # the last time counts: others were rolled back
            if one.run_id in kept:
                stream.append((one.position, 1, kept[one.run_id]))
        for _, is_run, item in sorted(stream, key=lambda each: each[:2]):
            if is_run:
                self._follow_run(item)
            else:
                self._history_seen = max(self._history_seen, item["id"])
                self._follow_line(item)

    def _follow_run(self, run: Mapping[Any, Any]) -> None:
        if run["run_id"] in self._accepted:
            push, accepted = self._accepted.pop(run["run_id"])
            events, of_all = list(push.events), push.vendor in GROUPING
            self._truth.push(push.key, events, accepted=accepted, now=self._product.now, of_all=of_all)
            said = [(e.alert[2], e.firing, str(e.severity), e.start, e.at) for e in events]
            self._tell(f"{push.key} {said} -> {self._truth.incidents.get(push.key, [None])[-1]}")
        elif run["reason"] == "member_ended" and (key := self._keys.get((run["environment"], run["incident_key"]))):
            for incident in (one for one in self._truth.incidents.get(key, []) if one.unsettled):
                self._truth.settle(incident, self._product.now)

    def _follow_line(self, line: Mapping[Any, Any]) -> None:  # noqa: C901 - a table of events
        key = self._keys.get((line["environment"], line["incident_key"]))
        if key is None:
            return
        # An incident that is closed may be spoken of after the next one of its key was opened.
        opened = self._opened.setdefault(key, [])
        if line["event"] == "incident_opened":
            opened.append(line["incident_id"])
        number = opened.index(line["incident_id"])
        if number >= len(self._truth.incidents.get(key, [])):
            return  # its run follows
        incident, details, now = self._truth.incidents[key][number], line["details"], self._product.now
        self._tell(f"{line['incident_id']} {key} {line['event']} {details}")
        match line["event"]:  # what people do, and what happens by itself
            case "incident_resolved" if "via" in details:
                incident.end("dismissed")
            case "incident_closed":
                assert incident.status == "resolved"
                incident.status = "closed"
            case "incident_expired":
                assert incident.status == "open"
                assert incident.heard is not None
                assert now - incident.heard >= DAY - SLACK, f"{key} expired after {now - incident.heard}"
                incident.end("expired")
            case "incident_reminded":
                self._check_reminder(key, incident, now)
                incident.snoozed_until = incident.acknowledged_until = None
                incident.changed()
            case "channel_given_up" if incident.status == "open" and line["run_id"] not in self._gave_up:
                self._gave_up.add(line["run_id"])  # a line for each channel is one change
                incident.changed()
            case "incident_acknowledged":
                incident.acknowledged_until = now + ACKNOWLEDGED_FOR
            case "incident_unacknowledged":
                incident.acknowledged_until = None
            case "incident_snoozed":
                incident.snoozed_until = datetime.fromisoformat(details["until"]) + self._product.shift
                incident.silent = True
            case "incident_snooze_ended":
                incident.snoozed_until, incident.silent = None, False
            case _:
                pass

    def _check_reminder(self, key: Key, incident: IncidentTruth, now: datetime) -> None:
        assert incident.status == "open", f"{key} was reminded of, and is over"
        for what, until in (("snoozed", incident.snoozed_until), ("acknowledged", incident.acknowledged_until)):
            assert until is None or now >= until - SLACK, f"{key} was reminded of, and is {what} until {until}"

    def _tell(self, what: str) -> None:
        self._story.append(f"{self._product.now:%d %H:%M:%S} {what}")

    # What has to be true

    def check_messages(self) -> None:
        """No message contradicts an earlier one, none is sent twice, and no run breaks off with a surprise."""
        problems = [*self._product.surprises]
        problems += [problem for channel in self._product.channels.all.values() for problem in channel.problems]
        assert not problems, problems

    async def check_truth(self) -> None:
        """Now that all channels work and nothing is left to do: they know what is true."""
        await self.follow()
        try:
            self.check_messages()
            await self._check_incidents()
        except AssertionError as error:
            messages = [
                f"{one.key} {one.message.status} {one.message.severity}"
                for channel in self._product.channels.all.values()
                for one in channel.accepted
            ]
            raise AssertionError("\n".join([str(error), *self._story, *messages])) from None

    async def _check_incidents(self) -> None:
        async with self._product.database.statement() as tx:
            incidents = (await tx.execute(_INCIDENTS)).mappings().all()
        seen: Counter[Key] = Counter()
        for row in incidents:
            name = f"incident {row['id']} {row['incident_key']}"
            self._check_last_word(name, row)
            if (key := self._keys.get((row["environment"], row["incident_key"]))) is None:
                continue
            assert len(self._truth.incidents.get(key, [])) > seen[key], f"{name} should not be there"
            truth = self._truth.incidents[key][seen[key]]
            seen[key] += 1
            self._check_state(name, row, truth)
            if truth.status == "open":
                self._check_what_was_said(name, row, truth)
        assert {key: len(each) for key, each in self._truth.incidents.items()} == dict(seen)

    def _messages(self, incident_id: Any) -> dict[str, list[Sending]]:
        start = f"incident-{incident_id}/"
        channels = self._product.channels.all.values()
        return {one.name: [each for each in one.accepted if each.key.startswith(start)] for one in channels}

    def _count_messages(self, incident_id: str) -> int:
        return sum(len(messages) for messages in self._messages(incident_id).values())

    def _check_last_word(self, name: str, row: Mapping[Any, Any]) -> None:
        """No channel believes that something fires that is over, and none of its own that something is over that fires.

        A channel that only stood in for the others, and was told of the end, need not hear that it has begun again.
        """
        over = row["status"] in ("resolved", "closed")
        for channel, messages in self._messages(row["id"]).items():
            if not messages:
                continue
            says = max(messages, key=version_of).message.status
            if channel in row["given_up"]:
                continue  # it was dead for a day; the history and the next message say so
            if over:
                assert says == "resolved", f"{name} is over: {channel} has not heard of it"
            elif channel in self._product.channels.default:
                assert says == "firing", f"{name} fires: {channel} believes that it is over"

    def _check_state(self, name: str, row: Mapping[Any, Any], truth: IncidentTruth) -> None:
        status = "open" if row["status"] == "acknowledged" else row["status"]
        assert not truth.unsettled, f"{name} does not know that a member of it has ended"
        assert status == truth.status, f"{name} is {status}, and should be {truth.status}"
        least, most = truth.versions
        assert least <= row["news"] <= most, f"{name} had news {row['news']} times, not {truth.versions}"
        if truth.silent and (before := self._quiet.get(str(row["id"]))) is not None:
            assert self._count_messages(str(row["id"])) == before, f"{name} is snoozed, and was spoken of"

    def _check_what_was_said(self, name: str, row: Mapping[Any, Any], truth: IncidentTruth) -> None:
        """Of an open incident each channel knows the latest news, and was reminded in time."""
        assert row["severity"] == truth.severity, f"{name} is {row['severity']}, not {truth.severity}"
        acknowledged = row["status"] == "acknowledged"
        expected = truth.acknowledged_until is not None
        assert acknowledged is expected, f"{name} is {row['status']}, acknowledged until {truth.acknowledged_until}"
        if truth.hushed:
            return
        for channel, messages in self._messages(row["id"]).items():
            if channel not in self._product.channels.default or channel in row["given_up"]:
                continue
            assert messages, f"{name} is open, and {channel} has heard nothing"
            last = max(messages, key=version_of)
            assert version_of(last) >= row["news_version"], f"{name} changed, and {channel} has not heard of it"
            severity = last.message.severity
            assert severity in truth.may_say, f"{name}: {channel} was sent {severity}, not {truth.may_say}"
        if not acknowledged and truth.snoozed_until is None and row["sent_at"] is not None:
            silent_for = self._product.now - row["sent_at"] - self._product.shift
            assert silent_for <= REMIND.get(truth.severity, REMIND_OTHERS) + SLACK, f"{name} is silent for {silent_for}"
