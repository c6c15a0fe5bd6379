"""The story of a run as one Markdown page, for Prefect's artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestration.alert import STORM_KEY
from orchestration.contracts import AnalyzeResult, CheckResult, ConditionResult, IngestResult, Stage
from orchestration.errors import error_in_words
from orchestration.places import place_of
from orchestration.redaction import redact_text
from orchestration.store.attempts import AttemptRecord
from orchestration.store.database import Database, Transaction
from orchestration.store.incidents import get_incident
from orchestration.store.members import Member, list_members
from orchestration.store.records import RunRecord
from orchestration.store.story import Story, all_checks, read_story

_MOST_MEMBERS = 500
_MARKS = {"ok": "✓", "warning": "⚠", "critical": "✗", "unknown": "?"}


async def tell_story(database: Database, run_id: str) -> str:
    """What happened in a run: the alert, the findings, the messages sent, and every attempt."""
    async with database.transaction() as tx:
        story = await read_story(tx, run_id)
        members, count = await _members_of_storm(tx, story.run)
    found = (_checks(story), _analysis(story), _deliveries(story), _attempts(story))
    sections = [_head(story), _members(members, count), *found]
    return redact_text("\n\n".join(section for section in sections if section))


async def _members_of_storm(tx: Transaction, run: RunRecord) -> tuple[list[Member], int]:
    """The alerts of the storm that a run is about, and how many they are."""
    if run.incident_id is None:
        return [], 0
    # A run that nobody pushed knows its incident only.
    key = run.incident_key or (await get_incident(tx, run.incident_id)).incident_key
    return await list_members(tx, int(run.incident_id), _MOST_MEMBERS) if key.startswith(STORM_KEY) else ([], 0)


def _head(story: Story) -> str:
    run = story.run
    ingested = story.output(Stage.INGEST, IngestResult)
    why = run.skip_reason or (ingested.reason if ingested else "")
    facts = {
        "Status": run.status.label + (f" ({why})" if why else ""),
        "Severity": run.severity.value,
        "Source": f"{run.source}, {run.environment}",
        "Incident": run.incident_id or "none",
        "Trace": f"`{run.trace_id}`",
        "Run": f"`{run.run_id}`",
    }
    if run.total_duration_ms is not None:
        facts["Took"] = f"{run.total_duration_ms / 1000:.2f} s"
    if run.last_error_message:
        facts["Last error"] = _cell(error_in_words(run.last_error_type, run.last_error_message))
    return f"# {_cell(run.title or 'Alert')}\n\n{_table(['', ''], facts.items())}"


def _members(members: Sequence[Member], count: int) -> str:
    """The alerts of a storm, the worst first; "" for other incidents."""
    if not members:
        return ""
    shown = [(_cell(one.name), _cell(place_of(one.labels)), one.severity, one.status) for one in members]
    more = f"\n\nand {count - len(shown):,} more" if count > len(shown) else ""
    return f"## Alerts\n\n{_table(['Alert', 'Where', 'Severity', 'Status'], shown)}{more}"


def _checks(story: Story) -> str:
    checked = all_checks(story.outputs(Stage.CHECK, CheckResult))
    if checked is None:
        return ""
    rows = [
        (
            f"{_MARKS[check.status]} {check.name}",
            _cell(check.target),
            check.status,
            _cell(check.message),
            f"{check.duration_ms:.0f} ms",
        )
        for check in checked.checks
    ]
    left_out = [f"- not {', '.join(names)}: {_cell(reason)}" for reason, names in checked.reasons_to_leave_out.items()]
    table = _table(["Check", "Of", "Status", "Finding", "Took"], rows) if rows else ""
    return "\n\n".join(part for part in ("## Checks", table, "\n".join(left_out)) if part)


def _analysis(story: Story) -> str:
    analyzed = story.output(Stage.ANALYZE, AnalyzeResult)
    if analyzed is None:
        return ""
    actions = "\n".join(f"- {_cell(action)}" for action in analyzed.actions)
    cause = f"\n\nProbable cause: {_cell(analyzed.probable_cause)}" if analyzed.probable_cause else ""
    return f"## Analysis\n\n{_cell(analyzed.summary)}{cause}\n\n{actions}"


def _deliveries(story: Story) -> str:
    if not story.deliveries:
        return ""
    rows = [
        (_cell(row.channel), _cell(row.target), row.status, row.tries, _cell(row.error or row.provider_id or ""))
        for row in story.deliveries
    ]
    return f"## Deliveries\n\n{_table(['Channel', 'To', 'Status', 'Tries', ''], rows)}"


def _attempts(story: Story) -> str:
    return f"## Attempts\n\n{_table(['Stage', 'Attempt', 'Status', 'Took', ''], map(_attempt, story.attempts))}"


def _attempt(attempt: AttemptRecord) -> tuple[object, ...]:
    took = "" if attempt.duration_ms is None else f"{attempt.duration_ms:.0f} ms"
    skipped = str((attempt.output_snapshot or {}).get("skipped", ""))
    said = error_in_words(attempt.error_type, attempt.error_message) if attempt.error_type else skipped
    if attempt.stage is Stage.CONDITION and (decided := attempt.result(ConditionResult)) is not None:
        said = f"{decided.expression}: {'yes' if decided.holds else 'no'}"
    return attempt.node_id, attempt.attempt, attempt.status, took, _cell(said)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _cell(text: str) -> str:
    """Somebody's text within a table: no line ends, no bars, no markup."""
    flat = " ".join(text.split())[:500]
    return "".join(f"\\{character}" if character in "|<>`*_[]#\\" else character for character in flat)
