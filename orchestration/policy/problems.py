"""What is wrong with a policy: every mistake at once, each with its line and its field."""

from __future__ import annotations

from typing import ClassVar

from orchestration.contracts import Contract
from orchestration.problems import BadDocument
from orchestration.redaction import shown


class PolicyProblem(Contract):
    """One mistake, or one warning.

    `line` counts from 1; None means that the policy did not come from a text. `field` is "" where the mistake is one of
    the text.
    """

    what: ClassVar[str] = "policy"

    line: int | None
    field: str
    message: str

    def __str__(self) -> str:
        line = None if self.line is None else f"line {self.line}"
        field = f"field {shown(self.field)}" if self.field else None
        return f"{', '.join(part for part in (line, field) if part) or self.what}: {self.message}"


class BadPolicy(BadDocument[PolicyProblem]):
    """A policy that cannot be used as it is; `problems` are all that were found, in the order of its lines."""

    what = "policy"
