"""The provider `model`: the answer to the same question if there is one, else the model's, within its budget."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from orchestration.analysis import MODEL, AnalysisInput, AnalysisProvider, ModelOptions, ReadOnlyTools
from orchestration.contracts import AnalyzeResult
from orchestration.errors import ModelUnavailable
from orchestration.evidence import evidence_of
from orchestration.redaction import redact_text
from orchestration.store import model_questions
from orchestration.store.database import Database
from orchestration.store.model_questions import Used
from tasks.analyze.model.asking import Question
from tasks.analyze.model.question import INSTRUCTIONS, ModelAnswer, ModelClaim, ModelStep, disguise_for, key_of, written
from tasks.analyze.model.verdict import judge

NOTE = "note"
"""Under this name `model_info` says what a reader of the message should know of the analysis."""

_CHARACTERS_PER_TOKEN = 3.0
"""A low guess, so that more is reserved than is used."""


@dataclass(frozen=True, kw_only=True)
class ModelAnalysis:
    """Asks a model. What it says is shown only as far as evidence supports it."""

    options: ModelOptions
    database: Database
    local: AnalysisProvider
    """Analyzes when the budget is used up."""
    tools: ReadOnlyTools | None = None
    run_id: str | None = None
    environment: str = "production"

    name = MODEL

    def key(self, case: AnalysisInput) -> str:
        """The key under which the answer is stored."""
        return key_of(evidence_of(self._allowed(case)), self.options)

    async def analyze(self, case: AnalysisInput) -> AnalyzeResult:
        """The answer that is stored under the hash of the evidence, or the model's, which is stored then.

        Raises:
            ModelUnavailable: the model gave none that can be read.
            BadSetting: the packages that ask models are not installed.
            Unavailable: the database does not answer.
        """
        case = self._allowed(case)
        evidence = evidence_of(case)
        key = key_of(evidence, self.options)
        async with self.database.statement() as tx:
            if (stored := await model_questions.find_answer(tx, key)) is not None:
                return stored.model_copy(update={"model_info": {**stored.model_info, "cached": True}})
        disguise = disguise_for(case)
        question = Question(
            options=self.options,
            prompt=f"{_subject(case)}\n\n{written(evidence, disguise)}",
            evidence=list(evidence),
            disguise=disguise,
            tools=self.tools,
            environment=self.environment,
        )
        tokens = round(len(question.prompt + INSTRUCTIONS) / _CHARACTERS_PER_TOKEN) + self.options.max_output_tokens
        async with self.database.transaction() as tx:
            number = await model_questions.reserve(tx, key, self.options, tokens, self.run_id)
        if number is None:
            return await self._without_budget(case)
        return await self._ask(question, number, case)

    async def _ask(self, question: Question, number: int, case: AnalysisInput) -> AnalyzeResult:
        """Ask, and note what came of it."""
        try:
            said = await question.ask()
            if not said.summary.strip() and not said.claims:
                raise ModelUnavailable(f"{self.options} answered with nothing", retryable=True)
        except BaseException as problem:
            cut = isinstance(problem, asyncio.CancelledError)
            error = "nobody waits for the answer any more" if cut else redact_text(str(problem), limit=500)
            await asyncio.shield(self._settle(question, number, error=error))
            raise
        answer = judge(_restored(said, question), question.evidence, case)
        answer = answer.model_copy(update={"model_info": self._info(question.used)})
        if not answer.recommendations:
            answer = await self._with_local_steps(answer, case)
        await self._settle(question, number, answer=answer)
        return answer

    async def _with_local_steps(self, answer: AnalyzeResult, case: AnalysisInput) -> AnalyzeResult:
        """The answer with the steps of the local analysis: whoever was woken up needs a first one."""
        local = await self.local.analyze(case)
        info = {**answer.model_info, NOTE: "the steps are those of the local analysis"}
        steps = {"actions": local.actions, "recommendations": local.recommendations}
        return answer.model_copy(update={**steps, "model_info": info})

    async def _settle(
        self, question: Question, number: int, *, answer: AnalyzeResult | None = None, error: str | None = None
    ) -> None:
        async with self.database.transaction() as tx:
            await model_questions.settle(tx, number, question.used, answer=answer, error=error)

    def _info(self, used: Used) -> dict[str, object]:
        options = self.options
        return {
            "provider": MODEL,
            "block": options.name,
            "api": options.api,
            "model": options.model,
            **used.model_dump(),
        }

    async def _without_budget(self, case: AnalysisInput) -> AnalyzeResult:
        found = await self.local.analyze(case)
        note = f"the budget of the model {self.options.model!r} for this hour is used up"
        return found.model_copy(update={"model_info": {**found.model_info, NOTE: note, "budget_used_up": True}})

    def _allowed(self, case: AnalysisInput) -> AnalysisInput:
        return case if self.options.reads_runbook else replace(case, runbook="")


def _subject(case: AnalysisInput) -> str:
    what = "an incident" if case.incident or case.alerts else "the health of the host that runs the pipeline"
    return f"This is the evidence about {what}."


def _restored(said: ModelAnswer, question: Question) -> ModelAnswer:
    """The answer with the names that its placeholders stand for."""
    back = question.disguise.restore
    return ModelAnswer(
        summary=back(said.summary),
        claims=[
            ModelClaim(
                kind=one.kind,
                says=back(one.says),
                topic=one.topic,
                cites=[cited.strip() for cited in one.cites],
                quotes=[back(quote) for quote in one.quotes],
            )
            for one in said.claims
        ],
        recommendations=[
            ModelStep(
                title=back(one.title),
                description=back(one.description),
                actions=[back(action) for action in one.actions],
                priority=one.priority,
                type=one.type,
                cites=[cited.strip() for cited in one.cites],
            )
            for one in said.recommendations
        ],
        confidence=said.confidence,
    )
