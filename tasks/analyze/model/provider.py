"""The provider `model`: the answer to the same question if there is one, else the model's, within its budget."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestration.analysis import MODEL, AnalysisInput, AnalysisProvider, ModelOptions, ReadOnlyTools
from orchestration.contracts import AnalyzeResult
from orchestration.errors import ModelUnavailable
from orchestration.evidence import evidence_of
from orchestration.redaction import redact_text
from orchestration.store import model_questions
from orchestration.store.database import Database
from orchestration.store.model_questions import Used
from orchestration.threads import in_own_thread
from tasks.analyze.model.asking import Question
from tasks.analyze.model.question import INSTRUCTIONS, ModelAnswer, disguise_for, key_of, written
from tasks.analyze.model.verdict import judge

NOTE = "note"
"""Under this name `model_info` says what a reader of the message should know of the analysis."""

_CHARACTERS_PER_TOKEN = 3.0
"""A low guess, so that more is reserved than is used."""

_TEXT_CHARACTERS, _TEXTS = 1000, 20
"""How much of each text, and how many texts of a list, are read of an answer."""

_SPACES = re.compile(r"[^\S\n]+|\n\s+")


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
    people: Sequence[str] = ()
    domains: Sequence[str] = ()
    """Names that the installation knows: they are replaced before anything leaves, wherever they stand."""

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
        disguise = await in_own_thread(disguise_for, case, people=self.people, hosts=self.domains)
        question = Question(
            options=self.options,
            prompt=f"{_subject(case)}\n\n{await in_own_thread(written, evidence, disguise)}",
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
                raise ModelUnavailable(f"{self.options} answered with nothing", retryable=False)
        except BaseException as problem:
            cut = isinstance(problem, asyncio.CancelledError)
            error = "nobody waits for the answer any more" if cut else redact_text(str(problem), limit=500)
            await asyncio.shield(self._settle(question, number, error=error))
            raise
        answer = await in_own_thread(_judged, said, question, case)
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


def _judged(said: ModelAnswer, question: Question, case: AnalysisInput) -> AnalyzeResult:
    return judge(_restored(said, question), question.evidence, case)


def _restored(said: ModelAnswer, question: Question) -> ModelAnswer:
    """The answer with the names that its placeholders stand for. What is too long to be judged is cut."""

    def back(text: str) -> str:
        named = question.disguise.restore(text[:_TEXT_CHARACTERS])
        return _SPACES.sub(lambda found: "\n" if "\n" in found[0] else " ", named)[:_TEXT_CHARACTERS]

    def all_back(texts: Sequence[str]) -> list[str]:
        return [back(text) for text in texts[:_TEXTS]]

    def ids(cites: Sequence[str]) -> list[str]:
        return [one.strip()[:_TEXT_CHARACTERS] for one in cites[:_TEXTS]]

    return ModelAnswer(
        summary=back(said.summary),
        claims=[
            one.model_copy(
                update={
                    "says": back(one.says),
                    "topic": one.topic[:_TEXT_CHARACTERS],
                    "cites": ids(one.cites),
                    "quotes": all_back(one.quotes),
                }
            )
            for one in said.claims
        ],
        recommendations=[
            one.model_copy(
                update={
                    "title": back(one.title),
                    "description": back(one.description),
                    "actions": all_back(one.actions),
                    "priority": one.priority[:_TEXT_CHARACTERS],
                    "type": one.type[:_TEXT_CHARACTERS],
                    "cites": ids(one.cites),
                }
            )
            for one in said.recommendations
        ],
        confidence=said.confidence,
    )
