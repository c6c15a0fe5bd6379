"""A source, and what its parser returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pydantic import JsonValue

from orchestration.alert import Alert

JsonObject = dict[str, JsonValue]
"""A JSON object that `cleaning.clean` returned: safe to store, and of bounded depth."""

NOT_MINE = 0
FALLBACK = 1
"""The body can be read, but does not show who sent it. Only the generic source returns this."""
ENVELOPE = 2
"""The body is an envelope of many senders: whoever knows what is in it, or the envelope of one sender, knows more."""
VENDOR = 10
"""The body has the shape that the vendor documents. Each field that only this vendor sends adds 10 more."""


def vendor_bid(body: JsonObject, own_fields: Iterable[str]) -> int:
    """The bid of a vendor for a body of its shape, by how many of its own fields the body has."""
    return VENDOR + VENDOR * sum(name in body for name in own_fields)


@dataclass(frozen=True, kw_only=True)
class Push:
    """The alerts of one webhook request, and an error for each part of it that could not be used."""

    source: str
    alerts: tuple[Alert, ...] = ()
    errors: tuple[str, ...] = ()
    omitted: int = 0
    """How many alerts of the group the sender has left out."""
    all_resolved: bool = False
    """The sender says that every alert of the group has ended, also those that it has left out."""
    ignored: str = ""
    """Why a body that the vendor documents says nothing about an alert, such as `incident.annotated`; "" if it does."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A monitoring system that sends alerts. `recognises` and `parse` are pure and get a cleaned body.

    `recognises` returns how specific the body is to this vendor: `NOT_MINE`, `FALLBACK`, `ENVELOPE`, or `VENDOR` and
    more. The source with the highest number parses, so the order of the registry does not matter.

    `parse` never raises because of the value of a field: `Push.errors` names what cannot be used, and the rest of
    the push is still delivered. For a body that it cannot read at all it returns a push without alerts and errors.

    `sample(mark)` returns a body as the vendor sends it, with fresh timestamps. It contains the mark, so that samples
    with different marks are different incidents. Those of Alertmanager, Grafana and the generic source are about the
    host that runs this pipeline: whoever tries one sees true checks.
    """

    name: str
    title: str
    recognises: Callable[[JsonObject], int]
    parse: Callable[[JsonObject], Push]
    sample: Callable[[str], JsonObject]
    parse_as: Callable[[JsonObject, str], Push] | None = None
    """Parses a body as alerts of another source. None means that the source cannot."""
    unknown_words: Callable[[JsonObject], Iterable[str]] | None = None
    """Says which words of a body for a status or a severity nobody knows. None means that the vendor has its own."""
    shown_by: frozenset[str] = frozenset()
    """Fields at the top of a body: one without any of them is not of this source. Empty means that nothing is known
    beforehand."""

    def bid(self, body: JsonObject) -> int:
        """What `recognises` says of a body. Nearly every push is of another source, and costs a look at its fields."""
        return NOT_MINE if self.shown_by and self.shown_by.isdisjoint(body) else self.recognises(body)
