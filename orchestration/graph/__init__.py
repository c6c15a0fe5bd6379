"""Pipeline definitions: what a pipeline's nodes are, in which order they run, and what is wrong with one that cannot.

`model` is what a definition says, `parse` makes one of anything that came from outside, `shape` is its graph,
`expression` the language of its conditions, `problems` how mistakes are told. It knows no Prefect and no HTTP.
"""

from orchestration.graph.expression import BadExpression, Expression, Reference
from orchestration.graph.model import (
    STAGES,
    ConditionConfig,
    Defaults,
    Definition,
    NodeDefinition,
    NodeType,
    StoredDefinition,
    TransformConfig,
)
from orchestration.graph.parse import MAX_BYTES, MAX_NODES, decode_definition, parse_definition, parse_definition_text
from orchestration.graph.problems import BadDefinition, DefinitionProblem
from orchestration.graph.shape import Edge, Graph

__all__ = [
    "MAX_BYTES",
    "MAX_NODES",
    "STAGES",
    "BadDefinition",
    "BadExpression",
    "ConditionConfig",
    "Defaults",
    "Definition",
    "DefinitionProblem",
    "Edge",
    "Expression",
    "Graph",
    "NodeDefinition",
    "NodeType",
    "Reference",
    "StoredDefinition",
    "TransformConfig",
    "decode_definition",
    "parse_definition",
    "parse_definition_text",
]
