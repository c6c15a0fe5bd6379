"""`uv run python -m bench`: one command, one table."""

from __future__ import annotations

import argparse
import logging

from bench import commands, flow, memory, service, status
from bench.figures import show

PARTS = {
    "commands": commands.measure,
    "flow": flow.measure,
    "accept": service.measure_accept,
    "message": service.measure_message,
    "empty": service.measure_empty_flow,
    "direct": service.measure_direct,
    "status": status.measure,
}
LONG = {"memory": memory.measure_memory, "direct-memory": memory.measure_direct_memory}
"""Measured only when asked for by name."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench", description=main.__doc__)
    parser.add_argument(
        "part", nargs="*", help=f"which: {', '.join([*PARTS, *LONG])}; by default all but {', '.join(LONG)}"
    )
    parser.add_argument("-n", "--times", type=int, default=9, help="measurements of each row")
    arguments = parser.parse_args()
    logging.getLogger("alert_pipeline").addHandler(logging.NullHandler())
    show([row for name in arguments.part or PARTS for row in (PARTS | LONG)[name](arguments.times)])


if __name__ == "__main__":
    main()
