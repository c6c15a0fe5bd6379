"""What a source is, and what its parser hands over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import JsonValue

from orchestration.alert import Alert

JsonObject = dict[str, JsonValue]
"""A JSON object as `cleaning.clean` leaves it: safe to store, and of bounded depth."""

NOT_MINE = 0
FALLBACK = 1
"""The body fits, but says nothing of who sent it: only the generic source answers this."""
VENDOR = 10
"""The body has the shape that the vendor documents. Each field that only this vendor has adds as much again."""


@dataclass(frozen=True, kw_only=True)
class Push:
    """One webhook request, read: its alerts, and a sentence for everything in it that could not be used."""

    source: str
    alerts: tuple[Alert, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Source:
    """A sender of alerts. `recognises` and `parse` are pure and take a cleaned body.

    `recognises` says how specifically the body is this vendor's: `NOT_MINE`, `FALLBACK`, or `VENDOR` and more.
    The highest bidder parses, so that the order of the registry decides nothing.

    `parse` never raises for what a field holds. What cannot be used is named in `Push.errors`, and the rest of
    the push is still delivered. A body that it can make nothing of gives a push without alerts and errors.

    `sample(mark)` is a body as the vendor sends it, with fresh timestamps; its hosts carry the mark, so that samples
    with different marks are different incidents.
    """

    name: str
    title: str
    recognises: Callable[[JsonObject], int]
    parse: Callable[[JsonObject], Push]
    sample: Callable[[str], JsonObject]
