"""The condition stage: whether an expression holds, and so which branch a run takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from pydantic import JsonValue

from orchestration.contracts import ConditionResult, Contract, Stage, StageContext
from orchestration.engine.run import ActiveRun, NodeKind, Step
from orchestration.engine.values import value_of
from orchestration.graph import CONDITION as CONDITION_TYPE
from orchestration.graph import ConditionConfig, Expression, Reference


@dataclass(frozen=True, kw_only=True)
class ConditionSetup:
    """An expression, with the values that it refers to."""

    expression: Expression
    values: Mapping[Reference, JsonValue]


async def condition(_context: StageContext, setup: ConditionSetup) -> ConditionResult:
    """Whether the expression holds. A missing value is null: no comparison with it holds."""
    holds = setup.expression.holds(setup.values.get)
    return ConditionResult(holds=holds, expression=setup.expression.text)


async def _set_up(run: ActiveRun, step: Step) -> ConditionSetup:
    expression = Expression.parse(cast("ConditionConfig", step.config).expression)
    return ConditionSetup(expression=expression, values={one: value_of(run, one) for one in expression.references})


def _holds(result: Contract) -> bool:
    return isinstance(result, ConditionResult) and result.holds


CONDITION = NodeKind(
    name=CONDITION_TYPE,
    stage=Stage.CONDITION,
    config=ConditionConfig,
    result=ConditionResult,
    function=condition,
    set_up=_set_up,
    result_ref="condition_output_ref",
    holds=_holds,
)
