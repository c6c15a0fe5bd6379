"""Runs as a table, for the commands that list them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from orchestration.states import RunStatus
from orchestration.store.records import RunRecord

SHORT = 12
"""Digits of an id in a list: enough to tell runs apart, and commands take them for the whole."""

STYLES = {
    RunStatus.NOTIFIED: "green",
    RunStatus.FAILED: "red",
    RunStatus.RETRYING: "yellow",
    RunStatus.SKIPPED: "dim",
}

_COLUMNS = ("RUN ID", "STATUS", "TRACE ID", "SOURCE", "CREATED", "DURATION", "WHAT")


def run_table(found: Sequence[RunRecord]) -> Table:
    """A row a run. On a narrow terminal the last column gives way, not the ids."""
    rows = [_row(run) for run in found]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, title in enumerate(_COLUMNS):
        widest = max((len(row[place]) for row in rows), default=0)
        table.add_column(title, no_wrap=True, min_width=4 if title == _COLUMNS[-1] else max(len(title), widest))
    for run, row in zip(found, rows, strict=True):
        table.add_row(*(Text(cell, style=STYLES.get(run.status, "") if i == 1 else "") for i, cell in enumerate(row)))
    return table


def status_of(run: RunRecord) -> str:
    """The status, with the reason where there is one."""
    return run.status.value + (f" ({run.skip_reason})" if run.skip_reason else "")


def duration(milliseconds: float | None) -> str:
    """A duration for people."""
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.1f} s"


def _row(run: RunRecord) -> tuple[str, ...]:
    return (
        run.run_id[:SHORT],
        status_of(run),
        run.trace_id if len(run.trace_id) < 2 * SHORT else run.trace_id[:SHORT],
        run.source,
        f"{run.created_at:%Y-%m-%d %H:%M:%S}",
        duration(run.total_duration_ms),
        run.title,
    )
