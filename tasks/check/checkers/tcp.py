"""Whether a port of the target accepts connections, and how fast."""

from __future__ import annotations

import asyncio
import time

from pydantic import Field, JsonValue

from orchestration.contracts import Check, CheckStatus
from tasks.check.checkers.base import CheckerConfig, Port, Seconds, Subject
from tasks.check.checkers.reach import Reach, in_words, status_without_answer


class TcpConfig(CheckerConfig):
    """Options of the tcp checker."""

    port: Port | None = Field(None, description="The port. None means the one that the target names.")
    timeout: Seconds = Field(3.0, description="Seconds until a port that does not answer counts as closed.")
    warn: Seconds = Field(1.0, description="Seconds from which a connection counts as slow.")


def unfit_for_tcp(config: TcpConfig, subject: Subject) -> str:
    """The target needs a host, and a port that it or the options name."""
    if subject.target is None or not subject.target.host:
        return "no host is named"
    return "" if config.port or subject.target.port else f"{subject.target.host} is named without a port"


async def check_tcp(config: TcpConfig, subject: Subject) -> Check:
    """Check whether the port accepts a connection within `timeout` seconds. No data is sent."""
    target = subject.target
    assert target is not None  # noqa: S101  unfit_for_tcp() has said so
    port = config.port or target.port or 0
    name = f"[{target.host}]:{port}" if ":" in target.host else f"{target.host}:{port}"
    metrics: dict[str, JsonValue] = {"port": port}
    started = time.perf_counter()
    try:
        async with asyncio.timeout(config.timeout):
            opened = await Reach(subject.rules).open_socket(target.host, port)
    except OSError as error:
        late = isinstance(error, TimeoutError)
        reason = f"no answer within {config.timeout:g} s" if late else in_words(error)
        status = status_without_answer(error)
        return Check(name="tcp", target=name, status=status, message=reason, metrics=metrics)
    with opened:
        seconds = time.perf_counter() - started
        metrics |= {"connect_ms": round(seconds * 1000, 1), "address": opened.getpeername()[0]}
    status = CheckStatus.WARNING if seconds >= config.warn else CheckStatus.OK
    return Check(
        name="tcp", target=name, status=status, message=f"accepts connections, in {_shown(seconds)}", metrics=metrics
    )


def _shown(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
