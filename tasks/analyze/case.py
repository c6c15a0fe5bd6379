"""What an analysis is given, as the rules read it: numbered evidence, and the names of the target. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TypeVar

from orchestration.alert import Alert, first_start
from orchestration.analysis import AnalysisInput
from orchestration.contracts import Change, ChangeEvent, Check, Evidence, EvidenceKind, Target
from orchestration.evidence import evidence_of
from orchestration.places import read_place
from tasks.analyze.topics import names_in

_MAX_ALERTS = 100  # enough words to judge by; ten thousand alerts would block the event loop

IDENTITY_LABELS = names_in(
    "instance host hostname node nodename server pod pod_name service job namespace cluster app application team owner "
    "env environment region zone datacenter dc project tenant customer component container image deployment "
    "statefulset daemonset squad contact entity monitor alertname severity priority status"
)
"""Labels that say whose it is or where it runs. A team named "storage" is no sign of a disk."""

PATH_LABELS = ("mountpoint", "mount", "path", "filesystem")
"""Labels that name a path."""

_T = TypeVar("_T")


@dataclass
class Case:
    """An analysis' input with its numbered evidence."""

    given: AnalysisInput
    evidence: dict[str, Evidence] = field(init=False)

    def __post_init__(self) -> None:
        self.evidence = {one.id: one for one in evidence_of(self.given)}

    @property
    def alerts(self) -> Sequence[Alert]:
        """The alerts whose words are read."""
        return self.given.alerts[:_MAX_ALERTS]

    @property
    def target(self) -> Target:
        """What the alerts are about; empty if that is not known."""
        return self.given.target or Target()

    @property
    def checks(self) -> Iterator[tuple[str, Check]]:
        """The checks with the numbers of their evidence."""
        return self._numbered(EvidenceKind.CHECK, self.given.check.checks if self.given.check else [])

    @property
    def changes(self) -> Iterator[tuple[str, Change]]:
        """The changed series with the numbers of their evidence."""
        return self._numbered(EvidenceKind.CHANGE, self.given.check.changes if self.given.check else [])

    @property
    def events(self) -> Iterator[tuple[str, ChangeEvent]]:
        """The changes by people with the numbers of their evidence."""
        return self._numbered(EvidenceKind.EVENT, self.given.events)

    def _numbered(self, kind: EvidenceKind, found: Sequence[_T]) -> Iterator[tuple[str, _T]]:
        named = ((f"{kind}-{number}", one) for number, one in enumerate(found, 1))
        return (pair for pair in named if pair[0] in self.evidence)

    @property
    def began_at(self) -> datetime | None:
        """When the first alert began, or else when the incident was opened."""
        opened_at = self.given.incident.opened_at if self.given.incident else None
        return first_start(self.given.alerts) or opened_at

    def is_other(self, name: str) -> bool:
        """Whether a name is surely of something else than the target."""
        return bool(name and self.names) and not self.concerns(name)

    def concerns(self, name: str) -> bool:
        """Whether a name is one of the target's: web-1:9100, https://web-1/health and web-1 are the same."""
        plain = _bare(name)
        return plain in self.names or plain.partition(".")[0] in self.names

    @cached_property
    def names(self) -> frozenset[str]:
        """What the target is called, in lower case."""
        labels = (value for name, value in self.target.labels.items() if name in IDENTITY_LABELS)
        hosts = (alert.host for alert in self.given.alerts)
        found = {_bare(name) for name in (self.target.host, self.target.url, *labels, *hosts) if name}
        return frozenset(found | {name.partition(".")[0] for name in found})


def _bare(name: str) -> str:
    """A name in lower case, without scheme, path and port."""
    place = read_place(name)
    return place.host if place else name.lower()
