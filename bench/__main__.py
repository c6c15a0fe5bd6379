"""`uv run python -m bench`: one command, one table."""

from __future__ import annotations

import argparse
import logging

from bench import commands, flow
from bench.figures import show


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench", description=main.__doc__)
    parser.add_argument("part", nargs="*", choices=[[], "commands", "flow"], help="which part; all by default")
    parser.add_argument("-n", "--times", type=int, default=9, help="measurements of each row")
    arguments = parser.parse_args()
    logging.getLogger("alert_pipeline").addHandler(logging.NullHandler())
    parts = {"commands": commands.measure, "flow": flow.measure}
    wanted = arguments.part or list(parts)
    show([row for name in wanted for row in parts[name](arguments.times)])


if __name__ == "__main__":
    main()
