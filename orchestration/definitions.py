"""What people define, on its way into the store: its kind, its name, its content's hash.

That is a pipeline, the policy, or the mapping of a sender.
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from typing import cast

from pydantic import JsonValue

from orchestration.contracts import Contract
from orchestration.errors import BadInput
from orchestration.graph import Definition
from orchestration.json_text import to_json
from orchestration.policy.model import Policy, Route
from orchestration.policy.parse import ReadPolicy
from orchestration.redaction import one_line

NAME_CHARACTERS = 64

POLICY_NAME = "policy"
"""The name of the policy: there is one."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)

_IN_ORDER = ("name", "version", "description", "tags", "defaults", "nodes")
_NODE_IN_ORDER = (
    *("id", "type", "config", "next", "required", "skip_if_errors", "skip_if_condition"),
    *("max_retries", "timeout_seconds"),
)


class Kind(StrEnum):
    """What a definition defines. Names are unique within a kind."""

    PIPELINE = "pipeline"
    POLICY = "policy"
    SOURCE = "source"

    @property
    def word(self) -> str:
        """How a sentence calls one of this kind."""
        return {Kind.PIPELINE: "definition", Kind.POLICY: "policy", Kind.SOURCE: "mapping"}[self]


class NewDefinition(Contract):
    """A valid definition under the name that it gets."""

    kind: Kind = Kind.PIPELINE
    name: str
    description: str
    tags: list[str]
    config: dict[str, JsonValue]
    """As it was written, without its name."""
    content_hash: str

    @classmethod
    def of(cls, definition: Definition, written: object, *, name: str | None = None) -> NewDefinition:
        """The definition that was read from what was `written`, under `name`, else under the one that it says.

        Raises:
            BadInput: it has no name, or not one that Prefect's blocks and deployments can have.
        """
        chosen = checked_name(name or definition.name)
        config = {key: value for key, value in cast("dict[str, JsonValue]", written).items() if key != "name"}
        return cls(
            name=chosen,
            description=definition.description,
            tags=list(definition.tags),
            config=config,
            content_hash=content_hash(definition),
        )

    @classmethod
    def of_policy(cls, read: ReadPolicy) -> NewDefinition:
        """A policy that was read from what its author wrote."""
        said = read.policy.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return cls(
            kind=Kind.POLICY,
            name=POLICY_NAME,
            description=read.policy.description,
            tags=[],
            config=dict(read.written),
            content_hash=_hash_of(said),
        )

    @classmethod
    def of_mapping(cls, written: dict[str, JsonValue], *, name: str, description: str) -> NewDefinition:
        """The mapping of a sender called `name` that was read from what its author wrote."""
        config = {key: value for key, value in written.items() if key != "name"}
        return cls(
            kind=Kind.SOURCE, name=name, description=description, tags=[], config=config, content_hash=_hash_of(config)
        )


def checked_name(name: str | None) -> str:
    """The name, if a definition can have it.

    Raises:
        BadInput: it is missing, or has other characters than it may.
    """
    if not name:
        raise BadInput('The definition has no name: write one into it, such as {"name": "my-pipeline", "nodes": […]}')
    if len(name) > NAME_CHARACTERS or not _NAME.fullmatch(name):
        raise BadInput(
            f"A definition cannot be called {one_line(name, 80)!r}: its name has 1 to {NAME_CHARACTERS} lower-case "
            "letters and digits, with single dashes between them, such as central-hub"
        )
    return name


def content_hash(definition: Definition) -> str:
    """By what two definitions that say the same are known, however they are written and whatever they are called."""
    return _hash_of(definition.model_dump(mode="json", exclude={"name"}))


def _hash_of(said: object) -> str:
    return hashlib.sha256(to_json(said, sort_keys=True)).hexdigest()


def in_order(config: dict[str, JsonValue], *, name: str | None = None) -> dict[str, JsonValue]:
    """A config with its fields in the order in which people write and read them: PostgreSQL keeps no order."""
    ordered = _ordered({**config, **({"name": name} if name else {})}, _IN_ORDER)
    nodes = ordered.get("nodes")
    if isinstance(nodes, list):
        ordered["nodes"] = [_ordered(node, _NODE_IN_ORDER) if isinstance(node, dict) else node for node in nodes]
    return ordered


def policy_in_order(config: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """A policy's config with the fields of it and of its routes in the order in which people read them."""
    ordered = _ordered(config, tuple(Policy.model_fields))
    return {**ordered, "routes": _routes_in_order(ordered["routes"])} if "routes" in ordered else ordered


def _routes_in_order(routes: JsonValue) -> JsonValue:
    if not isinstance(routes, list):
        return routes
    order = tuple(field.alias or name for name, field in Route.model_fields.items())
    ordered = [_ordered(route, order) if isinstance(route, dict) else route for route in routes]
    return [
        {**route, "routes": _routes_in_order(route["routes"])}
        if isinstance(route, dict) and "routes" in route
        else route
        for route in ordered
    ]


def _ordered(values: dict[str, JsonValue], order: tuple[str, ...]) -> dict[str, JsonValue]:
    known = {key: values[key] for key in order if key in values}
    return {**known, **values}
