"""Correlation ids in the log: whatever is logged while a run is carried says whose line it is."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from orchestration.signals import logfmt, logger

_IDS: ContextVar[dict[str, str] | None] = ContextVar("correlation_ids", default=None)


@contextmanager
def correlated(*, trace_id: str, run_id: str) -> Generator[None]:
    """Put both ids at the end of each line that the body, its tasks and its threads log.

    Signals have them among their tags already; they come from a logger of their own and stay as they are.
    """
    token = _IDS.set({"trace_id": trace_id, "run_id": run_id})
    try:
        yield
    finally:
        _IDS.reset(token)


def _add_ids(record: logging.LogRecord) -> bool:
    ids = _IDS.get()
    if ids is not None:
        record.__dict__.update(ids)  # for who formats lines as JSON
        record.msg, record.args = f"{record.getMessage()} {logfmt(ids)}", None
    return True


logger.addFilter(_add_ids)
