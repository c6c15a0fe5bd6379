"""The checks of `alert-pipeline doctor`, and what they return.

`host`, `database`, `prefect` and `channels` are the parts. Each check has its own time limit, and one that fails does
not disturb the others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

from orchestration.contracts import Contract
from orchestration.errors import PipelineError, error_in_words
from orchestration.redaction import redact_text


class Level(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"
    SKIPPED = "skipped"


class Finding(Contract):
    """The result of one check, and what to do about it."""

    check: str
    level: Level
    detail: str
    fix: str | None = None
    duration_ms: float = 0.0


def ok(check: str, detail: str) -> Finding:
    """The check found nothing wrong."""
    return Finding(check=check, level=Level.OK, detail=detail)


def warning(check: str, detail: str, fix: str) -> Finding:
    """Alerts are handled, but an operator should know this."""
    return Finding(check=check, level=Level.WARNING, detail=detail, fix=fix)


def broken(check: str, detail: str, fix: str) -> Finding:
    """Alerts are lost or late because of this."""
    return Finding(check=check, level=Level.BROKEN, detail=detail, fix=fix)


def skipped(checks: Sequence[str], reason: str) -> list[Finding]:
    """Checks that were not made, because an earlier one failed."""
    return [Finding(check=check, level=Level.SKIPPED, detail=f"not checked: {reason}") for check in checks]


async def run_check(
    check: str, work: Callable[[], Awaitable[Finding]], *, fix: str, timeout_seconds: float = 10.0
) -> Finding:
    """The finding of `work`. If `work` raises or takes too long, the finding is broken, with `fix` as its advice."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_seconds):
            found = await work()
    except TimeoutError:
        found = broken(check, f"no answer within {timeout_seconds:g} s", fix)
    except PipelineError as error:
        found = broken(check, str(error), fix)
    except Exception as error:  # noqa: BLE001 - a check that fails is a finding, and the others go on
        found = broken(check, error_in_words(type(error).__name__, redact_text(str(error), limit=300)), fix)
    return found.model_copy(update={"duration_ms": (time.perf_counter() - began) * 1000})
