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

from bench import analysis, backlog, commands, growth, petshop, redaction, service, status
from bench.figures import show

PARTS = {
    "commands": commands.measure_commands,
    "flow": commands.measure_python_api,
    "accept": service.measure_accept,
    "message": service.measure_message,
    "empty": service.measure_empty_flow,
    "direct": service.measure_direct,
    "status": status.measure_reads,
    "backlog": backlog.measure_backlog,
    "redaction": redaction.measure_redaction,
}
LONG = {"memory": service.measure_memory, "direct-memory": service.measure_direct_memory}
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
    arguments = parser.parse_args()
    if arguments.part[:1] == ["petshop"]:
        if len(arguments.part) != 2:
            parser.error("petshop needs the path of its data, and nothing else")
        show(petshop.measure_petshop(Path(arguments.part[1])))
        return
    show([row for name in arguments.part or PARTS for row in (PARTS | LONG)[name](arguments.times)])


if __name__ == "__main__":
    main()
