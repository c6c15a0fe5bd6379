"""What a pipeline definition says. Frozen; `parse_definition()` makes one of what came from outside."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, cast

from pydantic import BeforeValidator, Field, JsonValue, ValidationInfo, field_validator

from orchestration.contracts import Contract, Stage
from orchestration.redaction import shown

RESERVED = frozenset({"payload", "run", "true", "false", "null"})
"""Names that mean something else in conditions and transforms."""

_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")

Name = Annotated[str, Field(min_length=1, max_length=100)]
"""The name of a checker, a channel or the like in a node's config."""


class NodeConfig(Contract, strict=True):
    """The config of a node."""

    def sources(self) -> Mapping[str, str]:
        """The earlier nodes that it reads, by the field that names each."""
        return {}


@dataclass(frozen=True, kw_only=True)
class NodeType:
    """What the graph of a definition has to know of one type of node."""

    name: str
    """How a definition names it, such as "context"."""
    stage: Stage
    config: type[NodeConfig]
    result: type[Contract]
    once: bool = False
    """Whether a definition has at most one node of this type."""


NodeTypes = Mapping[str, NodeType]
"""The types of nodes that there are, by name."""


def as_names(value: object) -> tuple[str, ...]:
    """One name or several, as a tuple.

    Raises:
        ValueError: it is neither, or names one twice.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list | tuple):
        given = cast("list[object] | tuple[object, ...]", value)
        names = tuple(name for name in given if isinstance(name, str))
        if len(names) == len(given):
            if len(set(names)) < len(names):
                raise ValueError("names a node twice")
            return names
    raise ValueError("expected the id of a node, or a list of ids")


NodeNames = Annotated[tuple[str, ...], BeforeValidator(as_names)]
"""Ids of nodes: a string, a list of strings, or null."""


def _as_skips(value: object) -> object:
    if isinstance(value, bool) or value is None:
        return bool(value)
    try:
        return as_names(value)
    except ValueError:
        raise ValueError("expected true (any node right before), or a list of ids of earlier nodes") from None


class NodeDefinition(Contract, strict=True):
    """One node of a definition."""

    id: str
    type: str
    config: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    next: NodeNames = Field(default=(), description="What follows: one node, or several that run side by side.")
    required: bool = Field(default=True, description="Whether the run fails when this node does.")
    skip_if_errors: Annotated[bool | tuple[str, ...], BeforeValidator(_as_skips)] = Field(
        default=False, description="Left out if one of these nodes has errors; true: one of those right before."
    )
    skip_if_condition: str | None = Field(default=None, description="Left out if this expression holds.")
    max_retries: int | None = Field(default=None, ge=0, le=20)
    timeout_seconds: float | None = Field(default=None, gt=0, le=3600, allow_inf_nan=False)

    @field_validator("id")
    @classmethod
    def _is_sane(cls, value: str) -> str:
        if not _ID.fullmatch(value):
            raise ValueError("expected a letter, then up to 62 letters, digits, - or _")
        if value in RESERVED or keyword.iskeyword(value):
            raise ValueError("is a reserved word: choose another name")
        return value

    @field_validator("type", mode="before")
    @classmethod
    def _is_known(cls, value: object, info: ValidationInfo) -> object:
        # The types that there are come with the call that parses; without them any name is taken.
        known = cast("NodeTypes | None", info.context)
        if known is not None and (not isinstance(value, str) or value not in known):
            raise ValueError(f"there is no type of node {shown(value)} (known: {', '.join(known)})")
        return value


class Defaults(Contract, strict=True):
    """What holds for nodes that say nothing else; where this says nothing either, the settings do."""

    max_retries: int | None = Field(default=None, ge=0, le=20)
    timeout_seconds: float | None = Field(default=None, gt=0, le=3600, allow_inf_nan=False)


class Definition(Contract, strict=True):
    """A pipeline: its nodes, and what follows what."""

    version: str = Field(default="1.0", max_length=40, description="The author's own mark; the store counts by itself.")
    name: str | None = Field(default=None, max_length=100)
    description: str = Field(default="", max_length=2000)
    tags: tuple[Annotated[str, Field(max_length=100)], ...] = Field(default=(), max_length=50, strict=False)
    defaults: Defaults = Defaults()
    nodes: tuple[NodeDefinition, ...] = Field(strict=False)

    @field_validator("version", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


CONDITION = "condition"
"""The type of node that branches."""


class ConditionConfig(NodeConfig):
    """The config of a condition: an expression, and what follows if it holds and if it does not."""

    expression: str
    if_true: NodeNames = ()
    if_false: NodeNames = ()


class StoredDefinition(Contract):
    """A definition as it is kept: a version of it never changes."""

    name: str
    version: int
    config: dict[str, Any]
    note: str = ""
    """What whoever reads the run's message should know of it, such as that a newer edit is broken."""


class DefinitionSource(Protocol):
    """Finds stored definitions."""

    async def load(self, name: str, version: int | None = None) -> StoredDefinition:
        """This version of a definition; without a number the one to execute now.

        Raises:
            BadInput: there is no such definition or version, or it must not be executed.
            BadDefinition: it is broken, as somebody has edited it.
            Unavailable: the place where definitions are kept does not answer.
        """
        ...
