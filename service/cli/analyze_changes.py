"""`alert-pipeline analyze changes`: which part of a system probably began an incident, from two files of series."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from math import isfinite, isinf
from typing import Annotated

import typer
from rich.table import Table

from orchestration.changes.csv_input import MAX_BYTES, read_dependencies, read_series
from orchestration.changes.ranking import Ranked, has_trouble, rank
from orchestration.changes.series import Table as SeriesTable
from orchestration.errors import BadInput
from orchestration.redaction import one_line
from service.cli.terminal import Json, as_json, errors, output, read_file

_SHOWN = 10


def changes(
    normal: Annotated[str, typer.Option(metavar="FILE", help="Series of normal times: CSV, also gzip.")],
    during: Annotated[str, typer.Option(metavar="FILE", help="Series of the incident.")],
    target: Annotated[str, typer.Option(metavar="ENTITY", help="What shows the trouble.")],
    metric: Annotated[str, typer.Option(metavar="NAME", help="In which metric it shows.")],
    dependencies: Annotated[str | None, typer.Option(metavar="FILE", help="CSV: caller, callee.")] = None,
    json: Json = False,
) -> int:
    """Rank what probably began an incident: by what left its own past, and by who depends on whom.

    The files of series have the columns time (Unix seconds), entity, metric and value. More in docs/changes.md.
    """
    past, present = read_series(_read(normal), normal), read_series(_read(during), during)
    for table, called in ((past, normal), (present, during)):
        _say_infinite(table, called)
    _check_target(present, during, target, metric)
    calls = read_dependencies(_read(dependencies), dependencies) if dependencies is not None else None
    ranked = rank(past, present, (target, metric), calls)
    if not has_trouble(past, present, (target, metric)):
        errors.print(
            f"Note: {one_line(metric, 80)} of {one_line(target, 80)} does not leave its normal range in {during}: "
            "there is no trouble to explain, and the order says little"
        )
    if json:
        as_json([{"entity": one.entity, "score": one.score, "why": one.why} for one in ranked])
    else:
        output.print(_table(ranked[:_SHOWN]))
        if len(ranked) > _SHOWN:
            output.print(f"… and {len(ranked) - _SHOWN} more; --json prints all")
    return 0


def _read(name: str) -> bytes:
    content = read_file(name, MAX_BYTES)
    if len(content) > MAX_BYTES:
        raise BadInput(f"{name} is too large: it may have {MAX_BYTES:,} bytes")
    return content


def _say_infinite(table: SeriesTable, called: str) -> None:
    infinite = [(name, sum(isinf(value) for _, value in points)) for name, points in table.items()]
    if found := [(name, count) for name, count in infinite if count]:
        (entity, metric), _ = found[0]
        errors.print(
            f"Note: {called} has {sum(count for _, count in found):,} infinite values, which are read as gaps; the "
            f"first series that has one is {one_line(metric, 80)} of {one_line(entity, 80)}"
        )


def _check_target(present: SeriesTable, called: str, target: str, metric: str) -> None:
    if any(isfinite(value) for _, value in present.get((target, metric), ())):
        return
    entities = sorted({entity for entity, _ in present})
    if target not in entities:
        raise BadInput(f"{called} has no entity {target!r}{_like(target, entities)}")
    metrics = sorted({name for entity, name in present if entity == target})
    if metric not in metrics:
        raise BadInput(f"{called} has no metric {metric!r} of {target}{_like(metric, metrics)}")
    raise BadInput(f"{called} has no value of {metric} of {target}: all are gaps")


def _like(wanted: str, there: Sequence[str]) -> str:
    near = difflib.get_close_matches(wanted, there[:1000], n=3, cutoff=0.4) or there[:3]
    return f"; it has {', '.join(one_line(name, 80) for name in near)}" + (", …" if len(there) > len(near) else "")


def _table(ranked: Sequence[Ranked]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("ENTITY", "SCORE", "WHY"):
        table.add_column(title)
    for one in ranked:
        table.add_row(one_line(one.entity, 80), f"{one.score:.3g}", one_line(one.why, 300))
    return table
