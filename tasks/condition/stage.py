"""The condition stage: whether an expression holds, and so which way a run takes. It knows no Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from orchestration.contracts import ConditionResult, StageContext
from orchestration.graph import Expression, Reference


@dataclass(frozen=True, kw_only=True)
class ConditionSetup:
    """An expression, with the values that it looks at."""

    expression: Expression
    values: Mapping[Reference, JsonValue]


async def condition(_context: StageContext, setup: ConditionSetup) -> ConditionResult:
    """Whether the expression holds. A value that is not there is null, and compares with nothing."""
    holds = setup.expression.holds(setup.values.get)
    return ConditionResult(holds=holds, expression=setup.expression.text)
