"""`alert-pipeline analyze`: what probably happened, and what changed."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from orchestration.changes.csv_input import MAX_BYTES, read_dependencies, read_series
from orchestration.changes.ranking import Ranked, rank
from orchestration.changes.series import Table as SeriesTable
from orchestration.errors import BadInput
from orchestration.redaction import one_line
from service.cli.analyze_incident import analyze_incident
from service.cli.terminal import Json, as_json, output, read_file

_INCIDENT = "incident"
_SHOWN = 10


class _Analyze(TyperGroup):
    """The group of these commands. A first word that is none of them is an incident."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of the arguments, and what is left of these."""
        if args and args[0] not in self.commands and _INCIDENT in self.commands and not args[0].startswith("-"):
            return _INCIDENT, self.commands[_INCIDENT], args
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=_Analyze, no_args_is_help=True, rich_markup_mode=None, help=__doc__)


@app.command()
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
    _check_target(present, during, target, metric)
    calls = read_dependencies(_read(dependencies), dependencies) if dependencies is not None else None
    ranked = rank(past, present, (target, metric), calls)
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


def _check_target(present: SeriesTable, called: str, target: str, metric: str) -> None:
    if any(value == value for _, value in present.get((target, metric), ())):
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


app.command(_INCIDENT, help=inspect.getdoc(analyze_incident))(analyze_incident)


def _table(ranked: Sequence[Ranked]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("ENTITY", "SCORE", "WHY"):
        table.add_column(title)
    for one in ranked:
        table.add_row(one_line(one.entity, 80), f"{one.score:.3g}", one_line(one.why, 300))
    return table
