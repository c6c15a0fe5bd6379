"""A model whose outputs are written down: `recorded.json` of each case, with the mistakes that models make.

The outputs go the way of every model's output: pydantic-ai reads them, and code drops what evidence does not support.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from unittest.mock import patch

from bench.analysis_cases import cases
from orchestration.analysis import AnalysisInput, ModelOptions
from orchestration.contracts import AnalyzeResult, Evidence
from orchestration.evidence import evidence_of
from tasks.analyze.model.asking import Question
from tasks.analyze.model.question import disguise_for, written
from tasks.analyze.model.verdict import judge


class RecordedModel:
    """Plays the recorded output of a case that it knows by its evidence."""

    name = "recorded"

    def __init__(self) -> None:
        self._outputs = {_key(list(case.evidence.values())): case.recorded for case in cases()}

    async def analyze(self, evidence: AnalysisInput, /) -> AnalyzeResult:
        """What is left of the recorded output.

        Raises:
            KeyError: nothing is recorded for this evidence.
            ModelUnavailable: the recorded output cannot be read.
        """
        from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
        from pydantic_ai.models.function import AgentInfo, FunctionModel

        known = evidence_of(evidence)
        output = self._outputs[_key(known)]

        def play(_messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            return ModelResponse(parts=[ToolCallPart(info.output_tools[0].name, output)])

        @asynccontextmanager
        async def open_recorded(_options: ModelOptions) -> AsyncGenerator[FunctionModel]:
            yield FunctionModel(play)

        disguise = disguise_for(evidence)
        options = ModelOptions(name="recorded", api="openai", model="recorded")
        question = Question(options=options, prompt=written(known, disguise), evidence=known, disguise=disguise)
        with patch("tasks.analyze.model.asking.open_model", open_recorded):
            said = await question.ask()
        return judge(said, question.evidence, evidence)


def _key(evidence: list[Evidence]) -> str:
    return "\n".join(f"{piece.id} {piece.about} {piece.says}" for piece in evidence)
