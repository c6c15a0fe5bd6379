"""What a look finds, and how a look is kept from hanging or from breaking the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

from orchestration.contracts import Contract
from orchestration.errors import PipelineError
from orchestration.redaction import redact_text


class Level(StrEnum):
    """How it stands."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"
    SKIPPED = "skipped"


class Finding(Contract):
    """What was found of one part, and what to do about it."""

    check: str
    level: Level
    detail: str
    mend: str | None = None
    duration_ms: float = 0.0


def ok(check: str, detail: str) -> Finding:
    """All is well."""
    return Finding(check=check, level=Level.OK, detail=detail)


def warning(check: str, detail: str, mend: str) -> Finding:
    """It works, but somebody should know."""
    return Finding(check=check, level=Level.WARNING, detail=detail, mend=mend)


def broken(check: str, detail: str, mend: str) -> Finding:
    """Alerts are lost or late by this."""
    return Finding(check=check, level=Level.BROKEN, detail=detail, mend=mend)


def skipped(checks: Sequence[str], why: str) -> list[Finding]:
    """Not looked at."""
    return [Finding(check=check, level=Level.SKIPPED, detail=f"not looked at: {why}") for check in checks]


async def look(
    check: str, work: Callable[[], Awaitable[Finding]], *, mend: str, patience_seconds: float = 10.0
) -> Finding:
    """What `work` finds. One that raises, or takes too long, has found something broken."""
    began = time.perf_counter()
    try:
        async with asyncio.timeout(patience_seconds):
            found = await work()
    except TimeoutError:
        found = broken(check, f"no answer within {patience_seconds:g} s", mend)
    except PipelineError as error:
        found = broken(check, str(error), mend)
    except Exception as error:  # noqa: BLE001 - a look that breaks is a finding, and the others go on
        found = broken(check, f"{type(error).__name__}: {redact_text(str(error), limit=300)}".rstrip(": "), mend)
    return found.model_copy(update={"duration_ms": (time.perf_counter() - began) * 1000})
