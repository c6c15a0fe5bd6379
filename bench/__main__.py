"""`uv run python -m bench`: measures all or some parts, and prints one table.

`uv run python -m bench petshop PATH` measures the ranking of what changed, on data whose causes are known.
`uv run python -m bench analysis` scores analyses on the cases of tests/analysis/cases.
`uv run python -m bench growth --runs 1000000` measures a store with many runs beside a young one.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import analysis, backlog, commands, growth, petshop, redaction, saturated, service, status, storm
from bench.figures import Figures, show
from bench.report import write_report

PARTS = {
    "commands": commands.measure_commands,
    "flow": commands.measure_python_api,
    "accept": service.measure_accept,
    "message": service.measure_message,
    "direct": service.measure_direct,
    "status": status.measure_reads,
    "backlog": backlog.measure_backlog,
    "redaction": redaction.measure_redaction,
}
LONG = {
    "storm": storm.measure_storm,
    "saturated": saturated.measure_saturated,
    "criticals": saturated.measure_criticals,
    "memory": service.measure_memory,
    "direct-memory": service.measure_direct_memory,
}
"""These run only if they are named."""


def main() -> None:
    """Measure the named parts and print a row for each figure."""
    logging.getLogger("alert_pipeline").addHandler(logging.NullHandler())
    if sys.argv[1:2] in (["analysis"], ["growth"]):
        {"analysis": analysis.main, "growth": growth.main}[sys.argv[1]](sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="bench", description=main.__doc__)
    parser.add_argument(
        "part",
        nargs="*",
        help=f"{', '.join([*PARTS, *LONG])}; by default all but {', '.join(LONG)}; "
        "or petshop PATH, or analysis or growth (see their --help)",
    )
    parser.add_argument("-n", "--times", type=int, default=9, help="how many measurements per row")
    parser.add_argument("--report", type=Path, metavar="FILE", help="also draw the figures, as a page of HTML")
    arguments = parser.parse_args()
    if arguments.part[:1] == ["petshop"]:
        if len(arguments.part) != 2:
            parser.error("petshop needs the path of its data, and nothing else")
        rows = petshop.measure_petshop(Path(arguments.part[1]))
    else:
        rows = _measured(arguments.part or [*PARTS], arguments.times, parser)
    show(rows)
    if arguments.report is not None:
        write_report(rows, arguments.report)


def _measured(names: list[str], times: int, parser: argparse.ArgumentParser) -> list[Figures]:
    """The figures of these parts, one part after the other."""
    parts = PARTS | LONG
    if unknown := [name for name in names if name not in parts]:
        parser.error(f"there is no part {unknown[0]!r}: {', '.join(parts)}")
    rows: list[Figures] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=name)
            rows += parts[name](times)
            progress.advance(task)
    return rows


if __name__ == "__main__":
    main()
