"""`alert-pipeline check` under cron: a failure to look or to print is neither a success nor a warning."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

COMMAND = [str(Path(sys.executable).with_name("alert-pipeline"))]
"""The installed command: what a shell does with its streams is part of these tests."""

CASES = {
    "closed": ('"$@" >&-', 3, "Error: Standard output is closed"),
    "both closed": ('"$@" >&- 2>&-', 3, ""),
    "full": ('"$@" >/dev/full', 3, "Error: Standard output cannot be written: No space left on device"),
    "full JSON": ('"$@" --json >/dev/full', 3, "Error: Standard output cannot be written: No space left on device"),
    "log full": ('"$@" 2>/dev/full', 0, ""),
    "log closed": ('"$@" 2>&-', 0, ""),
    "reader gone": ('set -o pipefail; "$@" | true', 3, ""),
    "setting": ('CHECKERS_ALLOW=10.1.2.3:80 "$@"', 3, "Error: CHECKERS_ALLOW='10.1.2.3:80'"),
    "flag": ('"$@" --no-such-flag', 3, "Usage: "),
    "targets": ('"$@" --target db-1 --target db-2', 3, "Error: --target: expected one target, got 2"),
}


def in_shell(script: str) -> tuple[int, str]:
    """The exit code and standard error of a shell that runs `check disk`, its streams as the script says."""
    options = '{"disk": {"crit": 100, "warn": 100}}'
    words = ["bash", "-c", script, "cron", *COMMAND, "check", "disk", "--config", options]
    done = subprocess.run(words, env=os.environ, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def found() -> dict[str, tuple[int, str]]:
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(in_shell, [script for script, _, _ in CASES.values()])
        return dict(zip(CASES, done, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_exit_code_says_whether_it_was_looked_and_printed(found: dict[str, tuple[int, str]], name: str) -> None:
    _, code, says = CASES[name]
    ended, errors = found[name]
    assert (ended, errors.startswith(says), "Traceback" in errors) == (code, True, False), errors


@pytest.mark.parametrize("words", [["policy", "validate", "policy.yaml"], ["env"], ["--help"]])
def test_other_commands_say_in_one_line_that_nothing_can_be_printed(words: list[str]) -> None:
    closed = ["bash", "-c", '"$@" >&-', "cron", *COMMAND, *words]
    done = subprocess.run(closed, env=os.environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: Standard output is closed. To print nothing, send it to /dev/null\n"
