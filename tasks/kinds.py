"""The registry of node kinds: what the nodes of a pipeline can be. A new kind is its room and a line here."""

from __future__ import annotations

from orchestration.engine import plan
from orchestration.engine.run import NodeKinds
from orchestration.graph import Definition, NodeDefinition
from tasks.analyze.stage import ANALYZE
from tasks.check.stage import CHECK
from tasks.condition.stage import CONDITION
from tasks.ingest.stage import INGEST
from tasks.notify.stage import NOTIFY
from tasks.transform.stage import TRANSFORM

LINEAR = Definition(
    name="linear",
    description="From an alert to the person on call: ingest, check, analyze, notify.",
    nodes=tuple(NodeDefinition(id=kind.stage.value, type=kind.name) for kind in (INGEST, CHECK, ANALYZE, NOTIFY)),
)
"""The pipeline of runs that name no definition."""

KINDS = NodeKinds(
    by_type={kind.name: kind for kind in (INGEST, CHECK, ANALYZE, NOTIFY, TRANSFORM, CONDITION)},
    linear=LINEAR,
)


def validate_definition(raw: object) -> Definition:
    """The definition in a value, if its graph and each of its nodes can be executed here.

    Raises:
        BadDefinition: all that is wrong, each problem with its node and field.
    """
    return plan.validate_definition(raw, KINDS)
