"""What is wrong with a definition: every mistake at once, each with its node and its field."""

from __future__ import annotations

from collections.abc import Sequence

from orchestration.contracts import Contract
from orchestration.graph.model import Definition
from orchestration.problems import BadDocument
from orchestration.redaction import shown


class DefinitionProblem(Contract):
    """One mistake. `node` is None where it is one of the definition as a whole."""

    node: str | None
    field: str
    message: str

    def __str__(self) -> str:
        where = "definition" if self.node is None else f"node {shown(self.node)}"
        return f"{where}, field {shown(self.field)}: {self.message}"


class BadDefinition(BadDocument[DefinitionProblem]):
    """A definition that cannot be run as it is; `problems` are all that were found, in the order of its nodes.

    `readable` is what of the definition can be read: the nodes that are whole.
    """

    what = "definition"

    def __init__(self, problems: Sequence[DefinitionProblem], *, readable: Definition | None = None) -> None:
        self.readable = readable
        super().__init__(problems)
