"""Moments on the database's clock, by which all leases and ages go."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, func


def in_seconds(seconds: float) -> ColumnElement[Any]:
    """The moment so many seconds from now, on the database's clock, by which all leases go."""
    return func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
