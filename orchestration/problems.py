"""What is wrong with a document that people write: every mistake at once, each with its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast

from pydantic_core import ErrorDetails

from orchestration.errors import BadInput
from orchestration.redaction import shown

MAX_PROBLEMS = 50
"""Problems that are told; a document with more is told so."""

ProblemT = TypeVar("ProblemT")


class BadDocument(BadInput, Generic[ProblemT]):
    """A document that cannot be used as it is; `problems` are all that were found, in its order."""

    what: ClassVar[str] = "document"
    """The kind of document, for people."""

    def __init__(self, problems: Sequence[ProblemT]) -> None:
        self.problems = tuple(problems[:MAX_PROBLEMS])
        self.more = len(problems) - len(self.problems)
        if len(problems) == 1:
            super().__init__(f"The {self.what} cannot be used: {self.problems[0]}")
        else:
            super().__init__(f"The {self.what} has {len(problems)} problems: {'; '.join(self.lines)}")

    @property
    def lines(self) -> list[str]:
        """One line a problem, for people."""
        return [*map(str, self.problems), *([f"and {self.more} more"] if self.more else [])]


_SHAPES = {
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object with fields",
    "model_type": "an object with fields",
    "model_attributes_type": "an object with fields",
    "string_type": "a text",
}
"""pydantic's names for what a value must be, in words."""


def explain(error: ErrorDetails, *, known: Sequence[str] = ()) -> str:
    """A mistake that pydantic has found, in words. `known` are the fields that there are."""
    if error["type"] == "extra_forbidden":
        return f"there is no such field (known: {', '.join(known)})" if known else "there is no such field"
    if error["type"] == "missing":
        return "is missing"
    if error["type"] in _SHAPES:
        return f"expected {_SHAPES[error['type']]}, got {shown(cast('Any', error)['input'])}"
    message = error["msg"].removeprefix("Value error, ")
    message = f"{message[0].lower()}{message[1:]}"
    return message if error["type"] == "value_error" else f"{message}, got {shown(cast('Any', error)['input'])}"


def path_of(location: Sequence[int | str]) -> str:
    """Where in a value a mistake is: `mapping.title`, `nodes[3]`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{part}"
    return path
