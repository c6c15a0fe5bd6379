"""What is wrong with a definition: every mistake at once, each with its node and its field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pydantic_core import ErrorDetails

from orchestration.contracts import Contract
from orchestration.errors import BadInput
from orchestration.graph.model import Definition
from orchestration.redaction import shown

MAX_PROBLEMS = 50
"""Problems that are told; a definition with more is told so."""


class DefinitionProblem(Contract):
    """One mistake. `node` is None where it is one of the definition as a whole."""

    node: str | None
    field: str
    message: str

    def __str__(self) -> str:
        where = "definition" if self.node is None else f"node {shown(self.node)}"
        return f"{where}, field {shown(self.field)}: {self.message}"


class BadDefinition(BadInput):
    """A definition that cannot be run as it is; `problems` are all that were found, in the order of its nodes.

    `readable` is what of the definition can be read: the nodes that are whole.
    """

    def __init__(self, problems: Sequence[DefinitionProblem], *, readable: Definition | None = None) -> None:
        self.readable = readable
        self.problems = tuple(problems[:MAX_PROBLEMS])
        self.more = len(problems) - len(self.problems)
        if len(problems) == 1:
            super().__init__(f"The definition cannot be used: {self.problems[0]}")
        else:
            super().__init__(f"The definition has {len(problems)} problems: {'; '.join(self.lines)}")

    @property
    def lines(self) -> list[str]:
        """One line a problem, for people."""
        return [*map(str, self.problems), *([f"and {self.more} more"] if self.more else [])]


def explain(error: ErrorDetails, *, known: Sequence[str] = ()) -> str:
    """A mistake that pydantic has found, in words. `known` are the fields that there are."""
    if error["type"] == "extra_forbidden":
        return f"there is no such field (known: {', '.join(known)})" if known else "there is no such field"
    if error["type"] == "missing":
        return "is missing"
    message = error["msg"].removeprefix("Value error, ")
    message = f"{message[0].lower()}{message[1:]}"
    return message if error["type"] == "value_error" else f"{message}, got {shown(cast('Any', error)['input'])}"


def path_of(location: Sequence[int | str]) -> str:
    """Where in a value a mistake is: `mapping.title`, `nodes[3]`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{part}"
    return path
