"""From anything that came from outside to a definition whose graph can be run, or to all that is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestration.bounds import out_of_bounds
from orchestration.graph.model import Definition, NodeDefinition, NodeTypes, as_names
from orchestration.graph.problems import BadDefinition, DefinitionProblem
from orchestration.graph.references import find_problems
from orchestration.problems import explain, path_of
from orchestration.redaction import shown

MAX_NODES = 200
MAX_BYTES = 256 * 1024
"""The size of a definition, as UTF-8 JSON or thereabouts."""

MAX_DEPTH = 16
"""Levels of lists and objects in each other."""


def decode_definition(text: str | bytes) -> object:
    """The value in a JSON text that is not too large for a definition.

    Raises:
        BadDefinition: it is too large, or no JSON.
    """
    if len(text) > MAX_BYTES:
        raise _broken("definition", f"has {len(text):,} bytes: a definition has at most {MAX_BYTES:,}")
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise _broken("definition", f"is not JSON: {error.msg} in line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError:
        raise _broken("definition", "is not JSON: it is no UTF-8 text") from None
    except RecursionError:
        raise _broken("definition", f"is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise _broken("definition", f"is not JSON: {error}") from None


def parse_definition(raw: object, types: NodeTypes) -> Definition:
    """The definition in a value, such as JSON gives. Its graph can be executed; most configs are checked elsewhere.

    `types` are the types of nodes that there are.

    Raises:
        BadDefinition: all that is wrong, each problem with its node and field.
    """
    _bounded(raw)
    if not isinstance(raw, Mapping):
        raise _broken("definition", f"expected an object with the field nodes, got {shown(raw)}")
    given = cast("Mapping[str, object]", raw)
    nodes: Any = given.get("nodes")
    if not isinstance(nodes, list | tuple):
        raise _broken("nodes", f"expected a list of nodes, got {shown(nodes)}" if "nodes" in given else "is missing")
    listed = cast("Sequence[object]", nodes)
    if not listed:
        raise _broken("nodes", "is empty: a definition has at least one node")
    if len(listed) > MAX_NODES:
        raise _broken("nodes", f"has {len(listed)} nodes: a definition has at most {MAX_NODES}")
    try:
        definition = Definition.model_validate(dict(given), context=types)
    except ValidationError as error:
        problems = [_problem(one, listed) for one in error.errors(include_url=False)]
        raise _with_the_rest(listed, problems, types) from None
    if found := list(find_problems(definition, types)):
        raise BadDefinition(found, readable=definition)
    return definition


def _with_the_rest(nodes: Sequence[object], problems: Sequence[DefinitionProblem], types: NodeTypes) -> BadDefinition:
    """The problems of the broken nodes and of the others, so that an author sees all of them at once."""
    broken = {problem.node for problem in problems if problem.node is not None}
    known = [
        _bare(node, name) if (name := _name_of(node, at)) in broken else NodeDefinition.model_validate(node)
        for at, node in enumerate(nodes)
    ]
    found = find_problems(Definition.model_construct(nodes=tuple(known)), types, vague=broken)
    rest = [problem for problem in found if problem.node not in broken]
    readable = tuple(node for node in known if node.id not in broken)
    return BadDefinition([*problems, *rest], readable=Definition.model_construct(nodes=readable))


def _bare(node: object, name: str) -> NodeDefinition:
    """A broken node with its name and what follows it. Its type does not matter: nobody looks at its result."""
    given = cast("Mapping[str, object]", node if isinstance(node, Mapping) else {})
    try:
        return NodeDefinition.model_construct(id=name, type="", next=as_names(given.get("next")))
    except ValueError:
        return NodeDefinition.model_construct(id=name, type="")


def _broken(field: str, message: str) -> BadDefinition:
    return BadDefinition([DefinitionProblem(node=None, field=field, message=message)])


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number")


def _bounded(raw: object) -> None:
    """Refuse what is too large or too deep before anything looks at all of it."""
    if (wrong := out_of_bounds(raw, max_bytes=MAX_BYTES, max_depth=MAX_DEPTH)) is not None:
        raise _broken("definition", wrong)


def _problem(error: ErrorDetails, nodes: Sequence[object]) -> DefinitionProblem:
    match error["loc"]:
        case ("nodes", int(index), *inner):
            node, field, fields = _name_of(nodes[index], index), path_of(inner), NodeDefinition.model_fields
            if not inner:
                message = f"expected an object, got {shown(nodes[index])}"
                return DefinitionProblem(node=node, field="node", message=message)
        case location:
            node, field, fields = None, path_of(location), Definition.model_fields
    return DefinitionProblem(node=node, field=field, message=explain(error, known=sorted(fields)))


def _name_of(node: object, index: int) -> str:
    """The id of a node, where it has one that can be shown; else its place in the list."""
    given: Any = cast("Mapping[str, object]", node).get("id") if isinstance(node, Mapping) else None
    return given if isinstance(given, str) and given else f"nodes[{index}]"
