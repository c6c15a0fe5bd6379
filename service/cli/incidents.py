"""`alert-pipeline incidents`: list and show incidents, and act on them."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from orchestration.alert import Incident, IncidentStatus, Severity
from orchestration.errors import BadInput, PipelineError, Unavailable
from orchestration.moments import parse_length, parse_moment
from orchestration.policy.holding import HeldBy
from orchestration.settings import Settings, load_settings
from orchestration.store import actions
from orchestration.store.actions import Actor, Done, Via
from orchestration.store.database import AsyncConnection, Database
from orchestration.store.incident_list import (
    IncidentFilter,
    IncidentSummary,
    find_by_words,
    list_incidents,
    parse_statuses,
    summarize,
)
from orchestration.store.incidents import ChannelRecord, IncidentStory, read_incident
from orchestration.store.open_storms import LabelCount, count_by_label
from orchestration.store.records import HistoryRecord, RunRecord
from orchestration.store.silences import silenced_now
from orchestration.store.standings import wait_for_messages
from service.cli.reader import read, read_at
from service.cli.terminal import USAGE, Json, as_json, errors, fail, output, shortened, show_facts

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Incidents: list and show them, acknowledge, resolve, close and snooze them, add notes.",
)

Which = Annotated[
    str,
    typer.Argument(metavar="INCIDENT", help="Its number, its title, or the start of its title if only one has it."),
]
Several = Annotated[
    list[str], typer.Argument(metavar="INCIDENTS…", help="Their numbers, or the starts of their titles.")
]
By = Annotated[str | None, typer.Option(help="Who does it; by default the name of the user who runs the command.")]

STYLES = {
    IncidentStatus.OPEN: "red",
    IncidentStatus.ACKNOWLEDGED: "yellow",
    IncidentStatus.RESOLVED: "green",
    IncidentStatus.CLOSED: "dim",
}
_SEVERITY_STYLES = {Severity.CRITICAL: "red", Severity.WARNING: "yellow"}
_SHOWN_ALERTS = 20
_SHOWN_LABELS = 12
_SHOWN_HISTORY = 30


@app.command("list")
def show_list(
    status: Annotated[
        str, typer.Option(help="open (those that have not ended), all, acknowledged, resolved or closed.")
    ] = "open",
    severity: Annotated[Severity | None, typer.Option(help="Only incidents of this severity.")] = None,
    environment: Annotated[str | None, typer.Option(help="Only incidents of this environment.")] = None,
    source: Annotated[str | None, typer.Option(help="Only incidents of this source, such as grafana.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many incidents to list.")] = 20,
    json: Json = False,
) -> int:
    """List the newest incidents, by default those that have not ended."""
    wanted = IncidentFilter(statuses=parse_statuses(status), severity=severity, environment=environment, source=source)

    async def query(tx: AsyncConnection) -> tuple[list[IncidentSummary], set[int]]:
        return (await list_incidents(tx, wanted, limit=limit)).incidents, await silenced_now(tx)

    found, silenced = read(load_settings(), query)
    if json:
        as_json([_flat(one) for one in found])
    elif found:
        output.print(_table(found, silenced))
    else:
        output.print("No incidents" if status == "all" else f"No incidents ({status})")
    return 0


@app.command()
def show(incident: Which, json: Json = False) -> int:
    """Show an incident: its alerts, who was notified on which channel, who did what, and what comes next."""

    async def query(tx: AsyncConnection) -> tuple[IncidentSummary, IncidentStory, list[LabelCount]]:
        found = await find_by_words(tx, incident)
        story = await read_incident(tx, int(found.id))
        if story is None:
            raise BadInput(f"Incident {found.id} was deleted just now")
        by_label = await count_by_label(tx, found.id) if found.is_storm else []
        return await summarize(tx, found), story, by_label

    summary, story, by_label = read(load_settings(), query)
    if json:
        labels = {"by_label": [one.model_dump(mode="json") for one in by_label]} if summary.incident.is_storm else {}
        as_json(_flat(summary) | story.model_dump(mode="json", exclude={"incident"}) | labels)
    else:
        _show(summary, story, by_label)
    return 0


@app.command()
def ack(incidents: Several, by: By = None, json: Json = False) -> int:
    """Acknowledge incidents: no reminders.

    An acknowledgement ends when the incident begins anew or gets worse, and after INCIDENT_ACKNOWLEDGE_SECONDS.
    """
    settings = load_settings()
    actor = _actor(by)
    return _act(settings, incidents, lambda tx, found: actions.acknowledge(tx, found, actor, settings), json=json)


@app.command()
def unack(incidents: Several, by: By = None, json: Json = False) -> int:
    """Undo an acknowledgement: reminders go on."""
    settings = load_settings()
    actor = _actor(by)
    return _act(settings, incidents, lambda tx, found: actions.unacknowledge(tx, found, actor, settings), json=json)


@app.command()
def resolve(incidents: Several, by: By = None, json: Json = False) -> int:
    """End incidents, whatever their alerts say. A worker notifies everybody who knows of them."""
    actor = _actor(by)
    return _act(load_settings(), incidents, lambda tx, found: actions.resolve(tx, found, actor), json=json)


@app.command()
def close(incidents: Several, by: By = None, json: Json = False) -> int:
    """Close resolved incidents for good: their alerts open new ones when they fire again. Nobody is notified."""
    actor = _actor(by)
    return _act(load_settings(), incidents, lambda tx, found: actions.close(tx, found, actor), json=json)


@app.command()
def snooze(
    incident: Which,
    lasts: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="For how long, such as 30m, 2h or 1d. 0 ends a snooze.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="MOMENT", help="Until when, such as 2026-12-01T08:00 or 08:00, in UTC."),
    ] = None,
    by: By = None,
    json: Json = False,
) -> int:
    """Send nothing about an incident for some time, unless it gets worse or ends. Then it is spoken of again."""
    if (lasts is None) == (until is None):
        fail("Say how long: --for TIME or --until MOMENT, one of them", code=USAGE)
    ends = (
        parse_length(lasts, name="--for")
        if lasts is not None
        else parse_moment(until or "", datetime.now(UTC), clock_time="next", name="--until")
    )
    settings = load_settings()
    actor = _actor(by)
    return _act(
        settings, [incident], lambda tx, found: actions.snooze(tx, found, actor, settings, until=ends), json=json
    )


@app.command()
def note(
    incident: Which,
    text: Annotated[str, typer.Argument(help="The note, at most 2,000 characters.")],
    by: By = None,
    json: Json = False,
) -> int:
    """Add a note to the history of an incident."""
    actor = _actor(by)
    return _act(load_settings(), [incident], lambda tx, found: actions.note(tx, found, actor, text), json=json)


def _actor(by: str | None) -> Actor:
    return Actor(by=by if by is not None else getpass.getuser(), via=Via.CLI)


def _act(
    settings: Settings,
    incidents: Sequence[str],
    action: Callable[[AsyncConnection, str], Awaitable[Done]],
    *,
    json: bool,
) -> int:
    """Act on each incident, in a transaction of its own. The exit code is 1 if one of them was refused."""

    async def work(database: Database, _: object) -> list[Done | PipelineError]:
        return [await _act_on(database, words, action) for words in dict.fromkeys(incidents)]

    ended = read_at(settings, work)
    if len(ended) == 1 and isinstance(ended[0], PipelineError):
        raise ended[0]
    done = [one for one in ended if isinstance(one, Done)]
    if json:
        found = [one.model_dump(mode="json") for one in done]
        as_json(found[0] if len(incidents) == 1 else found)
    for one in ended:
        if isinstance(one, PipelineError):
            errors.print(Text.assemble(("Error:", "bold red"), f" {one}"))
        elif not json:
            output.print(one.message)
    return int(len(done) < len(ended))


async def _act_on(
    database: Database, words: str, action: Callable[[AsyncConnection, str], Awaitable[Done]]
) -> Done | PipelineError:
    try:
        async with database.transaction() as tx:
            done = await action(tx, (await find_by_words(tx, words)).id)
        await wait_for_messages(database, done.incident.id)
        return done
    except Unavailable:
        raise
    except PipelineError as refusal:
        return refusal


# What is shown


def _flat(summary: IncidentSummary) -> dict[str, Any]:
    own = summary.model_dump(mode="json", exclude={"incident"})
    return summary.incident.model_dump(mode="json") | own


def _table(found: Sequence[IncidentSummary], silenced: set[int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("NUMBER", "STATUS", "SEVERITY", "FIRING", "ENVIRONMENT", "OPENED", "NEXT"):
        table.add_column(title, no_wrap=True, min_width=len(title))
    table.add_column("TITLE", no_wrap=True, min_width=4)
    for one in found:
        incident = one.incident
        table.add_row(
            incident.id,
            Text(_state(incident, silenced), style=STYLES[incident.status]),
            Text(incident.severity.value, style=_SEVERITY_STYLES.get(incident.severity, "")),
            f"{one.firing} of {one.alerts}",
            incident.environment,
            f"{incident.opened_at:%Y-%m-%d %H:%M}",
            f"{one.next_reason} {one.next_due_at:%m-%d %H:%M}" if one.next_reason and one.next_due_at else "-",
            Text(shortened(incident.title)),
        )
    return table


def _state(incident: Incident, silenced: set[int]) -> str:
    """Its status, and what keeps it back: a silence counts from the moment at which somebody adds it."""
    held = str((incident.held or {}).get("by", ""))
    if incident.status.ended and not incident.is_flapping:
        held = ""
    held = HeldBy.SILENCED.value if int(incident.id) in silenced else "" if held == HeldBy.SILENCED else held
    return ", ".join(word for word in (_status(incident), held) if word)


def _status(incident: Incident) -> str:
    by = f" by {incident.acknowledged_by}" if incident.acknowledged_by and incident.acknowledged_at else ""
    if incident.status is IncidentStatus.ACKNOWLEDGED:
        return f"acknowledged{by}"
    return "snoozed" if incident.snoozed_until and incident.status is IncidentStatus.OPEN else incident.status.value


def _show(summary: IncidentSummary, story: IncidentStory, by_label: Sequence[LabelCount]) -> None:
    incident = summary.incident
    output.print(f"#{incident.id} {incident.title}: {incident.status.value}", style=f"bold {STYLES[incident.status]}")
    facts = {
        "Severity": incident.severity.value,
        "Environment": incident.environment,
        "Source": summary.source or None,
        "Key": incident.shown_key,
        "Opened": _utc(incident.opened_at),
        "Heard of": _utc(incident.heard_at),
        "Acknowledged": _done_at(incident.acknowledged_at, incident.acknowledged_by),
        "Snoozed": f"until {_utc(incident.snoozed_until)}" if incident.snoozed_until else None,
        "Kept back": (incident.held or {}).get("why") if incident.is_flapping or not incident.status.ended else None,
        "Resolved": _utc(incident.resolved_at),
        "Closed": _utc(incident.closed_at),
        "Description": incident.description or None,
    }
    show_facts(facts, width=14)
    _section("Next", [_upcoming(run, story, incident) for run in story.upcoming] or ["nothing"])
    if by_label:
        _section("Firing, by label", [_label(one) for one in by_label], _SHOWN_LABELS)
    _section("Alerts", [f"{one.status:<9} {one.severity:<8} {one.name}" for one in story.alerts], _SHOWN_ALERTS)
    _section("Notified", [_channel(one, incident) for one in story.channels] or ["nobody, as far as is known"])
    history = [line for line in reversed(story.history) if line.alert_id is None]
    _section("History", [_event(line) for line in history][-_SHOWN_HISTORY:])


def _label(one: LabelCount) -> str:
    others = f" and {one.different - len(one.most):,} other values" if one.different > len(one.most) else ""
    return f"{one.label}: {', '.join(f'{value} ({count:,})' for value, count in one.most.items())}{others}"


def _section(title: str, lines: Sequence[str], most: int | None = None) -> None:
    output.print(f"  {title}", style="bold")
    for line in lines[:most]:
        output.print(f"    {line}")
    if most is not None and len(lines) > most:
        output.print(f"    and {len(lines) - most} more")


def _upcoming(run: RunRecord, story: IncidentStory, incident: Incident) -> str:
    said = story.timing.note_on(run.reason, incident.severity)
    return f"{_utc(run.due_at)}  {run.reason.value}{f' ({said})' if said else ''}"


def _channel(one: ChannelRecord, incident: Incident) -> str:
    last = f"{one.status or 'a message'} at {_utc(one.sent_at)}" if one.sent_at else "nothing yet"
    state = "" if one.is_current(incident) else ", not up to date"
    failing = f", refused since {_utc(one.failing_since)}" if one.failing_since else ""
    gone = f", given up at {_utc(one.given_up_at)}" if one.given_up_at else ""
    return f"{one.channel} ({one.driver}): {last}{state}{failing}{gone}"


def _event(line: HistoryRecord) -> str:
    change = f", {line.old_status} → {line.new_status}" if line.old_status and line.new_status else ""
    return f"{_utc(line.at)}  {line.in_words}{change}"


def _done_at(at: datetime | None, by: str | None) -> str | None:
    return None if at is None else f"{_utc(at)}{f' by {by}' if by else ''}"


def _utc(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
