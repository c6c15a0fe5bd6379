"""Pipeline definitions: what a pipeline's nodes are, in which order they run, and what is wrong with one that cannot.

`model` is what a definition says, `parse` makes one of anything that came from outside, `shape` is its graph,
`expression` the language of its conditions, `problems` how mistakes are reported. It knows no Prefect and no HTTP.
"""

from orchestration.graph.expression import FACTS, HAS_ERRORS, SKIPPED, BadExpression, Expression, Reference
from orchestration.graph.model import (
    CONDITION,
    ConditionConfig,
    Defaults,
    Definition,
    DefinitionSource,
    Name,
    NodeConfig,
    NodeDefinition,
    NodeType,
    NodeTypes,
    StoredDefinition,
)
from orchestration.graph.parse import MAX_BYTES, MAX_NODES, decode_definition, parse_definition
from orchestration.graph.problems import BadDefinition, DefinitionProblem
from orchestration.graph.references import PAYLOAD, config_problems
from orchestration.graph.shape import Edge, Graph

__all__ = [
    "CONDITION",
    "FACTS",
    "HAS_ERRORS",
    "MAX_BYTES",
    "MAX_NODES",
    "PAYLOAD",
    "SKIPPED",
    "BadDefinition",
    "BadExpression",
    "ConditionConfig",
    "Defaults",
    "Definition",
    "DefinitionProblem",
    "DefinitionSource",
    "Edge",
    "Expression",
    "Graph",
    "Name",
    "NodeConfig",
    "NodeDefinition",
    "NodeType",
    "NodeTypes",
    "Reference",
    "StoredDefinition",
    "config_problems",
    "decode_definition",
    "parse_definition",
]
